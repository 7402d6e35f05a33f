"""What an optimizer of fastgd.jax keeps between steps, and what that is at first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastgd.backends.base import BLOCK, Codes
from fastgd.jax.packed import Packed, packed
from fastgd.jax.trees import Leaves, Part, beside, parts_of, stand_in
from fastgd.kept import residual_dtype, slot_dtype
from fastgd.rules import Slot
from fastgd.storage import arithmetic, encode

#: what a slot in 8 bits has in place of a dtype
CODES = object()

#: elements of an array up to which it lies with others. JAX takes about as long for one more array as a step
#: for 4,000 elements; of larger arrays than this it is less than a tenth
SMALL = 65536


class State(NamedTuple):
    """What an optimizer keeps between steps: a pytree of arrays.

    Those of small parameters lie together; `tree()` of each part gives a tree as that of the parameters,
    with None where a parameter has no such part.
    """

    #: int32 []: steps made
    count: Any
    #: by the slot's name; for state_dtype "8bit" a parameter's is Codes, a pair of arrays
    slots: dict[str, Packed]
    #: None, or the numbers that the rule carries from step to step: float64 as uint32 [groups, numbers, 2]
    carried: Any
    #: None, or what rounding 16-bit parameters loses
    residual: Packed | None
    #: None, or the parameters' running averages: ema_decay
    average: Packed | None


def together(leaves: Leaves, values: list[Any]) -> Packed:
    """Arrays of each leaf, or None, or Codes."""
    tree = leaves.tree.unflatten(values)
    return packed(tree, [array.size <= SMALL for array in jax.tree.leaves(tree)])


def each_beside(leaves: Leaves, name: str, kept: Packed | None) -> list[Any]:
    """What is kept of each leaf."""
    return [None] * len(leaves.parts) if kept is None else beside(leaves.tree, name, kept.tree())


class Beside:
    """Where in memory is what a state keeps of each leaf: its arrays follow those of the parameters."""

    def __init__(self, leaves: Leaves, state: State) -> None:
        """Raises TypeError or ValueError for one of another tree."""
        #: all that a step may write to
        self.arrays = list(leaves.arrays)
        self._leaves, self._state = leaves, state
        self._slots = {
            name: self._parts(f"state.slots[{name!r}]", kept) for name, kept in state.slots.items()
        }
        self._residuals = self._parts("state.residual", state.residual)
        self._averages = self._parts("state.average", state.average)

    def _parts(self, name: str, kept: Packed | None) -> list[Any]:
        """Of each leaf a Part, or None, or Codes of Parts."""
        if kept is None:
            return [None] * len(self._leaves.parts)
        if not isinstance(kept, Packed):
            raise TypeError(f"{name} must be what init gives, not {type(kept).__name__}")
        _, parts = parts_of(kept, name)
        own = [part.among(len(self.arrays)) for part in parts]
        self.arrays += map(jnp.asarray, kept.arrays)
        return beside(self._leaves.tree, name, kept.layout.tree.unflatten(own))

    def leaf(
        self, i: int, slots: Sequence[Slot | None], values: Mapping[str, Any]
    ) -> tuple[Any, Part | None, Part | None]:
        """(of each slot a Part or Codes of two or None, residual, average) of the leaf with this number.

        Raises ValueError, naming the parameter, where the state does not have what these values ask for, or
        has it in another shape or dtype.
        """
        part = self._leaves.parts[i]
        for slot in slots:
            if slot is not None:
                shape, dtype = slot.shape(part.shape), slot_dtype(slot, values, stand_in(part))
                self._check(i, f"slots[{slot.name!r}]", self._of_slot(i, slot), shape, dtype or CODES)
        averaged = None if values["ema_decay"] is None else arithmetic(part.dtype)
        self._check(i, "residual", self._residuals[i], part.shape, residual_dtype(values, stand_in(part)))
        self._check(i, "average", self._averages[i], part.shape, averaged)
        found = tuple(None if slot is None else self._of_slot(i, slot) for slot in slots)
        return found, self._residuals[i], self._averages[i]

    def _of_slot(self, i: int, slot: Slot) -> Any:
        return self._slots[slot.name][i] if slot.name in self._slots else None

    def _check(self, i: int, name: str, kept: Any, shape: tuple[int, ...], wanted: Any) -> None:
        """wanted: a dtype, CODES, or None for nothing."""
        if wanted is CODES:
            scales = (-(-math.prod(shape) // BLOCK),)
            expected: Any = [(shape, np.dtype(np.uint8)), (scales, np.dtype(np.float32))]
        else:
            expected = [] if wanted is None else [(shape, np.dtype(wanted))]
        parts = kept if isinstance(kept, Codes) else [] if kept is None else [kept]
        found = [(one.shape, one.dtype) for one in parts]
        if found != expected:
            has, needed = (
                " and ".join(f"{dtype} of shape {list(shape)}" for shape, dtype in one) or "nothing"
                for one in (found, expected)
            )
            raise ValueError(
                f"state is of other parameters or settings: {name} has {has} for params"
                f"{self._leaves.paths[i]}, which needs {needed}"
            )

    def state(self, count: Any, carried: Any, arrays: Sequence[Any]) -> State:
        """That with these arrays in place of `arrays`."""
        rest = iter(arrays[len(self._leaves.arrays) :])

        def after(kept: Packed | None) -> Packed | None:
            return None if kept is None else Packed([next(rest) for _ in kept.arrays], kept.layout)

        before = self._state
        slots: dict[str, Any] = {name: after(kept) for name, kept in before.slots.items()}
        return State(count, slots, carried, after(before.residual), after(before.average))


def first_slot(slot: Slot, values: Mapping[str, Any], part: Part) -> Any:
    dtype = slot_dtype(slot, values, stand_in(part))
    first = 0.0 if slot.initial is None else values[slot.initial]
    shape = slot.shape(part.shape)
    if dtype is not None:
        return jnp.full(shape, first, dtype)
    # codes of equal numbers are equal, and so are scales
    codes, scales = encode(np.full((1,), first, arithmetic(part.dtype)), unsigned=slot.unsigned)
    blocks = -(-math.prod(shape) // BLOCK)
    arrays: Any = jnp.full(shape, codes[0], jnp.uint8), jnp.full((blocks,), scales[0], jnp.float32)
    return Codes(*arrays)


def first_residual(values: Mapping[str, Any], leaf: Any) -> Any:
    dtype = residual_dtype(values, np.broadcast_to(np.zeros((), np.dtype(leaf.dtype)), leaf.shape))
    if dtype is None:
        return None
    return leaf.astype(dtype) if values["rounding"] == "master" else jnp.zeros(leaf.shape, dtype)


def first_average(values: Mapping[str, Any], leaf: Any) -> Any:
    return None if values["ema_decay"] is None else jnp.array(leaf, arithmetic(np.dtype(leaf.dtype)))
