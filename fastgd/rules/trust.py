"""Steps of whole tensors brought into proportion with their parameters: layer-wise adaptive rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgd.rules.common import adds_l2
from fastgd.rules.powers import power, sqrt
from fastgd.rules.table import Carried, Hyperparameters, Rule, Slot, Trust


def _lamb(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    x.exp_avg = x.exp_avg + s.one_minus_beta1 * (g - x.exp_avg)
    x.exp_avg_sq = s.beta2 * x.exp_avg_sq + s.one_minus_beta2 * (g * g)
    update = x.exp_avg / (xp.sqrt(x.exp_avg_sq) * s.inv_sqrt_bias_correction2 + s.eps)
    update = s.inv_bias_correction1 * update
    if on.weight_decay:
        update = update + s.weight_decay * p
    return s.decay * p - s.lr * (s.trust * update)


def _lamb_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    beta1, beta2 = h["betas"]
    bias_correction1, bias_correction2 = 1.0 - power(beta1, step), 1.0 - power(beta2, step)
    return (
        h["lr"],
        h["weight_decay"],
        1.0,
        1.0,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        1.0 / bias_correction1,
        1.0 / sqrt(bias_correction2),
        h["eps"],
    )


def _lamb_ratio(param: float, step: float, root: float, s: Mapping[str, float]) -> float:
    # the step that was measured includes lr
    return s["lr"] * param / step if param > 0 and step > 0 else 1.0


LAMB = Rule(
    name="lamb",
    title="LAMB",
    summary="Adam's step with decay, as long as the tensor it changes.",
    source="You et al. 2020, algorithm 2, with the identity for phi",
    defaults={"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 1e-2, "maximize": False},
    kernel="lamb",
    slots=(Slot("exp_avg"), Slot("exp_avg_sq", unsigned=True)),
    switches={"weight_decay": adds_l2},
    scalars=(
        "lr",
        "weight_decay",
        "decay",
        "trust",
        "one_minus_beta1",
        "beta2",
        "one_minus_beta2",
        "inv_bias_correction1",
        "inv_sqrt_bias_correction2",
        "eps",
    ),
    fold=_lamb_fold,
    body=_lamb,
    in_torch=False,
    trust=Trust("step", _lamb_ratio),
)


def _lars(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    update = g + s.weight_decay * p if on.weight_decay else g
    update = s.lr * (s.trust * update)
    if on.momentum:
        x.momentum_buffer = s.momentum * x.momentum_buffer + update
        update = update + s.momentum * x.momentum_buffer if on.nesterov else x.momentum_buffer
    return s.decay * p - update


def _lars_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    return h["lr"], h["weight_decay"], 1.0, 1.0, h["momentum"], h["trust_coefficient"], h["eps"]


def _lars_ratio(param: float, gradient: float, root: float, s: Mapping[str, float]) -> float:
    if not (param > 0 and gradient > 0):
        return 1.0
    return s["trust_coefficient"] * param / (gradient + s["weight_decay"] * param + s["eps"])


def _lars_check(h: Hyperparameters) -> None:
    if h["nesterov"] and h["momentum"] == 0:
        raise ValueError("nesterov needs momentum above 0")


LARS = Rule(
    name="lars",
    title="LARS",
    summary="Momentum whose rate for each tensor is in proportion to its norm over its gradient's.",
    source="You, Gitman and Ginsburg 2017, algorithm 1 and equation 6",
    defaults={
        "lr": 1e-2,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "trust_coefficient": 1e-3,
        "eps": 1e-8,
        "nesterov": False,
        "maximize": False,
    },
    kernel="lars",
    slots=(Slot("momentum_buffer", switch="momentum"),),
    switches={
        "weight_decay": adds_l2,
        "momentum": lambda h: h["momentum"] != 0,
        "nesterov": lambda h: h["nesterov"],
    },
    scalars=("lr", "weight_decay", "decay", "trust", "momentum", "trust_coefficient", "eps"),
    fold=_lars_fold,
    body=_lars,
    check=_lars_check,
    in_torch=False,
    trust=Trust("gradient", _lars_ratio),
    whole="its momentum is made of steps it has measured",
)
