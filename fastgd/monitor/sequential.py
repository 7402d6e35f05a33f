"""Monitor: watches the training of a fastgd model, in place of its train_step or in a loop of one's own."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.clip import tensor_norms
from fastgd.monitor.probe import Probe, places, state_of
from fastgd.monitor.records import Look
from fastgd.monitor.spoiled import Place, first, locate
from fastgd.monitor.units import Outputs, Units
from fastgd.monitor.watch import MOST_SPOILED, Watch, joined, layer_seen
from fastgd.nn.batch_norm import BatchNorm
from fastgd.nn.layer_norm import LayerNorm, RMSNorm
from fastgd.nn.losses import BCEWithLogitsLoss
from fastgd.nn.sequential import Sequences, Sequential, TrainStep
from fastgd.optimizer import Optimizer
from fastgd.report import StepReport

#: steps that wait at most until the history is brought up to them
PENDING = 256

#: seconds: 2 with nothing else in the caches, twice that where a step has just filled them
NOTING = 4e-6

#: layers that take inputs of any size
NORMALISING = (BatchNorm, LayerNorm, RMSNorm)


class Monitor(Watch):
    """Watches every step of a model's training, and looks at its layers at some of them.

        watch = monitor.Monitor(model, opt)
        for x, y in batches:
            watch.train_step(x, y, clip_norm=1.0)     # in place of model.train_step(x, y, opt, clip_norm=1.0)
        watch.print()

    The training has the same bits as without it. In a loop of one's own, `watch.loss_and_grad(x, y)` takes
    the place of the model's, and `watch.step(grads)` that of the optimizer's.

    model: an nn.Sequential with a loss.
    opt: an optimizer over its parameters, or whatever has its `step`, such as averaging.Lookahead.
    every: looks at the layers at every so many steps. Default "auto": at the first ten, and from then on as
        often as `budget` allows.
    budget: the share of the time of training that watching may take. Default 0.035. For every="auto". Steps
        of less than 0.1 ms take more, for each is noted.
    rows: of a batch whose outputs are looked at, from its first on. Default 64.

    While it looks, parameters are in memory once more. Raises TypeError or ValueError for arguments that
    are none.
    """

    NOTING = NOTING

    def __init__(
        self, model: Sequential, opt: Any, *, every: int | str = "auto", budget: float = 0.035, rows: int = 64
    ) -> None:
        if not isinstance(model, Sequential):
            raise TypeError(
                f"model must be an nn.Sequential, not {type(model).__name__}; for torch: monitor.watch_torch"
            )
        if not callable(getattr(opt, "step", None)):
            raise TypeError(f"opt must be an optimizer, which has a step, not {type(opt).__name__}")
        if model.loss_function is None:
            raise ValueError("model must have a loss: Sequential(..., loss=nn.CrossEntropyLoss())")
        super().__init__(every, budget, rows)
        self.model, self.opt = model, opt
        self._names = [name for name, _ in model.named_parameters()]
        self._parameters = model.parameters()
        self._history.probabilities = isinstance(model.loss_function, BCEWithLogitsLoss)
        self._history.normalises = isinstance(model.layers[0], NORMALISING)
        self._ignored = getattr(model.loss_function, "ignore_index", None)
        self._probe = Probe(model, self.rows)
        found = list(places(model.layers))
        self._places = {place.name: place for place in found}
        self._units = {place.name: Units(place.flat, place.channels_first) for place in found}
        self._looking: _Before | None = None
        self._batch: tuple[Any, Any] | None = None
        #: the loss of gradients that no step was made of yet
        self._value: float | None = None
        #: so many steps may be pending before there is more to do than to note one; none where what the
        #: optimizer returns is another's report
        self._most = PENDING if isinstance(opt, Optimizer) else 0
        self._room = 0

    # ---- training ----

    def train_step(self, x: Any, y: Any, **options: Any) -> TrainStep:
        """`model.train_step(x, y, opt, **options)`: arguments, result, errors and bits are the same."""
        pending = self._pending
        if len(pending) >= self._room:
            self._before(x, y)
            result = self.model.train_step(x, y, self.opt, **options)
            self._after(result)
            return result
        result = self.model.train_step(x, y, self.opt, **options)
        # the same as _after, which would take as long to call
        self._batch = x, y
        pending.append(result)
        loss, (norm, _, skipped, _) = result
        if skipped or loss - loss or (norm and norm - norm):
            self._attend(result, False)
        return result

    def loss_and_grad(self, x: Any, y: Any) -> tuple[float, list[Array]]:
        """`model.loss_and_grad(x, y)`; the next `step` is told of them."""
        self._batch = x, y
        if len(self._pending) >= self._room:
            self._before(x, y)
        value, gradients = self.model.loss_and_grad(x, y)
        self._value = value
        return value, gradients

    def step(self, grads: Any, **options: Any) -> Any:
        """`opt.step(grads, **options)`, of the gradients that `loss_and_grad` gave.

        RuntimeError when there was no loss_and_grad since the last step.
        """
        if self._value is None:
            raise RuntimeError("watch.step comes behind watch.loss_and_grad")
        report = self.opt.step(grads, **options)
        result, self._value = TrainStep(self._value, report), None
        self._after(result)
        return report

    def _before(self, x: Any, y: Any) -> None:
        """What is done before a step that may be looked at; most are not, and come here never."""
        self._batch = x, y
        self._settle()
        self.sampling.passed()
        looks = self.sampling.due(self._count)
        self._looking = _Before(self, x, y) if looks else None
        # a step that is refused is looked at when it comes again
        self._room = 0 if looks else self._rest()

    def _rest(self) -> int:
        """Behind the last step of the history: how many may pass until one is due."""
        return min(self._most, self.sampling.until(self._history.count, PENDING) - self._history.count)

    def _after(self, result: TrainStep) -> None:
        loss, report = result
        if type(report) is not StepReport:
            report = _report_of(report)
            result = TrainStep(loss, report)
        self._pending.append(result)
        norm, _, skipped, _ = report
        # the difference is NaN, which is true, of what is NaN or infinite
        sound = not (skipped or loss - loss or (norm and norm - norm))
        if not sound or self._looking is not None:
            self._attend(result, sound)

    def _attend(self, result: TrainStep, sound: bool) -> None:
        """What is done behind a step that is looked at, or is not finite."""
        self._settle()
        before = self._looking
        if not sound:
            self._note_nonfinite(result)
        if before is not None:
            began = time.perf_counter()
            norms = tensor_norms(self.model.gradients())
            if not (math.isfinite(sum(norms)) or self._history.spoiled):
                self._note_nonfinite(result)
            self._look(before, joined(self._names, norms))
            self._looking = None
            seconds = before.seconds + time.perf_counter() - began
            self.sampling.passed(seconds)
            self.sampling.looked(self._count - 1, seconds)
        self._room = self._rest()

    def _settle(self) -> None:
        if self._pending:
            losses, reports = zip(*self._pending, strict=True)
            norms, coefs, skipped, _ = zip(*reports, strict=True)
            self._room -= len(losses)
            self._pending = []
            self._history.add(losses, norms, coefs, skipped)

    # ---- looking ----

    def _look(self, before: _Before, gradients: dict[str, float]) -> None:
        for old, new in zip(before.parameters, self._parameters, strict=True):
            np.subtract(new, old, out=old)
        changes = joined(self._names, tensor_norms(before.parameters))
        layers = []
        for name, place in self._places.items():
            own = place.layer.parameters().values()
            norms = gradients.get(name), before.norms.get(name), changes.get(name)
            kind = type(place.layer).__name__
            layers.append(layer_seen(name, kind, own, norms, before.outputs.get(name), place.flat))
        self._history.looks.append(Look(self._count, tuple(layers), before.rate))

    def _rate(self) -> float | None:
        """The learning rate of the step to come, of the first group."""
        if isinstance(self.opt, Optimizer):
            return self.opt.learning_rates()[0]
        groups = getattr(self.opt, "param_groups", None)
        rate = groups[0].get("lr") if groups else None
        return float(rate) if isinstance(rate, (int, float)) else None

    def _note_nonfinite(self, result: TrainStep) -> None:
        history, before = self._history, self._looking
        history.nonfinite += 1
        if len(history.spoiled) == MOST_SPOILED or self._batch is None:
            return
        x, y = self._batch
        now = list(zip(self._names, self._parameters, strict=True))
        skipped = result.report.skipped
        known = before.parameters if before else self._parameters if skipped else None
        outputs = before.nonfinite if before else None
        if before is None and first(now) is None:  # the parameters are as good as they were before the step
            outputs = first(self._probe.run(x).items())
        history.spoiled.append(
            locate(
                self._count,
                result.loss,
                inputs=[("x", np.asarray(values_of(x)))],
                targets=[("y", np.asarray(y))],
                before=None if known is None else zip(self._names, known, strict=True),
                now=now,
                outputs=outputs,
                gradients=zip(self._names, self.model.gradients(), strict=True),
            )
        )

    # ---- curvature ----

    def _gradients_here(self) -> tuple[Any, Callable[[], Sequence[Array]], list[Array]] | None:
        if self._batch is None:
            return None
        model, (x, y) = self.model, self._batch
        state = state_of(model, len(values_of(x)))
        before = [array.copy() for array in state]

        def gradients() -> Sequence[Array]:
            # each call sees the same masks
            for array, kept in zip(state, before, strict=True):
                array[...] = kept
            return model.loss_and_grad(x, y)[1]

        return model, gradients, [*state, *model.gradients()]


class _Before:
    """What is looked at before a step: parameters, their norms, and the outputs of all layers."""

    def __init__(self, watch: Monitor, x: Any, y: Any) -> None:
        began = time.perf_counter()
        self.parameters = [array.copy() for array in watch._parameters]
        self.rate = watch._rate()
        self.norms = joined(watch._names, tensor_norms(watch._parameters))
        self.outputs: dict[str, Outputs] = {}
        #: the first output that is not finite
        self.nonfinite: Place | None = None
        # what is wrong with x or y, the step itself says
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            self._see(watch, x, y)
        self.seconds = time.perf_counter() - began

    def _see(self, watch: Monitor, x: Any, y: Any) -> None:
        arrays = watch._probe.run(x)
        watch._history.inputs.add(values_of(x))
        watch._history.targets.add(y, watch._ignored)
        for name, units in watch._units.items():
            self.outputs[name] = units.measure(arrays[name])
            if self.nonfinite is None and not math.isfinite(self.outputs[name].rms):
                self.nonfinite = first([(name, arrays[name])])


def _report_of(report: Any) -> StepReport:
    """What another optimizer's step returned, as far as it is a report."""
    norm, coef = getattr(report, "grad_norm", None), getattr(report, "clip_coef", 1.0)
    return StepReport(norm, coef, getattr(report, "skipped", False), None)


def values_of(x: Any) -> Any:
    """Without the lengths of sequences."""
    return x.x if isinstance(x, Sequences) else x
