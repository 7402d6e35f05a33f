"""What is in an optimizer's state dict, and whether one fits: whole, before any of it is taken over."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastgd.arrays import Array, as_array, lent
from fastgd.backends.base import BLOCK, Codes, State
from fastgd.checks import finite, flag, named, whole
from fastgd.groups import Parameter
from fastgd.kept import Kept, residual_dtype, slot_dtype
from fastgd.memory import like, memory_of, on_host, placed, to_host
from fastgd.rules import Carried, Rule, Slot, at_step
from fastgd.settings import CODED, DEFAULTS, SETTINGS, check_together, check_value
from fastgd.storage import arithmetic, decode, encode, load, store

if TYPE_CHECKING:
    from fastgd.optimizer import Optimizer

#: the version that state_dict writes. Version 1 had no settings, and state in the parameter's dtype only
VERSION = 2

#: above this, a step count is no count of steps and float64 cannot hold it
MAX_STEP = 2**53

SCALES = "{}_scales"

REMEDY = "load_state_dict(state, convert=True) converts it"


def snapshot(opt: Optimizer) -> dict[str, Any]:
    """The state dict of an optimizer whose lock is held, all of it copied."""
    planner = opt._planner
    planner.settle()
    state: dict[int, dict[str, Any]] = {}
    for i in range(len(planner.parameters)):
        if planner.steps[i]:
            # a switch may have been turned on since the last step
            arrays = _named_arrays(opt.rule, planner.keep(i))
            names = (name for name, _ in opt.rule.carried)
            carried = dict(zip(names, planner.carried_by(i), strict=True))
            copies = {name: to_host(array) for name, array in arrays.items()}
            state[i] = {"step": int(planner.steps[i]), **carried, **copies}
    groups = []
    first = 0
    for group, made in zip(opt.param_groups, planner.steps_by_group(), strict=True):
        numbers = list(range(first, first + len(group.members)))
        values = at_step(opt.rule, group.values_in_place, max(made, 1))
        groups.append({**values, "params": numbers})
        first += len(numbers)
    head = {"rule": opt.rule.name, "version": VERSION, "seed": planner.seed}
    if opt.rule.average:
        head["training"] = opt.training
    return {**head, "state": state, "param_groups": groups}


def _named_arrays(rule: Rule, kept: Kept) -> dict[str, Array]:
    """The arrays of an entry by name."""
    arrays: dict[str, Array] = {}
    for slot, state in zip(rule.slots, kept.slots, strict=True):
        if isinstance(state, Codes):
            arrays[slot.name], arrays[SCALES.format(slot.name)] = state
        elif state is not None:
            arrays[slot.name] = state
    for name in ("residual", "average"):
        array = getattr(kept, name)
        if array is not None:
            arrays[name] = array
    return arrays


def summary(state_dict: Mapping[str, Any]) -> dict[str, str]:
    """What a file's metadata say about the state to whoever cannot read the rest."""
    groups = [
        {k: v if not isinstance(v, float) or math.isfinite(v) else repr(v) for k, v in group.items()}
        for group in state_dict["param_groups"]
    ]
    return {
        "rule": state_dict["rule"],
        "hyperparameters": json.dumps(groups, allow_nan=False),
        "step": str(max((entry["step"] for entry in state_dict["state"].values()), default=0)),
    }


class Checked(NamedTuple):
    """A state dict that fits, in new objects."""

    #: hyperparameters and settings of each group
    settings: list[dict[str, Any]]
    #: of each parameter
    steps: list[int]
    #: float64 [parameters, 1, numbers], what each parameter carries out of its last step
    carried: Array
    #: of each parameter
    kept: list[Kept | None]
    seed: int
    training: bool


