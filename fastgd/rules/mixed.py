"""Adam with two averages in its numerator: Adan adds one of differences, AdEMAMix one that is slower."""

from __future__ import annotations

from typing import Any

from fastgd.checks import each, number
from fastgd.rules.common import FULLY_DECOUPLED, check_decay, decay_rate
from fastgd.rules.powers import logarithm, power, real_power, sqrt
from fastgd.rules.table import Carried, Hyperparameter, Hyperparameters, Rule, Slot

_BETAS = each(number(0, 1), number(0, 1), number(0, 1))


def _adan(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    difference = xp.where(s.has_prev > 0, g - x.prev, 0)
    ahead = g + s.beta2 * difference
    x.exp_avg = x.exp_avg + s.one_minus_beta1 * (g - x.exp_avg)
    x.exp_avg_diff = x.exp_avg_diff + s.one_minus_beta2 * (difference - x.exp_avg_diff)
    x.exp_avg_sq = s.beta3 * x.exp_avg_sq + s.one_minus_beta3 * (ahead * ahead)
    x.prev = g
    denominator = xp.sqrt(x.exp_avg_sq) * s.inv_sqrt_bias_correction3 + s.eps
    return s.decay * p - (s.step_size * x.exp_avg + s.diff_size * x.exp_avg_diff) / denominator


def _adan_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    beta1, beta2, beta3 = h["betas"]
    rate = decay_rate(h)
    # a proximal decay, (p - step) / (1 + rate), shortens the step as well
    decay, share = (1.0 - rate, 1.0) if h["no_prox"] else (1.0 / (1.0 + rate), 1.0 / (1.0 + rate))
    return (
        share * h["lr"] / (1.0 - power(beta1, step)),
        share * h["lr"] * beta2 / (1.0 - power(beta2, step)),
        decay,
        1.0 - beta1,
        beta2,
        1.0 - beta2,
        beta3,
        1.0 - beta3,
        1.0 / sqrt(1.0 - power(beta3, step)),
        h["eps"],
        0.0 if step == 1 else 1.0,
    )


ADAN = Rule(
    name="adan",
    title="Adan",
    summary="Adam with Nesterov's momentum, from averages of gradients and of their differences.",
    source="Xie et al. 2022, algorithm 1, with betas as in the authors' code: what is kept",
    defaults={
        "lr": 1e-3,
        "betas": (0.98, 0.92, 0.99),
        "eps": 1e-8,
        "weight_decay": 0.0,
        "no_prox": False,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    kernel="adan",
    slots=(Slot("exp_avg"), Slot("exp_avg_diff"), Slot("exp_avg_sq", unsigned=True), Slot("prev")),
    switches={},
    scalars=(
        "step_size",
        "diff_size",
        "decay",
        "one_minus_beta1",
        "beta2",
        "one_minus_beta2",
        "beta3",
        "one_minus_beta3",
        "inv_sqrt_bias_correction3",
        "eps",
        "has_prev",
    ),
    fold=_adan_fold,
    body=_adan,
    check=check_decay,
    in_torch=False,
    own={"betas": Hyperparameter(_BETAS, "what is kept of the averages of gradient, difference and square")},
)


def _ademamix(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    x.exp_avg_fast = x.exp_avg_fast + s.one_minus_beta1 * (g - x.exp_avg_fast)
    x.exp_avg_slow = x.exp_avg_slow + s.one_minus_beta3 * (g - x.exp_avg_slow)
    x.exp_avg_sq = s.beta2 * x.exp_avg_sq + s.one_minus_beta2 * (g * g)
    denominator = xp.sqrt(x.exp_avg_sq) * s.inv_sqrt_bias_correction2 + s.eps
    return s.decay * p - (s.step_size * x.exp_avg_fast + s.slow_size * x.exp_avg_slow) / denominator


def _half_life(beta: float) -> float:
    """After how many more steps an average has half forgotten a gradient; 1e-8 as in the authors' code."""
    return logarithm(0.5) / logarithm(beta + 1e-8) - 1.0


def _beta3_at(h: Hyperparameters, step: int) -> float:
    """The slow average's half life grows linearly, section 3."""
    beta1, _, beta3 = h["betas"]
    last: float = beta3
    if step >= h["beta3_warmup"]:
        return last
    done = step / h["beta3_warmup"]
    half_life = (1.0 - done) * _half_life(beta1) + done * _half_life(beta3)
    return real_power(0.5, 1.0 / (half_life + 1.0))


def _ademamix_check(h: Hyperparameters) -> None:
    check_decay(h)
    if h["beta3_warmup"] and not h["betas"][2] < 1 - 1e-8:
        raise ValueError(f"betas[2] must be below 1 - 1e-8 to be warmed up to, not {h['betas'][2]!r}")


def _ademamix_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    beta1, beta2, _ = h["betas"]
    alpha = h["alpha"] if step >= h["alpha_warmup"] else step / h["alpha_warmup"] * h["alpha"]
    return (
        h["lr"] / (1.0 - power(beta1, step)),
        h["lr"] * alpha,
        1.0 - decay_rate(h),
        1.0 - beta1,
        1.0 - _beta3_at(h, step),
        beta2,
        1.0 - beta2,
        1.0 / sqrt(1.0 - power(beta2, step)),
        h["eps"],
    )


ADEMAMIX = Rule(
    name="ademamix",
    title="AdEMAMix",
    summary="AdamW with a second, much slower average of the gradient beside the first.",
    source="Pagliardini, Ablin and Grangier 2024, algorithm 1",
    defaults={
        "lr": 1e-3,
        "betas": (0.9, 0.999, 0.9999),
        "alpha": 2.0,
        "beta3_warmup": 0,
        "alpha_warmup": 0,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    kernel="ademamix",
    slots=(Slot("exp_avg_fast"), Slot("exp_avg_slow", precise=True), Slot("exp_avg_sq", unsigned=True)),
    switches={},
    scalars=(
        "step_size",
        "slow_size",
        "decay",
        "one_minus_beta1",
        "one_minus_beta3",
        "beta2",
        "one_minus_beta2",
        "inv_sqrt_bias_correction2",
        "eps",
    ),
    fold=_ademamix_fold,
    body=_ademamix,
    check=_ademamix_check,
    in_torch=False,
    own={
        "betas": Hyperparameter(_BETAS, "what is kept of the averages of gradient and square, and slowly"),
        "alpha": Hyperparameter(number(0), "weight of the slow average beside the fast one"),
    },
)
