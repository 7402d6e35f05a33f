"""The losses of a row in Python: the formulas of csrc/online_losses.h in the same order of operations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from fastgd.nn.elementary import LN2_HIGH_F64, LN2_LOW_F64, LOG2E

ROUNDER = 1.5 * 2.0**52


class Measure(NamedTuple):
    """A row's loss, loss + log(factor), and its derivative with respect to the prediction."""

    loss: float
    slope: float
    factor: float = 1.0


NOTHING = Measure(0.0, 0.0)

#: (prediction, target, the loss's parameter)
Loss = Callable[[float, float, float], Measure]


def margin(p: float, y: float, threshold: float) -> Measure:
    z = p * y
    return Measure(threshold - z, -y) if z <= threshold else NOTHING


def squared_hinge(p: float, y: float, a: float) -> Measure:
    z = 1 - p * y
    return Measure(z * z, -2 * y * z) if z > 0 else NOTHING


def modified_huber(p: float, y: float, a: float) -> Measure:
    z = p * y
    if z >= 1:
        return NOTHING
    return Measure((1 - z) * (1 - z), -2 * (1 - z) * y) if z >= -1 else Measure(-4 * z, -4 * y)


def exp_below_0(x: float) -> float:
    if math.isnan(x):
        return x
    x = max(x, -708.0)
    shifted = x * LOG2E + ROUNDER
    n = shifted - ROUNDER
    r = (x - n * LN2_HIGH_F64) - n * LN2_LOW_F64
    r2 = r * r
    r4 = r2 * r2
    r8 = r4 * r4
    low = (1 / 2 + r * (1 / 6)) + r2 * (1 / 24 + r * (1 / 120))
    middle = (1 / 720 + r * (1 / 5040)) + r2 * (1 / 40320 + r * (1 / 362880))
    last = 1 / 479001600 + r * (1 / 6227020800)
    high = (1 / 3628800 + r * (1 / 39916800)) + r2 * last
    series = r + r2 * ((low + r4 * middle) + r8 * high)
    return (1 + series) * 2.0 ** int(n)


def log_loss(p: float, y: float, a: float) -> Measure:
    e = exp_below_0(p if p < 0 else -p)
    total = 1 + e
    if p > 0:
        return Measure((1 - y) * p, ((1 - y) - y * e) / total, total)
    return Measure(-y * p, ((1 - y) * e - y) / total, total)


def squared_error(p: float, y: float, a: float) -> Measure:
    d = p - y
    return Measure(0.5 * (d * d), d)


def huber(p: float, y: float, a: float) -> Measure:
    d = p - y
    size = abs(d)
    return Measure(0.5 * (d * d), d) if size <= a else Measure(a * (size - 0.5 * a), a if d > 0 else -a)


def epsilon_insensitive(p: float, y: float, a: float) -> Measure:
    d = p - y
    beyond = abs(d) - a
    return Measure(beyond, 1.0 if d > 0 else -1.0) if beyond > 0 else NOTHING


def squared_epsilon_insensitive(p: float, y: float, a: float) -> Measure:
    d = p - y
    beyond = abs(d) - a
    return Measure(beyond * beyond, 2 * beyond if d > 0 else -2 * beyond) if beyond > 0 else NOTHING


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
