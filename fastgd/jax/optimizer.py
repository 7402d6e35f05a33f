"""The optimizer of fastgd.jax: an optax transformation whose whole step is one native call under jit."""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastgd.arrays import CODES, Array, code_of
from fastgd.backends.base import BLOCK, Codes
from fastgd.checks import named, whole
from fastgd.groups import by_position
from fastgd.jax.calls import Group, Member, make_step
from fastgd.jax.packed import Packed
from fastgd.jax.programs import Program, program_of
from fastgd.kept import check_rounding, residual_dtype, slot_dtype
from fastgd.options import LASTING, step_options
from fastgd.rules import Rule, Slot, resolved
from fastgd.schedules import ReduceOnPlateau, Schedule
from fastgd.settings import DEFAULTS, check_together, check_value
from fastgd.storage import arithmetic, encode


class State(NamedTuple):
    """What an optimizer keeps between steps: a pytree of arrays."""

    #: int32 []: steps made
    count: Any
    #: slot -> a tree as that of the parameters, with None where a parameter has no such slot; for state_dtype
    #: "8bit" with Codes, pairs of arrays
    slots: dict[str, Any]
    #: None, or the numbers that the rule carries from step to step: float64 as uint32 [groups, numbers, 2]
    carried: Any
    #: None, or a tree of what rounding 16-bit parameters loses
    residual: Any
    #: None, or a tree of the parameters' running averages: ema_decay
    average: Any


#: keyword arguments beside hyperparameters and settings -> default
BESIDE: dict[str, Any] = {**{name: default for name, (_, default, _) in LASTING.items()}, "seed": 0}


