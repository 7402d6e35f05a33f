"""Checks a state dict against an optimizer, whole, before any of it is taken over."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastgd.arrays import Array, as_array
from fastgd.checks import finite, flag, named
from fastgd.rules import Carried, check_hyperparameter

if TYPE_CHECKING:
    from fastgd.optimizer import Optimizer

#: the version that state_dict writes
VERSION = 1

#: above this, a step count is no count of steps and float64 cannot hold it
MAX_STEP = 2**53

State = list["tuple[Array | None, ...] | None"]


class Checked(NamedTuple):
    """A state dict that fits, in new objects."""

    #: of each group
    hyperparameters: list[dict[str, Any]]
    #: of each parameter
    steps: list[int]
    #: float64 [parameters, 1, numbers], what each parameter carries out of its last step
    carried: Array
    #: of each parameter
    state: State
    training: bool


def checked_state(opt: Optimizer, given: Mapping[str, Any]) -> Checked:
    given = _mapping("the state", given)
    missing = {"rule", "version", "state", "param_groups"} - given.keys()
    if missing:
        raise ValueError(f"not an optimizer's state: it has no {sorted(missing)[0]!r}")
    if given["rule"] != opt.rule.name:
        raise ValueError(f"the state is of rule {given['rule']!r}, this optimizer is {opt.rule.name!r}")
    if given["version"] != VERSION:
        raise ValueError(f"the state has version {given['version']!r}; this fastgd reads version {VERSION}")
    training = True
    if opt.rule.average:
        if "training" not in given:
            raise ValueError("not a state of this optimizer: it has no 'training'")
        training = named("the state's 'training'", flag, given["training"])
    hyperparameters = _groups(opt, given["param_groups"])
    parameters = [p for group in opt.param_groups for p in group.members]
    steps = [0] * len(parameters)
    carried = np.empty((len(parameters), 1, len(opt.rule.carried)))
    carried[:] = opt.rule.carried_at_first
    state: State = [None] * len(parameters)
    for key, entry in _mapping("the state's 'state'", given["state"]).items():
        if isinstance(key, bool) or not isinstance(key, (int, np.integer)) or not 0 <= key < len(parameters):
            raise ValueError(f"the state has an entry {key!r}, but no such parameter exists")
        i = int(key)
        values = hyperparameters[parameters[i].group]
        steps[i], carried[i], state[i] = _entry(opt, parameters[i], values, entry)
    return Checked(hyperparameters, steps, carried, state, training)


def _mapping(what: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} is {type(value).__name__}, not a dict")
    return value


def _sequence(what: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{what} is {type(value).__name__}, not a list")
    return value


def _groups(opt: Optimizer, given: Any) -> list[dict[str, Any]]:
    given = _sequence("the state's 'param_groups'", given)
    if len(given) != len(opt.param_groups):
        raise ValueError(f"the state has {len(given)} groups, this optimizer {len(opt.param_groups)}")
    result = []
    first = 0
    for number, (group, own) in enumerate(zip(given, opt.param_groups, strict=True)):
        what = f"group {number} of the state"
        group = _mapping(what, group)
        values = {}
        for name in ("params", *opt.rule.defaults):
            if name not in group:
                raise ValueError(f"{what} has no {name!r}")
        members = _sequence(f"{what}: 'params'", group["params"])
        if len(members) != len(own.members):
            raise ValueError(f"{what} has {len(members)} parameters, this optimizer's {len(own.members)}")
        if list(members) != list(range(first, first + len(members))):
            raise ValueError(f"{what}: 'params' must count on from {first}, not be {members!r}")
        first += len(members)
        try:
            for name in opt.rule.defaults:
                values[name] = check_hyperparameter(opt.rule, name, group[name])
            opt.rule.check(values)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{what}: {error}") from None
        result.append(values)
    return result


def _entry(
    opt: Optimizer, parameter: Any, values: Mapping[str, Any], entry: Mapping[str, Any]
) -> tuple[int, Carried, tuple[Array | None, ...]]:
    what = f"state of {parameter}"
    entry = _mapping(what, entry)
    known = {"step", *(name for name, _ in opt.rule.carried), *(slot.name for slot in opt.rule.slots)}
    strange = set(entry) - known
    if strange:
        raise ValueError(f"{what}: {opt.rule.title} has no {min(strange, key=str)!r}")
    step = _step(what, entry)
    if step == 0 and len(entry) > 1:
        raise ValueError(f"{what} has more than a step count though no step was made")
    numbers = tuple(_number(what, name, entry) if step else at_first for name, at_first in opt.rule.carried)
    arrays: list[Array | None] = []
    for slot, active in zip(opt.rule.slots, opt.rule.active_slots(values), strict=True):
        if slot.name not in entry:
            if active and step:
                raise ValueError(f"{what} has no {slot.name!r}")
            arrays.append(None)
            continue
        array = as_array(entry[slot.name], f"{what}: {slot.name!r}")
        if array.shape != parameter.array.shape or array.dtype != parameter.array.dtype:
            raise ValueError(
                f"{what}: {slot.name!r} is {array.dtype} {array.shape}, the parameter "
                f"{parameter.array.dtype} {parameter.array.shape}"
            )
        own = np.empty_like(parameter.array, subok=False)
        np.copyto(own, array)
        arrays.append(own)
    return step, numbers, tuple(arrays)


def _number(what: str, name: str, entry: Mapping[str, Any]) -> float:
    if name not in entry:
        raise ValueError(f"{what} has no {name!r}")
    return named(f"{what}: {name!r}", finite, entry[name])


def _step(what: str, entry: Mapping[str, Any]) -> int:
    if "step" not in entry:
        raise ValueError(f"{what} has no step count")
    try:
        step = -1 if isinstance(entry["step"], bool) else operator.index(entry["step"])
    except TypeError:
        step = -1
    if not 0 <= step <= MAX_STEP:
        raise ValueError(f"{what}: 'step' must be a whole number from 0 to 2**53, not {entry['step']!r}")
    return step
