"""One value descends from 10 by the derivative of log cosh, which is tanh.

The loss log cosh(w) is a bowl near 0 and a slope far from it. From w = 10 each step is first as long as the
learning rate, for tanh(10) is 1 to eight digits, and later in proportion to w: a straight line, then an
exponential. The end is known up to terms of the rate's size: sinh(w_t) = sinh(w_0) exp(-rate t), the solution
of the differential equation dw/dt = -tanh(w) that small steps follow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import fastgd
from fastgd.arrays import Array
from fastgd.lab import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHOWN = (0, 1, 10, 100, 1000, 2000, 5000, 10_000)


class Result(NamedTuple):
    """The value before every step and after the last, float64 [iterations + 1], and the rate."""

    values: Array
    lr: float


def run(*, start: float = 10.0, lr: float = 0.002098, iterations: int = 10_000) -> Result:
    """start: w before the first step. lr: the learning rate."""
    w = np.array([start])
    opt = fastgd.SGD([w], lr=lr)
    values = np.empty(iterations + 1)
    values[0] = start
    for i in range(iterations):
        opt.step([np.tanh(w)])
        values[i + 1] = w[0]
    return Result(values, lr)


def flow(start: float, time: Array) -> Array:
    """The solution of dw/dt = -tanh(w): arsinh(sinh(start) exp(-t))."""
    solved: Array = np.arcsinh(np.sinh(start) * np.exp(-time))
    return solved


def table(result: Result) -> Table:
    values, lr = result
    shown = [i for i in SHOWN if i < len(values)]
    exact = flow(values[0], lr * np.array(shown))
    rows = [
        (f"{i:,}", f"{values[i]:.6g}", f"{math.tanh(values[i]):.4g}", f"{w:.6g}")
        for i, w in zip(shown, exact, strict=True)
    ]
    return Table(("iteration", "w", "gradient tanh(w)", "w of the flow"), rows)


def verdict(result: Result) -> str:
    values, lr = result
    return (
        f"After {len(values) - 1:,} iterations at a rate of {lr:g}, w is {values[-1]:.2g}; "
        f"the loss log cosh(w) is {np.log(np.cosh(values[-1])):.2g}."
    )


def draw(result: Result) -> Figure:
    from fastgd.lab.drawing import finish, new_figure

    values, lr = result
    steps = np.arange(len(values))
    figure, ((straight, logarithmic),) = new_figure(1, 2, height=4.6)
    for axes in (straight, logarithmic):
        axes.plot(steps, values, label="gradient descent")
        axes.plot(steps, flow(values[0], lr * steps), "--", label="flow dw/dt = -tanh(w)")
    finish(straight, "iteration", "w", "first a straight line ...")
    logarithmic.set_yscale("log")
    finish(logarithmic, "iteration", "w (logarithmic)", "... then an exponential")
    figure.suptitle(f"descent on log cosh(w) from {values[0]:g}, learning rate {lr:g}")
    return figure
