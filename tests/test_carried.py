"""Numbers that parameters carry from step to step beside their arrays, in a rule made for these tests."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from snapshots import BACKENDS, check_step, contents, random, unchanged

from fastgd import optim
from fastgd.rules import RULES

SGD = RULES["sgd"]


def fold(h, step, carried):
    product, lrs = carried
    lr, *rest = SGD.fold(h, step, ())
    return lr * (1 + product) / (1 + lrs), *rest


def carry(h, step, carried):
    product, lrs = carried
    return product * (1 - 0.5 / step), lrs + h["lr"]


#: gradient descent whose rate depends on a running product and a running sum
CARRYING = SGD._replace(carried=(("product", 1.0), ("lrs", 0.25)), fold=fold, carry=carry)


class Carrying(optim.Optimizer):
    rule = CARRYING


def expected(step, lr=0.1):
    """What is carried out of that many steps with one lr."""
    carried = CARRYING.carried_at_first
    for t in range(1, step + 1):
        carried = carry({"lr": lr}, t, carried)
    return dict(zip(("product", "lrs"), carried, strict=True))


def carried_of(opt):
    return [{k: entry[k] for k in ("product", "lrs")} for entry in opt.state_dict()["state"].values()]


def make(backend, **hyperparameters):
    groups = [{"params": [random(3, 0), random((2, 2), 1)]}, {"params": [random(5, 2)], "lr": 0.3}]
    return Carrying(groups, lr=0.1, backend=backend, **hyperparameters)


def grads(seed):
    return [random(3, seed), random((2, 2), seed + 1), random(5, seed + 2)]


def test_the_values_before_a_step_are_folded_and_the_next_are_kept(backend):
    p = np.zeros(2)
    opt = Carrying([p], lr=0.5, backend=backend)
    right = 0.0
    for t in range(1, 6):
        before = expected(t - 1, 0.5)
        right -= 0.5 * (1 + before["product"]) / (1 + before["lrs"])
        opt.step([np.ones(2)])
        assert p[0] == pytest.approx(right, rel=1e-15)
        assert carried_of(opt) == [expected(t, 0.5)]
        assert all(type(v) is float for v in carried_of(opt)[0].values())


def test_backends_agree_and_a_fresh_optimizer_goes_on_alike():
    opts = [make(b, momentum=0.5) for b in BACKENDS]
    for t in range(7):
        for opt in opts:
            given = grads(t)
            given[t % 3] = None if t % 2 else given[t % 3]
            check_step(opt, given, clip_norm=1.0)
        assert contents(opts[0]) == contents(opts[1])


def test_parameters_that_carry_other_numbers_step_apart(backend):
    """In one group and at one step count, but with another lr when they made it."""
    opt = make(backend)
    first, second, third = grads(0)
    opt.step([first, None, None])
    opt.param_groups[0]["lr"] = 0.7
    opt.step([None, second, third])
    assert carried_of(opt) == [expected(1, 0.1), expected(1, 0.7), expected(1, 0.3)]
    check_step(opt, grads(1))
    assert [round(c["lrs"], 12) for c in carried_of(opt)] == [1.05, 1.65, 0.85]


def test_a_skipped_step_carries_nothing_on(backend):
    opt = make(backend)
    bad = [np.full_like(g, np.nan) for g in grads(0)]
    assert opt.step(bad, skip_nonfinite=True).skipped
    for t in range(1, 5):
        opt.step(grads(t), skip_nonfinite=True)
        with unchanged(opt):
            assert opt.step(bad, skip_nonfinite=True).skipped
        assert carried_of(opt) == [expected(t), expected(t), expected(t, 0.3)]


def test_a_refused_step_carries_nothing_on(backend):
    opt = make(backend)
    for t in range(3):
        opt.step(grads(t))
        with unchanged(opt), pytest.raises(ValueError, match="has shape"):
            opt.step([*grads(t)[:2], random(4, 0)])


@pytest.mark.parametrize("how", [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))])
def test_copies_carry_on(how, backend):
    opt = make(backend)
    for t in range(3):
        opt.step(grads(t))
        other = how(opt)
        assert contents(other) == contents(opt)
        with unchanged(opt):
            other.step(grads(t + 1))


def test_a_file_holds_it(tmp_path, backend):
    opt = make(backend)
    opt.step(grads(0))
    opt.save(tmp_path / "opt.safetensors")
    other = make(backend)
    other.load(tmp_path / "opt.safetensors")
    assert carried_of(other) == carried_of(opt)


def test_loading_an_earlier_state_goes_back(backend):
    opt = make(backend)
    opt.step([*grads(0)[:2], None])
    early = opt.state_dict()
    for t in range(1, 4):
        opt.step(grads(t))
    opt.load_state_dict(early)
    assert carried_of(opt) == [expected(1)] * 2
    opt.step(grads(1))
    assert carried_of(opt) == [expected(2), expected(2), expected(1, 0.3)]


MISSING = object()


@pytest.mark.parametrize(
    ("value", "error", "reason"),
    [
        (MISSING, ValueError, "has no 'lrs'"),
        (math.nan, ValueError, "'lrs' must be finite, not nan"),
        (math.inf, ValueError, "'lrs' must be finite, not inf"),
        ("1", TypeError, "'lrs' must be a number, not '1'"),
        (np.ones(2), TypeError, "'lrs' must be a number, not ndarray"),
        (None, TypeError, "'lrs' must be a number, not NoneType"),
    ],
)
def test_what_cannot_be_carried_is_refused_whole(backend, value, error, reason):
    opt, other = make(backend), make(backend)
    opt.step(grads(0))
    for t in range(2):
        other.step(grads(t))
    state = other.state_dict()
    if value is MISSING:
        del state["state"][2]["lrs"]
    else:
        state["state"][2]["lrs"] = value
    with unchanged(opt), pytest.raises(error, match=rf"state of parameter 0 of group 1:? {reason}"):
        opt.load_state_dict(state)
