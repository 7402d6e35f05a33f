"""Moves an optimizer's parameters between what gradients are taken at and the average that its rule keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastgd.backends.base import Block, Item, Options, Work
from fastgd.interrupts import uninterrupted
from fastgd.rules import LERP

if TYPE_CHECKING:
    from fastgd.optimizer import Optimizer


def set_training(opt: Optimizer, training: bool) -> None:
    """Makes the parameters y (training) or x, by y = beta x + (1 - beta) z: see rules.table.Average.

    Parameters that have made no step are both. Does nothing when they are so already, or there is no average.
    """
    average = opt.rule.average
    with opt._lock:
        if average is None or opt._training == training:
            return
        z = [slot.name for slot in opt.rule.slots].index(average.slot)
        blocks = []
        for number, group in enumerate(opt.param_groups):
            group.check_together(number)
            beta = average.beta(group.values_in_place)
            # y = x + (1 - beta) (z - x)   and   x = y + (1 - 1 / beta) (z - y)
            weight = 1.0 - beta if training else 1.0 - 1.0 / beta
            blocks.append(Block(LERP, {**LERP.defaults, "weight": weight}, 0))
        items = []
        for i, parameter in enumerate(opt._parameters):
            state = opt._state[i]
            towards = state[z] if state is not None and opt._steps[i] else None
            if towards is not None:
                items.append(Item(parameter.array, towards, (), parameter.group, 0))
        plan = opt.backend.plan(Work(blocks, items, np.zeros(1, np.int64)))
        with uninterrupted():
            plan.step(Options())
            opt._training = training
            opt._plan = None