def checked_state(opt: Optimizer, given: Mapping[str, Any], convert: bool) -> Checked:
    """convert: bring state in other dtypes into this optimizer's."""
    given = _mapping("the state", given)
    missing = {"rule", "version", "state", "param_groups"} - given.keys()
    if missing:
        raise ValueError(f"not an optimizer's state: it has no {sorted(missing)[0]!r}")
    if given["rule"] != opt.rule.name:
        raise ValueError(f"the state is of rule {given['rule']!r}, this optimizer is {opt.rule.name!r}")
    version = given["version"]
    if version not in range(1, VERSION + 1):
        raise ValueError(f"the state has version {version!r}; this fastgd reads versions 1 to {VERSION}")
    # before version 2 nothing was random
    seed = named("the state's 'seed'", whole(0, 2**64), given["seed"]) if "seed" in given else opt.seed
    training = True
    if opt.rule.average:
        if "training" not in given:
            raise ValueError("not a state of this optimizer: it has no 'training'")
        training = named("the state's 'training'", flag, given["training"])
    settings = _groups(opt, given["param_groups"], DEFAULTS if version == 1 else {})
    parameters = [p for group in opt.param_groups for p in group.members]
    steps = [0] * len(parameters)
    carried = np.empty((len(parameters), 1, len(opt.rule.carried)))
    carried[:] = opt.rule.carried_at_first
    kept: list[Kept | None] = [None] * len(parameters)
    for key, entry in _mapping("the state's 'state'", given["state"]).items():
        if isinstance(key, bool) or not isinstance(key, (int, np.integer)) or not 0 <= key < len(parameters):
            raise ValueError(f"the state has an entry {key!r}, but no such parameter exists")
        i = int(key)
        array = parameters[i].array
        values = opt.rule.seen(settings[parameters[i].group], array.shape, array.dtype.name)
        steps[i], carried[i], kept[i] = _entry(opt.rule, parameters[i], values, entry, convert)
    return Checked(settings, steps, carried, kept, seed, training)


def _mapping(what: str, value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{what} is {type(value).__name__}, not a dict")
    return value


def _sequence(what: str, value: Any) -> Sequence[Any]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"{what} is {type(value).__name__}, not a list")
    return value


def _groups(opt: Optimizer, given: Any, absent: Mapping[str, Any]) -> list[dict[str, Any]]:
    """absent: what stands for settings that the state does not have."""
    given = _sequence("the state's 'param_groups'", given)
    if len(given) != len(opt.param_groups):
        raise ValueError(f"the state has {len(given)} groups, this optimizer {len(opt.param_groups)}")
    result = []
    first = 0
    for number, (group, own) in enumerate(zip(given, opt.param_groups, strict=True)):
        what = f"group {number} of the state"
        group = {**absent, **_mapping(what, group)}
        values = {}
        for name in ("params", *own.values_in_place):
            if name not in group:
                raise ValueError(f"{what} has no {name!r}")
        members = _sequence(f"{what}: 'params'", group["params"])
        if len(members) != len(own.members):
            raise ValueError(f"{what} has {len(members)} parameters, this optimizer's {len(own.members)}")
        if list(members) != list(range(first, first + len(members))):
            raise ValueError(f"{what}: 'params' must count on from {first}, not be {members!r}")
        first += len(members)
        try:
            for name in own.values_in_place:
                values[name] = check_value(opt.rule, name, group[name])
                if callable(own.values_in_place[name]):  # a schedule is no state
                    values[name] = own.values_in_place[name]
            check_together(opt.rule, values)
        except (TypeError, ValueError) as error:
            raise type(error)(f"{what}: {error}") from None
        fixed = {name: own.values_in_place[name] for name, (_, of) in SETTINGS.items() if of.fixed}
        result.append({**values, **fixed})
    return result


def _entry(
    rule: Rule, parameter: Parameter, values: Mapping[str, Any], entry: Mapping[str, Any], convert: bool
) -> tuple[int, Carried, Kept]:
    what = f"state of {parameter}"
    entry = _mapping(what, entry)
    slots = [slot.name for slot in rule.slots]
    known = {"step", "residual", "average", *(name for name, _ in rule.carried), *slots}
    strange = set(entry) - known - set(map(SCALES.format, slots))
    if strange:
        raise ValueError(f"{what}: {rule.title} has no {min(strange, key=str)!r}")
    step = _step(what, entry)
    if step == 0 and len(entry) > 1:
        raise ValueError(f"{what} has more than a step count though no step was made")
    numbers = tuple(_number(what, name, entry) if step else at_first for name, at_first in rule.carried)
    if step == 0:
        return step, numbers, Kept((None,) * len(slots))
    states: list[State | None] = []
    for slot, active in zip(rule.slots, rule.active_slots(values), strict=True):
        if slot.name in entry:
            states.append(_slot(what, slot, values, parameter.array, entry, convert))
        elif active or SCALES.format(slot.name) in entry:
            raise ValueError(f"{what} has no {slot.name!r}")
        else:
            states.append(None)
    residual = _residual(what, values, parameter.array, entry, convert)
    return step, numbers, Kept(tuple(states), residual, _average(what, parameter.array, entry, convert))


