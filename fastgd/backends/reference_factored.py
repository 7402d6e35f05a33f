"""Second moments of matrices by rows and columns in NumPy, with the bits of csrc/factored.c."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import CHUNK, lane_sums
from fastgd.rules import Rule

#: as in csrc/factored.c: they fix the order in which squares are summed down the columns
BAND = 64
BAND_ELEMENTS = BAND * CHUNK


def band_of(cols: int) -> int:
    """Rows of a band of matrices with so many columns."""
    return BAND if cols <= CHUNK else max(BAND_ELEMENTS // cols, 1)


def col_sums(squares: Array) -> Array:
    """Sums float64 [matrices, cols] of [matrices, rows, cols]: row after row in a band, band after band."""
    matrices, rows, cols = squares.shape
    band = band_of(cols)
    total = np.zeros((matrices, cols))
    for start in range(0, rows, band):
        partial = np.zeros((matrices, cols))
        for row in range(start, min(start + band, rows)):
            partial = partial + squares[:, row]
        total = total + partial
    return total


def updated_moments(
    g: Array, shape: tuple[int, ...], rule: Rule, state: dict[str, Array], scalars: dict[str, float]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The new averages, flat, and the factors that stand for them in the body, one for each element; by slot.

    g: the prepared gradient, flat. shape: of the parameter. state: the averages so far, float64 and flat.
    """
    assert rule.factored is not None
    names = {slot.over: slot.name for slot in rule.slots}
    rows, cols = shape[-2:]
    count = math.prod(shape[:-2])
    squares = np.square(g, dtype=np.float64).reshape(count, rows, cols)
    row_mean = lane_sums(squares.reshape(count * rows, cols)).reshape(count, rows) / cols
    row, col = state[names[-1]].reshape(count, rows), state[names[-2]].reshape(count, cols)
    means = row_mean, col_sums(squares) / rows
    s = SimpleNamespace(**scalars)
    row, col = (rule.factored.average(*pair, s) for pair in zip((row, col), means, strict=True))
    # added up from the first row to the last
    mean = np.cumsum(row, axis=1)[:, -1:] / rows
    row_factor, col_factor = rule.factored.row_factor(np, row, mean, s), rule.factored.col_factor(np, col)
    spread = np.broadcast_arrays(
        row_factor.astype(g.dtype)[:, :, None], col_factor.astype(g.dtype)[:, None], squares
    )
    kept = {names[-1]: row.reshape(-1), names[-2]: col.reshape(-1)}
    return kept, {names[axis]: spread[i].reshape(-1) for i, axis in enumerate((-1, -2))}
