"""Hyperparameters of single rules that are refused, alone and together."""

from __future__ import annotations

import math

import numpy as np
import pytest
from snapshots import random, unchanged

import fastgd

NAN, INF = math.nan, math.inf
ONE = np.ones(3, np.float32)


#: (rule, hyperparameter) -> values that are refused
ALONE = {
    ("adadelta", "rho"): [1.0, -0.1, NAN],
    ("rprop", "etas"): [(0.5,), (0.5, 1.2, 2.0), (1.0, 1.2), (0.5, 0.9), (-0.5, 1.2), (0.5, INF), 0.5, None],
    ("rprop", "step_sizes"): [(-1e-6, 50.0), (1e-6, NAN), "ab", [0.1]],
    ("asgd", "lambd"): [-1e-4, INF],
    ("asgd", "t0"): [-1.0, NAN, "1e6"],
    ("nadam", "momentum_decay"): [-1.0, INF],
    ("nadam", "decoupled_weight_decay"): [1, None],
    ("adan", "betas"): [(0.9, 0.9), (0.9, 0.9, 1.0), (0.9, 0.9, 0.9, 0.9), 0.9],
    ("adan", "no_prox"): [0, "no"],
    ("ademamix", "alpha"): [-1.0, INF],
    ("ademamix", "alpha_warmup"): [-1, 2.0, True, None, "9"],
    ("ademamix", "beta3_warmup"): [-1, 0.5, False],
    ("signum", "momentum"): [1.0, -0.1],
    ("sgd_schedule_free", "momentum"): [1.0, 1.5],
    ("sgd_schedule_free", "warmup_steps"): [-3, 10.0],
    ("sgd_schedule_free", "weight_lr_power"): [-1.0, NAN],
    ("adamw", "decouple_lr"): [1, None],
    ("adamw", "max_lr"): [-1.0, NAN, "1"],
    ("lion", "max_lr"): [-1.0],
}


@pytest.mark.parametrize(
    ("rule", "name", "value"), [(*k, v) for k, vs in ALONE.items() for v in vs], ids=repr
)
def test_alone(rule, name, value):
    with pytest.raises((TypeError, ValueError), match=rf"^group 0: {name} must be"):
        fastgd.optim.create(rule, [ONE], **{name: value})


#: rule -> (hyperparameters that are refused together, reason)
TOGETHER = {
    "rprop": [
        ({"etas": (0.0, 1.2)}, "etas must be one number between 0 and 1, and one above 1"),
        ({"etas": (0.5, 1.0)}, "etas must be one number between 0 and 1, and one above 1"),
        ({"step_sizes": (1.0, 0.5)}, "step_sizes must be the smallest and the largest"),
    ],
    "sgd_schedule_free": [({"momentum": 0.0}, "momentum must be above 0")],
    "ademamix": [
        ({"betas": (0.9, 0.999, 1 - 1e-9), "beta3_warmup": 5}, r"betas\[2\] must be below 1 - 1e-8")
    ],
    "adamw_schedule_free": [({"betas": (0.0, 0.9)}, "the first of betas must be above 0")],
}


@pytest.mark.parametrize(("rule", "settings", "reason"), [(r, *c) for r, cs in TOGETHER.items() for c in cs])
def test_together(rule, settings, reason):
    with pytest.raises(ValueError, match=f"group 0: {reason}"):
        fastgd.optim.create(rule, [ONE], **settings)
    opt = fastgd.optim.create(rule, [ONE.copy()])
    opt.step([random(3, 0)])
    opt.param_groups[0].update(settings)
    with unchanged(opt), pytest.raises(ValueError, match=f"group 0: {reason}"):
        opt.step([random(3, 0)])
