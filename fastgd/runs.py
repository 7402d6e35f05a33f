"""A training run as data: its settings, history and position, and how it is begun, saved and resumed."""

from __future__ import annotations

import math
import os
import statistics
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from fastgd import nn, optim
from fastgd.architectures import ARCHITECTURES, layers_of
from fastgd.arrays import Array
from fastgd.checkpoint import CheckpointError, load_file, pack_state, save_file, unpack_state
from fastgd.data import BatchSize, Dataset, Scaling, Task
from fastgd.distributed.sharded import ShardedOptimizer
from fastgd.nn.activations import ACTIVATIONS
from fastgd.practice import Practice, base_rate, needs_validation
from fastgd.rules import RULES
from fastgd.schedules.recipes import Run, from_text

__all__ = ["Checkpoint", "Epoch", "Position", "Result", "Settings", "SettingsError"]
__all__ += ["begin", "load_checkpoint", "restore", "save_checkpoint"]

FORMAT = "fastgd.training"
#: that is written. Version 1 had neither schedules nor what else `practice` keeps
VERSION = 2


class SettingsError(ValueError):
    """Settings that cannot be trained with; the message is one sentence that says which and why."""


@dataclass(frozen=True)
class Settings:
    """What to train, on what, and how. Every field has a default; together they are `fastgd train`.

    data, target, task, test_size: see `fastgd.data.load`; "text" and "text:FILE": `fastgd.text.load_text`,
    whose windows have `context` characters.
    model: by its name in `fastgd.architectures.ARCHITECTURES`. hidden: the widths of the hidden layers, of a
    recurrent model those of its recurrent layers; () for a linear model. channels: of a cnn's convolutions.
    embedding: the numbers a character becomes. dropout: the share of activations that is dropped while
    training. activation: of each hidden layer, by its name in `fastgd.nn.activations.ACTIVATIONS`.
    optimizer: the name of a rule. options: its hyperparameters, by name; those left out have its defaults.
    epochs: passes over the training part in this run. batch_size: "full", 1, or a number of examples.
    clip_norm: the largest global L2 norm of the gradients, clip_value: the largest absolute value of an
    element; None for no limit. skip_nonfinite: go on after a step whose gradients held NaN or infinity
    (nothing is changed by it) instead of ending. seed: of the split, the initial weights and the order.
    schedule: the learning rate over the run, as text (`fastgd.schedules.recipes.from_text`); None: it stays.
    early_stopping: end after so many epochs without a better validation loss, with the best weights; None:
    never. swa: the share of the epochs, the last ones, after which weights are averaged, to be the model's in
    the end; None: they are not. validation_size: the share of the training part that is held out for the
    validation loss; None: a tenth where something follows that loss, else nothing.
    """

    data: str = "digits"
    target: str | None = None
    task: Task | None = None
    test_size: float = 0.2
    context: int = 64
    model: str = "mlp"
    hidden: tuple[int, ...] = (256,)
    channels: tuple[int, ...] = (32, 64)
    embedding: int = 64
    dropout: float = 0.0
    activation: str = "relu"
    optimizer: str = "adamw"
    options: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = 20
    batch_size: BatchSize = 32
    clip_norm: float | None = 1.0
    clip_value: float | None = None
    skip_nonfinite: bool = False
    seed: int = 0
    schedule: str | None = None
    early_stopping: int | None = None
    swa: float | None = None
    validation_size: float | None = None

    def check(self) -> None:
        """Raises SettingsError for a value that is out of range."""
        if self.model not in ARCHITECTURES:
            raise SettingsError(f"the model is one of {', '.join(ARCHITECTURES)}, not {self.model}")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout must be at least 0 and below 1, not {self.dropout}")
        if self.activation not in ACTIVATIONS:
            raise SettingsError(f"the activation is one of {', '.join(ACTIVATIONS)}, not {self.activation}")
        if self.optimizer not in RULES:
            raise SettingsError(f"the optimizer is one of {', '.join(RULES)}, not {self.optimizer}")
        known = RULES[self.optimizer].defaults
        for name in self.options:
            if name not in known:
                has = ", ".join(known)
                raise SettingsError(f"{self.optimizer} has no hyperparameter {name}; it has {has}")
        if self.batch_size != "full" and self.batch_size < 1:
            raise SettingsError(f"the batch size is full or at least 1, not {self.batch_size}")
        if any(width < 1 for width in self.hidden):
            raise SettingsError(f"hidden layers are at least 1 wide, not {min(self.hidden)}")
        if any(count < 1 for count in self.channels):
            raise SettingsError(f"convolutions have at least 1 channel, not {min(self.channels)}")
        for name, least in (("epochs", 0), ("seed", 0), ("embedding", 1), ("context", 1)):
            value = getattr(self, name)
            if value < least:
                raise SettingsError(f"{name} must be at least {least}, not {value}")
        for name, limit in (("clip_norm", self.clip_norm), ("clip_value", self.clip_value)):
            if limit is not None and not limit > 0:
                raise SettingsError(f"{name} must be greater than 0, not {limit}")
        self._check_practice()

    def _check_practice(self) -> None:
        if self.schedule is not None:
            if not RULES[self.optimizer].hyperparameter("lr").folded:
                raise SettingsError(f"{self.optimizer} has no learning rate that could follow a schedule")
            try:
                from_text(self.schedule, base_rate(self), Run(1, 1))
            except ValueError as error:
                raise SettingsError(str(error)) from None
        if self.early_stopping is not None and self.early_stopping < 1:
            raise SettingsError(
                f"early_stopping is a number of epochs, at least 1, not {self.early_stopping}"
            )
        if self.swa is not None and not 0 < self.swa <= 1:
            raise SettingsError(f"swa is a share of the epochs, above 0 and at most 1, not {self.swa}")
        if self.swa is not None and self.early_stopping is not None:
            raise SettingsError("swa and early_stopping both choose the weights in the end: give one of them")
        if self.swa is not None and RULES[self.optimizer].average is not None:
            raise SettingsError(f"{self.optimizer} averages the weights itself: swa has nothing to add")
        if self.validation_size is not None and not 0 <= self.validation_size < 1:
            raise SettingsError(f"validation_size must be at least 0 and below 1, not {self.validation_size}")
        if self.validation_size == 0 and needs_validation(self):
            raise SettingsError(
                "validation_size is 0, and early stopping and plateaus follow the validation loss"
            )


