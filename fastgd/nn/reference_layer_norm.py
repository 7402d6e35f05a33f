"""Normalisation of rows in NumPy: the formulas of csrc/layer_norm_kernels.c in the same order."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import CHUNK, lane_sums

OK = 0

#: rows whose columns are summed together, as in csrc/layer_norm_kernels.c
GROUP = 2


class LayerNorm(NamedTuple):
    """What fgd_layer_norm is in C."""

    centered: bool
    eps: float


def rows_of_block(cols: int) -> int:
    return 16 * CHUNK // cols if cols < CHUNK else 16


def scale_of(squares: Array, n: Any, eps: float) -> Array:
    """1 / deviation, float64, of n numbers whose differences from the mean have these squares together."""
    scale: Array = 1 / np.sqrt(squares / n + eps)
    return scale


def normalised(x: Array, mean: Array, scale: Array) -> Array:
    """(x - mean) / deviation with the mean in two parts. mean and scale are float64."""
    high = mean.astype(x.dtype)
    low = (mean - high.astype(np.float64)).astype(x.dtype)
    h: Array = ((x - high) - low) * scale.astype(x.dtype)
    return h


def derived(g: Array, h: Array, g_mean: Array, gh_mean: Array, by: Array) -> Array:
    """dx from g, the derivative with respect to the normalised h, and the means of g and of g h."""
    dx: Array = ((g - g_mean) - h * gh_mean) * by
    return dx


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
        stats[:, 1] = scale_of(lane_sums(d * d), n, of.eps)
        out = normalised(x, stats[:, :1], stats[:, 1:])
        if weight is not None:
            out = out * weight.reshape(-1)
        if bias is not None:
            out = out + bias.reshape(-1)
        y[...] = out.reshape(y.shape)
    return OK


def scratch(rows: int, cols: int) -> int:
    step = rows_of_block(cols)
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
        h = normalised(x, stats[:, :1], stats[:, 1:])
        g = dy if weight is None else dy * weight.reshape(-1)
        if dweight is not None:
            dweight.reshape(-1)[...] = _column_sums(dy * h)
        if dbias is not None:
            dbias.reshape(-1)[...] = _column_sums(dy)
        if dx is not None:
            real, n = x.dtype.type, np.float64(cols)
            g_mean = (lane_sums(g.astype(np.float64)) / n).astype(real)[:, None] if of.centered else real(0)
            gh_mean = (lane_sums((g * h).astype(np.float64)) / n).astype(real)[:, None]
            dx[...] = derived(g, h, g_mean, gh_mean, stats[:, 1:].astype(real)).reshape(dx.shape)
    return OK


def _column_sums(terms: Array) -> Array:
    """Over the groups of rows of each block in order, then over the blocks in order, both in float64.

    A group's rows are put together in their own precision; rows at the end that make no group are groups.
    """
    step = rows_of_block(terms.shape[1])
    total = np.zeros(terms.shape[1])
    for first in range(0, len(terms), step):
        block = np.zeros(terms.shape[1])
        rows = terms[first : first + step]
        whole = len(rows) // GROUP * GROUP
        for group in np.split(rows[:whole], whole // GROUP) if whole else []:
            block += functools.reduce(np.add, group)
        for row in rows[whole:]:
            block += row
        total += block
    return total


ENTRIES = {"layer_norm_forward": forward, "layer_norm_backward": backward, "layer_norm_scratch": scratch}
DESCRIPTIONS = {"layer_norm": LayerNorm}
