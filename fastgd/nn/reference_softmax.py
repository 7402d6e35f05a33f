"""Softmax in NumPy: the formulas of csrc/softmax_kernels.c in the same order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import lane_sums
from fastgd.nn.elementary import exp, log

OK = 0


class Softmax(NamedTuple):
    """What fgd_softmax is in C."""

    log: bool


def forward(dtype: Any, of: Softmax, rows: int, cols: int, x: Array, y: Array) -> int:
    with np.errstate(all="ignore"):
        z = x.reshape(rows, cols)
        largest = np.fmax.reduce(z, axis=1, initial=-np.inf)[:, None]
        e = exp(z - largest)
        sums = lane_sums(e.astype(np.float64))[:, None]
        below = log(sums).astype(z.dtype)
        result = (z - largest) - below if of.log else e * (1 / sums).astype(z.dtype)
        y[...] = result.reshape(y.shape)
    return OK


def backward(dtype: Any, of: Softmax, rows: int, cols: int, y: Array, dy: Array, dx: Array) -> int:
    with np.errstate(all="ignore"):
        out, g = y.reshape(rows, cols), dy.reshape(rows, cols)
        wide = g.astype(np.float64)
        if of.log:
            result = g - exp(out) * lane_sums(wide).astype(g.dtype)[:, None]
        else:
            sums = lane_sums(out.astype(np.float64) * wide)
            result = out * (g - sums.astype(g.dtype)[:, None])
        dx[...] = result.reshape(dx.shape)
    return OK


ENTRIES = {"softmax_forward": forward, "softmax_backward": backward}
DESCRIPTIONS = {"softmax": Softmax}
