"""Pictures of losses along lines and over planes: contours, their scale, and the path of a training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.checks import each, named
from fastgd.checks import finite as finite_number

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastgd.landscape.results import FilePath, Line, Plane

__all__ = ["draw_center", "draw_line", "draw_path", "draw_plane", "new_axes", "saved", "scale_of"]

WIDTH, DPI = 10.0, 100
FONT_SIZE = 11
COLOURS = "viridis"
#: of the path and of points, told from all of the colours above by colour-blind readers too
ACCENT = "#FF5A1F"
MISSING = "#D0D0D0"

#: losses that differ by more than this factor are drawn on a logarithmic scale
WIDE = 100.0
#: levels at most
LEVELS = 10
#: a logarithmic scale over fewer decades has evenly spaced levels, and one over more no level within a decade
FEW_DECADES, MANY_DECADES = 1.2, 4.0
#: colours between the lowest and the highest loss
SHADES = 128
#: whether losses are below the scale, and above it -> how the colour bar says so
EXTEND = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
#: where contours have no labels, as a share of the axes, for the frame would cut them
EDGE = 0.02


class Scale(NamedTuple):
    """Where losses are shown on a picture."""

    low: float
    high: float
    log: bool
    #: losses of labelled contours and marks, from low to high
    levels: Array

    def norm(self) -> Any:
        """From losses to colours."""
        from matplotlib.colors import LogNorm, Normalize

        return (LogNorm if self.log else Normalize)(self.low, self.high)

    def shades(self) -> Array:
        """Losses between which colours change."""
        space = np.geomspace if self.log else np.linspace
        return space(self.low, self.high, SHADES + 1)

    @property
    def format(self) -> str:
        """What tells any two levels apart, for the operator %."""
        sizes = np.abs(self.levels)
        apart = np.diff(self.levels) / np.maximum(sizes[1:], sizes[:-1])
        return f"%.{max(4, 1 - math.floor(math.log10(apart.min(initial=1))))}g"


def scale_of(losses: Array, log: bool | None, limits: tuple[float, float] | None = None) -> Scale | None:
    """The scale for these losses; None where not one is finite.

    Raises ValueError for limits that are not upwards, and for a logarithmic scale of what is not above 0.
    """
    finite = losses[np.isfinite(losses)]
    if limits is not None:
        low, high = named("limits", each(finite_number, finite_number), limits)
        if not low < high:
            raise ValueError(f"limits must be two losses, the lower one first, not {limits!r}")
    if not finite.size:
        return None
    if limits is None:
        low, high = float(finite.min()), float(finite.max())
    if log and low <= 0:
        raise ValueError(f"log needs losses above 0, and the lowest is {low:g}")
    if log is None:
        log = 0 < low < high / WIDE
    if high <= low:  # as wide as one loss needs
        room = abs(low) / 2 or 1.0
        return Scale(low - room, low + room, False, np.array([low]))
    return Scale(low, high, log, _levels(low, high, log))


def _levels(low: float, high: float, log: bool) -> Array:
    from matplotlib.ticker import MaxNLocator

    decades = math.log10(high) - math.log10(low) if log else 0.0
    if decades < FEW_DECADES:
        found = np.asarray(MaxNLocator(LEVELS, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high))
    else:
        every = math.ceil(decades / LEVELS)
        exponents = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
        steps = (1, 2, 5) if decades < MANY_DECADES else (1,)
        found = np.array([step * 10.0**e for e in exponents if e % every == 0 for step in steps])
    within: Array = found[(found >= low) & (found <= high)]
    return within


def new_axes(height: float, **options: Any) -> tuple[Figure, Any]:
    """A figure 1000 pixels wide and its axes. height: in hundreds of pixels; options: of add_subplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.add_subplot(**options)


def saved(figure: Figure, path: FilePath | None) -> Figure:
    if path is not None:
        figure.savefig(path)
    return figure


def styled() -> Any:
    """Within the block, letters have one size."""
    from matplotlib import rc_context

    return rc_context({"font.size": FONT_SIZE, "axes.titlesize": FONT_SIZE + 1, "legend.framealpha": 0.9})


def missing_text(losses: Array) -> str:
    """How many losses are not finite; "" where all are."""
    count = int((~np.isfinite(losses)).sum())
    return f"{count} of {losses.size} losses are NaN or infinite" if count else ""


def draw_plane(
    axes: Any, plane: Plane, loss: str, title: str, log: bool | None, limits: tuple[float, float] | None
) -> None:
    """Contours of the losses, a colour bar, and either the path or the weights."""
    scale = scale_of(plane.losses, log, limits)
    with styled():
        axes.set_facecolor(MISSING)
        axes.set_xlabel(plane.labels[0])
        axes.set_ylabel(plane.labels[1])
        axes.set_title(title)
        if scale is not None:
            _draw_contours(axes, plane, scale, loss)
        _draw_missing(axes, plane)
        if plane.path is not None:
            draw_path(axes, plane.path.T)
        if not ends_at_center(plane):
            draw_center(axes, (0, 0), plane.center)
        axes.set_xlim(*_at_least_two(plane.a)[[0, -1]])
        axes.set_ylim(*_at_least_two(plane.b)[[0, -1]])
        axes.legend(loc=_free_corner(axes, [(0.0, 0.0)] if plane.path is None else plane.path))


