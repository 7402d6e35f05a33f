"""The optimizer: one class over any rule, with parameter groups, state and one call for a whole step."""

from __future__ import annotations

import functools
import math
import os
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from fastgd import backends
from fastgd.arrays import DTYPES, Array, Spans, addresses, as_array, listed
from fastgd.backends.base import UNMEASURED, Block, Carriers, Item, Options, Plan, Work
from fastgd.checks import flag, limit, named, real
from fastgd.groups import Parameter, check_memory, make_groups
from fastgd.interrupts import uninterrupted
from fastgd.report import NonFinite, StepReport
from fastgd.rules import RULES, Rule

_UNMEASURED = StepReport(None, 1.0, False, None)

#: StepReport from a tuple, in half the time its constructor takes
_report = functools.partial(tuple.__new__, StepReport)


class _Prepared(NamedTuple):
    """A plan of the backend's, and which gradient arrays it points to."""

    run: Plan
    #: id of the gradient of each parameter, valid while none of the watched arrays is gone; 0 for one that
    #: is no NumPy array and may come with other memory every time
    grad_ids: list[int]
    #: tensor number in the plan -> parameter number
    numbers: list[int]
    #: tensor number in the plan -> its gradient
    watch: dict[int, weakref.ref[Array]]
    #: parameter number -> memory lent by a gradient that is no NumPy array; kept until the step is made,
    #: because it may be a copy that nobody else holds
    lent: dict[int, Array]


