"""What parameters are when no gradients are taken at them: the average of their rule, or a running one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastgd import backends
from fastgd.backends.base import Block, Item, Options, Work
from fastgd.memory import memory_of as place_of
from fastgd.modes import AVERAGED, EVALUATING
from fastgd.rules import LERP
from fastgd.settings import DEFAULTS
from fastgd.torch.settings import checked
from fastgd.torch.state import AVERAGE, RESIDUAL
from fastgd.torch.tensors import array_of, local, memory_of

if TYPE_CHECKING:
    from fastgd.torch.optimizer import Native

#: in every group of a rule with an average, so that it is saved: whether parameters are what gradients are
#: taken at
TRAINING = "training"


def set_training(opt: Native, training: bool) -> None:
    """Makes the parameters y (training) or x, by y = beta x + (1 - beta) z: see rules.table.Average.

    Parameters that have made no step are both. Does nothing when they are so already, or there is no average.
    """
    average = opt.rule.average
    if average is None or all(group[TRAINING] == training for group in opt.param_groups):
        return
    if opt.planner.barred == AVERAGED:
        raise RuntimeError(AVERAGED)
    blocks, items = [], []
    for number, group in enumerate(opt.param_groups):
        beta = average.beta(checked(opt.rule, group, number))
        # y = x + (1 - beta) (z - x)   and   x = y + (1 - 1 / beta) (z - y)
        weight = 1.0 - beta if training else 1.0 - 1.0 / beta
        settings = {**DEFAULTS, "rounding": group["rounding"]}
        blocks.append(Block(LERP, {**settings, **LERP.defaults, "weight": weight}, 0))
    for m in opt.members():
        entry = opt.state.get(m.tensor, {})
        if average.slot not in entry:
            continue
        param, z = array_of(local(m.tensor), str(m)), array_of(local(entry[average.slot]), f"state of {m}")
        lost = memory_of(local(entry[RESIDUAL]), f"state of {m}") if RESIDUAL in entry else None
        items.append(Item(param, z, (), m.group, 0, tuple(range(param.ndim)), residual=lost))
    if items:
        backend = backends.for_all(opt.backend, [place_of(item.param) for item in items])
        backend.plan(Work(blocks, items, np.zeros(1, np.int64))).step(Options())
    for group in opt.param_groups:
        group[TRAINING] = training
    torch.autograd.graph.increment_version([p for group in opt.param_groups for p in group["params"]])


def barred(opt: Native) -> str | None:
    """Why no step can be made for now."""
    if opt.rule.average is not None and not all(group[TRAINING] for group in opt.param_groups):
        return EVALUATING
    return opt.planner.barred


@contextmanager
def holding_averages(opt: Native) -> Iterator[None]:
    """Within the block, parameters hold their running averages, rounded to nearest."""
    reason = barred(opt)
    if reason is not None:
        raise RuntimeError(reason)
    pairs: list[tuple[torch.Tensor, Any]] = []
    for m in opt.members():
        entry = opt.state.get(m.tensor, {})
        if AVERAGE in entry and opt.param_groups[m.group]["ema_decay"] is not None:
            pairs.append((local(m.tensor).detach(), local(entry[AVERAGE])))
    if not pairs:
        raise ValueError("no parameter has a running average: set ema_decay and make a step")
    before = [p.clone() for p, _ in pairs]
    opt.planner.barred = AVERAGED
    try:
        for p, average in pairs:
            p.copy_(average)
        yield
    finally:
        for (p, _), own in zip(pairs, before, strict=True):
            p.copy_(own)
        opt.planner.barred = None
