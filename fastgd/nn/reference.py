"""The forward and backward kernels in NumPy: the formulas of csrc/ in the same order of operations.

Elements have the same bits as the native kernels' in both precisions. Matrix products are numpy.matmul's.
The functions take what the native ones take, arrays for pointers and None for NULL, and return an error code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.reference_activations import FUNCTIONS, Function

OK = 0


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


def add_forward(dtype: Any, activation: Bound, n: int, a: Array, b: Array, z: Array | None, y: Array) -> int:
    with np.errstate(all="ignore"):
        total = a + b
        if z is not None and activation.function.saves_input:
            z[...] = total
        y[...] = activation.forward(total)
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
        product = np.matmul(x.reshape(batch, in_features), weight.T)
        if bias is not None:
            product += bias
        if z is not None and activation.function.saves_input:
            z[...] = product.reshape(z.shape)
        y[...] = activation.forward(product).reshape(y.shape)
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
        rows = dy.reshape(batch, out_features)
        if dbias is not None:
            total = np.zeros(out_features)
            for row in rows:
                total += row
            dbias[...] = total
        np.matmul(rows.T, x.reshape(batch, in_features), out=dweight)
        if dx is not None:
            np.matmul(rows, weight, out=dx.reshape(batch, in_features))
    return OK


ENTRIES = {
    "activation_forward": activation_forward,
    "activation_backward": activation_backward,
    "add_forward": add_forward,
    "linear_forward": linear_forward,
    "linear_backward": linear_backward,
}
DESCRIPTIONS: dict[str, type] = {}
