"""The training loop: mini-batches without replacement, clipping, measurement and clean interruption."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np

from fastgd import nn
from fastgd.data import Dataset, batches, load
from fastgd.distributed.communicator import Communicator
from fastgd.distributed.team import Alone, Team
from fastgd.optimizer import Optimizer
from fastgd.practice import Practice, hold_out
from fastgd.runs import (
    Checkpoint,
    Epoch,
    Result,
    Settings,
    SettingsError,
    begin,
    check_same_model,
    load_checkpoint,
    restore,
    resumed_settings,
    save_checkpoint,
)
from fastgd.text import is_text, load_text, scores

__all__ = ["Checkpoint", "Progress", "Result", "Settings", "evaluate"]
__all__ += ["load_checkpoint", "save_checkpoint", "train"]

EVALUATION_ROWS = 256


@dataclass(frozen=True)
class Progress:
    """Handed to `on_step` after every step. epoch counts from 1; loss is that of the step's mini-batch."""

    epoch: int
    last_epoch: int
    consumed: int
    n_train: int
    loss: float


def train(
    settings: Settings | None = None,
    *,
    dataset: Dataset | None = None,
    resume: Checkpoint | None = None,
    on_step: Callable[[Progress], None] | None = None,
    monitor: bool = False,
    comm: Communicator | None = None,
    on_epoch: Callable[[Result], None] | None = None,
) -> Result:
    """Trains a model with mini-batch gradient descent.

    settings: Default: those of `resume`, with the epochs it has left if it was interrupted, else Settings().
    dataset: Default: loaded as the settings say.
    resume: a checkpoint to go on from; N epochs and then M more give the same bits as N + M at once, but for
    a schedule that is fitted to the length of the run: then those that an interrupted run has left do.
    on_step: called after every step.
    monitor: whether a fastgd.monitor.Monitor watches; it is then the result's `practice.monitor`.
    comm: the ranks to train on, all of which make this call; each takes its share of the rows of every batch,
    and keeps its share of the optimizer's state (`fastgd.distributed`). Not with monitor. Default: this
    process alone.
    on_epoch: called after every epoch that was completed, with what there is by then.

    Ctrl-C ends the training after the current step; a second one interrupts at once. Training also ends,
    with the reason in the result's `problem`, when the loss is not finite or, unless settings.skip_nonfinite,
    a gradient is not; such a gradient is not applied.

    Raises SettingsError and fastgd.data.DataError; with comm, when one rank does, RankError on those that
    have no error of their own. An exception after the training has begun ends all ranks.
    """
    team = Team(comm) if comm is not None else Alone()
    with team.together():
        if comm is not None and monitor:
            raise SettingsError("a monitor watches one process's steps, not those of several ranks")
        result = prepare(settings, dataset, resume, monitor)
    # what overflows is told in words below, not by NumPy's warnings
    quiet = np.errstate(over="ignore", invalid="ignore")
    with team.guarded(), deferred_interrupt() as interrupted, quiet:
        run_epochs(result, team, interrupted, on_step, on_epoch)
    return result


def prepare(
    settings: Settings | None, dataset: Dataset | None, resume: Checkpoint | None, monitor: bool
) -> Result:
    """A run that is ready for its first step. Arguments and errors as `train`'s."""
    if settings is None:
        settings = resumed_settings(resume) if resume else Settings()
    settings.check()
    if resume:
        check_same_model(settings, resume.settings)
    if dataset is None and is_text(settings.data):
        scaling = resume.scaling if resume else None
        dataset = load_text(
            settings.data, context=settings.context, test_size=settings.test_size, scaling=scaling
        )
    elif dataset is None:
        dataset = load(
            settings.data,
            target=settings.target,
            task=settings.task,
            test_size=settings.test_size,
            seed=settings.seed,
            scaling=resume.scaling if resume else None,
        )
    dataset = hold_out(settings, dataset)
    result = restore(settings, dataset, resume) if resume else begin(settings, dataset)
    last_epoch = result.position.last_epoch = result.position.epoch + settings.epochs
    assert isinstance(result.optimizer, Optimizer)
    result.practice = Practice(settings, dataset, result.model, result.optimizer, last_epoch, monitor)
    result.practice.load_state_dict(resume.practice if resume else {})
    return result


