"""Pictures of a training run, drawn by matplotlib without a display."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from fastgd.runs import Result

__all__ = ["save_curves"]

MOST_POINTS = 4000
WIDTH, HEIGHT, DPI = 10.0, 8.4, 100


def save_curves(path: str | os.PathLike[str], result: Result) -> None:
    """Saves training loss, test score and gradient norm over the epochs as a picture 1000 pixels wide.

    path: its suffix chooses the format (.png, .svg, .pdf). Raises ModuleNotFoundError without matplotlib,
    ValueError for an unknown suffix and OSError where the file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    loss_axes, score_axes, norm_axes = figure.subplots(3, 1, sharex=True)
    settings, dataset = result.settings, result.dataset
    batch = f"batch size {settings.batch_size}"
    figure.suptitle(f"{Path(dataset.name).name}: {settings.optimizer}, {batch}, {result.steps} steps")
    epochs = [epoch.epoch for epoch in result.history]
    loss_axes.plot(epochs, [epoch.train_loss for epoch in result.history], ".-", label="training loss")
    loss_axes.set_ylabel(loss_unit(result))
    draw_scores(score_axes, result, epochs)
    draw_norms(norm_axes, result)
    norm_axes.set_xlabel("epoch")
    norm_axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in (loss_axes, score_axes, norm_axes):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    figure.savefig(path)


def loss_unit(result: Result) -> str:
    if result.dataset.task == "classification":
        return "cross-entropy (nats)"
    return "mean squared error\n(standard deviations²)"


def draw_scores(axes: Any, result: Result, epochs: list[int]) -> None:
    if result.dataset.task == "classification":
        values = [100 * epoch.scores.get("accuracy", math.nan) for epoch in result.history]
        axes.plot(epochs, values, ".-", color="tab:green", label="test accuracy")
        axes.set_ylabel("accuracy (%)")
    else:
        values = [epoch.scores.get("rmse", math.nan) for epoch in result.history]
        axes.plot(epochs, values, ".-", color="tab:green", label="test error")
        axes.set_ylabel("root mean squared error\n(units of the target)")


def draw_norms(axes: Any, result: Result) -> None:
    """Each step's norm, or the largest of as many neighbouring steps as fit a point of the picture."""
    norms = np.array(result.grad_norms)
    ends = np.cumsum([epoch.steps - epoch.skipped for epoch in result.history])
    label = "gradient norm before clipping"
    if len(norms):
        starts = np.arange(0, len(norms), -(-len(norms) // MOST_POINTS))
        marks = [0.0, *(float(epoch.epoch) for epoch in result.history)]
        at = np.interp(starts + 1, [0, *ends], marks)
        axes.plot(at, np.maximum.reduceat(norms, starts), lw=0.7, color="tab:purple", label=label)
        if norms.max() > 0:
            axes.set_yscale("log")
    if result.settings.clip_norm is not None:
        limit = result.settings.clip_norm
        axes.axhline(limit, color="tab:red", ls="--", label=f"clipped above {limit:g}")
    axes.set_ylabel("L2 norm")
