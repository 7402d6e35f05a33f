"""Steps in which only the sign of something counts: Lion, Signum and Rprop."""

from __future__ import annotations

from typing import Any

from fastgd.checks import each, number
from fastgd.rules.common import FULLY_DECOUPLED, check_decay, decay_rate, sign
from fastgd.rules.table import Carried, Hyperparameter, Hyperparameters, Rule, Slot


def _lion(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    update = s.beta1 * x.exp_avg + s.one_minus_beta1 * g
    x.exp_avg = s.beta2 * x.exp_avg + s.one_minus_beta2 * g
    return s.decay * p - s.lr * sign(xp, update)


def _lion_scalars(h: Hyperparameters, beta1: float, beta2: float) -> tuple[float, ...]:
    return h["lr"], 1.0 - decay_rate(h), beta1, 1.0 - beta1, beta2, 1.0 - beta2


LION = Rule(
    name="lion",
    title="Lion",
    summary="The sign of a momentum that looks one gradient ahead; all elements move equally far.",
    source="Chen et al. 2023, algorithm 2",
    defaults={
        "lr": 1e-4,
        "betas": (0.9, 0.99),
        "weight_decay": 0.0,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    kernel="lion",
    slots=(Slot("exp_avg"),),
    switches={},
    scalars=("lr", "decay", "beta1", "one_minus_beta1", "beta2", "one_minus_beta2"),
    fold=lambda h, step, carried: _lion_scalars(h, *h["betas"]),
    body=_lion,
    check=check_decay,
    in_torch=False,
    own={
        "betas": Hyperparameter(
            each(number(0, 1), number(0, 1)), "what is kept for the step, and for the next"
        )
    },
)

SIGNUM = LION._replace(
    name="signum",
    title="Signum",
    summary="The sign of a running average of the gradient; with momentum 0, of the gradient itself.",
    source="Bernstein et al. 2018, algorithm 2",
    defaults={
        "lr": 1e-2,
        "momentum": 0.9,
        "weight_decay": 0.0,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    fold=lambda h, step, carried: _lion_scalars(h, h["momentum"], h["momentum"]),
    own={"momentum": Hyperparameter(number(0, 1), "what is kept of the running average at every step")},
)


def _rprop(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    agreement = g * x.prev
    size = x.step_size * xp.where(agreement > 0, s.eta_plus, xp.where(agreement < 0, s.eta_minus, 1))
    size = xp.where(size < s.smallest, s.smallest, size)
    size = xp.where(size > s.largest, s.largest, size)
    g = xp.where(agreement < 0, 0, g)
    x.step_size, x.prev = size, g
    return s.decay * p - sign(xp, g) * size


def _rprop_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    return 1.0, *h["etas"], *h["step_sizes"]


def _rprop_check(h: Hyperparameters) -> None:
    if not h["etas"][0] > 0 or not h["etas"][1] > 1:
        raise ValueError("etas must be one number between 0 and 1, and one above 1")
    if h["step_sizes"][0] > h["step_sizes"][1]:
        raise ValueError("step_sizes must be the smallest and the largest")


RPROP = Rule(
    name="rprop",
    title="Rprop",
    summary="Steps of a size that each element has of its own, which grows until its gradient's sign turns.",
    source="Riedmiller and Braun 1993, in the form iRprop- of Igel and Huesken 2000",
    defaults={"lr": 1e-2, "etas": (0.5, 1.2), "step_sizes": (1e-6, 50.0), "maximize": False},
    kernel="rprop",
    slots=(Slot("prev"), Slot("step_size", initial="lr", precise=True)),
    switches={},
    scalars=("decay", "eta_minus", "eta_plus", "smallest", "largest"),
    fold=_rprop_fold,
    body=_rprop,
    check=_rprop_check,
    own={"lr": Hyperparameter(number(0), "first step size")},
)
