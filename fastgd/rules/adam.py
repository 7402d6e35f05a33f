"""Steps of a running average of the gradient, divided by the root of one of its square: the Adam family."""

from __future__ import annotations

from typing import Any

from fastgd.rules.common import (
    FULLY_DECOUPLED,
    adds_l2,
    adds_l2_unless_decoupled,
    check_decay,
    decay_if_decoupled,
    decay_rate,
    never,
)
from fastgd.rules.powers import power, real_power, sqrt
from fastgd.rules.table import Carried, Hyperparameters, Rule, Slot


def _adam(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.exp_avg = x.exp_avg + s.one_minus_beta1 * (g - x.exp_avg)
    x.exp_avg_sq = s.beta2 * x.exp_avg_sq + s.one_minus_beta2 * (g * g)
    second = x.exp_avg_sq
    if on.amsgrad:
        second = xp.where(x.max_exp_avg_sq > second, x.max_exp_avg_sq, second)
        x.max_exp_avg_sq = second
    denominator = xp.sqrt(second) * s.inv_sqrt_bias_correction2 + s.eps
    return s.decay * p - s.step_size * (x.exp_avg / denominator)


def _adam_scalars(h: Hyperparameters, step: int, decay: float) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    bias_correction1, bias_correction2 = 1.0 - power(beta1, step), 1.0 - power(beta2, step)
    return (
        h["lr"] / bias_correction1,
        h["weight_decay"],
        decay,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        1.0 / sqrt(bias_correction2),
        h["eps"],
    )


ADAM = Rule(
    name="adam",
    title="Adam",
    summary="Bias-corrected running averages of the gradient and of its square; weight decay as an L2 term.",
    source="Kingma and Ba 2015, algorithm 1; amsgrad: Reddi, Kale and Kumar 2018, algorithm 2",
    defaults={
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": False,
        **FULLY_DECOUPLED,
    },
    kernel="adam",
    slots=(
        Slot("exp_avg"),
        Slot("exp_avg_sq", unsigned=True),
        Slot("max_exp_avg_sq", switch="amsgrad", unsigned=True),
    ),
    switches={"weight_decay": adds_l2_unless_decoupled, "amsgrad": lambda h: h["amsgrad"]},
    scalars=(
        "step_size",
        "weight_decay",
        "decay",
        "one_minus_beta1",
        "beta2",
        "one_minus_beta2",
        "inv_sqrt_bias_correction2",
        "eps",
    ),
    fold=lambda h, step, carried: _adam_scalars(h, step, decay_if_decoupled(h)),
    body=_adam,
    check=check_decay,
)

ADAMW = ADAM._replace(
    name="adamw",
    title="AdamW",
    summary="Adam with weight decay decoupled from the gradient.",
    source="Loshchilov and Hutter 2019, algorithm 2; amsgrad: Reddi, Kale and Kumar 2018, algorithm 2",
    defaults={
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 1e-2,
        "amsgrad": False,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    switches={**ADAM.switches, "weight_decay": never},
    fold=lambda h, step, carried: _adam_scalars(h, step, 1.0 - decay_rate(h)),
)


def _adamax(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.exp_avg = x.exp_avg + s.one_minus_beta1 * (g - x.exp_avg)
    size = xp.where(g < 0, -g, g) + s.eps
    before = s.beta2 * x.exp_inf
    x.exp_inf = xp.where(before > size, before, size)
    return s.decay * p - s.step_size * (x.exp_avg / x.exp_inf)


def _adamax_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    return h["lr"] / (1.0 - power(beta1, step)), h["weight_decay"], 1.0, 1.0 - beta1, beta2, h["eps"]


ADAMAX = Rule(
    name="adamax",
    title="Adamax",
    summary="Adam with a decaying maximum of the gradient's size in place of the root.",
    source="Kingma and Ba 2015, algorithm 2, with eps as in torch",
    defaults={"lr": 2e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "maximize": False},
    kernel="adamax",
    slots=(Slot("exp_avg"), Slot("exp_inf", unsigned=True)),
    switches={"weight_decay": adds_l2},
    scalars=("step_size", "weight_decay", "decay", "one_minus_beta1", "beta2", "eps"),
    fold=_adamax_fold,
    body=_adamax,
)


def _nadam(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.exp_avg = x.exp_avg + s.one_minus_beta1 * (g - x.exp_avg)
    x.exp_avg_sq = s.beta2 * x.exp_avg_sq + s.one_minus_beta2 * (g * g)
    denominator = xp.sqrt(x.exp_avg_sq) * s.inv_sqrt_bias_correction2 + s.eps
    return s.decay * p - (s.grad_size * g + s.step_size * x.exp_avg) / denominator


def _momentum_at(h: Hyperparameters, step: int) -> float:
    """Dozat's mu: betas[0], at first half of it."""
    rate = real_power(0.96, h["momentum_decay"])
    mu: float = h["betas"][0] * (1.0 - 0.5 * power(rate, step))
    return mu


def _nadam_carry(h: Hyperparameters, step: int, carried: Carried) -> Carried:
    (mu_product,) = carried
    return (mu_product * _momentum_at(h, step),)


def _nadam_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    mu, mu_next = _momentum_at(h, step), _momentum_at(h, step + 1)
    mu_product = carried[0] * mu
    return (
        h["lr"] * (1.0 - mu) / (1.0 - mu_product),
        h["lr"] * mu_next / (1.0 - mu_product * mu_next),
        h["weight_decay"],
        decay_if_decoupled(h),
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        1.0 / sqrt(1.0 - power(beta2, step)),
        h["eps"],
    )


NADAM = Rule(
    name="nadam",
    title="NAdam",
    summary="Adam whose momentum looks ahead, as Nesterov's.",
    source="Dozat 2016, algorithm 2, with torch's schedule of momentum",
    defaults={
        "lr": 2e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum_decay": 4e-3,
        "decoupled_weight_decay": False,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    kernel="nadam",
    slots=(Slot("exp_avg"), Slot("exp_avg_sq", unsigned=True)),
    switches={"weight_decay": adds_l2_unless_decoupled},
    scalars=(
        "grad_size",
        "step_size",
        "weight_decay",
        "decay",
        "one_minus_beta1",
        "beta2",
        "one_minus_beta2",
        "inv_sqrt_bias_correction2",
        "eps",
    ),
    fold=_nadam_fold,
    body=_nadam,
    check=check_decay,
    carried=(("mu_product", 1.0),),
    carry=_nadam_carry,
)


def _radam(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.exp_avg = x.exp_avg + s.one_minus_beta1 * (g - x.exp_avg)
    x.exp_avg_sq = s.beta2 * x.exp_avg_sq + s.one_minus_beta2 * (g * g)
    denominator = xp.where(s.rectified > 0, xp.sqrt(x.exp_avg_sq) + s.eps, 1)
    return s.decay * p - s.step_size * (x.exp_avg / denominator)


def _radam_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    step_size, bias_correction2 = h["lr"] / (1.0 - power(beta1, step)), 1.0 - power(beta2, step)
    longest = 2.0 / (1.0 - beta2) - 1.0
    length = longest - 2.0 * step * (1.0 - bias_correction2) / bias_correction2
    rectified = length > 5.0
    if rectified:
        ratio = (length - 4.0) * (length - 2.0) * longest / ((longest - 4.0) * (longest - 2.0) * length)
        step_size *= sqrt(bias_correction2) * sqrt(ratio)
    decay = decay_if_decoupled(h)
    return step_size, h["weight_decay"], decay, 1.0 - beta1, beta2, 1.0 - beta2, float(rectified), h["eps"]


RADAM = Rule(
    name="radam",
    title="RAdam",
    summary="Adam that steps by the average gradient alone until its average of squares can be trusted.",
    source="Liu et al. 2020, algorithm 2",
    defaults={
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "decoupled_weight_decay": False,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    kernel="radam",
    slots=(Slot("exp_avg"), Slot("exp_avg_sq", unsigned=True)),
    switches={"weight_decay": adds_l2_unless_decoupled},
    scalars=(
        "step_size",
        "weight_decay",
        "decay",
        "one_minus_beta1",
        "beta2",
        "one_minus_beta2",
        "rectified",
        "eps",
    ),
    fold=_radam_fold,
    body=_radam,
    check=check_decay,
)
