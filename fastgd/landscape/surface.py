"""A picture of losses over a plane as a surface, with the path of the training on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd.arrays import Array
from fastgd.landscape.pictures import (
    COLOURS,
    draw_center,
    draw_path,
    ends_at_center,
    missing_text,
    scale_of,
    styled,
)

if TYPE_CHECKING:
    from fastgd.landscape.results import Plane

__all__ = ["draw_surface"]

#: degrees: low enough to see heights, high enough to look into a bowl
ELEVATION, AZIMUTH = 42, -60
#: points of the path's line from one record to the next
PIECES = 24


def draw_surface(
    axes: Any, plane: Plane, loss: str, title: str, log: bool | None, limits: tuple[float, float] | None
) -> None:
    """Heights are losses, or on a logarithmic scale their logarithms. axes: of three dimensions.

    Raises ValueError for a plane of a single row or column.
    """
    if min(plane.losses.shape) < 2:
        raise ValueError("a surface needs at least two points along each direction")
    scale = scale_of(plane.losses, log, limits)
    with styled():
        axes.set_title(title)
        axes.set_xlabel(plane.labels[0].replace(" (", "\n("), labelpad=22)
        axes.set_ylabel(plane.labels[1].replace(" (", "\n("), labelpad=22)
        axes.set_zlabel(loss, labelpad=18)
        axes.tick_params(axis="z", pad=9)
        axes.view_init(ELEVATION, AZIMUTH)
        axes.set_box_aspect((1, 1, 0.7), zoom=0.88)
        if scale is None:
            axes.plot([], [], " ", label=missing_text(plane.losses))
            axes.legend(loc="upper left")
            return
        height = np.log10 if scale.log else np.asarray
        losses = np.where(np.isfinite(plane.losses), plane.losses, np.nan).clip(scale.low, scale.high)
        heights = height(losses)
        # its own order of drawing would hide the path behind the surface that it lies on
        axes.computed_zorder = False
        surface = axes.plot_surface(
            *np.meshgrid(plane.a, plane.b),
            heights,
            cmap=COLOURS,
            vmin=height(scale.low),
            vmax=height(scale.high),
            rcount=len(plane.b),
            ccount=len(plane.a),
            edgecolor="#00000030",
            linewidth=0.3,
            zorder=1,
        )
        ticks, names = height(scale.levels), [scale.format % level for level in scale.levels]
        axes.set_zticks(ticks, names)
        bar = axes.figure.colorbar(surface, ax=axes, shrink=0.6, pad=0.05)
        bar.set_ticks(ticks, labels=names)
        if not ends_at_center(plane):
            origin = np.zeros((1, 2))
            draw_center(axes, [*origin.T, _above(plane, heights, origin)], plane.center)
        if plane.path is not None:
            records = plane.path
            between = np.linspace(0, len(records) - 1, PIECES * (len(records) - 1) + 1)
            fine = np.array([np.interp(between, range(len(records)), column) for column in records.T]).T
            line = [*fine.T, _above(plane, heights, fine)]
            draw_path(axes, line, PIECES)
        if text := missing_text(plane.losses):
            axes.plot([], [], [], " ", label=text)
        axes.legend(loc="upper left")


def _above(plane: Plane, heights: Array, points: Array) -> Array:
    """Heights of the surface at points [n, 2], between those of the grid by straight lines; NaN beside it."""
    x, y = points.T
    columns = np.array([np.interp(x, plane.a, row, np.nan, np.nan) for row in heights]).T
    pairs = zip(y, columns, strict=True)
    return np.array([np.interp(at, plane.b, column, np.nan, np.nan) for at, column in pairs])
