"""What callers may rely on in every rule: how its body ends, and which of its slots are unsigned."""

from __future__ import annotations

import numpy as np
import pytest
from snapshots import random

from fastgd import backends
from fastgd.arrays import DTYPES
from fastgd.backends.base import Block, Item, Options, Work
from fastgd.oracle import ORACLE
from fastgd.rules import RULES

SETTINGS = [(rule, settings) for rule in RULES.values() for settings in ORACLE[rule.name][1]]
SIZE = 37


def stepped(rule, settings, dtype, backend, decay, param, steps=3):
    """(the parameter after each step, which starts from `param` every time, and the state in the end).

    decay: what stands in for that scalar; None leaves the folded one.
    """
    h = {**rule.defaults, **settings}
    at = rule.scalars.index("decay")
    if decay is not None:
        fold = rule.fold
        rule = rule._replace(fold=lambda *a: (*fold(*a)[:at], decay, *fold(*a)[at + 1 :]))
    state = tuple(
        None if slot is None else np.full(SIZE, 0.0 if slot.initial is None else h[slot.initial], dtype)
        for slot in rule.active_slots(h)
    )
    p, counts, after = param.copy(), np.zeros(1, np.int64), []
    for t in range(steps):
        grad = random(SIZE, t, dtype)
        p[:] = param
        work = Work([Block(rule, h, 0)], [Item(p, grad, state, 0, 0)], counts)
        backends.get(backend).plan(work).step(Options())
        after.append(p.copy())
    return after, state


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rule", "settings"), SETTINGS, ids=lambda v: getattr(v, "name", str(v)))
def test_every_body_ends_in_decay_times_the_parameter_minus_the_step(rule, settings, dtype, backend):
    param = random(SIZE, 9, dtype)
    minus_step, _ = stepped(rule, settings, dtype, backend, 0.0, param)
    assert all(np.any(m) and np.isfinite(m).all() for m in minus_step)
    for decay in (1.0, 0.75):
        with_decay, _ = stepped(rule, settings, dtype, backend, decay, param)
        for whole, minus in zip(with_decay, minus_step, strict=True):
            np.testing.assert_array_equal(whole, dtype.type(decay) * param + minus)


@pytest.mark.parametrize(("rule", "settings"), SETTINGS, ids=lambda v: getattr(v, "name", str(v)))
def test_without_an_l2_term_the_step_does_not_see_the_parameter(rule, settings, backend):
    settings = {**settings, "weight_decay": 0.0}
    outcomes = [
        stepped(rule, settings, DTYPES[0], backend, 0.0, random(SIZE, seed).astype(np.float32))[0]
        for seed in (1, 2)
    ]
    for one, other in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("rule", "settings"), SETTINGS, ids=lambda v: getattr(v, "name", str(v)))
def test_unsigned_slots_are_never_negative_and_signed_ones_are(rule, settings, backend):
    h = {**rule.defaults, **settings}
    _, state = stepped(rule, settings, DTYPES[0], backend, None, random(SIZE, 9))
    for slot, array in zip(rule.active_slots(h), state, strict=True):
        if slot is not None:
            assert slot.unsigned == bool((array >= 0).all()), slot.name
