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
    lanes: Array = np.zeros((rows, LANES))
    for i in range(0, n, LANES):
        part = terms[:, i : i + LANES]
        lanes[:, : part.shape[1]] += part
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


def transformed(g: Array, options: Options, coef: float) -> Array:
    """What a rule sees of a gradient: without a bound in between, one factor and one rounding."""
    unscale = 1 / options.grad_scale
    if math.isinf(options.clip_value):
        return prepared(g, unscale * coef, math.inf)
    clamped: Array = prepared(g, unscale, options.clip_value) * g.dtype.type(coef)
    return clamped


# ---- Norms ------------------------------------------------------------------------------------------


def _power_of_two(largest: float) -> int:
    """The exponent by which squares are scaled where plain ones overflow or underflow."""
    exponent = 1024 if math.isinf(largest) else math.frexp(largest)[1] - 1
    return max(exponent, -1000)


@np.errstate(all="ignore")
def norm_of(grads: Sequence[Array], options: Options) -> float:
    """The norm of gradients together, unscaled and clamped; NaN where a clamp would hide an infinity."""
    unscale, bound = 1 / options.grad_scale, options.clip_value
    largest = float(max((np.max(np.abs(g)) for g in grads if g.size), default=0.0))
    if math.isinf(options.norm):
        if any(np.isnan(g).any() for g in grads) or (math.isinf(largest) and not math.isinf(bound)):
            return math.nan
        return bound if largest * unscale > bound else largest * unscale

    def summed(scale: float, clamp: bool) -> float:
        sums: list[float] = []
        for g in grads:
            values = (prepared(g, unscale, bound) if clamp else g).astype(np.float64) * scale
            spoiled = 0 * g.astype(np.float64)
            sums += chunk_sums(values * values + spoiled if clamp else values * values)
        return in_order(sums)

    clamp = not math.isinf(bound)
    total = summed(1.0, clamp)
    finite = all(np.isfinite(g).all() for g in grads)
    if finite and (not math.isfinite(total) or total < TINY_SUM):
        largest = min(largest * unscale, bound)
        if largest == 0:
            return 0.0
        exponent = _power_of_two(largest)
        root = math.sqrt(summed(math.ldexp(1.0, -exponent), True))
        return float(np.ldexp(root, exponent))
    return float(np.sqrt(total)) * (1.0 if clamp else unscale)


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

    x: the parameter. Brock et al. 2021, equation 3.
    """
    param, grad = unit_norms(x, unit), unit_norms(g, unit)
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
