"""Pictures of a history: loss, gradients, updates and units without a gradient, by layer over the steps."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd.monitor.records import History, Layer
from fastgd.monitor.thresholds import limit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT, DPI = 10.0, 12.0, 100

#: layers whose names fit a legend; more are told apart by a colour bar
NAMED = 8

#: looks whose points are drawn as such
MARKED = 100

#: around an update ratio of 1e-3, a usual one
USUAL = (1e-4, 1e-2)

Number = Callable[[Layer], float | None]


def _flat_share(layer: Layer) -> float | None:
    """Dead units behind a rectifier, saturated outputs behind a sigmoid."""
    return layer.saturated if layer.two_sided else layer.dead


def save_plot(path: str | os.PathLike[str], history: History) -> None:
    """`draw` in a file, whose suffix chooses the format."""
    draw(history).savefig(path)


def draw(history: History) -> Figure:
    """The picture, 1000 pixels wide. ValueError when no layer was looked at."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not history.looks:
        raise ValueError("no layer was looked at yet: there is nothing to draw")
    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    loss, gradients, updates, units = figure.subplots(4, 1, sharex=True)
    _draw_loss(loss, history)
    names = [layer.name for layer in history.looks[-1].layers if layer.grad_norm is not None]
    _draw_layers(gradients, history, names, lambda layer: layer.grad_norm)
    gradients.set_ylabel("gradient norm")
    _draw_layers(updates, history, names, lambda layer: layer.update_ratio)
    updates.axhspan(*USUAL, color="0.88", zorder=0, label="usual")
    updates.set_ylabel("update / parameter")
    flat = [layer.name for layer in history.looks[-1].layers if layer.two_sided is not None]
    _draw_layers(units, history, flat, _flat_share, log=False)
    units.axhline(limit("dead_units"), color="0.3", ls=":", lw=1, label="too many")
    units.set_ylim(-0.02, 1.02)
    units.set_ylabel("share of units dead,\nor outputs saturated")
    units.set_xlabel("step")
    for axes in (loss, gradients, updates, units):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), fontsize=10, frameon=False)
    return figure


def _draw_loss(axes: Any, history: History) -> None:
    told = [(step.step, math.nan if step.loss is None else step.loss) for step in history.steps]
    steps, losses = np.array([step for step, _ in told]), np.array([loss for _, loss in told])
    finite = np.isfinite(losses)
    axes.plot(steps[finite], losses[finite], lw=0.8, color="0.25", label="loss")
    seen = losses[finite]
    if len(seen) and 0 < 10 * seen.min() < seen.max():
        axes.set_yscale("log")
    bad = [spoiled.step for spoiled in history.spoiled]
    if bad:
        axes.axvline(bad[0], color="tab:red", lw=1.2, label="not finite")
    axes.set_ylabel("loss")


def _draw_layers(axes: Any, history: History, names: list[str], of: Number, *, log: bool = True) -> None:
    """A line for each of these layers, from dark (the first) to light (the last)."""
    import matplotlib

    colours = matplotlib.colormaps["viridis"]
    steps = [look.step for look in history.looks]
    labels = {layer.name: layer.label for look in history.looks for layer in look.layers}
    marker = "." if len(steps) <= MARKED else ""
    drawn = False
    for i, name in enumerate(names):
        seen = [{layer.name: of(layer) for layer in look.layers}.get(name) for look in history.looks]
        values = np.array([math.nan if value is None else value for value in seen])
        values[~np.isfinite(values) | ((values <= 0) if log else False)] = math.nan
        drawn = drawn or bool(np.isfinite(values).any())
        shade = 0.9 * i / max(1, len(names) - 1)
        ends = len(names) <= NAMED or i in (0, len(names) // 2, len(names) - 1)
        label = labels[name] if ends else None
        axes.plot(steps, values, "-", lw=1.3, color=colours(shade), label=label, marker=marker, ms=4)
    if log and drawn:
        axes.set_yscale("log")
