"""The optimizer of fastgd.jax: an optax transformation whose whole step is one native call under jit."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastgd.checks import named, whole
from fastgd.groups import by_position
from fastgd.jax.calls import Group, Member, make_step
from fastgd.jax.labels import Key, Values
from fastgd.jax.state import (
    Beside,
    State,
    each_beside,
    first_average,
    first_residual,
    first_slot,
    together,
)
from fastgd.jax.trees import Leaves, stand_in
from fastgd.kept import check_rounding
from fastgd.options import LABELLING, LASTING, step_options
from fastgd.rules import Rule
from fastgd.rules.programs import Program, program_of
from fastgd.schedules import ReduceOnPlateau, Schedule
from fastgd.settings import DEFAULTS, check_value

#: what a rule finds beside hyperparameters, by name
Traits = tuple[tuple[str, Any], ...]

#: keyword arguments beside hyperparameters and settings, for all parameters alike -> default
BESIDE: dict[str, Any] = {
    **{name: default for name, (_, default, _) in LASTING.items()},
    "seed": 0,
    **{name: default for name, (_, default, _) in LABELLING.items()},
}


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
        self._labelling = {name: beside.pop(name) for name in LABELLING}
        self._seed = named("seed", whole(0, 2**64), beside.pop("seed"))
        self._options = step_options(np.dtype(np.float32), **beside)
        self._values = Values(rule, self._checked, values, **self._labelling)

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
        shown = self._values.first | {k: v for k, v in self._labelling.items() if v is not None}
        return f"{self.rule.name}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def init(self, params: Any) -> State:
        """The state before the first step.

        Raises TypeError or ValueError, naming the parameter, for what cannot be updated.
        """
        leaves = Leaves(params)
        keys, arrays = self._keys(leaves), leaves.values()
        values = self._seen(leaves, keys)
        active = [self.rule.active_slots(h) for h in values]
        slots = {
            slot.name: together(
                leaves,
                [
                    None if used[k] is None else first_slot(slot, h, part)
                    for part, h, used in zip(leaves.parts, values, active, strict=True)
                ],
            )
            for k, slot in enumerate(self.rule.slots)
            if any(used[k] is not None for used in active)
        }
        numbers = np.array([self.rule.carried_at_first] * len(_numbered(keys))).view(np.uint32)
        carried = numbers.reshape(-1, len(self.rule.carried), 2) if self.rule.carried else None
        residuals = [first_residual(h, leaf) for h, leaf in zip(values, arrays, strict=True)]
        averages = [first_average(h, leaf) for h, leaf in zip(values, arrays, strict=True)]
        return State(
            jnp.zeros((), jnp.int32),
            slots,
            None if carried is None else jnp.asarray(carried),
            *(
                None if all(one is None for one in kept) else together(leaves, kept)
                for kept in (residuals, averages)
            ),
        )

    def step(self, params: Any, grads: Any, state: State) -> tuple[Any, State]:
        """(parameters, state) after a step: one native call.

        Where jit donates both, they are updated in place:

            step = jax.jit(opt.step, donate_argnums=(0, 2))
            params, state = step(params, grads, state)

        Raises TypeError or ValueError, naming the parameter, before anything is changed.
        """
        leaves = Leaves(params)
        keys = self._keys(leaves)
        gradients, where = leaves.gradients(grads)
        beside, numbers = Beside(leaves, state), _numbered(keys)
        groups = {
            numbers[key]: Group(h, self.rule.active_slots(h), self._program(self._values.by_key[key[0]], h))
            for key, h in zip(keys, self._seen(leaves, keys), strict=True)
        }
        members = [
            Member(part, grad, *beside.leaf(i, group.slots, group.values), numbers[key], i)
            for i, (key, part, grad) in enumerate(zip(keys, leaves.parts, where, strict=True))
            if grad is not None
            for group in [groups[numbers[key]]]
        ]
        self._check_carried(state.carried, len(groups))
        if not members:
            return params, state._replace(count=state.count + 1)
        count, carried, arrays = make_step(
            self.rule,
            list(groups.values()),
            members,
            gradients,
            beside.arrays,
            self._options,
            self._seed,
            state.count,
            state.carried,
            [self._rate(name, value, state.count) for name, value in self._rates().values()],
        )
        return leaves.of_arrays(arrays[: len(leaves.arrays)]), beside.state(count, carried, arrays)

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
        leaves = Leaves(params)
        values, average = self._seen(leaves, self._keys(leaves)), self.rule.average
        means = each_beside(leaves, "state.average", state.average)
        steps = each_beside(leaves, "state.slots", state.slots[average.slot] if average else None)
        found = []
        for h, leaf, mean, z in zip(values, leaves.values(), means, steps, strict=True):
            if mean is not None:
                found.append(mean.astype(leaf.dtype))
            elif average is not None:
                # y = beta x + (1 - beta) z: see rules.table.Average; before the first step z is y
                weight = jnp.where(state.count > 0, 1.0 - 1.0 / average.beta(h), 0.0)
                found.append((leaf + weight * (z - leaf)).astype(leaf.dtype))
            else:
                found.append(leaf)
        return leaves.of_values(found)

    # ---- What rules ask for -------------------------------------------------------------------------

    def _keys(self, leaves: Leaves) -> list[tuple[Key, Traits]]:
        """Of each leaf, checked to be one that can be updated: equal for those that share scalars."""
        keys = self._values.keys(leaves)
        for path, part, key in zip(leaves.paths, leaves.parts, keys, strict=True):
            check_rounding(self._values.by_key[key], stand_in(part), f"params{path}")
            if self.rule.ndim not in (None, len(part.shape)):
                raise ValueError(
                    f"params{path} has shape {part.shape}: {self.rule.title} is for parameters of "
                    f"{self.rule.ndim} dimensions; optax.partition gives others another optimizer"
                )
        traits = self.rule.traits or (lambda shape, dtype: {})
        pairs = zip(keys, leaves.parts, strict=True)
        return [(key, tuple(traits(part.shape, part.dtype.name).items())) for key, part in pairs]

    def _seen(self, leaves: Leaves, keys: Sequence[tuple[Key, Traits]]) -> list[Mapping[str, Any]]:
        """The values of each leaf, with the traits that the rule asks for."""
        return [
            self.rule.seen(self._values.by_key[key], part.shape, part.dtype.name)
            for (key, _), part in zip(keys, leaves.parts, strict=True)
        ]

    def _check_carried(self, carried: Any, groups: int) -> None:
        """Refuses numbers carried by another rule, or by other groups."""
        wanted = (groups, len(self.rule.carried), 2) if self.rule.carried else None
        found = None if carried is None else tuple(carried.shape)
        if found != wanted:
            raise ValueError(
                f"state is of another rule or of other groups: carried has shape {found}, and {self!r} of "
                f"{groups} groups of parameters needs {wanted}"
            )

    def _rates(self) -> dict[int, tuple[str, Any]]:
        """Hyperparameters that are known in a step only: (name, value) by the value's id."""
        return {
            id(values[name]): (name, values[name])
            for values in self._values.by_key.values()
            for name in self.rule.defaults
            if isinstance(values[name], jax.Array)
            or (callable(values[name]) and not isinstance(values[name], Schedule))
        }

    def _rate(self, name: str, value: Any, count: Any) -> Any:
        rate = jnp.asarray(value(count) if callable(value) else value)
        if rate.ndim or not jnp.issubdtype(rate.dtype, jnp.number):
            raise TypeError(f"{name} must be a number, not {rate.dtype}{list(rate.shape)}")
        return rate if rate.dtype == jnp.float64 else rate.astype(jnp.float32)

    def _program(self, values: Mapping[str, Any], seen: Mapping[str, Any]) -> Program:
        """Of `rule.fold`, and `rule.carry`, for all steps."""
        rule, rates = self.rule, self._rates()

        def scalars(symbols: Sequence[Any]) -> Sequence[Any]:
            step, given, carried = symbols[0], symbols[1 : 1 + len(rates)], tuple(symbols[1 + len(rates) :])
            by_id = dict(zip(rates, given, strict=True))
            varying = {name: by_id[id(values[name])] for name in rule.defaults if id(values[name]) in by_id}
            for name in rule.defaults:
                if isinstance(values[name], Schedule):
                    varying[name] = values[name](step - 1)
            h = ChainMap(varying, seen)  # type: ignore[arg-type]  # nobody writes to it
            return *rule.fold(h, step, carried), *rule.carry(h, step, carried)

        return program_of(scalars, 1 + len(rates) + len(rule.carried))


def _numbered(keys: Sequence[tuple[Key, Traits]]) -> dict[tuple[Key, Traits], int]:
    """The groups: keys in the order in which they come."""
    return {key: i for i, key in enumerate(dict.fromkeys(keys))}
