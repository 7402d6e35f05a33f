"""Norms in NumPy, with the bits of the kernels, and what clipping makes of them.

Squares are summed in float64 over lanes and chunks, in an order that neither the width of registers nor the
number of threads has a say in. Gradients are flat arrays in the precision they are computed in.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.base import UNMEASURED, Measured, Options

#: as FGD_CHUNK and FGD_LANES in csrc/kernels.h: they fix the order in which squares are summed
CHUNK = 16384
LANES = 16

#: below this sum, squares of float64 may have lost bits; as TINY_SUM in csrc/measure.c
TINY_SUM = 1e-280

# ---- Sums -------------------------------------------------------------------------------------------


def lane_sums(terms: Array) -> Array:
    """Sums float64 [rows, n] along n: element i into lane i modulo LANES, then the lanes in halves."""
    rows, n = terms.shape
    turns = n // LANES
    lanes: Array = np.zeros((rows, LANES))
    if turns:
        # accumulate adds one after the other, numpy.sum in pairs
        lanes += np.add.accumulate(terms[:, : turns * LANES].reshape(rows, turns, LANES), axis=1)[:, -1]
    lanes[:, : n % LANES] += terms[:, turns * LANES :]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]


def chunk_sums(terms: Array) -> list[float]:
    """Sums of a flat float64 array, one for each chunk of CHUNK elements."""
    chunks = -(-terms.size // CHUNK)
    padded = np.zeros((chunks, min(terms.size, CHUNK)))
    padded.reshape(-1)[: terms.size] = terms
    sums: list[float] = lane_sums(padded).tolist()
    return sums


def in_order(sums: Iterable[float]) -> float:
    """From the first to the last; numpy.sum adds in pairs."""
    total = 0.0
    for value in sums:
        total += value
    return total


def tensor_norm(values: Array) -> float:
    """The 2-norm of one flat array, from its plain squares."""
    return math.sqrt(in_order(chunk_sums(np.square(values, dtype=np.float64))))


def unit_norms(values: Array, unit: int) -> Array:
    """The 2-norms, float64, of the units of a flat array: `unit` elements each, summed each for itself."""
    squares = np.square(values, dtype=np.float64).reshape(-1, unit)
    sums = np.zeros(len(squares))
    for start in range(0, unit, CHUNK):
        sums = sums + lane_sums(squares[:, start : start + CHUNK])
    return np.sqrt(sums)


# ---- Gradients before the norm, and after -----------------------------------------------------------


def prepared(g: Array, unscale: float, bound: float) -> Array:
    """Unscaled and clamped, in g's own precision; NaN stays NaN."""
    real = g.dtype.type
    return bounded(g * real(unscale), real(bound))


def bounded(g: Array, bound: Any) -> Array:
    """Clamped to +-bound, a number of g's precision."""
    g = np.where(g > bound, bound, g)
    return np.where(g < -bound, -bound, g)


def clipped(g: Array, unscale: Any, bound: Any, coef: Any) -> Array:
    """Unscaled, clamped and multiplied, by numbers of g's precision."""
    result: Array = bounded(g * unscale, bound) * coef
    return result


def transformed(g: Array, options: Options, coef: float) -> Array:
    """What a rule sees of a gradient: without a bound in between, one factor and one rounding."""
    real, unscale = g.dtype.type, 1 / options.grad_scale
    if math.isinf(options.clip_value):
        return prepared(g, unscale * coef, math.inf)
    return clipped(g, real(unscale), real(options.clip_value), real(coef))


# ---- Norms ------------------------------------------------------------------------------------------


def square(g: Array, unscale: Any, bound: Any, scale: Any) -> Array:
    """float64: of gradients unscaled and clamped by numbers of their precision, times a power of two.

    NaN where the clamp would hide that one is not finite.
    """
    values = bounded(g * unscale, bound).astype(np.float64) * scale
    squares: Array = values * values + 0 * g.astype(np.float64)
    return squares


def largest_norm(largest: Any, spoiled: Any, unscale: Any, bound: Any) -> Any:
    """The norm that is the largest magnitude, unscaled and clamped. spoiled: whether one is NaN."""
    scaled = largest * unscale
    limited = np.where(scaled > bound, bound, scaled)
    hidden = (largest == np.inf) & (bound < np.inf)
    return np.where(spoiled | hidden, np.nan, limited)


def root(total: Any, unscale: Any, *, clamped: bool) -> Any:
    """The norm by a sum of squares, which are unscaled already if they are clamped."""
    return np.sqrt(total) if clamped else np.sqrt(total) * unscale


