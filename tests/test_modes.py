"""Rules that keep an average of the parameters: eval() shows it, train() goes on, files know which it was."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from snapshots import BACKENDS, check_step, contents, random, unchanged

import fastgd
from fastgd import oracle
from fastgd.rules import RULES

F32 = np.float32
AVERAGED = [name for name, rule in RULES.items() if rule.average]
SETTINGS = [(name, settings) for name in AVERAGED for settings in oracle.ORACLE[name].settings]
SHAPES = [(3, 4), (5,), (), (0,)]


def params(dtype=F32):
    return [random(s, i, dtype) for i, s in enumerate(SHAPES)]


def grads(seed, dtype=F32):
    return [random(s, 10 * seed + i, dtype) for i, s in enumerate(SHAPES)]


def trained(name, backend, steps=3, **settings):
    opt = fastgd.optim.create(name, params(), backend=backend, **settings)
    for t in range(steps):
        opt.step(grads(t))
    return opt


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_eval_gives_the_weighted_average_of_the_formula(name, settings, backend):
    p = random(50, 0, np.float64)
    opt = fastgd.optim.create(name, [p], backend=backend, **settings)
    h = {**RULES[name].defaults, **settings}
    right, state, sign = p.copy(), {}, -1.0 if h["maximize"] else 1.0
    for t in range(1, 7):
        grad = random(50, t, np.float64)
        right = oracle.ORACLE[name].formula(right, sign * grad, state, t, h)
        opt.step([grad])
        np.testing.assert_allclose(p, right, rtol=0, atol=4e-15)
        opt.eval()
        np.testing.assert_allclose(p, state["x"], rtol=0, atol=8e-15)
        opt.train()
        np.testing.assert_allclose(p, right, rtol=0, atol=8e-15)


@pytest.mark.parametrize("name", AVERAGED)
def test_there_and_back(name, backend):
    opt = trained(name, backend)
    before = [np.array(p) for p in opt.parameters()]
    largest = max(np.abs(entry["z"]).max(initial=0) for entry in opt.state_dict()["state"].values())
    for _ in range(3):
        assert opt.training
        opt.eval()
        assert not opt.training
        shown = contents(opt)
        opt.eval()
        assert contents(opt) == shown
        assert all(np.any(p != b) for p, b in zip(opt.parameters(), before, strict=True) if b.size)
        opt.train()
        opt.train()
        for p, b in zip(opt.parameters(), before, strict=True):
            np.testing.assert_allclose(p, b, rtol=0, atol=3 * np.finfo(F32).eps * largest)


@pytest.mark.parametrize("name", AVERAGED)
def test_backends_give_the_same_bits_in_both_modes(name):
    opts = [trained(name, backend) for backend in BACKENDS]
    for mode in ("eval", "train", "eval"):
        for opt in opts:
            getattr(opt, mode)()
        assert contents(opts[0]) == contents(opts[1])


@pytest.mark.parametrize("name", AVERAGED)
def test_no_step_between_eval_and_train(name, backend):
    opt, kept = trained(name, backend), grads(5)
    opt.step(kept)
    opt.eval()
    for given in (kept, kept, grads(6)):
        with unchanged(opt), pytest.raises(RuntimeError, match=r"call train\(\) before step"):
            opt.step(given)
    opt.train()
    check_step(opt, kept)


@pytest.mark.parametrize("name", AVERAGED)
def test_a_parameter_without_a_step_is_left_alone(name, backend):
    opt = fastgd.optim.create(name, params(), backend=backend)
    with unchanged_parameters(opt):
        opt.eval()
        opt.train()
    first, *others = grads(0)
    opt.step([first, *[None for _ in others]])
    with unchanged_parameters(opt, slice(1, None)):
        opt.eval()
    with unchanged_parameters(opt, slice(1, None)):
        opt.train()
    check_step(opt, grads(1))


class unchanged_parameters:
    def __init__(self, opt, which=slice(None)):
        self.parameters = opt.parameters()[which]

    def __enter__(self):
        self.before = [p.tobytes() for p in self.parameters]

    def __exit__(self, *error):
        assert [p.tobytes() for p in self.parameters] == self.before


def test_each_group_has_its_own_beta_and_any_layout_will_do(backend):
    base = random((6, 2), 0)
    ps = [base[:, 0], random((3, 4), 1).T, random(4, 2)]
    groups = [{"params": ps[:2], "momentum": 0.6}, {"params": ps[2:]}]
    opt = fastgd.SGDScheduleFree(groups, lr=0.1, momentum=0.8, backend=backend)
    beside = base[:, 1].copy()
    for t in range(3):
        opt.step([random(p.shape, 20 + t) for p in ps])
    y = [p.copy() for p in ps]
    opt.eval()
    state = opt.state_dict()["state"]
    for i, beta in enumerate([0.6, 0.6, 0.8]):
        right = (y[i] - (1 - F32(beta)) * state[i]["z"]) / F32(beta)
        np.testing.assert_allclose(ps[i], right, rtol=0, atol=1e-6)
    assert base[:, 1].tobytes() == beside.tobytes()


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("name", AVERAGED)
def test_snapshots_know_the_mode(name, evaluating, backend, tmp_path):
    opt = trained(name, backend)
    if evaluating:
        opt.eval()
    assert opt.state_dict()["training"] is not evaluating
    opt.save(tmp_path / "opt.safetensors")
    loaded = fastgd.optim.create(name, [p.copy() for p in opt.parameters()], backend=backend)
    loaded.load(tmp_path / "opt.safetensors")
    for other in (loaded, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        assert other.training is not evaluating
        assert contents(other) == contents(opt)
        with unchanged(opt):
            other.train()
            other.step(grads(7))
    loaded.load_state_dict(trained(name, backend).state_dict())
    assert loaded.training


@pytest.mark.parametrize("value", [1, None, "yes", "missing"])
def test_a_state_without_its_mode_is_refused(value, backend):
    opt = trained("sgd_schedule_free", backend)
    state = opt.state_dict()
    if value == "missing":
        del state["training"]
        reason, error = "it has no 'training'", ValueError
    else:
        state["training"] = value
        reason, error = "the state's 'training' must be True or False", TypeError
    opt.eval()
    with unchanged(opt), pytest.raises(error, match=reason):
        opt.load_state_dict(state)


def test_a_rule_that_keeps_no_average_has_one_mode(backend):
    opt = fastgd.AdamW(params(), backend=backend)
    opt.step(grads(0))
    with unchanged(opt):
        opt.eval()
    assert opt.training
    assert "training" not in opt.state_dict()
    opt.step(grads(1))
    opt.train()


def test_the_mode_is_not_set_by_hand():
    with pytest.raises(AttributeError):
        fastgd.SGDScheduleFree(params()).training = False


def test_lr_0_averages_nothing(backend):
    opt = fastgd.SGDScheduleFree(params(), lr=0.0, backend=backend)
    before = [p.tobytes() for p in opt.parameters()]
    for t in range(2):
        opt.step(grads(t))
    assert [p.tobytes() for p in opt.parameters()] == before
    opt.param_groups[0]["lr"] = 0.1
    opt.step(grads(2))
    entry = opt.state_dict()["state"][0]
    assert entry["weight_sum"] == pytest.approx(0.01)
    assert entry["lr_max"] == 0.1


def test_asgd_averages_the_parameters_once_t0_is_over(backend):
    p = random(20, 0, np.float64)
    opt = fastgd.ASGD([p], lr=0.1, t0=3, backend=backend)
    seen = []
    for t in range(8):
        opt.step([random(20, 1 + t, np.float64)])
        seen.append(p.copy())
        # the average begins anew until its weight, 1 / max(1, t - t0), is below 1
        np.testing.assert_allclose(
            opt.state_dict()["state"][0]["ax"],
            np.mean(seen[4:], axis=0) if t > 4 else seen[-1],
            rtol=0,
            atol=1e-15,
        )


def test_a_beta_that_cannot_be_divided_by_is_refused(backend):
    opt = trained("sgd_schedule_free", backend)
    opt.param_groups[0]["momentum"] = 0.0
    with unchanged(opt), pytest.raises(ValueError, match="group 0: momentum must be above 0"):
        opt.eval()
    assert opt.training
