"""How the gallery's pictures look: 1000 pixels wide, one set of colours, letters large enough to read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["COLOURS", "finish", "new_figure"]

WIDTH, DPI = 10.0, 100

#: told apart by most colour-blind readers (Okabe and Ito 2008)
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")

STYLE: dict[str, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.framealpha": 0.9,
    "lines.linewidth": 1.6,
}


@contextmanager
def styled() -> Iterator[None]:
    """Within the block, what matplotlib makes has the gallery's style."""
    import matplotlib
    from cycler import cycler

    style: Any = {**STYLE, "axes.prop_cycle": cycler(color=COLOURS)}
    with matplotlib.rc_context(style):
        yield


def new_figure(rows: int = 1, columns: int = 1, *, height: float = 5.5, **options: Any) -> tuple[Figure, Any]:
    """A figure 1000 pixels wide and its axes, an array [rows, columns]; height in hundreds of pixels.

    options: further arguments of Figure.subplots, such as sharex.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with styled():
        figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        return figure, figure.subplots(rows, columns, squeeze=False, **options)


def finish(axes: Axes, x: str, y: str, title: str = "", *, legend: bool = True) -> None:
    """Names both axes, with their units, and puts the legend where it covers least."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if title:
        axes.set_title(title)
    if legend and axes.get_legend_handles_labels()[0]:
        axes.legend(loc="best")
