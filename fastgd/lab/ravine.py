"""Paths of six update rules along ravines: an ill-conditioned bowl, Rosenbrock's function and Beale's.

A ravine is steep across and gentle along. A learning rate low enough not to bounce out of it is far too low
for the way along it: on a bowl whose curvatures differ by the factor kappa, gradient descent needs steps in
proportion to kappa, with momentum in proportion to its root (Polyak 1964; Sutskever et al. 2013, section 2).
Rules that divide each coordinate by its own gradients do not feel kappa at all while the ravine runs along an
axis (Duchi, Hazan and Singer 2011). Turned by 45 degrees, it is one for them too.

Each path has the learning rate, of 31 from 0.0001 to 10, whose loss is soonest below the tolerance for good,
and does not leave the picture. RMSprop at a constant rate does not come to rest, so that it needs a low one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import fastgd
from fastgd.arrays import Array
from fastgd.lab import Table
from fastgd.lab import paths as lab_paths
from fastgd.lab.paths import LOOKS, RULES, Make, Path, Surface, best_path, draw_paths, legend_below, turned

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: how near is near, in the study of condition numbers: a share of the distance at the start
NEAR = 1e-3


def bowl(kappa: float) -> Surface:
    """(x^2 + kappa y^2) / 2."""
    return Surface(
        f"bowl, kappa = {kappa:g}",
        lambda x, y: (x**2 + kappa * y**2) / 2,
        lambda x, y: (x, kappa * y),
        start=(-1, 0.35),
        minima=((0, 0),),
        window=(-1.2, 0.7, -0.8, 0.8),
    )


def rosenbrock(x: Array, y: Array) -> Array:
    """Rosenbrock 1960."""
    loss: Array = (1 - x) ** 2 + 100 * (y - x**2) ** 2
    return loss


def rosenbrock_gradient(x: Array, y: Array) -> tuple[Array, Array]:
    return 2 * (x - 1) - 400 * x * (y - x**2), 200 * (y - x**2)


def beale(x: Array, y: Array) -> Array:
    """Beale 1958."""
    loss: Array = (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2
    return loss


def beale_gradient(x: Array, y: Array) -> tuple[Array, Array]:
    a, b, c = 1.5 - x + x * y, 2.25 - x + x * y**2, 2.625 - x + x * y**3
    return 2 * (a * (y - 1) + b * (y**2 - 1) + c * (y**3 - 1)), 2 * x * (a + 2 * b * y + 3 * c * y**2)


SURFACES = (
    bowl(100),
    Surface("Rosenbrock", rosenbrock, rosenbrock_gradient, (-1.2, 1), ((1, 1),), (-2, 2, -1, 3)),
    Surface("Beale", beale, beale_gradient, (1, 1.5), ((3, 0.5),), (-0.5, 4.5, -2, 2)),
)


class Result(NamedTuple):
    """The best path of each rule on each surface, and the steps that bowls took."""

    surfaces: list[tuple[Surface, list[Path]]]
    steps: int
    tolerance: float
    kappas: tuple[float, ...]
    #: what descended -> steps for each of kappas; NaN: too many
    needed: dict[str, list[float]]


def run(
    *,
    steps: int = 1000,
    tolerance: float = 1e-3,
    kappas: Sequence[float] = (10, 30, 100, 300, 1000, 3000),
) -> Result:
    """steps: of each path. tolerance: a loss above the minimum's. kappas: condition numbers, above 1."""
    surfaces = [
        (surface, [best_path(rule, surface, steps, tolerance) for rule in RULES]) for surface in SURFACES
    ]
    needed: dict[str, list[float]] = {}
    for kappa in kappas:
        for name, count in count_steps(kappa).items():
            needed.setdefault(name, []).append(count)
    return Result(surfaces, steps, tolerance, tuple(kappas), needed)


