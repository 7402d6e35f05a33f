"""What is kept beside each parameter: the rule's slots, the residual of rounding, and a running average.

This says what each is stored in and what it starts as.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array, dtype_named, memory_order
from fastgd.backends.base import BLOCK, Codes, State
from fastgd.memory import converted, memory_of, on_host, placed
from fastgd.rules import Slot
from fastgd.settings import CODED, STATE_ROUNDINGS, state_rounding
from fastgd.storage import arithmetic, encode

#: the slots of a rule in order, None where its switches leave one out
Active = tuple[Slot | None, ...]


class Kept(NamedTuple):
    """All of one parameter's; what its settings do not ask for is None, or stays from when they did."""

    #: one for each slot of the rule
    slots: tuple[State | None, ...]
    #: what rounding a 16-bit parameter loses
    residual: Array | None = None
    average: Array | None = None

    @property
    def nbytes(self) -> int:
        parts = [*self.slots, self.residual, self.average]
        arrays = [array for part in parts for array in (part if isinstance(part, Codes) else [part])]
        return sum(array.nbytes for array in arrays if array is not None)


def has_16_bits(array: Array) -> bool:
    return array.itemsize == 2


def slot_dtype(slot: Slot, values: Mapping[str, Any], param: Array) -> np.dtype[Any] | None:
    """What the slot is stored in under these settings; None for Codes."""
    name: str | None = values["state_dtype"]
    dtype: np.dtype[Any] = np.dtype(arithmetic(param.dtype)) if slot.precise else param.dtype
    if slot.precise or name is None:
        return dtype
    return None if name == CODED else dtype_named(name)


class Residual(NamedTuple):
    """What a rounding keeps of a 16-bit parameter."""

    #: the dtype it is kept in
    dtype: Callable[[Array], np.dtype[Any]]
    #: the only dtype of parameters that it is for, and what that is to it; None: both
    only: tuple[str, str] | None = None


#: by rounding
RESIDUALS = {
    "kahan": Residual(lambda param: param.dtype),
    "master": Residual(lambda param: np.dtype(np.float32)),
    "split": Residual(lambda param: np.dtype(np.int16), ("bfloat16", "the upper half of a float32")),
}


def keeps_residual(values: Mapping[str, Any]) -> bool:
    """Whether rounding keeps what 16-bit parameters lose."""
    return values["rounding"] in RESIDUALS


def residual_dtype(values: Mapping[str, Any], param: Array) -> np.dtype[Any] | None:
    """What the residual is stored in; None where there is none."""
    kind = RESIDUALS.get(values["rounding"]) if has_16_bits(param) else None
    return kind and kind.dtype(param)


def check_rounding(values: Mapping[str, Any], param: Array, what: str) -> None:
    """TypeError for a rounding that the parameter's dtype does not have."""
    kind, name = RESIDUALS.get(values["rounding"]), param.dtype.name
    if kind and kind.only and has_16_bits(param) and name != kind.only[0]:
        only, why = kind.only
        raise TypeError(f"{what} is {name}: rounding {values['rounding']!r} is for {only}, {why}")


def new_slot(slot: Slot, values: Mapping[str, Any], param: Array) -> State:
    dtype = slot_dtype(slot, values, param)
    first = 0.0 if slot.initial is None else values[slot.initial]
    shape, memory = slot.shape(param.shape), memory_of(param)
    if dtype is not None:
        state: Array = memory.zeros_like(param, dtype) if slot.over is None else memory.zeros(shape, dtype)
        if first:
            memory.write(state, np.broadcast_to(np.asarray(first, dtype), shape))
        return state
    if first:
        coded = encode(np.full(shape, first, arithmetic(param.dtype)), unsigned=slot.unsigned)
        return Codes(*(placed(memory, part) for part in coded))
    blocks = -(-math.prod(shape) // BLOCK)
    return Codes(memory.zeros(shape, np.dtype(np.uint8)), memory.zeros((blocks,), np.dtype(np.float32)))


def new_residual(values: Mapping[str, Any], param: Array) -> Array | None:
    dtype = residual_dtype(values, param)
    if dtype is None:
        return None
    if values["rounding"] == "master":
        return converted(param, dtype)
    residual: Array = memory_of(param).zeros_like(param, dtype)
    return residual


def kept_for(active: Active, values: Mapping[str, Any], param: Array, kept: Kept | None, begun: bool) -> Kept:
    """What there is, and what the settings ask for that there is not.

    begun: whether the parameter has made a step; before that, slots and average start again.
    """
    old = kept or Kept((None,) * len(active))
    slots = tuple(
        new_slot(slot, values, param) if slot is not None and (state is None or not begun) else state
        for slot, state in zip(active, old.slots, strict=True)
    )
    residual = new_residual(values, param) if old.residual is None else old.residual
    average = old.average
    if values["ema_decay"] is not None:
        if average is None:
            average = converted(param, arithmetic(param.dtype))
        elif not begun:
            memory_of(average).write(average, on_host(param).astype(average.dtype, copy=False))
    return Kept(slots, residual, average)


def in_use(active: Active, values: Mapping[str, Any], kept: Kept) -> Kept:
    """Without what these settings leave alone."""
    slots = tuple(None if slot is None else state for state, slot in zip(kept.slots, active, strict=True))
    average = None if values["ema_decay"] is None else kept.average
    return Kept(slots, kept.residual, average)


def element_order(values: Mapping[str, Any], param: Array, kept: Kept, by_number: bool) -> tuple[int, ...]:
    """The axes, slowest first, in which the parameter's elements are counted.

    It is that of the memory, but C's where something depends on an element's number: random bits, blocks of
    codes, and, with `by_number`, what the caller does. (Of a parameter whose rows are updated both are C's.)
    """
    stochastic = STATE_ROUNDINGS[1]
    random = values["rounding"] == stochastic and has_16_bits(param)
    random_state = state_rounding(values) == stochastic
    for state in kept.slots:
        random |= isinstance(state, Codes) or (random_state and state is not None and has_16_bits(state))
    return tuple(range(param.ndim)) if by_number or random else memory_order(param)
