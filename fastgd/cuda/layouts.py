"""How the arrays of a tensor lie in memory, for kernels that go over all of them in one order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array, collapsed
from fastgd.backends.base import Codes, Item
from fastgd.cuda.layout import LAYOUT_WORDS, MOST_DIMENSIONS, stride
from fastgd.rules import Rule


def arrays_of(item: Item, grad: Any, rule: Rule) -> dict[str, Any]:
    """The arrays of the parameter's shape, by their columns in a tensor's row."""
    found: dict[str, Any] = {"param": item.param, "grad": grad}
    found |= {"residual": item.residual, "average": item.average, "copy": item.copy}
    for k, (slot, state) in enumerate(zip(rule.slots, item.state, strict=True)):
        if slot.over is None:
            found[f"state{k}"] = state.codes if isinstance(state, Codes) else state
    return {column: array for column, array in found.items() if array is not None}


def layout_of(arrays: Mapping[str, Any], order: Sequence[int], what: str) -> Array | None:
    """int64 [LAYOUT_WORDS] of arrays by column; None when all are gapless in that order.

    ValueError, naming them as `what`, for more dimensions than kernels go over.
    """
    found = collapsed(list(arrays.values()), order)
    if found is None:
        return None
    shape, strides = found
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(
            f"{what} lies in memory in {len(shape)} dimensions that cannot be merged; on a device there may "
            f"be {MOST_DIMENSIONS}: make it contiguous"
        )
    words = np.zeros(LAYOUT_WORDS, np.int64)
    words[0] = len(shape)
    words[1 : 1 + len(shape)] = shape
    for column, steps in zip(arrays, strides, strict=True):
        first = stride(column) // 8
        words[first : first + len(steps)] = steps
    return words
