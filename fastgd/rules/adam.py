"""Steps of a running average of the gradient, divided by the root of one of its square: the Adam family."""

from __future__ import annotations

import math
from typing import Any

from fastgd.rules.common import adds_l2
from fastgd.rules.powers import power
from fastgd.rules.table import Hyperparameters, Rule, Slot


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
        1.0 / math.sqrt(bias_correction2),
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
    },
    kernel="adam",
    slots=(
        Slot("exp_avg"),
        Slot("exp_avg_sq", unsigned=True),
        Slot("max_exp_avg_sq", switch="amsgrad", unsigned=True),
    ),
    switches={"weight_decay": adds_l2, "amsgrad": lambda h: h["amsgrad"]},
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
    fold=lambda h, step, carried: _adam_scalars(h, step, 1.0),
    body=_adam,
)

ADAMW = ADAM._replace(
    name="adamw",
    title="AdamW",
    summary="Adam with weight decay decoupled from the gradient.",
    source="Loshchilov and Hutter 2019, algorithm 2; amsgrad: Reddi, Kale and Kumar 2018, algorithm 2",
    defaults={**ADAM.defaults, "weight_decay": 1e-2},
    switches={**ADAM.switches, "weight_decay": lambda h: False},
    fold=lambda h, step, carried: _adam_scalars(h, step, 1.0 - h["lr"] * h["weight_decay"]),
)