def _free_corner(axes: Any, points: Any) -> str:
    """The corner that is farthest from all points."""
    low, high = np.array([axes.get_xlim(), axes.get_ylim()]).T
    shares = (np.asarray(points) - low) / (high - low)
    corners = {"upper right": (1, 1), "upper left": (0, 1), "lower right": (1, 0), "lower left": (0, 0)}
    # a legend is wider than high
    distances = {name: np.hypot(*((shares - at) * (0.5, 1)).T).min() for name, at in corners.items()}
    return max(distances, key=lambda name: float(distances[name]))


def _draw_contours(axes: Any, plane: Plane, scale: Scale, loss: str) -> None:
    from matplotlib.patheffects import withStroke

    a, b = _at_least_two(plane.a), _at_least_two(plane.b)
    losses = np.ma.masked_invalid(np.broadcast_to(plane.losses, (len(b), len(a))))
    low, high = losses.min(), losses.max()
    beyond = EXTEND[bool(low < scale.low), bool(high > scale.high)]
    shown = losses.clip(scale.low, scale.high)
    filled = axes.contourf(a, b, shown, scale.shades(), norm=scale.norm(), cmap=COLOURS, extend=beyond)
    inner = scale.levels[(scale.levels > low) & (scale.levels < high)]
    if inner.size:
        lines = axes.contour(a, b, losses, inner, colors="white", linewidths=1, alpha=0.8)
        for text in axes.clabel(lines, fmt=scale.format, fontsize=FONT_SIZE - 1):
            text.set_path_effects([withStroke(linewidth=2.5, foreground="#00000090")])
            share = axes.transAxes.inverted().transform(axes.transData.transform(text.get_position()))
            if not ((share > EDGE) & (share < 1 - EDGE)).all():
                text.remove()
    bar = axes.figure.colorbar(filled, ax=axes, pad=0.02, label=loss, ticks=scale.levels, format=scale.format)
    bar.minorticks_off()


def _at_least_two(positions: Array) -> Array:
    """Contours need two positions; one stands for a band around it."""
    return positions if len(positions) > 1 else positions + np.array([-0.5, 0.5])


def _draw_missing(axes: Any, plane: Plane) -> None:
    rows, columns = np.nonzero(~np.isfinite(plane.losses))
    if rows.size:
        label = missing_text(plane.losses)
        axes.plot(plane.a[columns], plane.b[rows], "x", ms=4, color="#707070", label=label, zorder=3)


def ends_at_center(plane: Plane) -> bool:
    """Whether there is a path that ends at the weights the plane goes through."""
    path = plane.path
    return path is not None and bool(np.abs(path[-1]).max() <= 1e-6 * np.abs(path).max())


def draw_center(axes: Any, at: Any, loss: float) -> None:
    """The weights that all is around. at: one array for each dimension of the axes."""
    label = f"these weights: loss {loss:.4g}"
    axes.plot(*at, "*", ms=16, color=ACCENT, mec="white", mew=1.2, label=label, zorder=7)


def draw_path(axes: Any, line: Any, every: int = 1) -> None:
    """The path as a line with its records, start and end.

    line: one array for each dimension of the axes, of which every so many numbers there is a record.
    """
    records = [values[::every] for values in line]
    label = f"training path ({len(records[0])} records)"
    marked = {"marker": "o", "markevery": every, "ms": 4.5, "mec": "black", "mew": 0.6}
    axes.plot(*line, color="black", lw=4, zorder=5)
    axes.plot(*line, color=ACCENT, lw=2, label=label, zorder=6, **marked)
    for at, marker, size, name in ((0, "o", 10, "start"), (-1, "*", 17, "end")):
        ends = [values[[at]] for values in records]
        axes.plot(*ends, marker, ms=size, color="white", mec="black", mew=1.2, label=name, zorder=7)


def draw_line(axes: Any, line: Line, loss: str, title: str, log: bool | None) -> None:
    """The losses, the weights' own, and where losses are not finite."""
    scale = scale_of(line.losses, log)
    finite = np.isfinite(line.losses)
    with styled():
        axes.plot(line.a, np.where(finite, line.losses, np.nan), ".-", color="#0072B2", label=loss)
        if math.isfinite(line.center) and line.a[0] <= 0 <= line.a[-1]:
            draw_center(axes, (0, line.center), line.center)
        if scale is not None and scale.log:
            axes.set_yscale("log")
        if text := missing_text(line.losses):
            at = line.a[~finite]
            frame = {"transform": axes.get_xaxis_transform(), "clip_on": False}
            axes.plot(at, np.ones(len(at)), "x", color="#707070", label=text, **frame)
        axes.set_xlabel(line.label)
        axes.set_ylabel(loss)
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend(loc="best")
