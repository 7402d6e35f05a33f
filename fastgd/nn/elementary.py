"""Exponential, logarithm and normal distribution in NumPy: the formulas of csrc/elementary.h in its order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array

LOG2E = float.fromhex("0x1.71547652b82fep0")
LN2_HIGH_F64 = float.fromhex("0x1.62e42feep-1")
LN2_LOW_F64 = float.fromhex("0x1.a39ef35793c76p-33")


class Precision(NamedTuple):
    """What csrc/elementary.h defines for each precision. Series have their last term first."""

    bits: Any
    mantissa: int
    bias: int
    ln2_high: float
    ln2_low: float
    exp_min: float
    exp_max: float
    tanh_max: float
    normal_max: float
    #: the Taylor denominators of the exponential
    series: tuple[int, ...]
    #: the odd denominators of log(1 + x)
    log1p: tuple[int, ...]
    #: P of `normal`
    normal: tuple[float, ...]

    @property
    def rounder(self) -> float:
        return 1.5 * 2.0**self.mantissa


_NORMAL_F32 = """
    0x1.d58198p-6 -0x1.990f2p-8 -0x1.2ab606p-4 -0x1.571512p-5 0x1.166cbap-3 0x1.761d5p-2
    0x1.007c42p-1 0x1.ead5bep-2 0x1.64efcp-2 0x1.97099ap-3
"""
_NORMAL_F64 = """
    -0x1.2104e6bca4e35p-10 0x1.7debe319044c9p-11 0x1.289a550597f7fp-9 -0x1.3a1ab64ac5cc9p-9
    -0x1.25603bc1f89b6p-9 0x1.2b3f71c8351b6p-8 0x1.d761c0a4918e8p-11 -0x1.cc735b5666344p-8
    0x1.9599e6a798377p-10 0x1.52d96d471b689p-7 -0x1.4d6124d52f23bp-8 -0x1.10813758af931p-6
    0x1.325e9aa278a4fp-7 0x1.07a09f2cad09ap-5 -0x1.174c69531bf9dp-7 -0x1.2bb305260ca8p-4
    -0x1.55713c28ed8ep-5 0x1.166ea354b3e7bp-3 0x1.761b8c6c5773ap-2 0x1.007c45878085fp-1
    0x1.ead5c1e54eb3p-2 0x1.64efbf0e67b78p-2 0x1.97099a5c514cep-3
"""


def _from_hex(text: str) -> tuple[float, ...]:
    return tuple(map(float.fromhex, text.split()))


# fmt: off
PRECISIONS = {
    np.dtype(np.float32): Precision(
        bits=np.uint32, mantissa=23, bias=127,
        ln2_high=float.fromhex("0x1.62e4p-1"), ln2_low=float.fromhex("0x1.7f7d1cp-20"),
        exp_min=-104.0, exp_max=89.0, tanh_max=10.0, normal_max=14.4,
        series=(5040, 720, 120, 24, 6, 2), log1p=tuple(range(15, 1, -2)), normal=_from_hex(_NORMAL_F32),
    ),
    np.dtype(np.float64): Precision(
        bits=np.uint64, mantissa=52, bias=1023, ln2_high=LN2_HIGH_F64, ln2_low=LN2_LOW_F64,
        exp_min=-746.0, exp_max=710.0, tanh_max=22.0, normal_max=38.6,
        series=(6227020800, 479001600, 39916800, 3628800, 362880, 40320, 5040, 720, 120, 24, 6, 2),
        log1p=tuple(range(33, 1, -2)), normal=_from_hex(_NORMAL_F64),
    ),
}
# fmt: on


def exponential(x: Array, low: Array | None = None) -> tuple[Array, Array, Array]:
    """e^(x + low) as (1 + series) * half * other_half (Cody and Waite 1980, chapter 6)."""
    p = PRECISIONS[x.dtype]
    shifted = x * LOG2E + p.rounder
    n = shifted - p.rounder
    r = (x - n * p.ln2_high) - n * p.ln2_low
    if low is not None:
        r = r + low
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


def expm1(x: Array) -> Array:
    """e^x - 1 of what is not above 0."""
    p = PRECISIONS[x.dtype]
    series, half, other_half = exponential(np.where(x < p.exp_min, x.dtype.type(p.exp_min), x))
    scale = half * other_half
    y: Array = series * scale + (scale - 1)
    return y


def log1p(x: Array) -> Array:
    """log(1 + x) for x from 0 to 1."""
    p = PRECISIONS[x.dtype]
    s = x / (2 + x)
    s2 = s * s
    q = np.full_like(s, 1.0 / p.log1p[0])
    for denominator in p.log1p[1:]:
        q = 1.0 / denominator + s2 * q
    y: Array = 2 * s + (2 * s) * (s2 * q)
    return y


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


def normal(a: Array) -> tuple[Array, Array]:
    """The tail Phi(-a) of the normal distribution for a from 0 to normal_max, and e^(-a^2 / 2)."""
    p = PRECISIONS[a.dtype]
    lowest = p.bits((1 << p.mantissa // 2 + 1) - 1)
    high = (a.view(p.bits) & ~lowest).view(a.dtype)
    low = (a - high) * (a + high)
    series, half, other_half = exponential(-0.5 * (high * high), -0.5 * low)
    t = 4.25 / (4.25 + a)
    v = t - 0.5625
    q = np.full_like(v, p.normal[0])
    for coefficient in p.normal[1:]:
        q = coefficient + v * q
    e = ((1 + series) * half) * other_half
    return (t * q) * e, e
