"""Descent that averages its parameters: ASGD beside them, schedule-free methods in place of a schedule."""

from __future__ import annotations

from typing import Any

from fastgd.checks import number
from fastgd.rules.common import FULLY_DECOUPLED, adds_l2, check_decay, never
from fastgd.rules.powers import power, real_power, sqrt
from fastgd.rules.table import Average, Carried, Hyperparameter, Hyperparameters, Rule, Slot


def _asgd(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    p = s.decay * p - s.eta * g
    x.ax = x.ax + s.mu * (p - x.ax) if s.mu < 1 else p
    return p


def _asgd_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    before = step - 1
    eta = h["lr"] / real_power(1.0 + h["lambd"] * h["lr"] * before, h["alpha"])
    return eta, h["weight_decay"], 1.0 - h["lambd"] * eta, 1.0 / max(1.0, before - h["t0"])


ASGD = Rule(
    name="asgd",
    title="ASGD",
    summary="Gradient descent with a decaying rate, which keeps an average of the parameters in its state.",
    source="Polyak and Juditsky 1992; rates as in torch, after Xu 2011",
    defaults={
        "lr": 1e-2,
        "lambd": 1e-4,
        "alpha": 0.75,
        "t0": 1e6,
        "weight_decay": 0.0,
        "maximize": False,
    },
    kernel="asgd",
    whole="it averages the parameters that its steps lead to",
    slots=(Slot("ax", precise=True),),
    switches={"weight_decay": adds_l2},
    scalars=("eta", "weight_decay", "decay", "mu"),
    fold=_asgd_fold,
    body=_asgd,
    own={"alpha": Hyperparameter(number(0), "power with which lr decays")},
)


def _schedule_free(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    z = p if s.first > 0 else x.z
    if on.adaptive:
        x.exp_avg_sq = s.beta2 * x.exp_avg_sq + s.one_minus_beta2 * (g * g)
        g = g / (xp.sqrt(x.exp_avg_sq) * s.inv_sqrt_bias_correction2 + s.eps)
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.z = z - s.lr * g
    return s.decay * p - (s.share * (p - z) + s.step_size * g)


def _weighted(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, float, Carried]:
    """(lr of this step, its weight in the average, what is carried out of it)."""
    weight_sum, lr_max = carried
    lr = h["lr"] if step >= h["warmup_steps"] else step / h["warmup_steps"] * h["lr"]
    lr_max = max(lr, lr_max)
    weight = real_power(1.0 * step, h["r"]) * real_power(lr_max, h["weight_lr_power"])
    return lr, weight, (weight_sum + weight, lr_max)


def _schedule_free_carry(h: Hyperparameters, step: int, carried: Carried) -> Carried:
    return _weighted(h, step, carried)[2]


def _schedule_free_scalars(
    h: Hyperparameters, step: int, carried: Carried, beta1: float, decay: float
) -> tuple[float, ...]:
    lr, weight, (weight_sum, _) = _weighted(h, step, carried)
    share = weight / weight_sum if weight_sum > 0 else 0.0
    return lr, decay, 1.0, share, lr * (1.0 - beta1 * (1.0 - share)), 1.0 if step == 1 else 0.0


def _sgd_schedule_free_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    not_adaptive = 0.0, 0.0, 0.0, 0.0
    return *_schedule_free_scalars(h, step, carried, h["momentum"], h["weight_decay"]), *not_adaptive


def _sgd_schedule_free_check(h: Hyperparameters) -> None:
    if not h["momentum"] > 0:
        raise ValueError("momentum must be above 0")


SGD_SCHEDULE_FREE = Rule(
    name="sgd_schedule_free",
    title="SGDScheduleFree",
    summary="SGD with an average in place of a schedule; call eval() before evaluating and train() after.",
    source="Defazio et al. 2024, equations 3 to 5, as in the authors' package",
    defaults={
        "lr": 1.0,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "r": 0.0,
        "weight_lr_power": 2.0,
        "maximize": False,
    },
    kernel="schedule_free",
    whole="its average follows from whole steps",
    slots=(Slot("z", precise=True), Slot("exp_avg_sq", switch="adaptive", unsigned=True)),
    switches={"weight_decay": adds_l2, "adaptive": never},
    scalars=(
        "lr",
        "weight_decay",
        "decay",
        "share",
        "step_size",
        "first",
        "beta2",
        "one_minus_beta2",
        "inv_sqrt_bias_correction2",
        "eps",
    ),
    fold=_sgd_schedule_free_fold,
    body=_schedule_free,
    check=_sgd_schedule_free_check,
    in_torch=False,
    carried=(("weight_sum", 0.0), ("lr_max", 0.0)),
    carry=_schedule_free_carry,
    average=Average("z", lambda h: float(h["momentum"])),
    own={"momentum": Hyperparameter(number(0, 1), "how near to the average gradients are taken; above 0")},
)


def _adamw_schedule_free_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    # multiplied by lr in the body
    decay = h["weight_decay"] / h["max_lr"] if h["decouple_lr"] else h["weight_decay"]
    adaptive = beta2, 1.0 - beta2, 1.0 / sqrt(1.0 - power(beta2, step)), h["eps"]
    return *_schedule_free_scalars(h, step, carried, beta1, decay), *adaptive


def _adamw_schedule_free_check(h: Hyperparameters) -> None:
    check_decay(h)
    if not h["betas"][0] > 0:
        raise ValueError("the first of betas must be above 0")


ADAMW_SCHEDULE_FREE = SGD_SCHEDULE_FREE._replace(
    name="adamw_schedule_free",
    title="AdamWScheduleFree",
    summary="AdamW with an average in place of a schedule; call eval() before evaluating and train() after.",
    source="Defazio et al. 2024, algorithm 1, as in the authors' package",
    defaults={
        "lr": 2.5e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "warmup_steps": 0,
        "r": 0.0,
        "weight_lr_power": 2.0,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    switches={"weight_decay": adds_l2, "adaptive": lambda h: True},
    fold=_adamw_schedule_free_fold,
    check=_adamw_schedule_free_check,
    average=Average("z", lambda h: float(h["betas"][0])),
    own={},
)