def _slot(
    what: str, slot: Slot, values: Mapping[str, Any], param: Array, entry: Mapping[str, Any], convert: bool
) -> State:
    """A slot in what this optimizer keeps it in."""
    given = _stored(what, slot, param, entry)
    dtype = slot_dtype(slot, values, param)
    has, wanted = CODED if isinstance(given, Codes) else given.dtype.name, dtype.name if dtype else CODED
    if has == wanted:
        if isinstance(given, Codes):
            return _codes(param, (a.copy("C") for a in given))
        return _placed(slot, param, given)
    if not convert:
        raise ValueError(
            f"{what}: {slot.name!r} is in {has}, and this optimizer keeps it in {wanted}: {REMEDY}"
        )
    if isinstance(given, Codes):
        numbers = decode(*given, np.float32, unsigned=slot.unsigned)
    else:
        numbers = load(given, arithmetic(given.dtype))
    if dtype is None:
        return _codes(param, encode(numbers, unsigned=slot.unsigned))
    return _placed(slot, param, store(numbers, dtype, unsigned=slot.unsigned))


def _placed(slot: Slot, param: Array, array: Array) -> Array:
    """A copy that lies in memory as a new slot does."""
    return like(param, array) if slot.over is None else placed(memory_of(param), array.copy("C"))


def _codes(param: Array, parts: Iterable[Array]) -> Codes:
    """Codes and scales, new arrays, where the parameter's memory is."""
    return Codes(*(placed(memory_of(param), part) for part in parts))


def _given(value: Any, what: str) -> Array:
    """An array of a state, of any dtype; on the host, where states are checked."""
    return on_host(lent(value, what))


def _stored(what: str, slot: Slot, param: Array, entry: Mapping[str, Any]) -> State:
    name = slot.name
    if slot.over is not None and param.ndim < 2:
        raise ValueError(f"{what}: {name!r} is of rows and columns, which the parameter does not have")
    shape = slot.shape(param.shape)
    array = _given(entry[name], f"{what}: {name!r}")
    if array.dtype != np.uint8:
        as_array(array, f"{what}: {name!r}")
    if array.shape != shape:
        wanted = f"the parameter {shape}" if slot.over is None else f"beside the parameter it is {shape}"
        raise ValueError(f"{what}: {name!r} has shape {array.shape}, {wanted}")
    if slot.unsigned and array.dtype != np.uint8 and (load(array, arithmetic(array.dtype)) < 0).any():
        raise ValueError(f"{what}: {name!r} must not be negative")
    beside = SCALES.format(name)
    if (array.dtype == np.uint8) != (beside in entry):
        here = f"has no {beside!r}" if beside not in entry else f"has {beside!r}, which is for 8 bits alone"
        raise ValueError(f"{what}: {name!r} is {array.dtype.name} and the state {here}")
    if array.dtype != np.uint8:
        return array
    scales = _given(entry[beside], f"{what}: {beside!r}")
    blocks = (-(-array.size // BLOCK),)
    if scales.dtype != np.float32 or scales.shape != blocks:
        found = f"{scales.dtype} {scales.shape}"
        raise ValueError(f"{what}: {beside!r} must be float32 {blocks}, not {found}")
    if (scales < 0).any():
        raise ValueError(f"{what}: {beside!r} must not be negative")
    return Codes(np.asarray(array, order="C"), np.asarray(scales, order="C"))


def _residual(
    what: str, values: Mapping[str, Any], param: Array, entry: Mapping[str, Any], convert: bool
) -> Array | None:
    """What rounding lost so far; None where nothing is kept, or it is to be begun anew."""
    array = _given(entry["residual"], f"{what}: 'residual'") if "residual" in entry else None
    if array is not None and array.shape != param.shape:
        raise ValueError(f"{what}: 'residual' has shape {array.shape}, the parameter {param.shape}")
    dtype = residual_dtype(values, param)
    if (array is None and dtype is None) or (array is not None and array.dtype == dtype):
        return array if array is None else like(param, array)
    if not convert:
        has = f"is in {array.dtype}" if array is not None else "is not there"
        wanted = f"keeps it in {dtype}" if dtype else "keeps none"
        raise ValueError(f"{what}: 'residual' {has}, and rounding {values['rounding']!r} {wanted}: {REMEDY}")
    return None


def _average(what: str, param: Array, entry: Mapping[str, Any], convert: bool) -> Array | None:
    if "average" not in entry:
        return None
    array = on_host(as_array(entry["average"], f"{what}: 'average'"))
    dtype = np.dtype(arithmetic(param.dtype))
    if array.shape != param.shape:
        raise ValueError(f"{what}: 'average' has shape {array.shape}, the parameter {param.shape}")
    if array.dtype != dtype and not convert:
        raise ValueError(
            f"{what}: 'average' is in {array.dtype}, and this optimizer keeps it in {dtype}: {REMEDY}"
        )
    return like(param, load(array, dtype.type))


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
