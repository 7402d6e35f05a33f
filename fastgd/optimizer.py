"""The optimizer: one class over any rule, with parameter groups, state and one call for a whole step."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np

from fastgd import backends
from fastgd.arrays import DTYPES, Array, listed
from fastgd.backends.base import UNMEASURED, Backend, Measured, Options, Program
from fastgd.checks import flag, named, whole
from fastgd.groups import by_name, by_position, check_memory, give_copies, make_groups
from fastgd.interrupts import uninterrupted
from fastgd.memory import memory_of
from fastgd.modes import AVERAGED, EVALUATING, holding_averages, set_training
from fastgd.options import asked_with, step_options
from fastgd.planner import Planner
from fastgd.report import StepReport
from fastgd.rules import RULES, Rule, at_step
from fastgd.settings import DEFAULTS
from fastgd.state import checked_state, snapshot, summary
from fastgd.storage import arithmetic

_UNMEASURED = StepReport(None, 1.0, False, None)

#: StepReport from a tuple, in half the time its constructor takes
_report = functools.partial(tuple.__new__, StepReport)


class Optimizer:
    """Base of all optimizers; `rule` says which. See `create` for one by name.

    Parameters are updated in place and must stay where they are in memory. Gradients are never written.
    """

    rule: ClassVar[Rule]

    def __init__(
        self,
        params: Any,
        *positional: Any,
        seed: int = 0,
        copies: Any = None,
        backend: str = "auto",
        **settings: Any,
    ) -> None:
        defaults = self._bind(positional, settings)
        seed = named("seed", whole(0, 2**64), seed)
        #: numbers of groups whose switches may have changed
        self._changed: list[int] = []
        self.param_groups = tuple(make_groups(self.rule, params, defaults, self._changed.append))
        parameters = [p for group in self.param_groups for p in group.members]
        give_copies(parameters, copies)
        check_memory(parameters)
        for p in parameters:
            own = backends.chosen(backend, memory_of(p.array), str(p), self.rule)
            if not own.supports(self.rule, p.array.dtype):
                raise TypeError(f"{p}: the {own.name} backend has no {self.rule.title} in {p.array.dtype}")
        runs = backends.for_all(backend, [memory_of(p.array) for p in parameters], rule=self.rule)
        self._planner = Planner(self.rule, runs, self.param_groups, seed)
        self._asked: tuple[Any, ...] = ()
        self._options = Options()
        self._training = True
        #: float32 if anything is computed in it
        self._narrowest = min(
            (np.dtype(arithmetic(p.array.dtype)) for p in parameters),
            key=lambda dtype: dtype.itemsize,
            default=DTYPES[0],
        )
        #: one step, snapshot or load at a time, whatever the thread
        self._lock = threading.RLock()
        _OPTIMIZERS.add(self)

    @classmethod
    def _bind(cls, positional: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        if cls is Optimizer:
            titles = ", ".join(rule.title for rule in RULES.values())
            raise TypeError(f"Optimizer has no rule of its own: use one of {titles}")
        return {**cls.rule.defaults, **DEFAULTS, **by_position(cls.rule, positional, named), **named}

    def __repr__(self) -> str:
        head = f"{self.rule.title} ({len(self._planner.parameters)} parameters, backend {self.backend.name})"
        return "\n".join([head, *(f"  group {i}: {g.summary()}" for i, g in enumerate(self.param_groups))])

    def parameters(self) -> list[Any]:
        """The parameters as they were given, through all groups: the order in which step takes gradients."""
        return [p.given for p in self._planner.parameters]

    @property
    def backend(self) -> Backend:
        """What runs the kernels."""
        return self._planner.backend

    @property
    def seed(self) -> int:
        """Of the random bits of stochastic rounding."""
        return self._planner.seed

    @property
    def skipped_steps(self) -> int:
        """How many steps skip_nonfinite has skipped since the optimizer was made or its state loaded.

        It is no part of the state: a LossScaler's count is.
        """
        with self._lock:
            self._planner.settle()
            return self._planner.skipped

    def learning_rates(self) -> list[float]:
        """The learning rate of the next step, for each group: its `lr`, or what that gives as a function.

        A group whose parameters have made different numbers of steps counts the most of them. Raises
        ValueError for a rule of one's own that has no `lr`.
        """
        if "lr" not in self.rule.defaults:
            raise ValueError(f"{self.rule.title} has no lr")
        with self._lock:
            self._planner.settle()
            pairs = zip(self.param_groups, self._planner.steps_by_group(), strict=True)
            return [float(at_step(self.rule, g.values_in_place, made + 1)["lr"]) for g, made in pairs]

    @property
    def training(self) -> bool:
        """False from `eval` to `train`, if the rule keeps an average of the parameters; else always True."""
        return self._training

    def eval(self) -> None:
        """Puts the average that the rule keeps into the parameters, which are then what it has learned.

        A rule that keeps none leaves them as they are. Until `train` is called, `step` raises RuntimeError.
        May be called again, and before the first step.
        """
        set_training(self, False)

    def train(self) -> None:
        """Undoes `eval`, but for a rounding or two; so every optimizer begins."""
        set_training(self, True)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).rule.defaults or name in DEFAULTS:
            raise AttributeError(f"hyperparameters are set in groups: opt.param_groups[0][{name!r}] = ...")
        object.__setattr__(self, name, value)

    def step(
        self,
        grads: Iterable[Any] | Mapping[str, Any],
        *,
        clip_norm: float | None = None,
        clip_value: float | None = None,
        grad_scale: float = 1.0,
        skip_nonfinite: bool = False,
        clip_scope: str = "all",
        normalize: bool = False,
        total_norm: float | None = None,
        clip_adaptive: float | None = None,
        clip_adaptive_eps: float = 1e-3,
    ) -> StepReport:
        """Updates all parameters from their gradients, in one pass over memory, or two when a norm is needed.

        grads: an array for each parameter, in order through all groups, of its shape, in float32, float64,
            bfloat16 or float16; `Rows` for a gradient of some rows; None for a parameter that is to be left
            alone. When parameters were named, a mapping from names will do, in which a missing name stands
            for None. An array given again must have kept its shape and strides. Each is in the memory of
            its parameter.
        clip_norm: upper limit of the global 2-norm of all gradients; None: no limit. The gradients are
            multiplied by `min(1, clip_norm / (norm + 1e-6))` as in torch.nn.utils.clip_grad_norm_
            (Pascanu, Mikolov and Bengio 2013, section 3.2).
        clip_value: each element is limited to [-clip_value, clip_value] before the norm is taken.
        grad_scale: the gradients are divided by it first: the scale of a loss scaler.
        skip_nonfinite: when a gradient holds NaN or an infinity, or the norm is beyond float64, change
            nothing, counters included.
        clip_scope: what clip_norm limits: "all", the global norm; "group", that of each parameter group;
            "tensor", that of each gradient.
        normalize: multiply by `clip_norm / (norm + 1e-6)` also where the norm is less (but not 0).
        total_norm: the global norm, measured elsewhere: taken in place of that of these gradients. When each
            of several processes holds a part of the gradients, it is the root of the sum of their `sumsq`.
        clip_adaptive: upper limit of the ratio of a gradient's norm to its parameter's, for each unit apart:
            each index of the first dimension, and a parameter of one dimension or none as a whole
            (Brock et al. 2021, equation 3, there 0.01 to 0.16). None: no limit. Not with clip_norm.
        clip_adaptive_eps: what the norm of a parameter's unit counts as if it is less.

        The gradients themselves are not written. Raises TypeError or ValueError, naming the parameter,
        before anything is changed.
        """
        # a tuple of our own keeps gradients alive though another thread may empty the caller's list
        grads = tuple(grads if isinstance(grads, (list, tuple)) else self._listed(grads))
        clipped = clip_norm, clip_value, grad_scale, skip_nonfinite, clip_scope, normalize
        asked = (*clipped, total_norm, clip_adaptive, clip_adaptive_eps)
        return self._step(grads, asked, None)

    def step_behind(self, program: Program, grads: Sequence[Array], **options: Any) -> StepReport:
        """What `step` does with these gradients and options, once the program has filled them.

        All in one native call where program and optimizer are native: `fastgd.nn.Sequential.train_step`.
        Raises what `step` does, and what the program does; nothing has been updated then.
        """
        return self._step(tuple(grads), asked_with(options), program)

    def _step(self, grads: tuple[Any, ...], asked: tuple[Any, ...], program: Program | None) -> StepReport:
        with self._lock:
            try:
                known = asked == self._asked
            except Exception:  # of an array, say; the checks of _ask name it
                known = False
            if not known:
                self._ask(asked)
            planner = self._planner
            plan = planner.plan
            if plan is None or self._changed or planner.gone or plan.grad_ids != list(map(id, grads)):
                plan = planner.prepare(grads, self._options, self._changed)
            measured = plan.run.step(self._options, program)
            if measured is UNMEASURED:
                if plan.lent:
                    plan.lent.clear()
                return _UNMEASURED
            if not isinstance(measured, Measured):
                plan.lent.clear()
                return planner.report_later(plan, measured, self._options.gives_norm, grads)
            norm, clip_coef, tensor, skipped = measured
            nonfinite = None if tensor is None else planner.locate(plan, tensor, grads)
            # NaN as well when it was not measured
            found = norm if norm == norm or self._options.gives_norm else None
            if skipped:
                planner.skipped += 1
            if plan.lent:
                plan.lent.clear()
        return _report((found, clip_coef, skipped, nonfinite))

    def sumsq(
        self,
        grads: Iterable[Any] | Mapping[str, Any],
        *,
        clip_value: float | None = None,
        grad_scale: float = 1.0,
    ) -> float:
        """The sum of the squares of the gradients' elements, after grad_scale and clip_value.

        Arguments are those of `step`. For gradients that several processes hold in parts, each its own:

            total = communicator.allreduce(opt.sumsq(grads))
            opt.step(grads, clip_norm=1.0, total_norm=math.sqrt(total), skip_nonfinite=True)

        Nothing is changed. Infinite when it is beyond float64, NaN when an element is NaN. Float64 gradients
        are computed in float64, others in float32, whatever their parameters are.
        """
        grads = tuple(grads if isinstance(grads, (list, tuple)) else self._listed(grads))
        options = step_options(self._narrowest, clip_value=clip_value, grad_scale=grad_scale)
        with self._lock:
            plan = self._planner.prepare(grads, self._options, self._changed)
            norm = plan.run.measure(options._replace(measure=True)).norm
            plan.lent.clear()
        return norm * norm

    def _ask(self, asked: tuple[Any, ...]) -> None:
        """The options are those asked for from now on."""
        self._asked = ()
        old, self._options = self._options, step_options(self._narrowest, *asked)
        if old.clips_units != self._options.clips_units:
            self._planner.plan = None
        # only what cannot change in place, and compares as a whole, can be recognised next time
        if all(value is None or type(value) in (bool, int, float, str) for value in asked):
            self._asked = asked

    def _listed(self, grads: Any) -> Sequence[Any]:
        if isinstance(grads, Mapping):
            return by_name(grads, self._planner.parameters, "grads")
        return listed(grads, "grads")

    # ---- averages ----

    def averages(self) -> list[Array | None]:
        """The running average of each parameter, through all groups; None for one whose ema_decay is None.

        Arrays of the parameters' shapes, in float64 for float64 parameters and in float32 for all others: the
        averages themselves, which go on with every step until another state is loaded. Before its first step
        a parameter's average is the parameter. On a device it is a fastgd.memory.DeviceArray.
        """
        with self._lock:
            return [None if average is None else average.view() for average in self._planner.averages()]

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block, parameters (and their copies) hold their running averages, to evaluate or save.

        Averages are rounded to nearest where parameters have fewer bits. Afterwards everything is as it was,
        bit for bit; until then the parameters are kept in memory once more. A step or a load inside raises
        RuntimeError; ValueError when no parameter has an average.

            with opt.averaged():
                accuracy = evaluate(model)
        """
        return holding_averages(self)

    # ---- state ----

    def state_bytes(self) -> int:
        """Bytes of memory that hold the state made so far: slots, residuals and averages."""
        with self._lock:
            return sum(kept.nbytes for kept in self._planner.kept if kept is not None)

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of everything but the parameters: rule, settings, step counts and state arrays.

        `{"rule", "version", "seed", "state": {number: {"step", slot: array, ...}}, "param_groups": [...]}`.
        Parameters are numbered through all groups; those that have made no step have no entry. Arrays are
        copies on the host, in the dtypes they are kept in. A slot in 8 bits is two arrays: its codes, uint8
        in the parameter's shape, and "<slot>_scales", a float32 for each 256 codes in C order. "residual" is
        what rounding the parameter lost and "average" its running average, where there are. What a rule
        carries from step to step beside arrays stands in an entry as a float.
        """
        with self._lock:
            return snapshot(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], *, convert: bool = False) -> None:
        """Takes over what `state_dict` gave. Nothing is changed unless all of it fits.

        The parameters are not part of it; they are to be what they were when it was taken.
        What this optimizer keeps its state in, and how it rounds parameters, stays as it is. With `convert`,
        state in other dtypes is rounded to these, to nearest, and a residual of another rounding begins anew.

        ValueError or TypeError, naming what does not fit, for another rule's state, another number of groups
        or parameters, other shapes, other dtypes without `convert`, and for hyperparameters out of range.
        """
        planner = self._planner
        checked = checked_state(self, state_dict, named("convert", flag, convert))
        with self._lock, uninterrupted():
            if planner.barred == AVERAGED:
                raise RuntimeError(AVERAGED)
            for group, values in zip(self.param_groups, checked.settings, strict=True):
                group.values_in_place.update(values)
            planner.steps[: len(checked.steps)] = checked.steps
            planner.carried[:] = checked.carried
            planner.kept[:] = checked.kept
            planner.seed, planner.plan = checked.seed, None
            planner.skipped, planner.running = 0, None
            self._training = checked.training
            planner.barred = None if checked.training else EVALUATING

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy.deepcopy and pickle: parameters and copies as they were given, a snapshot of the rest."""
        groups = [
            {
                **group.values_in_place,
                "params": [p.given if p.name is None else (p.name, p.given) for p in group.members],
            }
            for group in self.param_groups
        ]
        copies = [p.given_copy for p in self._planner.parameters]
        return _restored, (type(self), groups, self.backend.name, copies), self.state_dict()

    def __setstate__(self, state_dict: Mapping[str, Any]) -> None:
        self.load_state_dict(state_dict)

    def save(self, path: Any) -> None:
        """Writes `state_dict()` to a safetensors file, beside the old one and then renamed over it.

        However the process ends, `path` is the old file or all of the new; what a killed one leaves is
        removed by the next save. Raises fastgd.checkpoint.CheckpointError when it cannot be written.

        The file's metadata have, for any tool, "rule", "hyperparameters" (JSON, a dict for each group) and
        "step" (the largest of any parameter).
        """
        from fastgd.checkpoint import pack_state, save_file

        state = self.state_dict()
        tensors, metadata = pack_state(state)
        save_file(path, tensors, {**metadata, **summary(state)})

    def load(self, path: Any, *, convert: bool = False) -> None:
        """`load_state_dict` from a file that `save` wrote. Never unpickles."""
        from fastgd.checkpoint import load_file, unpack_state

        self.load_state_dict(unpack_state(*load_file(path)), convert=convert)


#: those whose locks a forked child makes anew: the thread that held one does not exist there
_OPTIMIZERS: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def _after_fork() -> None:
    for opt in _OPTIMIZERS:
        opt._lock = threading.RLock()
        opt._planner.plan = opt._planner.running = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _restored(cls: type[Optimizer], groups: Any, backend: str, copies: list[Any]) -> Optimizer:
    return cls(groups, backend=backend, copies=copies)
