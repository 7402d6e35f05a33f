"""Normalisation of channels in NumPy: the formulas of csrc/batch_norm_kernels.c in the same order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import LANES
from fastgd.nn.reference_layer_norm import derived, normalised, scale_of

OK = 0


class BatchNorm(NamedTuple):
    """What fgd_batch_norm is in C."""

    running: bool
    eps: float
    momentum: float


def _sums(terms: Array) -> Array:
    """float64 [batch, channels, length] over batch and length.

    Over the batch in order, into a lane for each number of a run modulo LANES if a run has more than one; the
    lanes then in halves.
    """
    length = terms.shape[2]
    lanes: Array = np.zeros((terms.shape[1], 1 if length == 1 else LANES))
    for example in terms:
        for i in range(0, length, LANES):
            part = example[:, i : i + LANES]
            lanes[:, : part.shape[1]] += part
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def _along(channels: Array) -> Array:
    return channels[:, None]


def running(old: Array, new: Array, part: Any) -> Array:
    """A running statistic, float64, of which the batch's is `part`."""
    moved: Array = (1 - part) * old.astype(np.float64) + part * new
    return moved


def unbiased(variance: Array, n: Any) -> Array:
    """Bessel's correction of the variance of n numbers, float64."""
    corrected: Array = variance * (n / (n - 1))
    return corrected


def part_of(momentum: float, count: int) -> float:
    """The batch's part in running statistics of so many batches."""
    return 1 / count if momentum < 0 else momentum


def forward(
    dtype: Any,
    of: BatchNorm,
    batch: int,
    channels: int,
    length: int,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mean: Array | None,
    var: Array | None,
    count: Array | None,
    stats: Array,
    y: Array,
) -> int:
    with np.errstate(all="ignore"):
        x = x.reshape(batch, channels, length)
        if of.running:
            assert mean is not None and var is not None
            stats[:, 0] = mean
            stats[:, 1] = scale_of(var.astype(np.float64), 1, of.eps)
        else:
            _batch_stats(of, x, mean, var, count, stats)
        one, zero = x.dtype.type(1), x.dtype.type(0)
        out = normalised(x, _along(stats[:, 0]), _along(stats[:, 1]))
        out = out * (one if weight is None else _along(weight)) + (zero if bias is None else _along(bias))
        y[...] = out.reshape(y.shape)
    return OK


def _batch_stats(
    of: BatchNorm, x: Array, mean: Array | None, var: Array | None, count: Array | None, stats: Array
) -> None:
    wide, n = x.astype(np.float64), np.float64(x.shape[0] * x.shape[2])
    stats[:, 0] = _sums(wide) / n
    d = wide - _along(stats[:, 0])
    squares = _sums(d * d)
    stats[:, 1] = scale_of(squares, n, of.eps)
    if mean is not None and var is not None and count is not None:
        count += 1
        part = np.float64(part_of(of.momentum, int(count[0])))
        mean[...] = running(mean, stats[:, 0], part)
        var[...] = running(var, unbiased(squares / n, n), part)


def backward(
    dtype: Any,
    of: BatchNorm,
    batch: int,
    channels: int,
    length: int,
    x: Array,
    weight: Array | None,
    stats: Array,
    dy: Array,
    dx: Array | None,
    dweight: Array | None,
    dbias: Array | None,
) -> int:
    with np.errstate(all="ignore"):
        x, g = x.reshape(batch, channels, length), dy.reshape(batch, channels, length)
        real, n = x.dtype.type, np.float64(batch * length)
        h = normalised(x, _along(stats[:, 0]), _along(stats[:, 1]))
        of_b = _sums(g.astype(np.float64))
        of_w = _sums(g.astype(np.float64) * h.astype(np.float64))
        if dweight is not None:
            dweight[...] = of_w
        if dbias is not None:
            dbias[...] = of_b
        if dx is not None:
            by = stats[:, 1].astype(real) * (real(1) if weight is None else weight)
            if of.running:
                of_b, of_w = np.zeros_like(of_b), np.zeros_like(of_w)
            means = _along((of_b / n).astype(real)), _along((of_w / n).astype(real))
            dx[...] = derived(g, h, *means, _along(by)).reshape(dx.shape)
    return OK


ENTRIES = {"batch_norm_forward": forward, "batch_norm_backward": backward}
DESCRIPTIONS = {"batch_norm": BatchNorm}
