"""The forward and backward kernels in NumPy: the formulas of csrc/layers.h in the same order of operations.

Elements have the same bits as the native kernels' in both precisions. Matrix products are numpy.matmul's.
The functions take what the native ones take, arrays for pointers and None for NULL, and return an error code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import CHUNK, chunk_sums, in_order, lane_sums

OK = 0
ERROR_LABEL = -13

LOG2E = float.fromhex("0x1.71547652b82fep0")
LN2_HIGH_F64 = float.fromhex("0x1.62e42feep-1")
LN2_LOW_F64 = float.fromhex("0x1.a39ef35793c76p-33")


class Precision(NamedTuple):
    """What csrc/layers.h defines for each precision; series has the Taylor denominators, last term first."""

    bits: Any
    mantissa: int
    bias: int
    ln2_high: float
    ln2_low: float
    exp_min: float
    exp_max: float
    tanh_max: float
    series: tuple[int, ...]

    @property
    def rounder(self) -> float:
        return 1.5 * 2.0**self.mantissa


# fmt: off
PRECISIONS = {
    np.dtype(np.float32): Precision(
        bits=np.uint32, mantissa=23, bias=127,
        ln2_high=float.fromhex("0x1.62e4p-1"), ln2_low=float.fromhex("0x1.7f7d1cp-20"),
        exp_min=-104.0, exp_max=89.0, tanh_max=10.0, series=(5040, 720, 120, 24, 6, 2),
    ),
    np.dtype(np.float64): Precision(
        bits=np.uint64, mantissa=52, bias=1023, ln2_high=LN2_HIGH_F64, ln2_low=LN2_LOW_F64,
        exp_min=-746.0, exp_max=710.0, tanh_max=22.0,
        series=(6227020800, 479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2),
    ),
}
# fmt: on


def exponential(x: Array) -> tuple[Array, Array, Array]:
    """e^x as (1 + series) * half * other_half (Cody and Waite 1980, chapter 6)."""
    p = PRECISIONS[x.dtype]
    shifted = x * LOG2E + p.rounder
    n = shifted - p.rounder
    r = (x - n * p.ln2_high) - n * p.ln2_low
    q = np.full_like(r, 1.0 / p.series[0])
    for denominator in p.series[1:]:
        q = 1.0 / denominator + r * q
    series = r + (r * r) * q
    zero = np.array([p.rounder], x.dtype).view(p.bits)
    bits = shifted.view(p.bits) - zero + p.bits(2 * (p.bias + 1))
    half = bits >> p.bits(1)
    other_half = (bits - half - p.bits(1)) << p.bits(p.mantissa)
    half = (half - p.bits(1)) << p.bits(p.mantissa)
    return series, half.view(x.dtype), other_half.view(x.dtype)


def exp(x: Array) -> Array:
    p = PRECISIONS[x.dtype]
    x = np.where(x > p.exp_max, x.dtype.type(p.exp_max), x)
    x = np.where(x < p.exp_min, x.dtype.type(p.exp_min), x)
    series, half, other_half = exponential(x)
    return ((1 + series) * half) * other_half


def log(x: Array) -> Array:
    """The natural logarithm of float64 numbers that are normal and above 0, by the series of 2 atanh."""
    one, sqrt_half, mask = np.uint64(1023 << 52), np.uint64(0x3FE6A09E667F3BCD), np.uint64((1 << 52) - 1)
    bits = x.view(np.uint64) + (one - sqrt_half)
    n = ((bits >> np.uint64(52)).astype(np.int64) - 1023).astype(np.float64)
    m = ((bits & mask) + sqrt_half).view(np.float64)
    s = (m - 1) / (m + 1)
    s2 = s * s
    q = np.full_like(s, 1.0 / 21)
    for denominator in (19, 17, 15, 13, 11, 9, 7, 5, 3):
        q = 1.0 / denominator + s2 * q
    q = 2 * s + (2 * s) * (s2 * q)
    return np.where(np.isnan(x), x, n * LN2_HIGH_F64 + (q + n * LN2_LOW_F64))


def identity_forward(z: Array) -> Array:
    return z


def identity_backward(y: Array, dy: Array) -> Array:
    return dy


def relu_forward(z: Array) -> Array:
    return np.where(z < 0, z.dtype.type(0), z)


def relu_backward(y: Array, dy: Array) -> Array:
    return np.where(y <= 0, dy.dtype.type(0), dy)


def tanh_forward(z: Array) -> Array:
    p = PRECISIONS[z.dtype]
    a = np.where(z < 0, -z, z)
    a = np.where(a > p.tanh_max, z.dtype.type(p.tanh_max), a)
    series, half, other_half = exponential(-2 * a)
    scale = half * other_half
    t = series * scale + (scale - 1)
    y: Array = np.copysign(t / (2 + t), z)
    return y


def tanh_backward(y: Array, dy: Array) -> Array:
    dz: Array = dy * (1 - y * y)
    return dz


def sigmoid_forward(z: Array) -> Array:
    e = exp(-np.where(z < 0, -z, z))
    y: Array = np.where(z < 0, e, z.dtype.type(1)) / (1 + e)
    return y


def sigmoid_backward(y: Array, dy: Array) -> Array:
    dz: Array = dy * (y * (1 - y))
    return dz


#: name in csrc/layers.def -> its forward and its backward body
ACTIVATIONS = {
    "identity": (identity_forward, identity_backward),
    "relu": (relu_forward, relu_backward),
    "tanh": (tanh_forward, tanh_backward),
    "sigmoid": (sigmoid_forward, sigmoid_backward),
}


def activation_forward(dtype: Any, activation: str, n: int, z: Array, y: Array) -> int:
    with np.errstate(all="ignore"):
        y[...] = ACTIVATIONS[activation][0](z)
    return OK


def activation_backward(dtype: Any, activation: str, n: int, y: Array, dy: Array, dz: Array) -> int:
    with np.errstate(all="ignore"):
        dz[...] = ACTIVATIONS[activation][1](y, dy)
    return OK


def linear_forward(
    dtype: Any,
    activation: str,
    batch: int,
    in_features: int,
    out_features: int,
    x: Array,
    weight: Array,
    bias: Array | None,
    y: Array,
) -> int:
    with np.errstate(all="ignore"):
        np.matmul(x, weight.T, out=y)
        y[...] = ACTIVATIONS[activation][0](y if bias is None else y + bias)
    return OK


def linear_backward(
    dtype: Any,
    activation: str,
    batch: int,
    in_features: int,
    out_features: int,
    x: Array,
    weight: Array,
    y: Array,
    dy: Array,
    dx: Array | None,
    dweight: Array,
    dbias: Array | None,
) -> int:
    with np.errstate(all="ignore"):
        dy[...] = ACTIVATIONS[activation][1](y, dy)
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