@dataclass
class Epoch:
    """One pass over the training part, or as much of it as there was before an interruption.

    train_loss: the mean over its examples while they were trained on. validation_loss: at its end, NaN where
    there is no validation part. lr: the learning rate of its first step. seconds: of training, without the
    evaluation. scores: what `fastgd.training.evaluate` gave at its end.
    """

    epoch: int
    examples: int = 0
    steps: int = 0
    clipped: int = 0
    skipped: int = 0
    train_loss: float = math.nan
    largest_grad_norm: float = 0.0
    validation_loss: float = math.nan
    lr: float = math.nan
    seconds: float = 0.0
    scores: dict[str, float] = field(default_factory=dict)

    def add_loss(self, loss: float, n: int) -> None:
        mean = 0.0 if self.examples == 0 else self.train_loss
        self.examples += n
        self.train_loss = mean + (loss - mean) * (n / self.examples)


@dataclass
class Position:
    """Where in the stream of mini-batches a run stands: what is needed to draw the next one.

    generator: the state of the bit generator before this epoch's permutation was drawn.
    consumed: the examples of this epoch that have been used.
    last_epoch: the number of epochs after which the run was to end.
    """

    epoch: int
    consumed: int
    n_train: int
    generator: dict[str, Any]
    last_epoch: int = 0


@dataclass
class Result:
    """A trained model and how it came about.

    grad_norms: global L2 norm of each step's gradients before clipping. scores: of the test part, see
    `fastgd.training.evaluate`. interrupted: Ctrl-C ended the training. problem: the sentence that says why
    training could not go on, else None. stopped: the sentence that says why it ended before its last epoch
    though it could have gone on, else None. history and grad_norms include the runs before a resumption.
    practice: schedule, early stopping, average and monitor, once the training has begun.
    """

    settings: Settings
    dataset: Dataset
    model: nn.Sequential
    optimizer: optim.Optimizer | ShardedOptimizer
    position: Position
    history: list[Epoch]
    grad_norms: list[float]
    scores: dict[str, float] = field(default_factory=dict)
    interrupted: bool = False
    problem: str | None = None
    stopped: str | None = None
    practice: Practice | None = None

    @property
    def steps(self) -> int:
        return sum(epoch.steps for epoch in self.history)

    @property
    def clipped_share(self) -> float:
        """Of all steps, those whose gradients clip_norm made smaller; NaN before the first step."""
        return sum(epoch.clipped for epoch in self.history) / self.steps if self.steps else math.nan

    @property
    def skipped_steps(self) -> int:
        return sum(epoch.skipped for epoch in self.history)

    @property
    def largest_grad_norm(self) -> float:
        return max((epoch.largest_grad_norm for epoch in self.history), default=math.nan)

    @property
    def seconds_per_epoch(self) -> float:
        """The median over the epochs that were completed; NaN before the first."""
        complete = [epoch.seconds for epoch in self.history if epoch.epoch <= self.position.epoch]
        return statistics.median(complete) if complete else math.nan


