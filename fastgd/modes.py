"""What parameters are when no gradients are taken at them: the average of their rule, or a running one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.base import Block, Codes, Item, Options, Plan, Work
from fastgd.interrupts import uninterrupted
from fastgd.kept import keeps_residual
from fastgd.memory import memory_of, on_host, to_host
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
    with opt._lock:
        averages = opt._planner.averages()
    if all(average is None for average in averages):
        raise ValueError("no parameter has a running average: set ema_decay")
    with holding(opt, averages):
        yield


@contextmanager
def holding(opt: Optimizer, averages: Sequence[Array | None]) -> Iterator[None]:
    """Within the block, parameters and copies hold these numbers, rounded to nearest; None: unchanged."""
    planner = opt._planner
    with opt._lock:
        if planner.barred:
            raise RuntimeError(planner.barred)
        written = [
            (array, average)
            for p, average in zip(planner.parameters, averages, strict=True)
            for array in (p.array, p.copy)
            if average is not None and array is not None
        ]
        before = [to_host(array) for array, _ in written]
        rounded = [store(on_host(average), array.dtype) for array, average in written]
        arrays = [array for array, _ in written]
        with uninterrupted():
            planner.barred, planner.plan = AVERAGED, None
            try:
                _write(arrays, rounded)
            except BaseException:  # a device may fail
                _write(arrays, before)
                planner.barred = None
                raise
        del rounded
    try:
        yield
    finally:
        with opt._lock, uninterrupted():
            _write(arrays, before)
            planner.barred = None


def _write(arrays: Sequence[Array], values: Sequence[Array]) -> None:
    for array, own in zip(arrays, values, strict=True):
        memory_of(array).write(array, own)


def moving(opt: Optimizer, towards: Sequence[Array | None], weights: Sequence[float]) -> Plan:
    """A plan that moves each parameter by its group's weight of the way to its counterpart; None stays.

    Residuals move along, and copies are written.
    """
    planner, blocks = opt._planner, []
    for group, weight in zip(opt.param_groups, weights, strict=True):
        settings: dict[str, Any] = dict(DEFAULTS)
        if keeps_residual(group.values_in_place):
            settings["rounding"] = group.values_in_place["rounding"]
        blocks.append(Block(LERP, {**settings, **LERP.defaults, "weight": weight}, 0))
    items = []
    for i, (p, end) in enumerate(zip(planner.parameters, towards, strict=True)):
        if end is not None:
            order, residual = tuple(range(p.array.ndim)), planner.keep(i).residual
            items.append(Item(p.array, end, (), p.group, 0, order, residual=residual, copy=p.copy))
    return opt.backend.plan(Work(blocks, items, np.zeros(1, np.int64)))


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
        weights = []
        for number, group in enumerate(opt.param_groups):
            group.check_together(number)
            beta = average.beta(group.values_in_place)
            # y = x + (1 - beta) (z - x)   and   x = y + (1 - 1 / beta) (z - y)
            weights.append(1.0 - beta if training else 1.0 - 1.0 / beta)
        planner.settle()
        towards: list[Array | None] = []
        for kept, steps in zip(planner.kept, planner.steps, strict=False):
            slot = None if kept is None or not steps else kept.slots[z]
            towards.append(None if isinstance(slot, Codes) else slot)
        plan = moving(opt, towards, weights)
        with uninterrupted():
            plan.step(Options())
            opt._training = training
            planner.barred, planner.plan = None if training else EVALUATING, None
