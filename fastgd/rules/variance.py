"""Adam with another idea of the gradient's second moment: AdaBelief and Yogi."""

from __future__ import annotations

from typing import Any

from fastgd.rules.common import (
    FULLY_DECOUPLED,
    adds_l2,
    adds_l2_unless_decoupled,
    check_decay,
    decay_if_decoupled,
    sign,
)
from fastgd.rules.powers import power, sqrt
from fastgd.rules.table import Carried, Hyperparameters, Rule, Slot


def _adabelief(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.exp_avg = x.exp_avg + s.one_minus_beta1 * (g - x.exp_avg)
    residual = g - x.exp_avg
    x.exp_avg_var = s.beta2 * x.exp_avg_var + s.one_minus_beta2 * (residual * residual) + s.eps
    second = x.exp_avg_var
    if on.amsgrad:
        second = xp.where(x.max_exp_avg_var > second, x.max_exp_avg_var, second)
        x.max_exp_avg_var = second
    denominator = xp.sqrt(second) * s.inv_sqrt_bias_correction2 + s.eps
    return s.decay * p - s.step_size * (x.exp_avg / denominator)


def _adabelief_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    return (
        h["lr"] / (1.0 - power(beta1, step)),
        h["weight_decay"],
        decay_if_decoupled(h),
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        1.0 / sqrt(1.0 - power(beta2, step)),
        h["eps"],
    )


ADABELIEF = Rule(
    name="adabelief",
    title="AdaBelief",
    summary="Adam that divides by how far gradients are from their average, not by how large they are.",
    source="Zhuang et al. 2020, algorithm 2; amsgrad as in the authors' package",
    defaults={
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-16,
        "weight_decay": 0.0,
        "amsgrad": False,
        "decoupled_weight_decay": True,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    kernel="adabelief",
    slots=(
        Slot("exp_avg"),
        Slot("exp_avg_var", unsigned=True),
        Slot("max_exp_avg_var", switch="amsgrad", unsigned=True),
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
    fold=_adabelief_fold,
    body=_adabelief,
    check=check_decay,
    in_torch=False,
)


def _yogi(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    square = g * g
    x.exp_avg = x.exp_avg + s.one_minus_beta1 * (g - x.exp_avg)
    x.exp_avg_sq = x.exp_avg_sq - s.one_minus_beta2 * (sign(xp, x.exp_avg_sq - square) * square)
    denominator = xp.sqrt(x.exp_avg_sq) * s.inv_sqrt_bias_correction2 + s.eps
    return s.decay * p - s.step_size * (x.exp_avg / denominator)


def _yogi_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    return (
        h["lr"] / (1.0 - power(beta1, step)),
        h["weight_decay"],
        1.0,
        1.0 - beta1,
        1.0 - beta2,
        1.0 / sqrt(1.0 - power(beta2, step)),
        h["eps"],
    )


YOGI = Rule(
    name="yogi",
    title="Yogi",
    summary="Adam whose average of squares changes by the newest square alone, so that it cannot fall fast.",
    source="Zaheer et al. 2018, algorithm 2, bias-corrected as in the authors' code",
    defaults={
        "lr": 1e-2,
        "betas": (0.9, 0.999),
        "eps": 1e-3,
        "weight_decay": 0.0,
        "initial_accumulator_value": 1e-6,
        "maximize": False,
    },
    kernel="yogi",
    slots=(Slot("exp_avg"), Slot("exp_avg_sq", initial="initial_accumulator_value", unsigned=True)),
    switches={"weight_decay": adds_l2},
    scalars=(
        "step_size",
        "weight_decay",
        "decay",
        "one_minus_beta1",
        "one_minus_beta2",
        "inv_sqrt_bias_correction2",
        "eps",
    ),
    fold=_yogi_fold,
    body=_yogi,
    in_torch=False,
)