@dataclass(frozen=True)
class Checkpoint:
    """What `save_checkpoint` wrote, read back and ready for `train(..., resume=...)`."""

    settings: Settings
    model: dict[str, Array]
    optimizer: dict[str, Any]
    position: Position
    scaling: Scaling
    history: list[Epoch]
    grad_norms: list[float]
    practice: dict[str, Any] = field(default_factory=dict)


def resumed_settings(saved: Checkpoint) -> Settings:
    """The settings to go on with: those that were saved, with the epochs an interrupted run has left."""
    left = saved.position.last_epoch - saved.position.epoch
    return replace(saved.settings, epochs=left) if left > 0 else saved.settings


def build_model(settings: Settings, dataset: Dataset) -> nn.Sequential:
    layers = layers_of(settings, dataset)
    loss = nn.MSELoss() if dataset.task == "regression" else nn.CrossEntropyLoss()
    return nn.Sequential(*layers, loss=loss, seed=settings.seed)


def begin(settings: Settings, dataset: Dataset) -> Result:
    model = build_model(settings, dataset)
    optimizer = build_optimizer(settings, model, settings.options)
    generator = np.random.default_rng((settings.seed, 1)).bit_generator.state
    position = Position(0, 0, len(dataset.x_train), dict(generator))
    return Result(settings, dataset, model, optimizer, position, [], [])


def restore(settings: Settings, dataset: Dataset, saved: Checkpoint) -> Result:
    model = build_model(settings, dataset)
    try:
        model.load_state_dict(saved.model)
        (group,) = saved.optimizer["param_groups"]
        options = {name: group[name] for name in RULES[settings.optimizer].defaults if name in group}
        optimizer = build_optimizer(settings, model, options | dict(settings.options))
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({**saved.optimizer, "param_groups": groups})
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, SettingsError):
            raise
        raise CheckpointError(f"the loaded model and its optimizer do not fit together: {error}") from error
    n = len(dataset.x_train)
    consumed = saved.position.consumed if n == saved.position.n_train else 0
    position = replace(saved.position, consumed=consumed, n_train=n)
    history = [replace(epoch) for epoch in saved.history]
    return Result(settings, dataset, model, optimizer, position, history, list(saved.grad_norms))


def build_optimizer(settings: Settings, model: nn.Sequential, options: Mapping[str, Any]) -> optim.Optimizer:
    try:
        return optim.create(settings.optimizer, model.named_parameters(), **options)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{settings.optimizer}: {error}") from error


def check_same_model(settings: Settings, saved: Settings) -> None:
    shaping = ARCHITECTURES[saved.model].settings if saved.model in ARCHITECTURES else ()
    for name in ("model", *shaping, "optimizer"):
        asked, has = getattr(settings, name), getattr(saved, name)
        if asked != has:
            raise SettingsError(
                f"the loaded model was trained with {name} {has}, which cannot become {asked}"
            )


def save_checkpoint(path: str | os.PathLike[str], result: Result) -> None:
    """Writes model, optimizer, position, scaling, settings and history as one safetensors file.

    Of a run on several ranks all make this call, and the first one writes the same file as one process would.

    Raises fastgd.checkpoint.CheckpointError when it cannot be written.
    """
    optimizer = result.optimizer.state_dict()
    if optimizer is None:
        return
    state = {
        "format": FORMAT,
        "version": VERSION,
        "settings": asdict(result.settings),
        "model": result.model.state_dict(),
        "optimizer": optimizer,
        "position": asdict(result.position),
        "scaling": asdict(result.dataset.scaling),
        "history": [asdict(epoch) for epoch in result.history],
        "grad_norms": np.array(result.grad_norms, np.float64),
        "practice": result.practice.state_dict() if result.practice else {},
    }
    save_file(path, *pack_state(state))


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads what `save_checkpoint` wrote. Raises fastgd.checkpoint.CheckpointError for anything else."""
    state = unpack_state(*load_file(path))
    if state.get("format") != FORMAT:
        raise CheckpointError(f"cannot load {os.fspath(path)}: it holds no training run")
    if state.get("version") not in range(1, VERSION + 1):
        raise CheckpointError(
            f"cannot load {os.fspath(path)}: it has version {state.get('version')} and this is {VERSION}"
        )
    try:
        return Checkpoint(
            settings=Settings(**state["settings"]),
            model=state["model"],
            optimizer=state["optimizer"],
            position=Position(**state["position"]),
            scaling=Scaling(**state["scaling"]),
            history=[Epoch(**epoch) for epoch in state["history"]],
            grad_norms=state["grad_norms"].tolist(),
            practice=state.get("practice", {}),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"cannot load {os.fspath(path)}: the run in it is damaged ({error})") from error
