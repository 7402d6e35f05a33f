"""Paths of update rules over functions of two variables: followed, tuned, drawn and animated."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastgd
from fastgd.arrays import Array
from fastgd.lab.drawing import COLOURS, new_figure

if TYPE_CHECKING:
    from matplotlib.animation import FuncAnimation
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

__all__ = [
    "LOOKS",
    "RATES",
    "RULES",
    "Make",
    "Path",
    "Surface",
    "animate",
    "best_path",
    "draw_paths",
    "follow",
    "legend_below",
    "turned",
]

#: makes an optimizer of arrays, or of groups of them
Make = Callable[..., fastgd.Optimizer]

RULES: dict[str, Make] = {
    "SGD": fastgd.SGD,
    "momentum": partial(fastgd.SGD, momentum=0.9),
    "Nesterov": partial(fastgd.SGD, momentum=0.9, nesterov=True),
    "Adagrad": fastgd.Adagrad,
    "RMSprop": fastgd.RMSprop,
    "Adam": fastgd.Adam,
}
#: the colour and the line of each rule
LOOKS: dict[str, dict[str, Any]] = {
    rule: {"color": COLOURS[i], "linestyle": ("solid", "dashed", "dashdot")[i % 3]}
    for i, rule in enumerate(RULES)
}

#: learning rates to choose from, six for each power of ten
RATES = tuple(np.logspace(-4, 1, 31).tolist())

#: frames of an animation in which paths grow, and in which they stand
GROWING, STANDING = 85, 12
#: levels of red, green and blue in the background of an animation
GREYS = 8


class Surface(NamedTuple):
    """A function of two variables, where to begin and where to look at it."""

    name: str
    value: Callable[[Array, Array], Array]
    #: both partial derivatives
    gradient: Callable[[Array, Array], tuple[Array, Array]]
    start: tuple[float, float]
    #: the places where it is lowest
    minima: tuple[tuple[float, float], ...]
    #: x from, x to, y from, y to
    window: tuple[float, float, float, float]

    def loss(self, points: Array) -> Array:
        """How far points [..., 2] lie above the minima."""
        lowest = self.value(*np.array(self.minima[0], np.float64))
        height: Array = self.value(points[..., 0], points[..., 1]) - lowest
        return height


def turned(surface: Surface, degrees: float) -> Surface:
    """The surface turned counterclockwise around (0, 0), in the same window."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))

    def turn(u: Array, v: Array) -> tuple[Array, Array]:
        return c * u - s * v, s * u + c * v

    def back(x: Array, y: Array) -> tuple[Array, Array]:
        return c * x + s * y, c * y - s * x

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = turn(*np.array(point, np.float64))
        return float(x), float(y)

    return surface._replace(
        name=f"{surface.name} turned by {degrees:g}°" if degrees else surface.name,
        value=lambda x, y: surface.value(*back(x, y)),
        gradient=lambda x, y: turn(*surface.gradient(*back(x, y))),
        start=place(surface.start),
        minima=tuple(map(place, surface.minima)),
    )


class Path(NamedTuple):
    """Where a rule went with one learning rate."""

    rule: str
    lr: float
    #: float64 [steps + 1, 2]
    points: Array
    #: float64 [steps + 1]
    losses: Array
    #: the step from which on the loss is below the tolerance, or None
    settled: int | None


def follow(make: Make, surface: Surface, rates: Sequence[float], steps: int) -> Array:
    """The points [steps + 1, rates, 2] that a rule visits from the surface's start with each learning rate.

    One optimizer takes all paths at once: each point is a parameter in a group of its own.
    """
    points = np.empty((steps + 1, len(rates), 2))
    points[0] = surface.start
    w = points[0].copy()
    opt = make([{"params": [point], "lr": lr} for point, lr in zip(w, rates, strict=True)])
    with np.errstate(over="ignore", invalid="ignore"):  # where a rate is too high
        for step in range(steps):
            opt.step(list(np.stack(surface.gradient(*w.T), axis=-1)))
            points[step + 1] = w
    return points


def settling(errors: Array, tolerance: float) -> Array:
    """For each column of errors [steps + 1, paths], from which step on it is below; steps + 1 for never."""
    late = ~(errors < tolerance)
    steps: Array = np.where(late.any(axis=0), len(late) - np.argmax(late[::-1], axis=0), 0)
    return steps


