"""Schedules: their values, their composition, their errors, and what an optimizer makes of one."""

import copy
import math
import pickle

import numpy as np
import pytest

import fastgd
from fastgd import backends, schedules
from fastgd.cosine import cos_pi
from fastgd.rules import RULES

COSINE = schedules.Cosine(0.1, steps=10)

#: one of each kind with the other arguments away from their defaults
EXAMPLES = (
    schedules.Constant(0.3),
    schedules.InverseTime(0.3, 0.5, 7),
    schedules.InverseTime(0.3, 0.5, 7, whole_epochs=False),
    schedules.InverseSquareRoot(0.3, 11),
    schedules.Step(0.3, 9, 0.5),
    schedules.MultiStep(0.3, [3, 17], 0.25),
    schedules.Exponential(0.3, 0.97),
    schedules.Polynomial(0.3, 40, 2.5, 0.01),
    schedules.Cosine(0.3, 40, 0.01),
    schedules.WarmRestarts(0.3, 10, 2, 0.01),
    schedules.Triangular(0.01, 0.3, 6, 9),
    schedules.Triangular(0.01, 0.3, 6, mode="triangular2"),
    schedules.Triangular(0.01, 0.3, 6, mode="exp_range", factor=0.99),
    schedules.OneCycle(0.3, 40),
    schedules.OneCycle(0.3, 40, 0.4, "linear", 10.0, 100.0, True),
    schedules.WarmupStableDecay(0.3, 40, 5, 10),
    schedules.WarmupStableDecay(0.3, 40, 5, 10, "linear", 0.01),
    COSINE.warmup(5, start=0.1),
    COSINE.per_epoch(3),
    COSINE * schedules.Exponential(1.0, 0.9),
    schedules.Join([COSINE, schedules.Constant(0.2)], [10]),
)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_rates_are_numbers_up_to_the_peak(schedule):
    rates = schedule.values(100)
    assert rates.dtype == np.float64
    assert rates.tolist() == [schedule(step) for step in range(100)]
    assert (rates >= 0).all()
    assert rates.max() <= schedule.peak * (1 + 1e-15)


@pytest.mark.parametrize("schedule", EXAMPLES, ids=repr)
def test_a_schedule_is_a_value(schedule):
    assert pickle.loads(pickle.dumps(schedule)) == copy.deepcopy(schedule) == schedule
    assert schedule.warmup(3) != schedule


def test_every_kind_has_an_example():
    assert {type(schedule) for schedule in EXAMPLES} >= set(schedules.KINDS)
    assert {kind.__name__ for kind in schedules.KINDS} < set(schedules.__all__)


def test_what_is_beyond_the_last_step_stays():
    for schedule in (
        schedules.Polynomial(0.3, 40, 2.0, 0.01),
        schedules.Cosine(0.3, 40, 0.01),
        schedules.WarmupStableDecay(0.3, 40, 5, 10, end=0.01),
    ):
        assert schedule(40) == schedule(10**6) == 0.01
    assert schedules.OneCycle(0.3, 40)(39) == schedules.OneCycle(0.3, 40)(10**6)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (schedules.InverseTime(1.0, 0.5, 2), [1, 1, 2 / 3, 2 / 3, 1 / 2]),
        (schedules.MultiStep(1.0, [1, 3], 0.5), [1, 0.5, 0.5, 0.25, 0.25]),
        (schedules.WarmupStableDecay(1.0, 8, 2, 4, "linear"), [0, 0.5, 1, 1, 1, 0.75, 0.5, 0.25, 0]),
        (schedules.WarmupStableDecay(1.0, 5, 0, 4), [1, 1, 0.5, 1 - math.sqrt(0.5), 1 - math.sqrt(0.75), 0]),
        (schedules.Constant(1.0).warmup(4), [0, 0.25, 0.5, 0.75, 1, 1]),
        (schedules.Constant(1.0).warmup(2, start=0.5), [0.5, 0.75, 1]),
        (schedules.Exponential(1.0, 0.5).per_epoch(2), [1, 1, 0.5, 0.5, 0.25]),
        (schedules.Exponential(1.0, 0.5) * 3, [3, 1.5, 0.75]),
        (schedules.Join([schedules.Exponential(1.0, 0.5)] * 2, [2]), [1, 0.5, 1, 0.5, 0.25]),
        (schedules.WarmRestarts(1.0, 2, 2), [1, 0.5, 1, (1 + math.sqrt(0.5)) / 2, 0.5]),
    ],
    ids=repr,
)
def test_values(schedule, expected):
    np.testing.assert_allclose(schedule.values(len(expected)), expected, rtol=1e-15, atol=1e-17)


