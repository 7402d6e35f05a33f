"""What single rules do where it matters: weight decay that follows no rate, warmups, first steps, NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest
from snapshots import fitted, random, rebuilt, unchanged

import fastgd
from fastgd.rules import RULES

F32 = np.float32
DECOUPLING = [name for name, rule in RULES.items() if "decouple_lr" in rule.defaults]
ON = {"weight_decay": 0.25, "decouple_lr": True}


# ---- weight decay ----


@pytest.mark.parametrize("name", DECOUPLING)
def test_fully_decoupled_decay_follows_the_schedule_alone(name, backend):
    """With gradients of 0 only decay is left: lr / max_lr weight_decay, whatever lr is."""
    share = 0.25
    for lr in (1e-3, 10.0):
        p = np.ones(fitted(name, (3,)))
        opt = fastgd.optim.create(name, [p], lr=lr, backend=backend, **ON)
        assert opt.param_groups[0]["max_lr"] == lr
        right = 1.0
        for part in (1.0, 1.0, 0.5):
            opt.param_groups[0]["lr"] = part * lr
            opt.step([np.zeros_like(p)])
            if RULES[name].average is None:
                proximal = "no_prox" in RULES[name].defaults
                right = right / (1 + part * share) if proximal else right * (1 - part * share)
                np.testing.assert_allclose(p, right, rtol=1e-14)
        assert (p < 0.6).all()


@pytest.mark.parametrize("name", DECOUPLING)
def test_max_lr_is_lr_at_first_and_each_groups_own(name):
    params = [random(fitted(name, (2,)), seed) for seed in range(3)]
    groups = [{"params": [params[0]], "lr": 0.5}, {"params": [params[1]]}]
    groups.append({"params": [params[2]], "max_lr": 4.0})
    opt = fastgd.optim.create(name, groups, lr=0.125)
    assert [g["max_lr"] for g in opt.param_groups] == [0.5, 0.125, 4.0]
    opt.param_groups[0]["lr"] = 0.25
    assert opt.param_groups[0]["max_lr"] == 0.5
    assert [g["max_lr"] for g in rebuilt(opt).param_groups] == [0.5, 0.125, 4.0]
    with pytest.raises(TypeError, match="group 1: max_lr must be a number, not NoneType"):
        opt.param_groups[1]["max_lr"] = None


@pytest.mark.parametrize("name", DECOUPLING)
def test_max_lr_of_0_is_refused_when_it_would_divide(name, backend):
    shape = fitted(name, (2,))
    opt = fastgd.optim.create(name, [random(shape, 0)], lr=0.0, backend=backend)
    opt.step([random(shape, 1)])
    with pytest.raises(ValueError, match="group 0: decouple_lr needs max_lr above 0"):
        fastgd.optim.create(name, [random(shape, 0)], lr=0.0, decouple_lr=True)
    opt.param_groups[0]["decouple_lr"] = True
    with unchanged(opt), pytest.raises(ValueError, match="group 0: decouple_lr needs max_lr above 0"):
        opt.step([random(shape, 1)])


@pytest.mark.parametrize("name", [n for n, r in RULES.items() if "decoupled_weight_decay" in r.defaults])
def test_decoupled_decay_does_not_see_the_gradient(name, backend):
    """A step without decay and what the parameter loses; as an L2 term it ends elsewhere."""
    start, grad = random(50, 0, np.float64), random(50, 1, np.float64)
    first, last = {}, {}
    for decay, decoupled in ((0.0, False), (0.3, True), (0.3, False)):
        p = start.copy()
        opt = fastgd.optim.create(
            name, [p], lr=0.1, weight_decay=decay, decoupled_weight_decay=decoupled, backend=backend
        )
        opt.step([grad])
        first[decay, decoupled] = p.copy()
        for t in range(3):
            opt.step([random(50, 2 + t, np.float64)])
        last[decay, decoupled] = p
    np.testing.assert_allclose(first[0.3, True], first[0.0, False] - 0.03 * start, rtol=0, atol=1e-15)
    assert np.abs(last[0.3, False] - last[0.3, True]).max() > 1e-3


def test_adam_with_decoupled_decay_is_adamw(backend):
    ends = []
    for name, settings in (("adam", {"decoupled_weight_decay": True}), ("adamw", {})):
        p = random(50, 0)
        opt = fastgd.optim.create(name, [p], weight_decay=0.3, backend=backend, **settings)
        for t in range(3):
            opt.step([random(50, 1 + t)])
        ends.append(p.tobytes())
    assert ends[0] == ends[1]


# ---- signs and NaN ----


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.orthogonal is None])
def test_nan_in_a_gradient_stays_visible(name, backend):
    """In its own element and no other; a sign of NaN that were 0 would hide it."""
    p = random(20, 0)
    opt = fastgd.optim.create(name, [p], backend=backend)
    for t in range(8):
        grad = random(20, 1 + t)
        grad[3] = math.nan if t == 6 else grad[3]
        opt.step([grad])
    assert np.isnan(p).tolist() == [i == 3 for i in range(20)]


@pytest.mark.parametrize("name", ["lion", "signum", "rprop"])
def test_elements_without_a_gradient_stay_where_they_are(name, backend):
    p = random(4, 0)
    before = p.copy()
    opt = fastgd.optim.create(name, [p], lr=0.5, backend=backend)
    for _ in range(3):
        opt.step([np.array([0.0, -0.0, 2.0, -1e-3], F32)])
    assert p[:2].tolist() == before[:2].tolist()
    assert p[2] < before[2] and p[3] > before[3]


def test_lion_and_signum_move_all_elements_equally_far(backend):
    for name in ("lion", "signum"):
        p = np.zeros(30)
        fastgd.optim.create(name, [p], lr=0.25, backend=backend).step([random(30, 0, np.float64)])
        assert set(np.abs(p)) == {0.25}


def test_rprop_by_hand(backend):
    p = np.zeros(1)
    opt = fastgd.Rprop([p], lr=1.0, etas=(0.5, 2.0), step_sizes=(0.25, 4.0), backend=backend)
    seen = []
    for gradient in (3.0, 1.0, 2.0, 5.0, -1.0, -1.0, 1.0, 2.0):
        opt.step([np.array([gradient])])
        seen.append(-p[0])
    # sizes 1, 2, 4, 4 (the largest), 2 and no step, 2 back, 1 and no step, 1
    assert seen == [1, 3, 7, 11, 11, 9, 9, 10]


# ---- what depends on the step ----


def scalars(name, step, carried=None, **settings):
    rule = RULES[name]
    h = {**rule.defaults, **settings}
    folded = rule.fold(h, step, rule.carried_at_first if carried is None else carried)
    return dict(zip(rule.scalars, folded, strict=True))


def test_ademamix_warms_up_from_the_fast_average_to_the_slow():
    h = {"betas": (0.9, 0.999, 0.9999), "beta3_warmup": 100, "alpha": 4.0, "alpha_warmup": 10, "lr": 1.0}
    slow = [1 - scalars("ademamix", t, **h)["one_minus_beta3"] for t in range(1, 103)]
    assert slow == sorted(slow)
    assert 0.9 < slow[0] < 0.995
    assert slow[99:] == [1 - (1 - 0.9999)] * 3
    # half lives grow evenly: half way, half of the longest
    assert math.log(0.5) / math.log(slow[49]) == pytest.approx(math.log(0.5) / math.log(0.9999) / 2, rel=2e-3)
    weights = [scalars("ademamix", t, **h)["slow_size"] for t in (1, 5, 10, 11)]
    assert weights == pytest.approx([0.4, 2.0, 4.0, 4.0])


def test_radam_trusts_its_average_from_the_sixth_step_on():
    assert [scalars("radam", t)["rectified"] for t in (1, 5, 6, 1000)] == [0, 0, 1, 1]
    late = scalars("radam", 10**6)
    assert late["step_size"] == pytest.approx(1e-3, rel=1e-2)
    # with so short an average there is nothing to trust
    assert [scalars("radam", t, betas=(0.9, 0.5))["rectified"] for t in (1, 10, 10**5)] == [0, 0, 0]


def test_nadams_momentum_rises_to_beta1_and_its_product_is_carried(backend):
    p = np.zeros(1)
    opt = fastgd.NAdam([p], betas=(0.9, 0.999), momentum_decay=0.02, backend=backend)
    product = 1.0
    for t in range(1, 40):
        opt.step([np.ones(1)])
        product *= 0.9 * (1 - 0.5 * 0.96 ** (t * 0.02))
        assert opt.state_dict()["state"][0]["mu_product"] == pytest.approx(product, rel=1e-13)
    assert scalars("nadam", 10**7, carried=(0.0,))["step_size"] == pytest.approx(2e-3 * 0.9)


def test_schedule_free_warms_up_evenly():
    rates = [scalars("sgd_schedule_free", t, lr=0.5, warmup_steps=4)["lr"] for t in range(1, 7)]
    assert rates == [0.125, 0.25, 0.375, 0.5, 0.5, 0.5]
    assert scalars("sgd_schedule_free", 1)["share"] == 1.0


def test_asgds_rate_decays_and_a_new_one_holds_at_once():
    h = {"lr": 0.5, "lambd": 0.25, "alpha": 0.75}
    rates = [scalars("asgd", t, **h)["eta"] for t in (1, 2, 9)]
    assert rates == pytest.approx([0.5, 0.5 / 1.125**0.75, 0.5 / 2**0.75], rel=1e-15)
    assert scalars("asgd", 1, lr=0.25)["eta"] == 0.25


def test_adan_has_no_difference_at_the_first_step(backend):
    """Though its slot for the last gradient begins at 0."""
    p = np.zeros(5)
    opt = fastgd.Adan([p], backend=backend)
    opt.step([np.full(5, 2.0)])
    entry = opt.state_dict()["state"][0]
    assert not entry["exp_avg_diff"].any()
    assert (entry["prev"] == 2).all()
    opt.step([np.full(5, 3.0)])
    np.testing.assert_allclose(opt.state_dict()["state"][0]["exp_avg_diff"], (1 - 0.92) * 1.0)