def best_path(
    rule: str, surface: Surface, steps: int, tolerance: float, rates: Iterable[float] = RATES
) -> Path:
    """The path whose loss is soonest below the tolerance for good; where none is, the one that ends lowest.

    Paths that leave the surface's window do not count; ValueError if all do.
    """
    rates = np.array(tuple(rates))
    points = follow(RULES[rule], surface, rates.tolist(), steps)
    left, right, bottom, top = surface.window
    inside = ((points >= (left, bottom)) & (points <= (right, top))).all(axis=(0, 2))
    if not inside.any():
        raise ValueError(f"{rule} leaves the window of {surface.name} at every rate")
    rates, points = rates[inside], points[:, inside]
    losses = surface.loss(points)
    settled = settling(losses, tolerance)
    best = np.lexsort((losses[-1], settled))[0]
    reached = int(settled[best]) if settled[best] <= steps else None
    return Path(rule, float(rates[best]), points[:, best], losses[:, best], reached)


def draw_paths(axes: Axes, surface: Surface, paths: Sequence[Path]) -> list[Line2D]:
    """Contours at logarithmically spaced heights, the start, the minima, and a line for each path."""
    left, right, bottom, top = surface.window
    x, y = np.meshgrid(np.linspace(left, right, 301), np.linspace(bottom, top, 301))
    heights = surface.loss(np.stack((x, y), axis=-1))
    levels = np.geomspace(heights.max() * 1e-5, heights.max(), 16)
    axes.contour(x, y, heights, levels, colors="0.7", linewidths=0.8)
    lines: list[Line2D] = []
    for path in paths:
        lines += axes.plot(*path.points.T, **LOOKS[path.rule], label=path.rule)
    black: dict[str, Any] = {"color": "black", "linestyle": "none", "zorder": 5}
    axes.plot(*surface.start, "o", ms=7, label="start", **black)
    axes.plot(*np.array(surface.minima).T, "*", ms=13, label="minimum", **black)
    axes.set(xlim=(left, right), ylim=(bottom, top), xlabel="x", ylabel="y", title=surface.name)
    axes.grid(False)
    return lines


def legend_below(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), columnspacing=1.2)


def animate(panels: Sequence[tuple[Surface, Sequence[Path]]], height: float) -> FuncAnimation:
    """All paths grow together, each frame by more steps than the one before; height in hundreds of pixels."""
    from matplotlib.animation import FuncAnimation

    still, ((*axes,),) = new_figure(1, len(panels), height=height)
    for panel, (surface, paths) in zip(axes, panels, strict=True):
        for line in draw_paths(panel, surface, paths):
            line.set_data([], [])
    legend_below(still, axes[0])
    still.suptitle(" ")
    figure = on_picture_of(still)
    moving: list[tuple[Array, Line2D, Line2D]] = []
    for panel, (_, paths) in zip(axes, panels, strict=True):
        above = figure.add_axes(panel.get_position(), xlim=panel.get_xlim(), ylim=panel.get_ylim())
        above.axis("off")
        for path in paths:
            (line,) = above.plot([], [], **LOOKS[path.rule])
            (head,) = above.plot([], [], "o", color=line.get_color(), ms=6)
            moving.append((path.points, line, head))
    steps = max(len(points) for points, _, _ in moving) - 1
    title = figure.suptitle("")

    def show(frame: int) -> list[Any]:
        step = round(steps * min(1.0, frame / GROWING) ** 2)
        title.set_text(f"step {step:,}")
        for points, line, head in moving:
            line.set_data(*points[: step + 1].T)
            head.set_data(*points[: step + 1][-1:].T)
        return [title, *(artist for _, *both in moving for artist in both)]

    return FuncAnimation(figure, show, frames=GROWING + STANDING)


def on_picture_of(still: Figure) -> Figure:
    """A figure whose background is a picture of another one, so that a frame takes only what moves.

    The picture has few colours: a GIF has 256 for each frame, and what keeps its colour takes no space.
    """
    still.canvas.draw()
    seen = np.asarray(still.canvas.buffer_rgba())[..., :3]  # type: ignore[attr-defined]  # Agg's
    step = 255 / (GREYS - 1)
    figure, _ = new_figure(1, 1)
    figure.clear()
    figure.set_layout_engine("none")
    figure.set_size_inches(*still.get_size_inches())
    figure.figimage((np.round(seen / step) * step).astype(np.uint8), zorder=-1)
    return figure
