"""Muon: momentum made orthogonal, a matrix at a time."""

from __future__ import annotations

from typing import Any

from fastgd.checks import each, finite, number, one_of, optional, whole
from fastgd.rules.common import FULLY_DECOUPLED, check_decay, decay_rate
from fastgd.rules.powers import sqrt
from fastgd.rules.table import Carried, Hyperparameter, Hyperparameters, Orthogonal, Rule, Slot


def _muon(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    x.momentum_buffer = x.momentum_buffer + s.one_minus_momentum * (g - x.momentum_buffer)
    step = x.momentum_buffer
    if on.nesterov:
        step = step + s.one_minus_momentum * (g - step)
    return s.decay * p - step


#: the iteration of Newton and Schulz, a quintic one
_NEWTON_SCHULZ = Orthogonal(
    scale=lambda norm, s: 1.0 / (s.eps if norm < s.eps else norm),
    polynomial=lambda one, gram, square, s: s.a * one + (s.b * gram + s.c * square),
    steps="ns_steps",
)


#: adjust_lr_fn -> (rows, columns) -> what lr is multiplied by
_ADJUSTMENTS = {
    "original": lambda rows, cols: sqrt(max(1.0, rows / cols)),
    "match_rms_adamw": lambda rows, cols: 0.2 * sqrt(max(rows, cols)),
}


def _muon_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    rows, cols = h["shape"]
    ratio = _ADJUSTMENTS[h["adjust_lr_fn"] or "original"](rows, cols) if rows * cols else 1.0
    return (
        h["lr"] * ratio,
        1.0 - decay_rate(h),
        1.0 - h["momentum"],
        *h["ns_coefficients"],
        h["eps"],
        h["ns_steps"],
    )


MUON = Rule(
    name="muon",
    title="Muon",
    summary="Momentum whose matrices are brought near the closest ones with orthogonal rows or columns.",
    source="Jordan et al. 2024; lr by shape also as in Liu et al. 2025, section 2.2",
    defaults={
        "lr": 1e-3,
        "weight_decay": 0.1,
        "momentum": 0.95,
        "nesterov": True,
        "ns_coefficients": (3.4445, -4.775, 2.0315),
        "eps": 1e-7,
        "ns_steps": 5,
        "adjust_lr_fn": None,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    kernel="muon",
    slots=(Slot("momentum_buffer"),),
    switches={"nesterov": lambda h: h["nesterov"]},
    scalars=("lr", "decay", "one_minus_momentum", "a", "b", "c", "eps", "ns_steps"),
    fold=_muon_fold,
    body=_muon,
    check=check_decay,
    orthogonal=_NEWTON_SCHULZ,
    ndim=2,
    traits=lambda shape, dtype: {"shape": shape},
    own={
        "momentum": Hyperparameter(number(0), "what is kept of the running average of gradients; 0 for none"),
        "ns_coefficients": Hyperparameter(
            each(finite, finite, finite), "a, b, c of the iteration's X = (a I + b G + c G G) X with G = X X'"
        ),
        "eps": Hyperparameter(number(0), "least norm that a step is divided by before the iteration"),
        "ns_steps": Hyperparameter(whole(0, 100), "iterations"),
        "adjust_lr_fn": Hyperparameter(
            optional(one_of(*_ADJUSTMENTS)),
            "'original': lr times the root of rows over columns where that is above 1; 'match_rms_adamw': lr "
            "times 0.2 and the root of the larger of both, for the lr of an AdamW; None: 'original'",
            type="str | None",
        ),
    },
)
