"""The forward and backward kernels in NumPy: the formulas of csrc/ in the same order of operations.

Elements have the same bits as the native kernels' in both precisions. Matrix products are numpy.matmul's.
The functions take what the native ones take, arrays for pointers and None for NULL, and return an error code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import CHUNK, chunk_sums, in_order, lane_sums
from fastgd.nn.elementary import exp, log
from fastgd.nn.reference_activations import FUNCTIONS, Function

OK = 0
ERROR_LABEL = -13


class Bound(NamedTuple):
    """An activation with its parameters: what fgd_activation is in C."""

    function: Function
    a: float
    b: float

    def forward(self, z: Array) -> Array:
        return self.function.forward(z, self.a, self.b)

    def backward(self, saved: Array, dy: Array) -> Array:
        return self.function.backward(saved, dy, self.a, self.b)


def bound(name: str, a: float = 0.0, b: float = 0.0) -> Bound:
    return Bound(FUNCTIONS[name], a, b)


def activation_forward(dtype: Any, activation: Bound, n: int, z: Array, y: Array) -> int:
    with np.errstate(all="ignore"):
        y[...] = activation.forward(z)
    return OK


def activation_backward(dtype: Any, activation: Bound, n: int, saved: Array, dy: Array, dz: Array) -> int:
    with np.errstate(all="ignore"):
        dz[...] = activation.backward(saved, dy)
    return OK


def linear_forward(
    dtype: Any,
    activation: Bound,
    batch: int,
    in_features: int,
    out_features: int,
    x: Array,
    weight: Array,
    bias: Array | None,
    z: Array | None,
    y: Array,
) -> int:
    with np.errstate(all="ignore"):
        product = np.matmul(x, weight.T)
        if bias is not None:
            product += bias
        if z is not None and activation.function.saves_input:
            z[...] = product
        y[...] = activation.forward(product)
    return OK


def linear_backward(
    dtype: Any,
    activation: Bound,
    batch: int,
    in_features: int,
    out_features: int,
    x: Array,
    weight: Array,
    saved: Array | None,
    dy: Array,
    dx: Array | None,
    dweight: Array,
    dbias: Array | None,
) -> int:
    with np.errstate(all="ignore"):
        dy[...] = activation.backward(dy if saved is None else saved, dy)
        if dbias is not None:
            total = np.zeros(out_features)
            for row in dy:
                total += row
            dbias[...] = total
        np.matmul(dy.T, x, out=dweight)
        if dx is not None:
            np.matmul(dy, weight, out=dx)
    return OK


def softmax_cross_entropy(
    dtype: Any,
    batch: int,
    classes: int,
    logits: Array,
    labels: Array,
    grad: Array | None,
    row_loss: Array,
    loss: Array,
) -> int:
    if ((labels < 0) | (labels >= classes)).any():
        return ERROR_LABEL
    rows = np.arange(batch)
    with np.errstate(all="ignore"):
        largest = np.fmax.reduce(logits, axis=1, initial=-np.inf)
        e = exp(logits - largest[:, None])
        total = lane_sums(e.astype(np.float64))
        row_loss[...] = log(total) - (logits[rows, labels].astype(np.float64) - largest.astype(np.float64))
        if grad is not None:
            own = (e[rows, labels].astype(np.float64) - total) / (total * batch)
            grad[...] = e * (1 / (total * batch)).astype(e.dtype)[:, None]
            grad[rows, labels] = own
        loss[0] = in_order(row_loss) / np.float64(batch)
    return OK


def mean_squared_error_scratch(n: int) -> int:
    return -(-n // CHUNK)


def mean_squared_error(
    dtype: Any, n: int, prediction: Array, target: Array, grad: Array | None, scratch: Array, loss: Array
) -> int:
    with np.errstate(all="ignore"):
        d = prediction.ravel() - target.ravel()
        wide = d.astype(np.float64)
        scratch[...] = chunk_sums(wide * wide)
        if grad is not None:
            grad[...] = (d * d.dtype.type(2 / np.float64(n))).reshape(grad.shape)
        loss[0] = in_order(scratch) / np.float64(n)
    return OK
