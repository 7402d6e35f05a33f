"""Asks for the loss along a line and over a plane through the weights, and puts these back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastgd.arrays import Array, listed
from fastgd.checks import finite, flag, named, one_of, real, whole
from fastgd.landscape.directions import NORMALIZATIONS, random_vector
from fastgd.landscape.path import Path
from fastgd.landscape.results import Line, Plane
from fastgd.weights import Weights

__all__ = ["line", "plane"]

Loss = Callable[[], Any]
Span = tuple[float, float]

#: what a plane shows beyond its path, as a share of the path's extent
MARGIN = 0.2


def line(
    params: Any,
    loss: Loss,
    *,
    to: Any = None,
    direction: Any = "random",
    points: int = 41,
    span: Any = None,
    seed: int = 0,
    normalize: str = "filter",
    biases: bool | None = None,
    progress: bool = True,
) -> Line:
    """The loss along a line through the weights as they are now.

    params: arrays, tensors, nn.Sequential or a torch module, of every dtype that fastgd works on. They are
        moved in place and put back bit for bit, also when the loss raises or Ctrl-C comes, and so are the
        buffers of a model or module, which are the same for every point.
    loss: takes no arguments and returns a number, which may be NaN or infinite.
    to: another model of these shapes, or its weights, for the line from these (0) to those (1): Goodfellow,
        Vinyals and Saxe 2015, section 2. Default None: along `direction`.
    direction: one array for each parameter, or "random" (default): see `random_direction` for seed, normalize
        and biases.
    points: 1 or more, evenly spaced. Default 41.
    span: (low, high), or high for (-high, high). Default (-0.5, 1.5) with `to`, else 1.
    progress: whether a bar is shown, where standard error is a terminal and rich is installed. Default True.

    Raises TypeError or ValueError for what does not fit, before anything is moved.
    """
    scan = _Scan(params, loss, progress)
    points = named("points", whole(1), points)
    usual: Span = (-1.0, 1.0)
    if to is not None:
        if direction != "random":
            raise ValueError("give either to or direction, not both")
        vectors = scan.given([to], "weight") - scan.at
        usual, label = (-0.5, 1.5), "position on the line (0: these weights, 1: the others)"
    elif isinstance(direction, str):
        vectors, unit = scan.random(1, "direction", direction, seed, normalize, biases)
        label = f"random direction ({unit})"
    else:
        vectors, label = scan.given([direction], "direction"), "multiples of the direction"
    a = np.linspace(*_span(span, usual), points)
    losses, center = scan.losses((x * vectors[0] for x in a), points)
    return Line(a, losses, center, label)


def plane(
    params: Any,
    loss: Loss,
    *,
    directions: Any = "random",
    points: int | tuple[int, int] = 25,
    span: Any = None,
    seed: int = 0,
    normalize: str = "filter",
    biases: bool | None = None,
    progress: bool = True,
) -> Plane:
    """The loss over a plane through the weights as they are now.

    params, loss, progress: as `line`'s.
    directions: "random" (default): two of `random_direction` with seed, normalize and biases (Li et al. 2018,
        section 4); a Path: its principal directions, and the path on the plane (section 7.2 there); or two
        directions, each one array for each parameter, such as eigenvectors of the Hessian.
    points: along each direction, or (along the first, along the second). Default 25.
    span: (low, high) for both directions, high for (-high, high), or ((low, high), (low, high)). Default: 1,
        or what holds the path and a margin around it.

    Raises TypeError or ValueError for what does not fit, before anything is moved.
    """
    scan = _Scan(params, loss, progress)
    columns, rows = points if isinstance(points, tuple) and len(points) == 2 else (points, points)
    columns, rows = named("points", whole(1), columns), named("points", whole(1), rows)
    path = shares = None
    usual: tuple[Span, Span] = (-1.0, 1.0), (-1.0, 1.0)
    if isinstance(directions, Path):
        if directions.shapes != scan.weights.shapes:
            raise ValueError("directions are a path of parameters of other shapes")
        vectors, shares = directions.principal_directions(seed)
        path = directions.coordinates(scan.at, vectors)
        usual = _around(path)
        names = [f"principal direction {i}: {100 * shares[i - 1]:.3g} % of the variance" for i in (1, 2)]
        unit = "L2 distance"
    elif isinstance(directions, str):
        vectors, unit = scan.random(2, "directions", directions, seed, normalize, biases)
        names = ["random direction 1", "random direction 2"]
    else:
        pair = listed(directions, "directions")
        if len(pair) != 2:
            raise ValueError(f"directions must be two for a plane, not {len(pair)}")
        vectors, unit = scan.given(pair, "direction"), "multiples of it"
        names = ["direction 1", "direction 2"]
    spans = _spans(span, usual)
    a, b = np.linspace(*spans[0], columns), np.linspace(*spans[1], rows)
    offsets = (x * vectors[0] + y * vectors[1] for y in b for x in a)
    losses, center = scan.losses(offsets, rows * columns)
    labels = f"{names[0]} ({unit})", f"{names[1]} ({unit})"
    return Plane(a, b, losses.reshape(rows, columns), center, labels, path, shares)


class _Scan:
    """What a line and a plane have in common: the weights they go through, and the asking."""

    def __init__(self, params: Any, loss: Loss, progress: bool) -> None:
        self.weights = Weights(params)
        self.at = self.weights.finite_vector()
        if not callable(loss):
            raise TypeError(f"loss must be a function of no arguments, not {type(loss).__name__}")
        self.loss = loss
        self.progress = named("progress", flag, progress)

    def given(self, directions: list[Any], what: str) -> Array:
        """[directions, size] of lists of arrays."""
        vectors = np.array([self.weights.joined(direction, what) for direction in directions])
        if not np.isfinite(vectors).all():
            raise ValueError(f"a {what} holds NaN or infinity")
        return vectors

    def random(
        self, count: int, what: str, kind: str, seed: int, normalize: str, biases: bool | None
    ) -> tuple[Array, str]:
        """[count, size], and what coordinates along them count in."""
        named(what, one_of("random"), kind)
        rng = np.random.default_rng(named("seed", whole(0), seed))
        vectors = [random_vector(self.weights, rng, normalize, biases) for _ in range(count)]
        return np.array(vectors), NORMALIZATIONS[normalize].unit

    def losses(self, offsets: Iterable[Array], count: int) -> tuple[Array, float]:
        """The losses at the weights moved by each offset, float64 [count], and at the weights themselves."""
        found = np.empty(count)
        with self.weights.moving() as move_to, _bar(count, self.progress) as advance:
            move_to(self.at)
            center = self._ask()
            for i, offset in enumerate(offsets):
                move_to(self.at + offset)
                found[i] = self._ask()
                advance()
        return found, center

    def _ask(self) -> float:
        value = self.loss()
        return named("what loss returns", real, value.detach() if hasattr(value, "detach") else value)


@contextmanager
def _bar(total: int, wanted: bool) -> Iterator[Callable[[], None]]:
    """A bar on standard error, where that is a terminal; yields what moves it on by one point."""
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
    except ModuleNotFoundError:
        wanted = False
    if not wanted or not (console := Console(stderr=True)).is_terminal:
        yield lambda: None
        return
    columns = TextColumn("losses"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda: progress.advance(task)


def _span(span: Any, usual: Span) -> Span:
    """One span: (low, high), or the higher end of one around 0."""
    if span is None:
        return usual
    try:
        low, high = (finite(end) for end in span) if np.ndim(span) else (-finite(span), finite(span))
    except (TypeError, ValueError):
        raise ValueError(f"span must be a number or (low, high), not {span!r}") from None
    if not low < high:
        raise ValueError(f"span must go upwards, not from {low:g} to {high:g}")
    return low, high


def _spans(span: Any, usual: tuple[Span, Span]) -> tuple[Span, Span]:
    """One span for both directions, or one for each."""
    each = span if np.ndim(span) == 2 and len(span) == 2 else (span, span)
    return _span(each[0], usual[0]), _span(each[1], usual[1])


def _around(path: Array) -> tuple[Span, Span]:
    """The spans that hold the path, the weights at 0, and a margin."""
    low, high = np.minimum(path.min(axis=0), 0), np.maximum(path.max(axis=0), 0)
    extent = high - low
    # a path on a line: as much to both sides as the line is long
    margin = np.where(extent > 1e-9 * extent.max(), MARGIN * extent, extent.max() / 2)
    (a, c), (b, d) = low - margin, high + margin
    return (float(a), float(b)), (float(c), float(d))
