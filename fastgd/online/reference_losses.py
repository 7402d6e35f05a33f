"""The losses of a row in Python: the formulas of csrc/online_losses.h in the same order of operations."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from fastgd.nn.elementary import exp, log1p

#: (prediction, target, the loss's parameter) -> loss and its derivative with respect to the prediction
Loss = Callable[[float, float, float], tuple[float, float]]


def exp_of(x: float) -> float:
    return float(exp(np.array([x]))[0])


def margin(p: float, y: float, threshold: float) -> tuple[float, float]:
    z = p * y
    return (threshold - z, -y) if z <= threshold else (0.0, 0.0)


def squared_hinge(p: float, y: float, a: float) -> tuple[float, float]:
    z = 1 - p * y
    return (z * z, -2 * y * z) if z > 0 else (0.0, 0.0)


def modified_huber(p: float, y: float, a: float) -> tuple[float, float]:
    z = p * y
    if z >= 1:
        return 0.0, 0.0
    return ((1 - z) * (1 - z), -2 * (1 - z) * y) if z >= -1 else (-4 * z, -4 * y)


def log_loss(p: float, y: float, a: float) -> tuple[float, float]:
    e = exp_of(p if p < 0 else -p)
    total, loss = 1 + e, float(log1p(np.array([e]))[0])
    if p > 0:
        return loss + (1 - y) * p, ((1 - y) - y * e) / total
    return loss - y * p, ((1 - y) * e - y) / total


def squared_error(p: float, y: float, a: float) -> tuple[float, float]:
    d = p - y
    return 0.5 * (d * d), d


def huber(p: float, y: float, a: float) -> tuple[float, float]:
    d = p - y
    size = abs(d)
    return (0.5 * (d * d), d) if size <= a else (a * (size - 0.5 * a), a if d > 0 else -a)


def epsilon_insensitive(p: float, y: float, a: float) -> tuple[float, float]:
    d = p - y
    beyond = abs(d) - a
    return (beyond, 1.0 if d > 0 else -1.0) if beyond > 0 else (0.0, 0.0)


def squared_epsilon_insensitive(p: float, y: float, a: float) -> tuple[float, float]:
    d = p - y
    beyond = abs(d) - a
    return (beyond * beyond, 2 * beyond if d > 0 else -2 * beyond) if beyond > 0 else (0.0, 0.0)


#: name in csrc/online.def -> its body
LOSSES: dict[str, Loss] = {
    "hinge": lambda p, y, a: margin(p, y, 1.0),
    "perceptron": lambda p, y, a: margin(p, y, 0.0),
    "squared_hinge": squared_hinge,
    "modified_huber": modified_huber,
    "log_loss": log_loss,
    "squared_error": squared_error,
    "huber": huber,
    "epsilon_insensitive": epsilon_insensitive,
    "squared_epsilon_insensitive": squared_epsilon_insensitive,
}
