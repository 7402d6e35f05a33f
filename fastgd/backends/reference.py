"""The NumPy backend: the rules' Python bodies, run plainly. It is slow, and it is what the others must equal.

float32 is computed in float32 and float64 in float64, operation by operation in the order of the bodies.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastgd.arrays import DTYPES, Array, memory_order
from fastgd.backends.base import UNMEASURED, Block, Measured, Options, Plan, Work, folding
from fastgd.interrupts import uninterrupted
from fastgd.rules import Rule

#: as FGD_CHUNK and FGD_LANES in csrc/kernels.h: they fix the order in which squares are summed
CHUNK = 16384
LANES = 16

#: below this sum, squares of float64 may have lost bits; as TINY_SUM in csrc/measure.c
TINY_SUM = 1e-280


def prepared(g: Array, unscale: float, bound: float) -> Array:
    """Unscaled and clamped, in g's own precision; NaN stays NaN."""
    real = g.dtype.type
    g = g * real(unscale)
    g = np.where(g > real(bound), real(bound), g)
    return np.where(g < real(-bound), real(-bound), g)


def transformed(g: Array, options: Options, coef: float) -> Array:
    """What a rule sees of a gradient: without a bound in between, one factor and one rounding."""
    unscale = 1 / options.grad_scale
    if math.isinf(options.clip_value):
        return prepared(g, unscale * coef, math.inf)
    bounded: Array = prepared(g, unscale, options.clip_value) * g.dtype.type(coef)
    return bounded


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


def _power_of_two(largest: float) -> int:
    """The exponent by which squares are scaled where plain ones overflow or underflow."""
    exponent = 1024 if math.isinf(largest) else math.frexp(largest)[1] - 1
    return max(exponent, -1000)


class ReferenceBackend:
    """See the module."""

    name = "reference"

    def supports(self, rule: Rule, dtype: Any) -> bool:
        return dtype in DTYPES

    def plan(self, work: Work) -> Plan:
        return _Step(self, work)

    def measure(self, arrays: Sequence[Array], options: Options) -> Measured:
        return self.measure_views([a.transpose(memory_order(a)) for a in arrays], options)

    def norms(self, arrays: Sequence[Array], options: Options) -> list[float]:
        return [self.measure([a], options).norm for a in arrays]

    def clip(self, arrays: Sequence[Array], options: Options) -> Measured:
        measured = self.measure(arrays, options) if options.needs_measure else UNMEASURED
        if not measured.skipped:
            with np.errstate(all="ignore"):
                changes = [transformed(a, options, measured.clip_coef) for a in arrays]
            with uninterrupted():
                for old, new in zip(arrays, changes, strict=True):
                    np.copyto(old, new)
        return measured

    def measure_views(self, grads: Sequence[Array], options: Options) -> Measured:
        nonfinite = next((i for i, g in enumerate(grads) if not np.isfinite(g).all()), None)
        with np.errstate(all="ignore"):
            norm = self._norm(grads, options, nonfinite is None)
        coef = 1.0
        if not math.isinf(options.clip_norm):
            ratio = options.clip_norm / (norm + 1e-6)
            coef = 1.0 if ratio > 1 else ratio
        skipped = options.skip_nonfinite and (nonfinite is not None or not math.isfinite(norm))
        return Measured(norm, coef, nonfinite, skipped)

    def _norm(self, grads: Sequence[Array], options: Options, finite: bool) -> float:
        unscale, bound = 1 / options.grad_scale, options.clip_value
        largest = float(max((np.max(np.abs(g)) for g in grads if g.size), default=0.0))
        if math.isinf(options.norm):
            if any(np.isnan(g).any() for g in grads) or (math.isinf(largest) and not math.isinf(bound)):
                return math.nan
            return bound if largest * unscale > bound else largest * unscale

        def summed(scale: float, clamp: bool) -> float:
            sums: list[float] = []
            for g in grads:
                values = (prepared(g, unscale, bound) if clamp else g).astype(np.float64).reshape(-1) * scale
                spoiled = 0 * g.astype(np.float64).reshape(-1)
                sums += chunk_sums(values * values + spoiled if clamp else values * values)
            return in_order(sums)

        clamp = not math.isinf(bound)
        total = summed(1.0, clamp)
        if finite and (not math.isfinite(total) or total < TINY_SUM):
            largest = min(largest * unscale, bound)
            if largest == 0:
                return 0.0
            exponent = _power_of_two(largest)
            root = math.sqrt(summed(math.ldexp(1.0, -exponent), True))
            return float(np.ldexp(root, exponent))
        return float(np.sqrt(total)) * (1.0 if clamp else unscale)


class _Step:
    def __init__(self, backend: ReferenceBackend, work: Work) -> None:
        self._backend = backend
        self._grads = [weakref.ref(item.grad) for item in work.items]
        self._work = work._replace(items=[item._replace(grad=item.param) for item in work.items])
        # as the state that was made for them, switches stay until there is a new plan
        self._on = [SimpleNamespace(**block.rule.active(block.values)) for block in work.blocks]
        self._signs = [-1.0 if block.values["maximize"] else 1.0 for block in work.blocks]

    def set_grads(self, items: Sequence[int], grads: Sequence[Array], at: Array) -> None:
        for i, grad in zip(items, grads, strict=True):
            self._grads[i] = weakref.ref(grad)

    def step(self, options: Options) -> Measured:
        work, measured = self._work, UNMEASURED
        grads = [grad for held in self._grads if (grad := held()) is not None]
        if options.needs_measure:
            orders = [memory_order(item.param) for item in work.items]
            views = [g.transpose(order) for g, order in zip(grads, orders, strict=True)]
            measured = self._backend.measure_views(views, options)
        if measured.skipped:
            return measured
        with np.errstate(all="ignore"):
            changes = self._changes(grads, options, measured.clip_coef)
        with uninterrupted():
            for old, new in changes:
                np.copyto(old, new)
            for item in work.items:
                work.steps[item.counter] += 1
        return measured

    def _changes(
        self, grads: Sequence[Array], options: Options, clip_coef: float
    ) -> list[tuple[Array, Array]]:
        """(array, its new values) for every parameter and slot, computed without changing anything."""
        work = self._work
        changes: list[tuple[Array, Array]] = []
        for item, grad in zip(work.items, grads, strict=True):
            block = work.blocks[item.block]
            g = transformed(grad, options, self._signs[item.block] * clip_coef)
            x = SimpleNamespace()
            for slot, array in zip(block.rule.slots, item.state, strict=True):
                if array is not None:
                    setattr(x, slot.name, array)
            s = _scalars(block, int(work.steps[block.counter]) + 1, item.param.dtype.type)
            changes.append((item.param, block.rule.body(np, item.param, g, x, s, self._on[item.block])))
            for slot, array in zip(block.rule.slots, item.state, strict=True):
                if array is not None:
                    changes.append((array, getattr(x, slot.name)))
        return changes


def _scalars(block: Block, step: int, real: Any) -> SimpleNamespace:
    numbers = map(real, folding(block.rule)(block.values, step, block.carriers))
    return SimpleNamespace(**dict(zip(block.rule.scalars, numbers, strict=True)))


BACKEND = ReferenceBackend()