def loses_bits(total: Any, largest: Any) -> Any:
    """Whether squares of finite numbers have overflowed float64, or may have lost bits below it."""
    finite = (largest < np.inf) & (total == total)
    return finite & (~np.isfinite(total) | (total < TINY_SUM)) & (largest > 0)


def scale_for(largest: Any) -> Any:
    """The power of two that brings the largest magnitude near 1, from 2^-1024 to 2^1000; both float64."""
    exponent = 1023 - (largest.view(np.uint64) >> 52 & 0x7FF).astype(np.int64)
    exponent = np.where(exponent > 1000, np.int64(1000), exponent)
    normal = (exponent + 1023).astype(np.uint64) << 52
    subnormal = np.uint64(1) << (exponent + 1074).astype(np.uint64)
    return np.where(exponent < -1022, subnormal, normal).view(np.float64)


@np.errstate(all="ignore")
def norm_of(grads: Sequence[Array], options: Options) -> float:
    """The norm of gradients together, unscaled and clamped; NaN where a clamp would hide an infinity."""
    unscale, bound = 1 / options.grad_scale, options.clip_value
    largest = np.float64(max((np.max(np.abs(g)) for g in grads if g.size), default=0.0))
    if math.isinf(options.norm):
        spoiled = any(np.isnan(g).any() for g in grads)
        return float(largest_norm(largest, spoiled, unscale, bound))

    def summed(scale: Any, clamp: bool) -> Any:
        sums: list[float] = []
        for g in grads:
            real = g.dtype.type
            terms = square(g, real(unscale), real(bound), scale) if clamp else np.square(g, dtype=np.float64)
            sums += chunk_sums(terms)
        return np.float64(in_order(sums))

    clamp = not math.isinf(bound)
    total = summed(1.0, clamp)
    if loses_bits(total, largest):
        scale = scale_for(np.minimum(largest * unscale, bound))
        return float(np.sqrt(summed(scale, True)) / scale)
    return float(root(total, unscale, clamped=clamp))


# ---- Clipping ---------------------------------------------------------------------------------------


def clip_coef(norm: float, options: Any) -> float:
    """What gradients of this norm are multiplied by to be clipped. options: of Options, or alike."""
    if options.normalize and norm == 0:
        return 1.0
    ratio = options.clip_norm / (norm + 1e-6)
    return 1.0 if ratio > 1 and not options.normalize else ratio


def _scoped(grads: Sequence[Array], groups: Sequence[int], options: Options) -> list[float]:
    """The coefficient of each gradient, where each group or each gradient has its own."""
    scopes = groups if options.scope == "group" else range(len(grads))
    coefs: list[float] = []
    for _, members in groupby(range(len(grads)), scopes.__getitem__):
        own = [grads[i] for i in members]
        coefs += [clip_coef(norm_of(own, options), options)] * len(own)
    return coefs


def smallest(coefs: Sequence[float]) -> float:
    """The smallest of the coefficients; 1 when there are none, NaN when one is."""
    return float(np.min(coefs)) if coefs else 1.0


@np.errstate(all="ignore")
def unit_coefs(x: Array, g: Array, unit: int, options: Options) -> Array:
    """What each unit of `unit` elements of a prepared gradient is to be multiplied by, float64.

    x: the parameter.
    """
    return unit_coef(unit_norms(x, unit), unit_norms(g, unit), options)


def unit_coef(param: Array, grad: Array, options: Any) -> Array:
    """That of units with these norms (Brock et al. 2021, equation 3). options: of Options, or alike."""
    limit = options.clip_unit * np.where(param > options.unit_eps, param, options.unit_eps)
    return np.where(grad <= limit, 1.0, limit / grad)


def judged(grads: Sequence[Array], groups: Sequence[int], options: Options) -> tuple[Measured, list[float]]:
    """What is found in the gradients, and what each is to be multiplied by.

    groups: for the scope "group", the number of each gradient's; those of one group follow each other.
    """
    norm, nonfinite = options.total_norm, None
    if options.needs_measure:
        nonfinite = next((i for i, g in enumerate(grads) if not np.isfinite(g).all()), None)
        norm = norm_of(grads, options) if norm is None else norm
    if norm is None:
        return UNMEASURED, [1.0] * len(grads)
    coef, coefs = 1.0, [1.0] * len(grads)
    if not math.isinf(options.clip_norm):
        if options.scope == "all" or options.total_norm is not None:
            coef = clip_coef(norm, options)
            coefs = [coef] * len(grads)
        else:
            coefs = _scoped(grads, groups, options)
            coef = smallest(coefs)
    skipped = options.skip_nonfinite and (nonfinite is not None or not math.isfinite(norm))
    return Measured(norm, coef, nonfinite, skipped), coefs
