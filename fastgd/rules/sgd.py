"""Gradient descent with one rate for all elements."""

from __future__ import annotations

from typing import Any

from fastgd.rules.common import adds_l2
from fastgd.rules.table import Carried, Hyperparameters, Rule, Slot


def _sgd(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    if on.momentum:
        x.momentum_buffer = s.momentum * x.momentum_buffer + s.grad_weight * g
        g = g + s.momentum * x.momentum_buffer if on.nesterov else x.momentum_buffer
    return s.decay * p - s.lr * g


def _sgd_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    # torch's first momentum is the gradient itself, without dampening
    return h["lr"], h["weight_decay"], 1.0, h["momentum"], 1.0 if step == 1 else 1.0 - h["dampening"]


def _sgd_check(h: Hyperparameters) -> None:
    if h["nesterov"] and (h["momentum"] == 0 or h["dampening"] != 0):
        raise ValueError("nesterov needs momentum above 0 and dampening 0")


SGD = Rule(
    name="sgd",
    title="SGD",
    summary="Stochastic gradient descent with momentum, dampening and Nesterov's variant.",
    source="Robbins and Monro 1951; momentum: Sutskever et al. 2013, section 2, in torch's form",
    defaults={
        "lr": 1e-3,
        "momentum": 0.0,
        "dampening": 0.0,
        "weight_decay": 0.0,
        "nesterov": False,
        "maximize": False,
    },
    kernel="sgd",
    slots=(Slot("momentum_buffer", switch="momentum"),),
    switches={
        "weight_decay": adds_l2,
        "momentum": lambda h: h["momentum"] != 0,
        "nesterov": lambda h: h["nesterov"],
    },
    scalars=("lr", "weight_decay", "decay", "momentum", "grad_weight"),
    fold=_sgd_fold,
    body=_sgd,
    check=_sgd_check,
)
