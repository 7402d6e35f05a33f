"""Normalisation of rows in NumPy: the formulas of csrc/layer_norm_kernels.c in the same order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import CHUNK, lane_sums

OK = 0


class LayerNorm(NamedTuple):
    """What fgd_layer_norm is in C."""

    centered: bool
    eps: float


def _rows_of_block(cols: int) -> int:
    return 4 * CHUNK // cols if cols < CHUNK else 4


def _normalised(x: Array, stats: Array) -> tuple[Array, Array]:
    """(x - mean) / deviation with the mean in two parts, and 1 / deviation."""
    real = x.dtype.type
    mean, scale = stats[:, :1], stats[:, 1:].astype(real)
    high = mean.astype(real)
    low = (mean - high.astype(np.float64)).astype(real)
    return ((x - high) - low) * scale, scale


def forward(
    dtype: Any,
    of: LayerNorm,
    rows: int,
    cols: int,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    stats: Array,
    y: Array,
) -> int:
    with np.errstate(all="ignore"):
        x = x.reshape(rows, cols)
        wide = x.astype(np.float64)
        n = np.float64(cols)
        stats[:, 0] = lane_sums(wide) / n if of.centered else 0.0
        d = wide - stats[:, :1]
        stats[:, 1] = 1 / np.sqrt(lane_sums(d * d) / n + of.eps)
        out, _ = _normalised(x, stats)
        if weight is not None:
            out = out * weight.reshape(-1)
        if bias is not None:
            out = out + bias.reshape(-1)
        y[...] = out.reshape(y.shape)
    return OK


def scratch(rows: int, cols: int) -> int:
    step = _rows_of_block(cols)
    return 2 * -(-rows // step) * cols


def backward(
    dtype: Any,
    of: LayerNorm,
    rows: int,
    cols: int,
    x: Array,
    weight: Array | None,
    stats: Array,
    dy: Array,
    dx: Array | None,
    dweight: Array | None,
    dbias: Array | None,
    scratch: Array | None,
) -> int:
    with np.errstate(all="ignore"):
        x, dy = x.reshape(rows, cols), dy.reshape(rows, cols)
        h, scale = _normalised(x, stats)
        g = dy if weight is None else dy * weight.reshape(-1)
        wide_g, wide_h, wide_dy = (a.astype(np.float64) for a in (g, h, dy))
        if dweight is not None:
            dweight.reshape(-1)[...] = _column_sums(wide_dy * wide_h)
        if dbias is not None:
            dbias.reshape(-1)[...] = _column_sums(wide_dy)
        if dx is not None:
            real, n = x.dtype.type, np.float64(cols)
            g_mean = (lane_sums(wide_g) / n).astype(real)[:, None] if of.centered else real(0)
            gh_mean = (lane_sums(wide_g * wide_h) / n).astype(real)[:, None]
            dx[...] = (((g - g_mean) - h * gh_mean) * scale).reshape(dx.shape)
    return OK


def _column_sums(terms: Array) -> Array:
    """Over the rows of each block in order, then over the blocks in order."""
    step = _rows_of_block(terms.shape[1])
    total = np.zeros(terms.shape[1])
    for first in range(0, len(terms), step):
        block = np.zeros(terms.shape[1])
        for row in terms[first : first + step]:
            block += row
        total += block
    return total


ENTRIES = {"layer_norm_forward": forward, "layer_norm_backward": backward, "layer_norm_scratch": scratch}
DESCRIPTIONS = {"layer_norm": LayerNorm}