def count_steps(kappa: float) -> dict[str, float]:
    """Steps until the distance to the minimum is NEAR times what it was, at the best rates theory knows.

    On a quadratic with curvatures from 1 to kappa these are 2 / (kappa + 1) for gradient descent, and
    4 / (sqrt(kappa) + 1)^2 with a momentum of ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^2 (Polyak 1964).
    """
    root = math.sqrt(kappa)
    heavy_ball = partial(fastgd.SGD, momentum=((root - 1) / (root + 1)) ** 2)
    along = bowl(kappa)
    across = turned(along, 45)
    tried: dict[str, tuple[Make, Surface, float]] = {
        "SGD": (fastgd.SGD, along, 2 / (kappa + 1)),
        "momentum": (heavy_ball, along, 4 / (root + 1) ** 2),
        "Adagrad": (fastgd.Adagrad, along, 0.5),
        "Adam": (fastgd.Adam, along, 0.1),
        "Adagrad, turned": (fastgd.Adagrad, across, 0.5),
        "Adam, turned": (fastgd.Adam, across, 0.1),
    }
    limit = math.ceil(2 * in_theory(kappa)) + 200
    return {name: steps_to(*how, limit) for name, how in tried.items()}


def steps_to(make: Make, surface: Surface, lr: float, limit: int) -> float:
    """Steps until the distance to (0, 0) is NEAR times what it was; NaN if limit is not enough."""
    w = np.array(surface.start)
    opt = make([w], lr=lr)
    goal = NEAR * math.hypot(*w)
    for step in range(limit + 1):
        if math.hypot(*w) < goal:
            return step
        opt.step([np.array(surface.gradient(w[0], w[1]))])
    return math.nan


def in_theory(ratio: float) -> float:
    """Steps to NEAR where each one leaves (ratio - 1) / (ratio + 1) of the distance."""
    return math.log(NEAR) / math.log((ratio - 1) / (ratio + 1))


def table(result: Result) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            f"{surface.name}: {path.rule}",
            f"{path.lr:.2g}",
            f"{path.settled:,}" if path.settled is not None else f"over {result.steps:,}",
            f"{path.losses[-1]:.2g}",
        )
        for surface, paths in result.surfaces
        for path in paths
    ]
    return Table(("function: rule", "rate", f"steps to {result.tolerance:g}", "loss at the end"), rows)


def verdict(result: Result) -> str:
    slopes = {name: slope(result.kappas, counts) for name, counts in result.needed.items()}
    first, last = result.needed["Adam"][0], result.needed["Adam"][-1]
    return (
        f"From kappa = {result.kappas[0]:g} to {result.kappas[-1]:g}, the steps that a bowl takes grow as "
        f"kappa to the power {slopes['SGD']:.2f} with SGD (theory: 1) and {slopes['momentum']:.2f} with "
        f"momentum (theory: 1/2). Adam takes {first:g} and {last:g} where the bowl lies along the axes; "
        f"where it is turned, they grow to the power {slopes['Adam, turned']:.2f}."
    )


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """The exponent p of y = c x^p, by least squares on logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def draw(result: Result) -> Figure:
    from fastgd.lab.drawing import new_figure

    figure, axes = new_figure(2, 2, height=9.2)
    *panels, last = axes.flat
    for panel, (surface, paths) in zip(panels, result.surfaces, strict=True):
        draw_paths(panel, surface, paths)
    legend_below(figure, panels[0])
    draw_counts(last, result)
    return figure


def draw_counts(axes: Axes, result: Result) -> None:
    from fastgd.lab.drawing import finish

    for name, counts in result.needed.items():
        rule, _, turned = name.partition(", ")
        axes.plot(result.kappas, counts, marker="D" if turned else "o", ms=5, label=name, **LOOKS[rule])
    kappas = np.array(result.kappas)
    for ratios, label in ((kappas, "theory"), (np.sqrt(kappas), None)):
        axes.plot(kappas, [in_theory(ratio) for ratio in ratios], ":", color="black", label=label)
    axes.set(xscale="log", yscale="log")
    finish(
        axes,
        "condition number kappa of a bowl",
        f"steps to {NEAR:g} of the distance",
        "steps by condition number",
    )


def animate(result: Result) -> FuncAnimation:
    return lab_paths.animate(result.surfaces, height=4.2)
