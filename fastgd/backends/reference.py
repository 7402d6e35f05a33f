"""The NumPy backend: the rules' Python bodies, run plainly. It is slow, and it is what the others must equal.

Numbers are loaded from whatever they are stored in (fastgd.storage), computed in float64 where the parameter
is float64 and in float32 everywhere else, operation by operation in the order of the bodies, and stored with
one rounding.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastgd.arrays import Array, memory_order
from fastgd.backends.base import Block, Item, Measured, Options, Plan, Program, Work, folding
from fastgd.backends.reference_norms import judged, norm_of, smallest, transformed
from fastgd.backends.reference_update import Change, Step, updated
from fastgd.interrupts import uninterrupted
from fastgd.rules import Rule
from fastgd.storage import FORMATS, arithmetic, load, store


class ReferenceBackend:
    """See the module."""

    name = "reference"
    memory = "host"
    rearranges = False

    def supports(self, rule: Rule, dtype: Any) -> bool:
        return np.dtype(dtype).name in FORMATS

    def plan(self, work: Work) -> Plan:
        return _Plan(work)

    def measure(self, arrays: Sequence[Array], options: Options) -> Measured:
        return judged(_numbers(arrays), [0] * len(arrays), options)[0]

    def norms(self, arrays: Sequence[Array], options: Options) -> list[float]:
        return [norm_of([numbers], options) for numbers in _numbers(arrays)]

    def clip(self, arrays: Sequence[Array], options: Options) -> Measured:
        measured, coefs = judged(_numbers(arrays), [0] * len(arrays), options)
        if not measured.skipped:
            changes = [
                Change(a, ..., store(transformed(load(a, arithmetic(a.dtype)), options, coef), a.dtype))
                for a, coef in zip(arrays, coefs, strict=True)
            ]
            _write(changes)
        return measured


def _numbers(arrays: Sequence[Array]) -> list[Array]:
    """Each array as a flat one in its memory order, in the precision its numbers are computed in."""
    return [load(a.transpose(memory_order(a)), arithmetic(a.dtype)).reshape(-1) for a in arrays]


def _write(changes: Sequence[Change]) -> None:
    with uninterrupted():
        for change in changes:
            change.write()


class _Plan:
    def __init__(self, work: Work) -> None:
        self._grads = [weakref.ref(item.grad) for item in work.items]
        self._work = work._replace(items=[item._replace(grad=item.param) for item in work.items])
        # as the state that was made for them, switches stay until there is a new plan
        self._on = [SimpleNamespace(**block.rule.active(block.values)) for block in work.blocks]
        self._signs = [-1.0 if block.values["maximize"] else 1.0 for block in work.blocks]

    def set_grads(self, items: Sequence[int], grads: Sequence[Array], at: Array) -> None:
        for i, grad in zip(items, grads, strict=True):
            self._grads[i] = weakref.ref(grad)

    def grad_addresses(self) -> Array | None:
        return None

    def arrange(
        self, chosen: Array, blocks: Sequence[Block], of: Sequence[int], exchanged: Mapping[int, Item]
    ) -> bool:
        return False

    def measure(self, options: Options) -> Measured:
        grads = self._flat_grads([grad.dtype for grad in self._alive()])
        return judged(grads, [0] * len(grads), options)[0]

    def step(self, options: Options, program: Program | None = None) -> Measured:
        if program:
            program.run()
        items, steps = self._work.items, self._work.steps
        grads = self._flat_grads([item.param.dtype for item in items])
        measured, coefs = judged(grads, [item.group for item in items], options)
        if measured.skipped:
            return measured
        with np.errstate(all="ignore"):
            changes, unit_coefs = self._changes(grads, options, coefs)
        with uninterrupted():
            for change in changes:
                change.write()
            for item in items:
                steps[item.counter] += 1
        if not math.isinf(options.clip_unit):
            measured = measured._replace(clip_coef=smallest(unit_coefs))
        return measured

    def fetching(self, options: Options, fetch: tuple[int, int]) -> None:
        return None

    def settle(self) -> int:
        return 0

    def _alive(self) -> list[Array]:
        return [grad for held in self._grads if (grad := held()) is not None]

    def _flat_grads(self, dtypes: Sequence[Any]) -> list[Array]:
        """Every gradient in the order of its item's elements, in what its dtype is computed in."""
        return [
            load(grad.transpose(item.order), arithmetic(dtype)).reshape(-1)
            for item, grad, dtype in zip(self._work.items, self._alive(), dtypes, strict=True)
        ]

    def _changes(
        self, grads: Sequence[Array], options: Options, coefs: Sequence[float]
    ) -> tuple[list[Change], list[float]]:
        """All that the step changes, computed without changing anything, and the smallest coefficient that
        each gradient is clipped by unit for unit."""
        blocks = [self._step_of(i) for i in range(len(self._work.blocks))]
        changes: list[Change] = []
        unit_coefs: list[float] = []
        for item, grad, coef in zip(self._work.items, grads, coefs, strict=True):
            if grad.size == 0:
                continue
            signed = self._signs[item.block] * coef
            own, unit_coef = updated(item, grad, blocks[item.block], options, signed)
            changes += own
            unit_coefs.append(unit_coef)
        return changes, unit_coefs

    def _step_of(self, i: int) -> Step:
        block, work = self._work.blocks[i], self._work
        number = int(work.steps[block.counter]) + 1
        folded = folding(block.rule, block.values)(block.values, number, block.carriers)
        scalars = dict(zip(block.rule.scalars, folded, strict=True))
        return Step(block, self._on[i], scalars, number, work.seed)


BACKEND = ReferenceBackend()