def test_cosine_of_a_half_turn():
    x = np.linspace(0, 1, 10_001)
    np.testing.assert_allclose([cos_pi(value) for value in x], np.cos(np.pi * x), atol=4e-16, rtol=0)
    assert (cos_pi(0.0), cos_pi(0.5), cos_pi(1.0)) == (1.0, 0.0, -1.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: schedules.Cosine(-0.1, 10), "lr must be at least 0"),
        (lambda: schedules.Cosine(math.nan, 10), "lr must be at least 0 and finite, not nan"),
        (lambda: schedules.Cosine("0.1", 10), "lr must be a number"),
        (lambda: schedules.Cosine(0.1, 0), "steps must be at least 1"),
        (lambda: schedules.Cosine(0.1, 10.5), "steps must be a whole number"),
        (lambda: schedules.Cosine(0.1, 10, 0.2), "end, 0.2, must not be above lr, 0.1"),
        (
            lambda: schedules.MultiStep(0.1, [5, 3]),
            r"milestones must rise, each above the one before, not \[5",
        ),
        (lambda: schedules.MultiStep(0.1, 5), "milestones must be whole numbers, not 5"),
        (lambda: schedules.Exponential(0.1, 1.01), "factor must be at most 1"),
        (lambda: schedules.Triangular(0.2, 0.1, 5), "low, 0.2, must not be above high, 0.1"),
        (
            lambda: schedules.Triangular(0.1, 0.2, 5, mode="saw"),
            "mode must be one of triangular, triangular2",
        ),
        (lambda: schedules.OneCycle(0.1, 1), "steps must be at least 2"),
        (lambda: schedules.OneCycle(0.1, 10, 0.6, three_phases=True), "share_up must be at most 0.5"),
        (lambda: schedules.WarmupStableDecay(0.1, 10, 6, 5), "6 and 5, are more than all 10 steps"),
        (lambda: COSINE.warmup(5, start=2.0), "start is a share of the first rate"),
        (lambda: COSINE * "x", "factor must be a number"),
        (lambda: schedules.Warmup(0.1, 5), "schedule must be a schedule such as"),
        (lambda: schedules.Join([COSINE], [5]), "1 schedules need 0 milestones, not 1"),
        (lambda: schedules.Join([COSINE, 0.1], [5]), r"schedules\[1\] must be a schedule"),
        (lambda: schedules.ReduceOnPlateau(0.1, factor=1.0), r"factor must be in \[0, 1\)"),
        (lambda: schedules.ReduceOnPlateau(0.1, mode="low"), "mode must be one of min, max"),
    ],
)
def test_bad_arguments_are_refused_by_name(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()


# ---- As the lr of an optimizer -------------------------------------------------------------------------


def descend(opt, params, n):
    rng = np.random.default_rng(5)
    for _ in range(n):
        opt.step([rng.standard_normal(p.shape).astype(p.dtype) for p in params])


SCHEDULED = [rule for rule in RULES.values() if rule.hyperparameter("lr").folded]


@pytest.mark.parametrize("backend", ["native", "reference", "jit"])
@pytest.mark.parametrize("rule", SCHEDULED, ids=lambda rule: rule.name)
def test_a_schedule_is_the_rate_set_before_every_step(rule, backend):
    if not backends.get(backend).supports(rule, "float64"):
        pytest.skip(f"{backend} has no {rule.title}")
    schedule = schedules.OneCycle(0.1, 12)
    params, others = [np.ones((3, 4))], [np.ones((3, 4))]
    opt = getattr(fastgd, rule.title)(params, lr=schedule, ema_decay=0.9, backend=backend)
    given = {k: v for k, v in opt.param_groups[0].items() if k not in ("params", "lr")}
    twin = getattr(fastgd, rule.title)(others, lr=schedule(0), **given, backend=backend)
    rng = np.random.default_rng(0)
    for step in range(12):
        grads = [rng.standard_normal((3, 4))]
        assert opt.learning_rates() == [schedule(step)]
        twin.param_groups[0]["lr"] = schedule(step)
        opt.step(grads, clip_norm=1.0)
        twin.step(grads, clip_norm=1.0)
        assert params[0].tobytes() == others[0].tobytes()


def test_a_rule_whose_lr_is_no_rate_refuses_a_schedule():
    with pytest.raises(TypeError, match="group 0: lr must be a number, not Cosine"):
        fastgd.Rprop([np.ones(1)], lr=COSINE)


def test_any_function_of_the_step_will_do():
    params = [np.zeros(2)]
    opt = fastgd.SGD(params, lr=lambda step: 1.0 / (1 + step))
    for _ in range(3):
        opt.step([np.ones(2)])
    np.testing.assert_allclose(params[0], -(1 + 1 / 2 + 1 / 3))


def test_groups_have_their_own():
    params = [np.zeros(2), np.zeros(2)]
    opt = fastgd.SGD(
        [{"params": params[:1], "lr": schedules.Constant(1.0)}, {"params": params[1:]}], lr=COSINE * 0.5
    )
    opt.step([np.ones(2), np.ones(2)])
    assert [p[0] for p in params] == [-1.0, -0.05]
    assert opt.learning_rates() == [1.0, COSINE(1) * 0.5]


def test_a_number_and_a_schedule_take_turns():
    params = [np.zeros(1)]
    opt = fastgd.SGD(params, lr=1.0)
    opt.step([np.ones(1)])
    opt.param_groups[0]["lr"] = schedules.MultiStep(0.5, [2], 0.5)
    opt.step([np.ones(1)])  # step 1 of the schedule: the optimizer's steps count
    opt.step([np.ones(1)])
    opt.param_groups[0]["lr"] = 8.0
    opt.step([np.ones(1)])
    assert params[0][0] == -(1.0 + 0.5 + 0.25 + 8.0)


def test_a_skipped_step_does_not_count():
    params = [np.zeros(1)]
    opt = fastgd.SGD(params, lr=schedules.MultiStep(1.0, [1], 0.5))
    assert opt.step([np.array([np.nan])], skip_nonfinite=True).skipped
    opt.step([np.ones(1)])
    assert params[0][0] == -1.0
    assert opt.learning_rates() == [0.5]


def test_what_a_function_gives_is_checked_and_nothing_has_changed():
    params = [np.zeros(1)]
    with pytest.raises(ValueError, match="group 0: lr must be at least 0"):
        fastgd.SGD(params, lr=lambda step: -1.0)
    with pytest.raises(TypeError, match="group 0: momentum must be a number"):
        fastgd.SGD(params, momentum=schedules.Constant(0.9))
    opt = fastgd.SGD(params, lr=lambda step: 1.0 if step < 2 else math.nan, momentum=0.5)
    descend(opt, params, 2)
    before = params[0].copy()
    with pytest.raises(ValueError, match="lr at step 2 must be at least 0 and finite, not nan"):
        opt.step([np.ones(1)])
    assert params[0] == before
    assert opt.state_dict()["state"][0]["step"] == 2


def test_a_state_has_the_last_rate_as_a_number_and_a_schedule_goes_on(tmp_path):
    params, others = [np.ones(3)], [np.ones(3)]
    opt = fastgd.AdamW(params, lr=COSINE)
    descend(opt, params, 4)
    assert opt.state_dict()["param_groups"][0]["lr"] == COSINE(3)
    opt.save(tmp_path / "opt.safetensors")
    other = fastgd.AdamW(others, lr=COSINE)
    other.load(tmp_path / "opt.safetensors")
    assert other.param_groups[0]["lr"] is COSINE
    assert other.learning_rates() == [COSINE(4)]
    plain = fastgd.AdamW([np.ones(3)])
    plain.load(tmp_path / "opt.safetensors")
    assert plain.param_groups[0]["lr"] == COSINE(3)
    assert (
        copy.deepcopy(opt).learning_rates() == pickle.loads(pickle.dumps(opt)).learning_rates() == [COSINE(4)]
    )


def test_decoupled_decay_takes_the_peak_for_the_largest_rate():
    schedule = schedules.Constant(0.2).warmup(4)
    opt = fastgd.AdamW([np.ones(1)], lr=schedule, decouple_lr=True)
    assert opt.param_groups[0]["max_lr"] == 0.2
    assert fastgd.AdamW([np.ones(1)], lr=lambda step: 0.3).param_groups[0]["max_lr"] == 0.3


def test_a_plateau_lowers_the_rate_of_an_optimizer_to_its_floor():
    params = [np.zeros(1)]
    plateau = schedules.ReduceOnPlateau(1.0, factor=0.25, patience=1, floor=0.1)
    opt = fastgd.SGD(params, lr=plateau)
    lowered = [plateau.update(score) for score in (3.0, 2.0, 2.0, math.nan)]
    assert lowered == [False, False, False, True]
    assert opt.learning_rates() == [0.25]
    opt.step([np.ones(1)])
    assert params[0][0] == -0.25
    assert [plateau.update(2.0) for _ in range(2)] == [False, True]
    assert opt.learning_rates() == [0.1]
    assert not plateau.exhausted
    state = plateau.state_dict()
    assert [plateau.update(2.0) for _ in range(2)] == [False, False]
    assert plateau.exhausted
    again = schedules.ReduceOnPlateau(1.0, factor=0.25, patience=1, floor=0.1)
    again.load_state_dict(state)
    assert (again(0), again.exhausted) == (0.1, False)


def test_a_plateau_whose_factors_end_a_rounding_above_the_floor_is_exhausted_there():
    plateau = schedules.ReduceOnPlateau(0.1, factor=0.1, patience=0, floor=1e-3)
    assert 0.1 * (0.1 * 0.1) > 1e-3
    assert [plateau.update(1.0) for _ in range(4)] == [False, True, True, False]
    assert plateau.exhausted


def test_a_plateau_over_a_schedule_does_not_lift_it_to_the_floor():
    plateau = schedules.ReduceOnPlateau(schedules.Constant(1.0).warmup(4), floor=0.5)
    assert [plateau(step) for step in range(5)] == [0, 0.25, 0.5, 0.75, 1]
