"""Six update rules leave a saddle point, which falls away 20 times more gently than it rises.

All begin a hair beside the ridge, where the slope leads to the saddle and hardly away from it. Close to the
ridge the distance from it grows by a factor with each step. For gradient descent this factor is little more
than 1, because the learning rate must suit the steeper direction: a plateau, as long as the logarithm of how
near the path has come. Such points, not poor minima, are what holds up descent in many dimensions (Dauphin et
al. 2014). Rules that divide each coordinate by its own gradients do not notice that the slope away is small,
and leave first (Staib et al. 2019), as long as it lies along an axis. Turned by 45 degrees, the saddle holds
them too.

Each path has the learning rate, of 31 from 0.0001 to 10, whose loss is soonest below the tolerance for good,
and does not leave the picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.lab import Table
from fastgd.lab import paths as lab_paths
from fastgd.lab.paths import LOOKS, RULES, Path, Surface, best_path, draw_paths, follow, legend_below, turned

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: the curvature across the saddle's ridge is -1, along it this
ALONG = 20


def height(x: Array, y: Array) -> Array:
    """ALONG x^2 / 2 - y^2 / 2 + y^4 / 4: a saddle at 0 of height 0, minima of -1/4 at (0, 1) and (0, -1)."""
    z: Array = ALONG * x**2 / 2 - y**2 / 2 + y**4 / 4
    return z


def slopes(x: Array, y: Array) -> tuple[Array, Array]:
    return ALONG * x, y**3 - y


def saddle(beside: float) -> Surface:
    """beside: from the start to the ridge."""
    window = (-1.3, 1.3, -1.3, 1.3)
    return Surface("saddle", height, slopes, (0.9, beside), ((0, 1), (0, -1)), window)


class Plateau(NamedTuple):
    """What the rules do on the saddle, as it is or turned."""

    surface: Surface
    #: the best path of each rule
    paths: list[Path]
    #: rule -> steps to leave, at the same rate, for each distance from the ridge; NaN: too many
    leaving: dict[str, list[float]]


class Result(NamedTuple):
    plateaus: tuple[Plateau, Plateau]
    steps: int
    tolerance: float
    #: from the ridge at the start
    distances: tuple[float, ...]


def run(
    *,
    steps: int = 1000,
    tolerance: float = 1e-3,
    beside: float = 1e-6,
    distances: Sequence[float] = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12),
) -> Result:
    """steps: of each path. tolerance: a loss above the minimum's.

    beside: from the ridge to the start, of the paths that are tuned. distances: others, at the same rates.
    """
    plateaus = []
    for degrees in (0, 45):
        surface, *starts = (turned(saddle(distance), degrees) for distance in (beside, *distances))
        paths = [best_path(rule, surface, steps, tolerance) for rule in RULES]
        leaving = {path.rule: [steps_to_leave(path, start, steps) for start in starts] for path in paths}
        plateaus.append(Plateau(surface, paths, leaving))
    return Result((plateaus[0], plateaus[1]), steps, tolerance, tuple(distances))


def left(surface: Surface, losses: Array) -> float:
    """The first step at which the loss is halfway down from the saddle to the minimum; NaN: there is none."""
    below = losses < surface.loss(np.zeros(2)) / 2
    return float(np.argmax(below)) if below.any() else np.nan


def steps_to_leave(path: Path, surface: Surface, steps: int) -> float:
    """Steps that a path's rule takes to leave a surface from its start, at the path's rate."""
    return left(surface, surface.loss(follow(RULES[path.rule], surface, [path.lr], steps)[:, 0]))


def table(result: Result) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            f"{surface.name}: {path.rule}",
            f"{path.lr:.2g}",
            counted(left(surface, path.losses), result.steps),
            counted(path.settled, result.steps),
        )
        for surface, paths, _ in result.plateaus
        for path in paths
    ]
    return Table(("surface: rule", "rate", "steps to leave", f"steps to {result.tolerance:g}"), rows)


def counted(step: float | None, steps: int) -> str:
    return f"over {steps:,}" if step is None or np.isnan(step) else f"{step:,.0f}"


def verdict(result: Result) -> str:
    sentences = []
    for surface, paths, _ in result.plateaus:
        counts = {path.rule: left(surface, path.losses) for path in paths}
        order = sorted(counts, key=lambda rule: np.nan_to_num(counts[rule], nan=np.inf))
        found = ", ".join(f"{rule} {counted(counts[rule], result.steps)}" for rule in order)
        sentences.append(f"Steps to leave the {surface.name}: {found}.")
    return " ".join(sentences)


def draw(result: Result) -> Figure:
    from fastgd.lab.drawing import new_figure

    figure, axes = new_figure(2, 2, height=9.2, height_ratios=(3, 2))
    axes[1, 1].sharey(axes[1, 0])
    for (above, below), plateau in zip(axes.T, result.plateaus, strict=True):
        draw_paths(above, plateau.surface, plateau.paths)
        draw_leaving(below, plateau, result.distances)
    legend_below(figure, axes[0, 0])
    return figure


def draw_leaving(axes: Axes, plateau: Plateau, distances: Sequence[float]) -> None:
    from fastgd.lab.drawing import finish

    for rule, counts in plateau.leaving.items():
        axes.plot(distances, counts, marker="o", ms=5, label=rule, **LOOKS[rule])
    axes.set(xscale="log", yscale="log")
    axes.invert_xaxis()
    finish(axes, "distance of the start from the ridge", "steps to leave the saddle", legend=False)


def animate(result: Result) -> FuncAnimation:
    return lab_paths.animate([(plateau.surface, plateau.paths) for plateau in result.plateaus], height=5.6)
