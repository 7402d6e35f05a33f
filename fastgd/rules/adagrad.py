"""Steps divided by the root of squared gradients, summed or averaged: Adagrad and its kin."""

from __future__ import annotations

from typing import Any

from fastgd.rules.common import adds_l2
from fastgd.rules.table import Carried, Hyperparameters, Rule, Slot


def _adagrad(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.sum = x.sum + g * g
    return s.decay * p - s.lr * (g / (xp.sqrt(x.sum) + s.eps))


def _adagrad_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    return h["lr"] / (1.0 + (step - 1) * h["lr_decay"]), h["weight_decay"], 1.0, h["eps"]


ADAGRAD = Rule(
    name="adagrad",
    title="Adagrad",
    summary="Steps divided by the root of the sum of all squared gradients so far.",
    source="Duchi, Hazan and Singer 2011, section 1.1",
    defaults={
        "lr": 1e-2,
        "lr_decay": 0.0,
        "weight_decay": 0.0,
        "initial_accumulator_value": 0.0,
        "eps": 1e-10,
        "maximize": False,
    },
    kernel="adagrad",
    slots=(Slot("sum", initial="initial_accumulator_value", unsigned=True),),
    switches={"weight_decay": adds_l2},
    scalars=("lr", "weight_decay", "decay", "eps"),
    fold=_adagrad_fold,
    body=_adagrad,
)


def _rmsprop(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.square_avg = s.alpha * x.square_avg + s.one_minus_alpha * (g * g)
    variance = x.square_avg
    if on.centered:
        x.grad_avg = x.grad_avg + s.one_minus_alpha * (g - x.grad_avg)
        variance = variance - x.grad_avg * x.grad_avg
        variance = xp.where(variance < 0, 0, variance)
    update = g / (xp.sqrt(variance) + s.eps)
    if on.momentum:
        x.momentum_buffer = s.momentum * x.momentum_buffer + update
        update = x.momentum_buffer
    return s.decay * p - s.lr * update


def _rmsprop_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    return h["lr"], h["weight_decay"], 1.0, h["alpha"], 1.0 - h["alpha"], h["eps"], h["momentum"]


RMSPROP = Rule(
    name="rmsprop",
    title="RMSprop",
    summary="Steps divided by the root of a running average of squared gradients, or of their variance.",
    source="Tieleman and Hinton 2012, lecture 6.5; centered: Graves 2013, section 4.2",
    defaults={
        "lr": 1e-2,
        "alpha": 0.99,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "momentum": 0.0,
        "centered": False,
        "maximize": False,
    },
    kernel="rmsprop",
    slots=(
        Slot("square_avg", unsigned=True),
        Slot("momentum_buffer", switch="momentum"),
        Slot("grad_avg", switch="centered"),
    ),
    switches={
        "weight_decay": adds_l2,
        "momentum": lambda h: h["momentum"] != 0,
        "centered": lambda h: h["centered"],
    },
    scalars=("lr", "weight_decay", "decay", "alpha", "one_minus_alpha", "eps", "momentum"),
    fold=_rmsprop_fold,
    body=_rmsprop,
)


def _adadelta(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    if on.weight_decay:
        g = g + s.weight_decay * p
    x.square_avg = s.rho * x.square_avg + s.one_minus_rho * (g * g)
    delta = xp.sqrt(x.acc_delta + s.eps) / xp.sqrt(x.square_avg + s.eps) * g
    x.acc_delta = s.rho * x.acc_delta + s.one_minus_rho * (delta * delta)
    return s.decay * p - s.lr * delta


def _adadelta_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    return h["lr"], h["weight_decay"], 1.0, h["rho"], 1.0 - h["rho"], h["eps"]


ADADELTA = Rule(
    name="adadelta",
    title="Adadelta",
    summary="Steps as long as those before them were on average, over the root of an average of squares.",
    source="Zeiler 2012, algorithm 1",
    defaults={"lr": 1.0, "rho": 0.9, "eps": 1e-6, "weight_decay": 0.0, "maximize": False},
    kernel="adadelta",
    slots=(Slot("square_avg", unsigned=True), Slot("acc_delta", unsigned=True)),
    switches={"weight_decay": adds_l2},
    scalars=("lr", "weight_decay", "decay", "rho", "one_minus_rho", "eps"),
    fold=_adadelta_fold,
    body=_adadelta,
)