class Optimizer:
    """An optax transformation, and whole steps. `fastgd.jax.adamw` and the others make one.

    Parameters, gradients and state are pytrees, as in optax: of float32, bfloat16, float16, or float64 where
    JAX has it. None is no parameter; a gradient that is None leaves its parameter alone. All runs under jit,
    scan and vmap, on CPU. It is no differentiable function.
    """

    def __init__(self, rule: Rule, positional: Sequence[Any], given: Mapping[str, Any]) -> None:
        """positional, given: the rule's hyperparameters, settings, and what BESIDE has."""
        self.rule = rule
        by_name = {**by_position(rule, tuple(positional), given), **given}
        values = {**rule.defaults, **DEFAULTS, **BESIDE, **by_name}
        unknown = values.keys() - rule.defaults.keys() - DEFAULTS.keys() - BESIDE.keys()
        if unknown:
            raise TypeError(f"{rule.name}() got an unexpected keyword argument {min(unknown)!r}")
        beside = {name: values.pop(name) for name in BESIDE}
        self._seed = named("seed", whole(0, 2**64), beside.pop("seed"))
        self._options = step_options(np.dtype(np.float32), **beside)
        #: hyperparameters and settings: checked numbers, schedules, and what is known in a step only
        self.values = {name: self._checked(name, value) for name, value in resolved(rule, values).items()}
        check_together(rule, self.values)

    def _checked(self, name: str, value: Any) -> Any:
        if isinstance(value, jax.Array) and not isinstance(value, jax.core.Tracer) and value.ndim == 0:
            value = value.item()
        varies = callable(value) or isinstance(value, jax.Array)
        if not varies or name not in self.rule.defaults:
            return check_value(self.rule, name, value)
        entry = self.rule.hyperparameter(name)
        if not entry.folded and entry.like is None:  # one that is like the rate is folded with it
            return check_value(self.rule, name, value)
        if isinstance(value, ReduceOnPlateau):
            raise TypeError(
                f"{name}: ReduceOnPlateau changes between steps, which compiled ones do not see: give its "
                "rate as an argument of the function that is compiled"
            )
        return value

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"{self.rule.name}({values})"

    def init(self, params: Any) -> State:
        """The state before the first step.

        Raises TypeError or ValueError, naming the parameter, for what cannot be updated.
        """
        paths, leaves, tree = self._flattened(params)
        for path, leaf in zip(paths, leaves, strict=True):
            self._check(path, leaf)
        seen = [self._seen(leaf) for leaf in leaves]
        active = [self.rule.active_slots(h) for h in seen]
        slots = {
            slot.name: tree.unflatten(
                [
                    None if used[k] is None else _first_slot(slot, h, leaf)
                    for leaf, h, used in zip(leaves, seen, active, strict=True)
                ]
            )
            for k, slot in enumerate(self.rule.slots)
            if any(used[k] is not None for used in active)
        }
        numbers = np.array([self.rule.carried_at_first] * self._number_of_groups(leaves)).view(np.uint32)
        rounds = any(residual_dtype(self.values, _stand_in(leaf)) is not None for leaf in leaves)
        return State(
            jnp.zeros((), jnp.int32),
            slots,
            jnp.asarray(numbers.reshape(-1, len(self.rule.carried), 2)) if self.rule.carried else None,
            tree.unflatten([_first_residual(self.values, leaf) for leaf in leaves]) if rounds else None,
            None
            if self.values["ema_decay"] is None
            else tree.unflatten([jnp.array(leaf, arithmetic(np.dtype(leaf.dtype))) for leaf in leaves]),
        )

    def step(self, params: Any, grads: Any, state: State) -> tuple[Any, State]:
        """(parameters, state) after a step: one native call.

        Where jit donates both, they are updated in place:

            step = jax.jit(opt.step, donate_argnums=(0, 2))
            params, state = step(params, grads, state)

        Raises TypeError or ValueError, naming the parameter, before anything is changed.
        """
        paths, leaves, tree = self._flattened(params)
        kept = {name: _as(tree, f"state.slots[{name!r}]", slot) for name, slot in state.slots.items()}
        residuals, averages = (
            [None] * len(leaves) if part is None else _as(tree, f"state.{name}", part)
            for name, part in (("residual", state.residual), ("average", state.average))
        )
        groups: dict[tuple[Any, ...], int] = {}
        rows: list[Group] = []
        members: dict[int, Member] = {}
        for i, (path, leaf, grad) in enumerate(zip(paths, leaves, _as(tree, "grads", grads), strict=True)):
            self._check(path, leaf)
            key = self._key(leaf)
            if key not in groups:
                groups[key] = len(rows)
                seen = self._seen(leaf)
                rows.append(Group(seen, self.rule.active_slots(seen), self._program(seen)))
            if grad is None:
                continue
            used = rows[groups[key]].slots
            slots = tuple(kept[slot.name][i] if slot else None for slot in used)
            check_grad(path, leaf, grad)
            members[i] = Member(leaf, grad, slots, residuals[i], averages[i], groups[key], i)
        if not members:
            return params, state._replace(count=state.count + 1)
        count, carried, updated = make_step(
            self.rule,
            rows,
            list(members.values()),
            self._options,
            self._seed,
            state.count,
            state.carried,
            [self._rate(name, state.count) for name in self._rates()],
        )
        for i, after in zip(members, updated, strict=True):
            parts = iter(after)
            leaves[i] = next(parts)
            for slot, before in zip(rows[members[i].group].slots, members[i].slots, strict=True):
                if slot is not None:
                    coded = isinstance(before, Codes)
                    kept[slot.name][i] = Codes(next(parts), next(parts)) if coded else next(parts)
            residuals[i] = None if residuals[i] is None else next(parts)
            averages[i] = None if averages[i] is None else next(parts)
        return tree.unflatten(leaves), State(
            count,
            {name: tree.unflatten(slot) for name, slot in kept.items()},
            carried,
            None if state.residual is None else tree.unflatten(residuals),
            None if state.average is None else tree.unflatten(averages),
        )

    def update(self, updates: Any, state: State, params: Any = None, **extra: Any) -> tuple[Any, State]:
        """(what optax.apply_updates adds to the parameters, state): of gradients, as in optax.

        It takes a copy of the parameters, and a pass more than `step`. ValueError without params. Other
        arguments, which optax hands on, are not used.
        """
        if params is None:
            raise ValueError("params are needed: update(grads, state, params)")
        after, state = self.step(params, updates, state)
        return jax.tree.map(lambda new, old: new - old, after, params), state

    def eval_params(self, params: Any, state: State) -> Any:
        """The parameters to evaluate with: their running averages where there is an ema_decay, or what a
        schedule-free rule has learned, as `Optimizer.eval` of fastgd gives it; otherwise themselves."""
        average = self.rule.average
        if state.average is not None:
            return jax.tree.map(lambda p, mean: mean.astype(p.dtype), params, state.average)
        if average is None:
            return params
        # y = beta x + (1 - beta) z: see rules.table.Average; before the first step z is y
        weight = jnp.where(state.count > 0, 1.0 - 1.0 / average.beta(self.values), 0.0)
        return jax.tree.map(
            lambda y, z: (y + weight * (z - y)).astype(y.dtype), params, state.slots[average.slot]
        )

    # ---- What rules ask for -------------------------------------------------------------------------

    def _flattened(self, params: Any) -> tuple[list[str], list[Any], Any]:
        """(the path of each leaf, the leaves, the structure); ValueError where it may not be packed."""
        pairs, tree = jax.tree_util.tree_flatten_with_path(params)
        if self.apart and any(map(_is_packed, jax.tree.leaves(params, is_leaf=_is_packed))):
            raise ValueError(
                f"params are packed, and {self.rule.title} looks at each parameter: give them as they are"
            )
        return [jax.tree_util.keystr(path) for path, _ in pairs], [leaf for _, leaf in pairs], tree

    @property
    def apart(self) -> bool:
        """Whether a step depends on which elements are one parameter, so that these cannot be packed."""
        rule = self.rule
        return not rule.elementwise or bool(rule.factored or rule.traits) or rule.ndim is not None

    def _seen(self, leaf: Any) -> Mapping[str, Any]:
        return self.rule.seen(self.values, leaf.shape, np.dtype(leaf.dtype).name)

    def _key(self, leaf: Any) -> tuple[Any, ...]:
        traits = self.rule.traits
        return tuple(traits(leaf.shape, np.dtype(leaf.dtype).name).values()) if traits else ()

    def _number_of_groups(self, leaves: Sequence[Any]) -> int:
        return len({self._key(leaf) for leaf in leaves})

    def _check(self, path: str, leaf: Any) -> None:
        if not hasattr(leaf, "dtype") or code_of(np.dtype(leaf.dtype)) is None:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise TypeError(f"params{path} is {kind}; fastgd works on {', '.join(CODES)}")
        check_rounding(self.values, _stand_in(leaf), f"params{path}")
        if self.rule.ndim not in (None, leaf.ndim):
            raise ValueError(
                f"params{path} has shape {leaf.shape}: {self.rule.title} is for parameters of "
                f"{self.rule.ndim} dimensions; optax.partition gives others another optimizer"
            )

    def _rates(self) -> list[str]:
        """Hyperparameters that are known in a step only."""
        return [
            name
            for name in self.rule.defaults
            if isinstance(self.values[name], jax.Array)
            or (callable(self.values[name]) and not isinstance(self.values[name], Schedule))
        ]

    def _rate(self, name: str, count: Any) -> Any:
        value = self.values[name]
        rate = jnp.asarray(value(count) if callable(value) else value)
        if rate.ndim or not jnp.issubdtype(rate.dtype, jnp.number):
            raise TypeError(f"{name} must be a number, not {rate.dtype}{list(rate.shape)}")
        return rate if rate.dtype == jnp.float64 else rate.astype(jnp.float32)

    def _program(self, seen: Mapping[str, Any]) -> Program:
        """Of `rule.fold`, and `rule.carry`, for all steps."""
        rule, rates = self.rule, self._rates()

        def scalars(symbols: Sequence[Any]) -> Sequence[Any]:
            step, given, carried = symbols[0], symbols[1 : 1 + len(rates)], tuple(symbols[1 + len(rates) :])
            varying = dict(zip(rates, given, strict=True))
            for name in rule.defaults:
                if isinstance(self.values[name], Schedule):
                    varying[name] = self.values[name](step - 1)
            h = ChainMap(varying, seen)  # type: ignore[arg-type]  # nobody writes to it
            return *rule.fold(h, step, carried), *rule.carry(h, step, carried)

        return program_of(scalars, 1 + len(rates) + len(rule.carried))


