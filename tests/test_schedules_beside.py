"""Schedules equal torch's and optax's over a thousand steps, as far as these have them."""

import warnings

import numpy as np
import pytest

from fastgd import schedules

pytestmark = pytest.mark.peer

STEPS = 1000

#: (ours, the scheduler of torch in whose place it stands, its arguments)
TORCH = [
    (schedules.Constant(0.1), "ConstantLR", {"factor": 1.0}),
    (schedules.Step(0.1, 30, 0.7), "StepLR", {"step_size": 30, "gamma": 0.7}),
    (
        schedules.MultiStep(0.1, [30, 80, 555], 0.2),
        "MultiStepLR",
        {"milestones": [30, 80, 555], "gamma": 0.2},
    ),
    (schedules.Exponential(0.1, 0.993), "ExponentialLR", {"gamma": 0.993}),
    (schedules.Polynomial(0.1, 800, 1.7), "PolynomialLR", {"total_iters": 800, "power": 1.7}),
    (
        schedules.Constant(0.1).warmup(300, start=0.25),
        "LinearLR",
        {"start_factor": 0.25, "end_factor": 1.0, "total_iters": 300},
    ),
    (schedules.Cosine(0.1, 999, 1e-3), "CosineAnnealingLR", {"T_max": 999, "eta_min": 1e-3}),
    (
        schedules.WarmRestarts(0.1, 50, 2, 1e-3),
        "CosineAnnealingWarmRestarts",
        {"T_0": 50, "T_mult": 2, "eta_min": 1e-3},
    ),
    (schedules.WarmRestarts(0.1, 70), "CosineAnnealingWarmRestarts", {"T_0": 70}),
    *(
        (
            schedules.Triangular(0.01, 0.1, 40, 70, mode, 0.999),
            "CyclicLR",
            {
                "base_lr": 0.01,
                "max_lr": 0.1,
                "step_size_up": 40,
                "step_size_down": 70,
                "mode": mode,
                "gamma": 0.999,
            },
        )
        for mode in ("triangular", "triangular2", "exp_range")
    ),
    *(
        (
            schedules.OneCycle(0.1, STEPS, 0.35, anneal, 20.0, 500.0, three),
            "OneCycleLR",
            {
                "max_lr": 0.1,
                "total_steps": STEPS,
                "pct_start": 0.35,
                "anneal_strategy": torchs,
                "div_factor": 20.0,
                "final_div_factor": 500.0,
                "three_phase": three,
            },
        )
        for anneal, torchs in (("cosine", "cos"), ("linear", "linear"))
        for three in (False, True)
    ),
]


def torch_rates(name, arguments):
    torch = pytest.importorskip("torch", reason="torch is what they are compared with, and no dependency")
    # momentum 0.9 for those that would cycle it, too
    opt = torch.optim.SGD([torch.zeros(1, dtype=torch.float64, requires_grad=True)], lr=0.1, momentum=0.9)
    scheduler = getattr(torch.optim.lr_scheduler, name)(opt, **arguments)
    rates = []
    for step in range(STEPS):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        if step < STEPS - 1:
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("schedule", "name", "arguments"), TORCH, ids=lambda v: v if isinstance(v, str) else ""
)
def test_rates_are_those_of_torch(schedule, name, arguments):
    np.testing.assert_allclose(schedule.values(STEPS), torch_rates(name, arguments), rtol=0, atol=1e-12)


def test_join_is_sequential_lr():
    torch = pytest.importorskip("torch", reason="torch is what it is compared with, and no dependency")
    from torch.optim import lr_scheduler

    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    parts = [lr_scheduler.ExponentialLR(opt, 0.9), lr_scheduler.StepLR(opt, 7, 0.5)]
    with warnings.catch_warnings():
        # torch's SequentialLR calls its own parts in a way that it warns of
        warnings.simplefilter("ignore")
        scheduler = lr_scheduler.SequentialLR(opt, parts, milestones=[20])
        rates = []
        for _ in range(60):
            rates.append(opt.param_groups[0]["lr"])
            opt.step()
            scheduler.step()
    ours = schedules.Join([schedules.Exponential(0.1, 0.9), schedules.Step(0.1, 7, 0.5)], [20])
    np.testing.assert_allclose(ours.values(60), rates, rtol=0, atol=1e-12)


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["relative", "absolute"])
def test_reduce_on_plateau_is_that_of_torch(mode, threshold_mode):
    torch = pytest.importorskip("torch", reason="torch is what it is compared with, and no dependency")
    given = {"factor": 0.3, "patience": 3, "threshold": 0.01, "cooldown": 2}
    opt = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
        opt, mode=mode, threshold_mode=threshold_mode[:3], min_lr=1e-5, eps=0.0, **given
    )
    ours = schedules.ReduceOnPlateau(0.1, mode=mode, threshold_mode=threshold_mode, floor=1e-5, **given)
    scores = np.cumsum(np.random.default_rng(0).normal(0.001, 0.02, STEPS)) + 3.0
    for step, score in enumerate(scores):
        scheduler.step(score)
        ours.update(score)
        assert abs(ours(step) - opt.param_groups[0]["lr"]) < 1e-12


def test_rates_are_those_of_optax():
    optax = pytest.importorskip("optax", reason="optax is what they are compared with, and no dependency")
    pairs = [
        (schedules.Polynomial(0.1, 700, 2.0, 0.01), optax.polynomial_schedule(0.1, 0.01, 2.0, 700)),
        (schedules.Cosine(0.1, 700, 0.01), optax.cosine_decay_schedule(0.1, 700, alpha=0.1)),
        (schedules.Exponential(0.1, 0.99), optax.exponential_decay(0.1, 1, 0.99)),
        (
            schedules.Cosine(0.1, 600, 0.01).warmup(100),
            optax.warmup_cosine_decay_schedule(0.0, 0.1, 100, 700, 0.01),
        ),
        (
            schedules.Constant(0.1) * schedules.MultiStep(1.0, [50, 200], 0.5),
            optax.piecewise_constant_schedule(0.1, {50: 0.5, 200: 0.5}),
        ),
    ]
    for ours, theirs in pairs:
        rates = [float(theirs(step)) for step in range(0, STEPS, 7)]
        # optax computes in float32
        np.testing.assert_allclose(ours.values(STEPS)[::7], rates, rtol=2e-6, atol=1e-8)
