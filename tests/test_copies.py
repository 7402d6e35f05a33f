"""Snapshots, copies and pickles of an optimizer in mid-training go on as it would have."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from snapshots import check_step, contents, fitted, random, rebuilt, unchanged

import fastgd
from fastgd.rules import RULES

F32 = np.float32


@pytest.mark.parametrize("rule", RULES)
def test_training_goes_on_from_a_snapshot(rule, backend):
    decay = {"weight_decay": 0.1} if "weight_decay" in RULES[rule].defaults else {}
    four = fitted(rule, (4,))
    opt = fastgd.optim.create(rule, [random((3, 2), 0).T, random(four, 1)], backend=backend, **decay)
    for t in range(3):
        opt.step([random((2, 3), t), random(four, t)], clip_norm=0.5, skip_nonfinite=True)
        opt.step([np.full((2, 3), np.inf, F32), random(four, t)], skip_nonfinite=True)
    other = rebuilt(opt)
    assert contents(other) == contents(opt)
    with unchanged(opt):
        other.step([random((2, 3), 8), random(four, 8)])
    check_step(opt, [random((2, 3), 8), random(four, 8)])
    assert contents(other) == contents(opt)


@pytest.mark.parametrize("how", [copy.deepcopy, copy.copy, lambda o: pickle.loads(pickle.dumps(o))])
def test_a_copy_goes_on_alike_and_apart(how, backend):
    groups = [{"params": {"w": random((2, 3), 0)}}, {"params": [random(4, 1, np.float64)], "lr": 0.5}]
    opt = fastgd.Adam(groups, backend=backend)
    for made in (opt, how(opt)):
        made.step([random((2, 3), 2), None])
        other = how(made)
        assert type(other) is fastgd.Adam
        assert other.backend is made.backend
        assert contents(other) == contents(made)
        assert other.param_groups[0].members[0].name == "w"
        if how is copy.copy:
            assert other.param_groups[1]["params"][0] is made.param_groups[1]["params"][0]
            continue
        with unchanged(made):
            other.step([random((2, 3), 3), random(4, 4, np.float64)])
        made.step([random((2, 3), 3), random(4, 4, np.float64)])
        assert contents(other) == contents(made)


def test_a_model_and_its_optimizer_are_copied_together(backend):
    model = {"w": np.zeros(3, F32)}
    opt = fastgd.SGD(model, lr=1.0, backend=backend)
    opt.step([np.ones(3, F32)])
    for model2, opt2 in (copy.deepcopy((model, opt)), pickle.loads(pickle.dumps((model, opt)))):
        opt2.step([np.ones(3, F32)])
        assert model2["w"].tolist() == [-2, -2, -2]
    assert model["w"].tolist() == [-1, -1, -1]
