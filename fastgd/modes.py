"""Moves an optimizer's parameters between what gradients are taken at and the average that its rule keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd.backends.base import Block, Codes, Item, Options, Work
from fastgd.interrupts import uninterrupted
from fastgd.kept import keeps_residual
from fastgd.rules import LERP
from fastgd.settings import DEFAULTS

if TYPE_CHECKING:
    from fastgd.optimizer import Optimizer

#: why no step can be made after eval
EVALUATING = "the parameters are averages since eval() was called: call train() before step"


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
