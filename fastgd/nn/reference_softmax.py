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


def unscaled(z: Array, largest: Array) -> Array:
    """What a class counts beside the largest."""
    return exp(z - largest)


def share(z: Array, largest: Array, sums: Array) -> Array:
    """The probability of a class. sums: of all that `unscaled` gives in its row, float64."""
    part: Array = unscaled(z, largest) * (1 / sums).astype(z.dtype)
    return part


def log_share(z: Array, largest: Array, sums: Array) -> Array:
    """Its logarithm."""
    part: Array = (z - largest) - log(sums).astype(z.dtype)
    return part


def terms(y: Array, dy: Array) -> Array:
    """What is summed over a row on the way back, float64."""
    product: Array = y.astype(np.float64) * dy.astype(np.float64)
    return product


def log_terms(y: Array, dy: Array) -> Array:
    return dy.astype(np.float64)


def share_back(y: Array, dy: Array, sums: Array) -> Array:
    dx: Array = y * (dy - sums.astype(dy.dtype))
    return dx


def log_share_back(y: Array, dy: Array, sums: Array) -> Array:
    dx: Array = dy - exp(y) * sums.astype(dy.dtype)
    return dx


#: (probability or its logarithm, terms on the way back, derivative), by whether it is the logarithm
BODIES = {False: (share, terms, share_back), True: (log_share, log_terms, log_share_back)}


def forward(dtype: Any, of: Softmax, rows: int, cols: int, x: Array, y: Array) -> int:
    with np.errstate(all="ignore"):
        z = x.reshape(rows, cols)
        largest = np.fmax.reduce(z, axis=1, initial=-np.inf)[:, None]
        sums = lane_sums(unscaled(z, largest).astype(np.float64))[:, None]
        y[...] = BODIES[bool(of.log)][0](z, largest, sums).reshape(y.shape)
    return OK


def backward(dtype: Any, of: Softmax, rows: int, cols: int, y: Array, dy: Array, dx: Array) -> int:
    with np.errstate(all="ignore"):
        out, g = y.reshape(rows, cols), dy.reshape(rows, cols)
        _, of_row, back = BODIES[bool(of.log)]
        dx[...] = back(out, g, lane_sums(of_row(out, g))[:, None]).reshape(dx.shape)
    return OK


ENTRIES = {"softmax_forward": forward, "softmax_backward": backward}
DESCRIPTIONS = {"softmax": Softmax}
