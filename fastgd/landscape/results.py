"""What was found along a line and over a plane: to be read, saved and drawn."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from fastgd.arrays import Array
from fastgd.files import replacing

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Line", "Plane"]

FilePath = str | os.PathLike[str]
Kind = TypeVar("Kind", bound="_Result")

#: how fields that are no arrays come back from a file
_READ: dict[str, Callable[[Array], Any]] = {
    "center": float,
    "label": str,
    "labels": lambda values: tuple(values.tolist()),
    "shares": lambda values: tuple(values.tolist()),
}


class _Result:
    """In an NPZ file, a result is an entry for each of its fields that is not None."""

    def save(self, path: FilePath) -> None:
        """Writes an NPZ file, whole or not at all. Raises OSError."""
        found = {name: getattr(self, name) for name in _names(type(self))}
        with replacing(path) as file:
            np.savez(file, **{name: value for name, value in found.items() if value is not None})

    @classmethod
    def load(cls: type[Kind], path: FilePath) -> Kind:
        """What `save` wrote. Raises ValueError for any other file, OSError where there is none."""
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as saved:
                return cls(**{name: _READ.get(name, np.array)(saved[name]) for name in saved})
        except (AttributeError, EOFError, TypeError, ValueError, zipfile.BadZipFile):
            raise ValueError(f"{os.fspath(path)} is not what landscape.{cls.__name__}.save wrote") from None


def _names(kind: Any) -> list[str]:
    return [field.name for field in fields(kind)]


@dataclass(frozen=True, eq=False)
class Line(_Result):
    """The loss along a line; made by `landscape.line`.

    a: positions, float64 [points]; the weights are at 0.
    losses: float64 [points], NaN and infinities included.
    center: the loss at the weights themselves.
    label: what a position means.
    """

    a: Array
    losses: Array
    center: float
    label: str

    def plot(
        self, path: FilePath | None = None, *, loss: str = "loss", title: str = "", log: bool | None = None
    ) -> Figure:
        """A picture 1000 pixels wide, saved if a path is given; its suffix chooses the format.

        loss: the name of the loss, with its unit. log: whether its scale is logarithmic. Default None: where
        losses are above 0 and differ by more than a factor of 100.

        Raises ModuleNotFoundError without matplotlib, ValueError for an unknown suffix and OSError where the
        file cannot be written.
        """
        from fastgd.landscape.pictures import new_axes, saved

        figure, axes = new_axes(5.5)
        self.draw(axes, loss=loss, title=title, log=log)
        return saved(figure, path)

    def draw(self, axes: Axes, *, loss: str = "loss", title: str = "", log: bool | None = None) -> None:
        """`plot` on axes of matplotlib's."""
        from fastgd.landscape.pictures import draw_line

        draw_line(axes, self, loss, title, log)


@dataclass(frozen=True, eq=False)
class Plane(_Result):
    """The loss over a plane; made by `landscape.plane`.

    a, b: positions along the first and the second direction, float64 [columns] and [rows]; the weights are
        at (0, 0).
    losses: float64 [rows, columns], NaN and infinities included: losses[i, j] is that at (a[j], b[i]).
    center: the loss at the weights themselves.
    labels: what a position along each direction means.
    path: the records of the training on the plane, float64 [records, 2], or None.
    shares: of the path's variance, 0 to 1, that lies along each direction, or None.
    """

    a: Array
    b: Array
    losses: Array
    center: float
    labels: tuple[str, str]
    path: Array | None = None
    shares: tuple[float, float] | None = None

    def plot(
        self,
        path: FilePath | None = None,
        *,
        loss: str = "loss",
        title: str = "",
        log: bool | None = None,
        limits: tuple[float, float] | None = None,
    ) -> Figure:
        """Contours of the loss, and the training's path, 1000 pixels wide; saved if a path is given.

        loss, log and errors: as `Line.plot`'s.
        limits: the losses at the ends of the colour scale, for pictures that are to be compared. Default
            None: the lowest and the highest there are.
        """
        from fastgd.landscape.pictures import new_axes, saved

        figure, axes = new_axes(8.0)
        self.draw(axes, loss=loss, title=title, log=log, limits=limits)
        return saved(figure, path)

    def draw(
        self,
        axes: Axes,
        *,
        loss: str = "loss",
        title: str = "",
        log: bool | None = None,
        limits: tuple[float, float] | None = None,
    ) -> None:
        """`plot` on axes of matplotlib's, with a colour bar beside them."""
        from fastgd.landscape.pictures import draw_plane

        draw_plane(axes, self, loss, title, log, limits)

    def surface(
        self,
        path: FilePath | None = None,
        *,
        loss: str = "loss",
        title: str = "",
        log: bool | None = None,
        limits: tuple[float, float] | None = None,
    ) -> Figure:
        """The loss as heights over the plane; otherwise as `plot`."""
        from fastgd.landscape.pictures import new_axes, saved
        from fastgd.landscape.surface import draw_surface

        figure, axes = new_axes(8.0, projection="3d")
        draw_surface(axes, self, loss, title, log, limits)
        return saved(figure, path)