def run_epochs(
    result: Result,
    team: Alone,
    interrupted: Callable[[], bool],
    on_step: Callable[[Progress], None] | None,
    on_epoch: Callable[[Result], None] | None,
) -> None:
    """Trains to the end of the run, or to what ends it before, and evaluates what is learned."""
    model, dataset, practice = result.model, result.dataset, result.practice
    assert practice is not None
    step_of_run = team.join(result)
    while result.position.epoch < result.position.last_epoch and not ended(result):
        run_epoch(result, team, step_of_run, interrupted, on_step)
        result.interrupted = team.agree(interrupted())
        if on_epoch and result.position.consumed == 0 and not result.problem:
            on_epoch(result)
    if not (result.interrupted or result.problem) and practice.finish():
        result.scores = team.by_first(lambda: evaluate(model, dataset))
    if not result.scores:
        with averaged_weights(result):
            result.scores = team.by_first(lambda: evaluate(model, dataset))


def ended(result: Result) -> bool:
    """Whether something has ended the training."""
    return result.interrupted or result.problem is not None or result.stopped is not None


def run_epoch(
    result: Result,
    team: Alone,
    step_of_run: Callable[..., nn.TrainStep],
    interrupted: Callable[[], bool],
    on_step: Callable[[Progress], None] | None,
) -> None:
    """Trains to the end of the epoch, or to an interruption or problem, and evaluates."""
    settings, dataset, position = result.settings, result.dataset, result.position
    assert result.practice is not None
    is_continued = result.history and result.history[-1].epoch == position.epoch + 1
    epoch = result.history[-1] if is_continued else Epoch(position.epoch + 1)
    if not is_continued:
        epoch.lr = result.optimizer.learning_rates()[0]
        result.history.append(epoch)
    rng = generator_from(position.generator)
    n = position.n_train
    size = n if settings.batch_size == "full" else min(settings.batch_size, n)
    x = np.empty((size, *dataset.x_train.shape[1:]), dataset.x_train.dtype)
    y = np.empty((size, *dataset.y_train.shape[1:]), dataset.y_train.dtype)
    began = time.perf_counter()
    for rows in batches(n, settings.batch_size, rng, position.consumed):
        own = team.share(rows)
        batch_x, batch_y = x[: len(own)], y[: len(own)]
        # The rows are valid: "clip" spares np.take the copy that its default mode makes of `out`.
        np.take(dataset.x_train, own, axis=0, out=batch_x, mode="clip")
        np.take(dataset.y_train, own, axis=0, out=batch_y, mode="clip")
        # Always skipping also measures always, and leaves a healthy model when training has to end here.
        step = step_of_run(
            batch_x,
            batch_y,
            clip_norm=settings.clip_norm,
            clip_value=settings.clip_value,
            skip_nonfinite=True,
        )
        result.problem = record(result, epoch, step, len(rows))
        if result.problem:
            break
        position.consumed += len(rows)
        if on_step:
            on_step(Progress(epoch.epoch, position.last_epoch, position.consumed, n, step.loss))
        if team.agree(interrupted()):
            break
    epoch.seconds += time.perf_counter() - began
    if position.consumed >= n:
        position.epoch += 1
        position.consumed = 0
        position.generator = dict(rng.bit_generator.state)
        if epoch.examples == 0 and not result.problem:
            result.problem = f"every step of epoch {epoch.epoch} had gradients that are not finite"
    team.settle(result.model)
    with result.practice.paused(), averaged_weights(result):
        epoch.scores, loss = team.by_first(lambda: judged(result))
        result.scores = epoch.scores
        if loss is not None:
            epoch.validation_loss = loss
        if position.epoch == epoch.epoch and not result.problem:
            result.stopped = result.practice.after_epoch(epoch.epoch, loss)


