"""What callers may rely on in every rule: how its body ends, and which of its slots are unsigned."""

from __future__ import annotations

import numpy as np
import pytest
from snapshots import fitted, random

from fastgd import backends
from fastgd.arrays import DTYPES
from fastgd.backends.base import Block, Carriers, Item, Options, Work
from fastgd.oracle import ORACLE
from fastgd.rules import LERP, RULES, resolved
from fastgd.settings import DEFAULTS

SIZE = 36


def shapes(rule):
    """One, and a matrix beside it where that is another matter."""
    return [fitted(rule, (SIZE,)), *([(4, 9)] if rule.factored else [])]


#: every rule with its settings and a shape
SETTINGS = [
    (rule, settings, shape)
    for rule in RULES.values()
    for settings in ORACLE[rule.name].settings
    for shape in shapes(rule)
]
LERPS = [(LERP, {"weight": weight}, (SIZE,)) for weight in (0.3, 0.7)]


def name_of(value):
    return getattr(value, "name", str(value))


def first_value(slot, h):
    return 0.0 if slot.initial is None else h[slot.initial]


def seen(rule, settings, param):
    values = resolved(rule, {**rule.defaults, **DEFAULTS, **settings})
    return rule.seen(values, param.shape, param.dtype.name)


def stepped(rule, settings, dtype, backend, decay, param, start=first_value):
    """(the parameter after each of 3 steps, which starts from `param` every time, and the state in the end).

    decay: what stands in for that scalar; None leaves the folded one.
    start: (slot, hyperparameters) -> its first value.
    """
    h = seen(rule, settings, param)
    at = rule.scalars.index("decay")
    if decay is not None:
        fold = rule.fold
        rule = rule._replace(fold=lambda *a: (*fold(*a)[:at], decay, *fold(*a)[at + 1 :]))
    state = tuple(
        None if slot is None else np.full(slot.shape(param.shape), start(slot, h), dtype)
        for slot in rule.active_slots(h)
    )
    p, counts, after = param.copy(), np.zeros(1, np.int64), []
    carried = np.full((1, 2, len(rule.carried)), rule.carried_at_first)
    carriers = Carriers(carried, [0]) if rule.carried else ()
    for t in range(3):
        grad = random(param.shape, t, dtype)
        p[:] = param
        work = Work([Block(rule, h, 0, carriers)], [Item(p, grad, state, 0, 0, tuple(range(p.ndim)))], counts)
        backends.get(backend).plan(work).step(Options())
        after.append(p.copy())
    return after, state


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rule", "settings", "shape"), SETTINGS + LERPS, ids=name_of)
def test_every_body_ends_in_decay_times_the_parameter_minus_the_step(rule, settings, shape, dtype, backend):
    param = random(shape, 9, dtype)
    minus_step, _ = stepped(rule, settings, dtype, backend, 0.0, param)
    assert all(np.any(m) and np.isfinite(m).all() for m in minus_step)
    for decay in (1.0, 0.75):
        with_decay, _ = stepped(rule, settings, dtype, backend, decay, param)
        for whole, minus in zip(with_decay, minus_step, strict=True):
            np.testing.assert_array_equal(whole, dtype.type(decay) * param + minus)


NOT_WHOLE = [case for case in SETTINGS if case[0].whole is None and case[0].trust is None]


@pytest.mark.parametrize(("rule", "settings", "shape"), NOT_WHOLE, ids=name_of)
def test_slots_do_not_see_the_decay(rule, settings, shape, backend):
    """So that a cautious step, for which the body is run with decay 0, leaves the state of a whole one."""
    param = random(shape, 9).astype(np.float32)
    states = [stepped(rule, settings, DTYPES[0], backend, decay, param)[1] for decay in (0.0, None)]
    for one, other in zip(*states, strict=True):
        assert one is None or one.tobytes() == other.tobytes()


#: schedule-free methods draw the parameter towards their z, which is a term of the formula; a trust ratio is
#: the parameter's norm over the step's
WITHOUT_PARAMETER = [case for case in SETTINGS if case[0].average is None and case[0].trust is None]


@pytest.mark.parametrize(("rule", "settings", "shape"), WITHOUT_PARAMETER, ids=name_of)
def test_without_an_l2_term_the_step_does_not_see_the_parameter(rule, settings, shape, backend):
    if "weight_decay" in rule.defaults:
        settings = {**settings, "weight_decay": 0.0}
    outcomes = [
        stepped(rule, settings, DTYPES[0], backend, 0.0, random(shape, seed).astype(np.float32))[0]
        for seed in (1, 2)
    ]
    for one, other in zip(*outcomes, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("rule", "settings", "shape"), SETTINGS, ids=name_of)
def test_unsigned_slots_are_never_negative_and_others_may_be(rule, settings, shape, backend):
    param = random(shape, 9)
    for start in (first_value, lambda slot, h: 0.5 if slot.unsigned else -0.5):
        after, state = stepped(rule, settings, DTYPES[0], backend, None, param, start)
        assert all(np.isfinite(p).all() for p in after)
        for slot, array in zip(rule.slots, state, strict=True):
            assert array is None or not slot.unsigned or (array >= 0).all(), slot.name
