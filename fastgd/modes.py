"""What parameters are when no gradients are taken at them: the average of their rule, or a running one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd.backends.base import Block, Codes, Item, Options, Work
from fastgd.interrupts import uninterrupted
from fastgd.kept import keeps_residual
from fastgd.rules import LERP
from fastgd.settings import DEFAULTS
from fastgd.storage import store

if TYPE_CHECKING:
    from fastgd.optimizer import Optimizer

#: why no step can be made after eval
EVALUATING = "the parameters are averages since eval() was called: call train() before step"

#: why neither a step nor a load can be made inside `holding_averages`
AVERAGED = "within averaged() the parameters hold their averages: leave it first"


@contextmanager
def holding_averages(opt: Optimizer) -> Iterator[None]:
    """Within the block, parameters and copies hold their running averages, rounded to nearest."""
    planner = opt._planner
    with opt._lock:
        if planner.barred:
            raise RuntimeError(planner.barred)
        written = [
            (array, average)
            for p, average in zip(planner.parameters, planner.averages(), strict=True)
            for array in (p.array, p.copy)
            if average is not None and array is not None
        ]
        if not written:
            raise ValueError("no parameter has a running average: set ema_decay")
        before = [array.copy() for array, _ in written]
        rounded = [store(average, array.dtype) for array, average in written]
        with uninterrupted():
            planner.barred, planner.plan = AVERAGED, None
            for (array, _), average in zip(written, rounded, strict=True):
                array[...] = average
    try:
        yield
    finally:
        with opt._lock, uninterrupted():
            for (array, _), old in zip(written, before, strict=True):
                array[...] = old
            planner.barred = None


def set_training(opt: Optimizer, training: bool) -> None:
    """Makes the parameters y (training) or x, by y = beta x + (1 - beta) z: see rules.table.Average.

    Parameters that have made no step are both. Does nothing when they are so already, or there is no average.
    """
    average = opt.rule.average
    with opt._lock:
        planner = opt._planner
        if average is None or opt._training == training:
            return
        if planner.barred and training is False:
            raise RuntimeError(planner.barred)
        z = [slot.name for slot in opt.rule.slots].index(average.slot)
        blocks = []
        for number, group in enumerate(opt.param_groups):
            group.check_together(number)
            beta = average.beta(group.values_in_place)
            # y = x + (1 - beta) (z - x)   and   x = y + (1 - 1 / beta) (z - y)
            weight = 1.0 - beta if training else 1.0 - 1.0 / beta
            settings: dict[str, Any] = dict(DEFAULTS)
            if keeps_residual(group.values_in_place):
                settings["rounding"] = group.values_in_place["rounding"]
            blocks.append(Block(LERP, {**settings, **LERP.defaults, "weight": weight}, 0))
        items = []
        for i, p in enumerate(planner.parameters):
            kept = planner.kept[i]
            towards = None if kept is None or not planner.steps[i] else kept.slots[z]
            if kept is None or towards is None or isinstance(towards, Codes):
                continue
            order = tuple(range(p.array.ndim))
            items.append(Item(p.array, towards, (), p.group, 0, order, residual=kept.residual, copy=p.copy))
        plan = opt.backend.plan(Work(blocks, items, np.zeros(1, np.int64)))
        with uninterrupted():
            plan.step(Options())
            opt._training = training
            planner.barred, planner.plan = None if training else EVALUATING, None