# ---- Trees --------------------------------------------------------------------------------------------


def _is_packed(node: Any) -> bool:
    return isinstance(node, Packed)


def _as(tree: Any, name: str, other: Any) -> list[Any]:
    """What another tree has in place of each leaf."""
    try:
        return list(tree.flatten_up_to(other))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has another structure than params: {error}") from None


def check_grad(path: str, param: Any, grad: Any) -> None:
    """TypeError or ValueError, naming the gradient, for one that is none of the parameter."""
    if not hasattr(grad, "dtype") or code_of(np.dtype(grad.dtype)) is None:
        kind = getattr(grad, "dtype", type(grad).__name__)
        raise TypeError(f"grads{path} is {kind}; fastgd works on {', '.join(CODES)}")
    if grad.shape != param.shape:
        raise ValueError(f"grads{path} has shape {grad.shape}, the parameter {param.shape}")


# ---- The first state ----------------------------------------------------------------------------------


def _stand_in(leaf: Any) -> Array:
    """An array of the parameter's shape and dtype, which takes no memory."""
    return np.broadcast_to(np.zeros((), np.dtype(leaf.dtype)), leaf.shape)


def _first_slot(slot: Slot, values: Mapping[str, Any], leaf: Any) -> Any:
    dtype = slot_dtype(slot, values, _stand_in(leaf))
    first = 0.0 if slot.initial is None else values[slot.initial]
    shape = slot.shape(leaf.shape)
    if dtype is not None:
        return jnp.full(shape, first, dtype)
    # codes of equal numbers are equal, and so are scales
    codes, scales = encode(np.full((1,), first, arithmetic(np.dtype(leaf.dtype))), unsigned=slot.unsigned)
    blocks = -(-math.prod(shape) // BLOCK)
    arrays: Any = jnp.full(shape, codes[0], jnp.uint8), jnp.full((blocks,), scales[0], jnp.float32)
    return Codes(*arrays)


def _first_residual(values: Mapping[str, Any], leaf: Any) -> Any:
    dtype = residual_dtype(values, _stand_in(leaf))
    if dtype is None:
        return None
    return leaf.astype(dtype) if values["rounding"] == "master" else jnp.zeros(leaf.shape, dtype)
