"""Pictures of a fit: data, curve and confidence band, and what is left below."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from fastgd.fit.result import Result
from fastgd.lab.drawing import COLOURS, finish, new_figure

__all__ = ["save_fit"]

POINTS = 400
#: rows that a point of the binned residuals stands for at least, and as many bins as there are at most
IN_A_BIN, BINS = 10, 30
DATA, FIT, BAND = COLOURS[6], COLOURS[1], COLOURS[4]


def save_fit(path: str | os.PathLike[str], result: Result, x: str = "", y: str = "") -> None:
    """Result.plot."""
    if len(result.classes) > 2:
        raise ValueError(f"a picture shows two classes, and there are {len(result.classes)}")
    figure, panels = new_figure(2, 1, height=7.5, sharex=True, gridspec_kw={"height_ratios": (2.2, 1)})
    (above,), (below,) = panels
    draw = _draw_classes if result.classes else _draw_values
    draw(above, below, result, x, y)
    figure.savefig(path)


def _draw_values(above: Any, below: Any, result: Result, x: str, y: str) -> None:
    axis = result._model.axis(result.x)
    if axis:
        name, at = axis
        line = np.linspace(at.min(), at.max(), POINTS)
        heights = result.predict(line)
        low, high = result.band(line)
    else:
        name, at = "fitted value", result.predict(result.x)
        order = np.argsort(at)
        line = heights = at[order]
        low, high = (end[order] for end in result.band(result.x))
    residuals = result.y - result.predict(result.x)
    above.fill_between(line, low, high, color=BAND, alpha=0.45, lw=0, label="95 % band of the mean")
    above.plot(line, heights, color=FIT, label="fit")
    above.plot(at, result.y, "o", color=DATA, ms=4.5, alpha=0.7, mew=0, label="data")
    below.axhline(0, color=FIT)
    below.plot(at, residuals, "o", color=DATA, ms=4.5, alpha=0.7, mew=0)
    spread = result.residual_standard_error
    below.axhspan(
        -2 * spread, 2 * spread, color=COLOURS[5], alpha=0.2, lw=0, label="± 2 residual standard errors"
    )
    finish(above, "", y or "y", f"{result.title}: R² = {result.r2:.4g}")
    finish(below, x or name, "residual\n(in the same unit)")


def _draw_classes(above: Any, below: Any, result: Result, x: str, y: str) -> None:
    axis = result._model.axis(result.x)
    name, at = axis or ("log odds", result._model.linearised(result.estimates, result.x)[0])
    line = np.linspace(at.min(), at.max(), POINTS)
    if axis:
        above.fill_between(line, *result.band(line), color=BAND, alpha=0.45, lw=0, label="95 % band")
    curve = result.predict(line)[:, 1] if axis else result._model.outcome(line)
    above.plot(line, curve, color=FIT, label="fit")
    above.plot(at, result.y, "|", color=DATA, ms=14, alpha=0.5, label="rows")
    probabilities = result.predict(result.x)[:, 1]
    order = np.argsort(at, kind="stable")
    bins = np.array_split(order, max(1, min(BINS, len(order) // IN_A_BIN)))
    centres = np.array([at[rows].mean() for rows in bins])
    residuals = np.array([(result.y - probabilities)[rows].mean() for rows in bins])
    counts = np.array([len(rows) for rows in bins])
    spread = np.array([(probabilities * (1 - probabilities))[rows].mean() for rows in bins])
    bound = 2 * np.sqrt(spread / counts)
    below.fill_between(centres, -bound, bound, color=COLOURS[5], alpha=0.3, lw=0, label="± 2 standard errors")
    below.axhline(0, color=FIT)
    below.plot(centres, residuals, "o", color=DATA, ms=5)
    title = f"{result.title}: McFadden's R² = {result.r2:.4g}"
    finish(above, "", y or f"probability of {result.classes[1]!s}", title)
    above.legend(loc="center right")
    finish(below, x or name, f"residual, mean\nof {counts.min()} rows or more")