class Optimizer:
    """Base of all optimizers; `rule` says which. See `create` for one by name.

    Parameters are updated in place and must stay where they are in memory. Gradients are never written.
    """

    rule: ClassVar[Rule]

    def __init__(self, params: Any, *positional: Any, backend: str = "auto", **hyperparameters: Any) -> None:
        defaults = self._bind(positional, hyperparameters)
        self.backend = backends.get(backend)
        #: numbers of groups whose switches may have changed, and watched gradient arrays that are gone
        self._changed: list[int] = []
        self._gone: list[weakref.ref[Array]] = []
        self.param_groups = tuple(make_groups(self.rule, params, defaults, self._changed.append))
        self._parameters: list[Parameter] = [p for group in self.param_groups for p in group.members]
        self._by_name = {p.name: p for p in self._parameters if p.name is not None}
        check_memory(self._parameters)
        for p in self._parameters:
            if not self.backend.supports(self.rule, p.array.dtype):
                raise TypeError(
                    f"{p}: the {self.backend.name} backend has no {self.rule.title} in {p.array.dtype}"
                )
        self._spans = Spans([p.array for p in self._parameters])
        self._state: list[tuple[Array | None, ...] | None] = [None] * len(self._parameters)
        self._steps = np.zeros(max(len(self._parameters), 1), np.int64)
        #: as Carriers.numbers
        self._carried = np.empty((len(self._parameters), 2, len(self.rule.carried)))
        self._carried[:] = self.rule.carried_at_first
        self._plan: _Prepared | None = None
        self._asked: tuple[Any, ...] = ()
        self._options = Options()
        self._training = True
        self._narrowest = min(
            (p.array.dtype for p in self._parameters), key=lambda d: np.finfo(d).max, default=DTYPES[0]
        )
        #: one step, snapshot or load at a time, whatever the thread
        self._lock = threading.RLock()
        _OPTIMIZERS.add(self)

    @classmethod
    def _bind(cls, positional: tuple[Any, ...], named: dict[str, Any]) -> dict[str, Any]:
        if cls is Optimizer:
            titles = ", ".join(rule.title for rule in RULES.values())
            raise TypeError(f"Optimizer has no rule of its own: use one of {titles}")
        if len(positional) > len(cls.rule.defaults):
            raise TypeError(f"{cls.rule.title} takes at most {len(cls.rule.defaults)} hyperparameters")
        values = dict(zip(cls.rule.defaults, positional, strict=False))
        twice = values.keys() & named.keys()
        if twice:
            raise TypeError(f"{cls.rule.title} got {sorted(twice)[0]!r} twice")
        return {**cls.rule.defaults, **values, **named}

    def __repr__(self) -> str:
        head = f"{self.rule.title} ({len(self._parameters)} parameters, backend {self.backend.name})"
        return "\n".join([head, *(f"  group {i}: {g.summary()}" for i, g in enumerate(self.param_groups))])

    def parameters(self) -> list[Any]:
        """The parameters as they were given, through all groups: the order in which step takes gradients."""
        return [p.given for p in self._parameters]

    @property
    def training(self) -> bool:
        """False from `eval` to `train`, if the rule keeps an average of the parameters; else always True."""
        return self._training

    def eval(self) -> None:
        """Puts the average that the rule keeps into the parameters, which are then what it has learned.

        A rule that keeps none leaves them as they are. Until `train` is called, `step` raises RuntimeError.
        May be called again, and before the first step.
        """
        from fastgd.modes import set_training

        set_training(self, False)

    def train(self) -> None:
        """Undoes `eval`, but for a rounding or two; so every optimizer begins."""
        from fastgd.modes import set_training

        set_training(self, True)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in type(self).rule.defaults:
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
    ) -> StepReport:
        """Updates all parameters from their gradients, in one pass over memory, or two when a norm is needed.

        grads: an array for each parameter, in order through all groups, of its shape and dtype; None for a
            parameter that is to be left alone. When parameters were named, a mapping from names will do, in
            which a missing name stands for None. An array given again must have kept its shape and strides.
        clip_norm: upper limit of the global 2-norm of all gradients; None: no limit. The gradients are
            multiplied by `min(1, clip_norm / (norm + 1e-6))` as in torch.nn.utils.clip_grad_norm_
            (Pascanu, Mikolov and Bengio 2013, section 3.2).
        clip_value: each element is limited to [-clip_value, clip_value] before the norm is taken.
        grad_scale: the gradients are divided by it first: the scale of a loss scaler.
        skip_nonfinite: when a gradient holds NaN or an infinity, or the norm is beyond float64, change
            nothing, counters included.

        The gradients themselves are not written. Raises TypeError or ValueError, naming the parameter,
        before anything is changed.
        """
        # a tuple of our own keeps gradients alive though another thread may empty the caller's list
        grads = tuple(grads if isinstance(grads, (list, tuple)) else self._listed(grads))
        with self._lock:
            asked = (clip_norm, clip_value, grad_scale, skip_nonfinite)
            try:
                known = asked == self._asked
            except Exception:  # of an array, say; the checks of _ask name it
                known = False
            if not known:
                self._ask(asked)
            plan = self._plan
            if plan is None or self._changed or self._gone or plan.grad_ids != list(map(id, grads)):
                plan = self._prepare(grads)
            measured = plan.run.step(self._options)
            norm, clip_coef, tensor, skipped = measured
            nonfinite = None
            if tensor is not None:
                number = plan.numbers[tensor]
                nonfinite = self._locate(number, plan.lent.get(number, grads[number]))
            if plan.lent:
                plan.lent.clear()
        if measured is UNMEASURED:
            return _UNMEASURED
        return _report((norm, clip_coef, skipped, nonfinite))

    def _ask(self, asked: tuple[Any, ...]) -> None:
        """The options are those asked for from now on."""
        self._asked = ()
        self._options = _options(self._narrowest, *asked)
        # only what cannot change in place, and compares as a whole, can be recognised next time
        if all(value is None or type(value) in (bool, int, float) for value in asked):
            self._asked = asked

    # ---- gradients and the plan ----

    def _listed(self, grads: Any) -> Sequence[Any]:
        if not isinstance(grads, Mapping):
            return listed(grads, "grads")
        unknown = [name for name in grads if name not in self._by_name]
        if unknown:
            raise ValueError(f"grads: there is no parameter named {unknown[0]!r}")
        if len(self._by_name) != len(self._parameters):
            raise ValueError("grads is a mapping, but not all parameters were given names")
        return [grads.get(p.name) for p in self._parameters]

    def _prepare(self, grads: Sequence[Any]) -> _Prepared:
        """A plan for these gradients: the one there is with other pointers, or a new one."""
        if not self._training:
            raise RuntimeError(
                "the parameters are averages since eval() was called: call train() before step"
            )
        old, self._plan = self._plan, None
        # only what has been announced so far: what another thread sets from here on is for the next step
        announced = len(self._changed)
        if announced:
            del self._changed[:announced]
            old = None
        lent: dict[int, Array] = {}
        if len(grads) != len(self._parameters):
            raise ValueError(f"got {len(grads)} gradients for {len(self._parameters)} parameters")
        numbers = [i for i, g in enumerate(grads) if g is not None]
        if old is not None and old.numbers == numbers:
            plan = old._replace(grad_ids=_ids(grads), lent=lent)
            watch = plan.watch
            fresh = [k for k, i in enumerate(numbers) if k not in watch or watch[k]() is not grads[i]]
            arrays, at = self._check_grads([numbers[k] for k in fresh], grads)
            plan.run.set_grads(fresh, arrays, at)
        else:
            for number, group in enumerate(self.param_groups):
                group.check_together(number)
            arrays, _ = self._check_grads(numbers, grads)
            run = self.backend.plan(self._work(numbers, arrays))
            plan = _Prepared(run, _ids(grads), numbers, {}, lent)
            fresh = list(range(len(numbers)))
        for k, array in zip(fresh, arrays, strict=True):
            number = numbers[k]
            if array is grads[number]:
                plan.watch[k] = weakref.ref(array, self._gone.append)
            else:
                plan.watch.pop(k, None)
                lent[number] = array
        self._gone.clear()
        self._plan = plan
        return plan

    def _check_grads(self, numbers: Sequence[int], grads: Sequence[Any]) -> tuple[list[Array], Array]:
        """These parameters' gradients as arrays, and their addresses, once all are found to be right."""
        arrays: list[Array] = []
        for i in numbers:
            g, param = grads[i], self._parameters[i].array
            if type(g) is not np.ndarray or g.dtype != param.dtype or g.shape != param.shape:
                g = self._check_grad(i, g)
            arrays.append(g)
        at = addresses(arrays)
        alias = self._spans.find(arrays, at)
        if alias:
            grad, touched = self._parameters[numbers[alias[0]]], self._parameters[alias[1]]
            raise ValueError(f"gradient of {grad} shares memory with {touched}")
        return arrays, at

    def _check_grad(self, i: int, grad: Any) -> Array:
        p = self._parameters[i]
        array = as_array(grad, f"gradient of {p}")
        if array.shape != p.array.shape:
            raise ValueError(f"gradient of {p} has shape {array.shape}, the parameter {p.array.shape}")
        if array.dtype != p.array.dtype:
            raise TypeError(
                f"gradient of {p} has dtype {array.dtype}, the parameter {p.array.dtype}: "
                f"give gradient.astype('{p.array.dtype}')"
            )
        return array

    def _work(self, numbers: list[int], grads: list[Array]) -> Work:
        blocks: dict[tuple[int, int, tuple[float, ...]], int] = {}
        rows: list[Block] = []
        alike: list[list[int]] = []
        items: list[Item] = []
        for i, grad in zip(numbers, grads, strict=True):
            p = self._parameters[i]
            group = self.param_groups[p.group]
            key = (p.group, int(self._steps[i]), self._carried_by(i))
            if key not in blocks:
                blocks[key] = len(rows)
                alike.append([])
                carriers = Carriers(self._carried, alike[-1]) if self.rule.carried else ()
                rows.append(Block(self.rule, group.values_in_place, i, carriers))
            alike[blocks[key]].append(i)
            items.append(Item(p.array, grad, self._state_of(i), blocks[key], i))
        return Work(rows, items, self._steps)

    def _state_of(self, i: int) -> tuple[Array | None, ...]:
        """The state of a parameter, made when first needed and kept when a switch no longer asks for it."""
        p = self._parameters[i]
        values = self.param_groups[p.group].values_in_place
        kept = self._state[i] or (None,) * len(self.rule.slots)
        made: list[Array | None] = list(kept)
        for k, slot in enumerate(self.rule.active_slots(values)):
            if slot is not None and (made[k] is None or not self._steps[i]):
                made[k] = _new_state(p.array, 0.0 if slot.initial is None else values[slot.initial])
        self._state[i] = tuple(made)
        active = self.rule.active_slots(values)
        return tuple(a if slot else None for a, slot in zip(made, active, strict=True))

    def _carried_by(self, i: int) -> tuple[float, ...]:
        """What a parameter carries out of its last step."""
        return tuple(self._carried[i, self._steps[i] % 2].tolist())

    def _locate(self, number: int, grad: Any) -> NonFinite:
        p = self._parameters[number]
        array = as_array(grad, f"gradient of {p}")
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        return NonFinite(p.group, p.index, p.name, index, float(array[index]))

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """A snapshot of everything but the parameters: rule, hyperparameters, step counts and state arrays.

        `{"rule", "version", "state": {number: {"step", slot: array, ...}}, "param_groups": [...]}`.
        Parameters are numbered through all groups; those that have made no step have no entry. Arrays are
        copies. What a rule carries from step to step beside arrays stands in an entry as a float. With a rule
        that keeps an average of the parameters, "training" says whether they are those of `train` or `eval`.
        """
        state: dict[int, dict[str, Any]] = {}
        with self._lock:
            for i, arrays in enumerate(self._state):
                if arrays is not None and self._steps[i]:
                    self._state_of(i)  # a switch may have been turned on since the last step
                    slots = zip(self.rule.slots, self._state[i] or (), strict=True)
                    copies = {slot.name: a.copy() for slot, a in slots if a is not None}
                    names = (name for name, _ in self.rule.carried)
                    carried = dict(zip(names, self._carried_by(i), strict=True))
                    state[i] = {"step": int(self._steps[i]), **carried, **copies}
            first = 0
            groups = []
            for group in self.param_groups:
                numbers = list(range(first, first + len(group.members)))
                groups.append({**group.values_in_place, "params": numbers})
                first += len(numbers)
            mode = {"training": self._training} if self.rule.average else {}
        return {"rule": self.rule.name, "version": 1, **mode, "state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave. Nothing is changed unless all of it fits.

        The parameters are not part of it; they are to be what they were when it was taken.
        ValueError or TypeError, naming what does not fit, for another rule's state, another number of groups
        or parameters, other shapes or dtypes, and for hyperparameters out of range.
        """
        from fastgd.state import checked_state

        hyperparameters, steps, carried, state, training = checked_state(self, state_dict)
        with self._lock, uninterrupted():
            for group, values in zip(self.param_groups, hyperparameters, strict=True):
                group.values_in_place.update(values)
            self._steps[: len(steps)] = steps
            self._carried[:] = carried
            self._state[:] = state
            self._training = training
            self._plan = None

    def __reduce__(self) -> tuple[Any, ...]:
        """For copy.deepcopy and pickle: the parameters as they were given, and a snapshot of the rest."""
        groups = [
            {
                **group.values_in_place,
                "params": [p.given if p.name is None else (p.name, p.given) for p in group.members],
            }
            for group in self.param_groups
        ]
        return _restored, (type(self), groups, self.backend.name), self.state_dict()

    def __setstate__(self, state_dict: Mapping[str, Any]) -> None:
        self.load_state_dict(state_dict)

    def save(self, path: Any) -> None:
        """Writes `state_dict()` to a safetensors file, beside the old one and then renamed over it."""
        from fastgd.checkpoint import pack_state, save_file

        save_file(path, *pack_state(self.state_dict()))

    def load(self, path: Any) -> None:
        """`load_state_dict` from a file that `save` wrote. Never unpickles."""
        from fastgd.checkpoint import load_file, unpack_state

        self.load_state_dict(unpack_state(*load_file(path)))


#: those whose locks a forked child makes anew: the thread that held one does not exist there
_OPTIMIZERS: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def _after_fork() -> None:
    for opt in _OPTIMIZERS:
        opt._lock = threading.RLock()
        opt._plan = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _restored(cls: type[Optimizer], groups: Any, backend: str) -> Optimizer:
    return cls(groups, backend=backend)


def _ids(grads: Sequence[Any]) -> list[int]:
    return [id(g) if g is None or type(g) is np.ndarray else 0 for g in grads]


def _new_state(param: Array, value: float) -> Array:
    state = np.zeros_like(param, subok=False)
    if value:
        state.fill(value)
    return state


def _options(
    narrowest: np.dtype[Any], clip_norm: Any, clip_value: Any, grad_scale: Any, skip_nonfinite: Any
) -> Options:
    scale = named("grad_scale", real, grad_scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"grad_scale must be above 0 and finite, not {scale!r}")
    if not float(np.finfo(narrowest).smallest_subnormal) <= 1 / scale <= float(np.finfo(narrowest).max):
        raise ValueError(f"grad_scale must have an inverse that {narrowest} can hold, not {scale!r}")
    return Options(
        grad_scale=scale,
        clip_value=math.inf if clip_value is None else named("clip_value", limit, clip_value),
        clip_norm=math.inf if clip_norm is None else named("clip_norm", limit, clip_norm),
        skip_nonfinite=named("skip_nonfinite", flag, skip_nonfinite),
    )
