"""Checks a state dict against an optimizer, whole, before any of it is taken over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd.arrays import Array
from fastgd.rules import check_hyperparameter

if TYPE_CHECKING:
    from fastgd.optim import Optimizer

#: the version that state_dict writes
VERSION = 1

State = list["tuple[Array | None, ...] | None"]


def checked_state(opt: Optimizer, given: Mapping[str, Any]) -> tuple[list[dict[str, Any]], list[int], State]:
    """(hyperparameters of each group, step of each parameter, state of each parameter), all new objects."""
    missing = {"rule", "version", "state", "param_groups"} - given.keys()
    if missing:
        raise ValueError(f"not an optimizer's state: it has no {sorted(missing)[0]!r}")
    if given["rule"] != opt.rule.name:
        raise ValueError(f"the state is of rule {given['rule']!r}, this optimizer is {opt.rule.name!r}")
    if given["version"] != VERSION:
        raise ValueError(f"the state has version {given['version']!r}; this fastgd reads version {VERSION}")
    hyperparameters = _groups(opt, given["param_groups"])
    parameters = [p for group in opt.param_groups for p in group.members]
    unknown = set(given["state"]) - set(range(len(parameters)))
    if unknown:
        raise ValueError(f"the state has an entry {min(unknown, key=str)!r}, but no such parameter exists")
    steps = [0] * len(parameters)
    state: State = [None] * len(parameters)
    for i, entry in given["state"].items():
        values = hyperparameters[parameters[i].group]
        steps[i], state[i] = _entry(opt, parameters[i], values, entry)
    return hyperparameters, steps, state


def _groups(opt: Optimizer, given: Any) -> list[dict[str, Any]]:
    if len(given) != len(opt.param_groups):
        raise ValueError(f"the state has {len(given)} groups, this optimizer {len(opt.param_groups)}")
    result = []
    for number, (group, own) in enumerate(zip(given, opt.param_groups, strict=True)):
        if len(group["params"]) != len(own.members):
            raise ValueError(
                f"group {number} of the state has {len(group['params'])} parameters, this optimizer's "
                f"{len(own.members)}"
            )
        values = {}
        for name in opt.rule.defaults:
            if name not in group:
                raise ValueError(f"group {number} of the state has no {name!r}")
            try:
                values[name] = check_hyperparameter(opt.rule, name, group[name])
            except (TypeError, ValueError) as error:
                raise type(error)(f"group {number} of the state: {error}") from None
        opt.rule.check(values)
        result.append(values)
    return result


def _entry(
    opt: Optimizer, parameter: Any, values: Mapping[str, Any], entry: Mapping[str, Any]
) -> tuple[int, tuple[Array | None, ...]]:
    known = {slot.name for slot in opt.rule.slots} | {"step"}
    strange = set(entry) - known
    if strange:
        raise ValueError(f"state of {parameter}: {opt.rule.title} has no {sorted(strange)[0]!r}")
    step = int(entry.get("step", -1))
    if step < 0:
        raise ValueError(f"state of {parameter} has no step count")
    arrays: list[Array | None] = []
    for slot, active in zip(opt.rule.slots, opt.rule.active_slots(values), strict=True):
        if slot.name not in entry:
            if active and step:
                raise ValueError(f"state of {parameter} has no {slot.name!r}")
            arrays.append(None)
            continue
        array = np.asarray(entry[slot.name])
        if array.shape != parameter.array.shape or array.dtype != parameter.array.dtype:
            raise ValueError(
                f"state of {parameter}: {slot.name!r} is {array.dtype} {array.shape}, the parameter "
                f"{parameter.array.dtype} {parameter.array.shape}"
            )
        own = np.empty_like(parameter.array, subok=False)
        np.copyto(own, array)
        arrays.append(own)
    return step, tuple(arrays)