def judged(result: Result) -> tuple[dict[str, float], float | None]:
    """The scores of the test part, and the loss of the validation part if there is one."""
    model, dataset = result.model, result.dataset
    loss = None
    if dataset.x_validation is not None:
        found = model.evaluate(dataset.x_validation, dataset.y_validation, batch_size=EVALUATION_ROWS)
        loss = found.loss
    return evaluate(model, dataset), loss


def record(result: Result, epoch: Epoch, step: Any, n: int) -> str | None:
    """Adds a step over n examples to its epoch; returns the sentence that says why it has to be the last."""
    report = step.report
    where = f"in epoch {epoch.epoch}, step {epoch.steps + 1}"
    clips = result.settings.clip_norm is not None
    advice = f"a smaller learning rate{'' if clips else ' or clipping the gradients'} may help"
    if report.skipped and not result.settings.skip_nonfinite:
        name = report.nonfinite.name
        return f"the gradient of {name} is NaN or infinite {where}, which was not applied; {advice}"
    epoch.steps += 1
    if report.skipped:
        epoch.skipped += 1
        return None
    if not math.isfinite(step.loss):
        return f"the loss is {step.loss} {where}; {advice}"
    epoch.add_loss(step.loss, n)
    epoch.clipped += report.clip_coef < 1
    epoch.largest_grad_norm = max(epoch.largest_grad_norm, report.grad_norm)
    result.grad_norms.append(report.grad_norm)
    return None


@contextlib.contextmanager
def averaged_weights(result: Result) -> Iterator[None]:
    """Within it the weights are the average that the optimizer may keep; afterwards what they were."""
    optimizer = result.optimizer
    weights = [np.array(p) for p in optimizer.parameters()] if optimizer.rule.average else []
    optimizer.eval()
    try:
        yield
    finally:
        optimizer.train()
        for parameter, value in zip(optimizer.parameters(), weights, strict=False):
            np.copyto(parameter, value)


def evaluate(model: nn.Sequential, dataset: Dataset) -> dict[str, float]:
    """The scores on the test part: {"accuracy"} (0 to 1) of a classification, {"rmse", "r2"} of a regression,
    {"bits_per_character", "accuracy"} of text.

    rmse: the root of the mean squared error in the data's units; r2: the share of the variance that is
    explained. Both over all targets together, r2 as the mean of theirs.
    """
    x, y = dataset.x_test, dataset.y_test
    if dataset.task == "text":
        return scores(model, x, y, EVALUATION_ROWS)
    outputs = (
        model.forward(x[first : first + EVALUATION_ROWS]) for first in range(0, len(x), EVALUATION_ROWS)
    )
    if dataset.task == "classification":
        predicted = np.concatenate([output.argmax(axis=1) for output in outputs])
        return {"accuracy": float((predicted == y).mean())}
    error = np.concatenate([np.array(output, np.float64) for output in outputs]) - y
    squares = np.square(error).mean(axis=0)
    variance = np.var(y, axis=0, dtype=np.float64)
    explained = np.divide(squares, variance, out=np.full_like(squares, math.nan), where=variance > 0)
    rmse = np.sqrt(np.mean(squares * np.square(dataset.scaling.y_std)))
    return {"rmse": float(rmse), "r2": float(np.mean(1 - explained))}


def generator_from(state: dict[str, Any]) -> np.random.Generator:
    bit_generator = np.random.PCG64()
    bit_generator.state = state  # type: ignore[assignment]  # a dict, whose exact keys its stub asks for
    return np.random.Generator(bit_generator)


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Inside, the first Ctrl-C is noted for the yielded function to tell, and the second acts as usual."""
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen.is_set
        return
    previous = signal.getsignal(signal.SIGINT) or signal.SIG_DFL

    def note(signum: int, frame: FrameType | None) -> None:
        seen.set()
        signal.signal(signal.SIGINT, previous)

    signal.signal(signal.SIGINT, note)
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, previous)
