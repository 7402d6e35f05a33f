"""Hyperparameters that change on the way: from the next step on, by a plan that is kept where it can be."""

from __future__ import annotations

import numpy as np
import pytest
from snapshots import BACKENDS, check_step, contents, random, rebuilt, unchanged

import fastgd
from fastgd.rules import RULES, resolved

F32 = np.float32

CHANGES = [
    ("sgd", {"dampening": 0.0}, {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9}, {"momentum": 0.0}),
    ("sgd", {"momentum": 0.5}, {"momentum": 0.9, "nesterov": True}),
    ("sgd", {}, {"weight_decay": 0.25}),
    ("sgd", {}, {"maximize": True}),
    ("adam", {}, {"amsgrad": True}),
    ("adam", {"amsgrad": True}, {"amsgrad": False}),
    ("adamw", {"weight_decay": 0.0}, {"weight_decay": 0.3}),
    ("adamw", {}, {"betas": (0.5, 0.75), "eps": 1e-3, "lr": 0.5}),
    ("rmsprop", {}, {"centered": True}),
    ("rmsprop", {}, {"momentum": 0.9}),
    ("adagrad", {}, {"lr_decay": 0.5, "weight_decay": 0.1}),
]


@pytest.mark.parametrize(("rule", "first", "then"), CHANGES)
def test_a_change_holds_from_the_next_step_on(rule, first, then):
    params = {b: [random(40, 0), random((3, 3), 1)] for b in BACKENDS}
    opts = {b: fastgd.optim.create(rule, params[b], backend=b, **first) for b in BACKENDS}
    for t in range(6):
        for opt in opts.values():
            group = opt.param_groups[0]
            if t in (2, 4):
                group.update(then if t == 2 else {k: group.rule.defaults[k] for k in then} | first)
                kept = rebuilt(opt)
                start = resolved(RULES[rule], {**RULES[rule].defaults, **first})
                plain = {**start, **(then if t == 2 else {})}
                assert {k: kept.param_groups[0][k] for k in plain} == plain
            check_step(opt, [random(40, 5 + t), random((3, 3), 6 + t)])
        assert contents(opts["native"]) == contents(opts["reference"])


PLANS_KEPT = [
    ("sgd", {"momentum": 0.5, "weight_decay": 0.1}, {"weight_decay": 0.3, "momentum": 0.9}),
    ("adamw", {}, {"betas": (0.5, 0.75), "eps": 1e-3, "weight_decay": 0.3}),
    ("nadam", {}, {"momentum_decay": 0.5}),
    ("adagrad", {}, {"lr_decay": 0.5}),
]


@pytest.mark.parametrize(("rule", "first", "then"), PLANS_KEPT)
def test_numbers_that_turn_no_switch_leave_the_plan(rule, first, then, backend):
    """They may change at every step: with what is left of an epoch, or with a schedule of one's own."""
    grads = [random(40, 1)]
    opt = fastgd.optim.create(rule, [random(40, 0)], backend=backend, **first)
    check_step(opt, grads)
    run = opt._planner.running
    for name, value in then.items():
        opt.param_groups[0][name] = value
        check_step(opt, grads)
        assert opt._planner.running is run


def test_numbers_that_do_not_go_together_are_refused_at_the_step(backend):
    """Each alone would leave the plan; the step is refused until the other one is set, too."""
    opt = fastgd.AdEMAMix([random(4, 0)], backend=backend)
    grads = [random(4, 1)]
    opt.step(grads)
    group = opt.param_groups[0]
    group["betas"] = (0.9, 0.999, 1.0 - 1e-9)
    group["beta3_warmup"] = 10
    with unchanged(opt), pytest.raises(ValueError, match=r"betas\[2\] must be below"):
        opt.step(grads)
    group["betas"] = (0.9, 0.999, 0.99)
    check_step(opt, grads)


def test_momentum_turned_on_starts_from_nothing(backend):
    p = np.zeros(2, F32)
    opt = fastgd.SGD([p], lr=1.0, backend=backend)
    g = np.ones(2, F32)
    seen = []
    for momentum in (0.0, 0.0, 0.5, 0.5, 0.0, 0.5):
        opt.param_groups[0]["momentum"] = momentum
        opt.step([g])
        seen.append(-p[0])
    # steps of 1, 1, then momentum 1, 1.5, then 1, then the momentum that was kept: 0.5 * 1.5 + 1
    assert seen == [1, 2, 3, 4.5, 5.5, 7.25]


def test_initial_value_may_change_until_the_first_step(backend):
    p = np.zeros(2, F32)
    opt = fastgd.Adagrad([p], lr=1.0, eps=0.0, backend=backend)
    opt.step([np.full(2, np.nan, F32)], skip_nonfinite=True)
    opt.param_groups[0]["initial_accumulator_value"] = 3.0
    opt.step([np.ones(2, F32)])
    assert p.tolist() == [-0.5, -0.5]
