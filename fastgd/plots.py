"""Pictures of a training run, drawn by matplotlib without a display."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd.runs import Result
from fastgd.schedules import Schedule

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["curves", "save_curves"]

MOST_POINTS = 4000
WIDTH, HEIGHT_OF_EACH, DPI = 10.0, 2.8, 100


def save_curves(path: str | os.PathLike[str], result: Result) -> None:
    """Saves `curves` as a picture 1000 pixels wide.

    path: its suffix chooses the format (.png, .svg, .pdf). Raises ModuleNotFoundError without matplotlib,
    ValueError for an unknown suffix and OSError where the file cannot be written.
    """
    curves(result).savefig(path)


def curves(result: Result) -> Figure:
    """Losses, test score, gradient norm and, where there is a schedule, the learning rate over the epochs."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scheduled = result.settings.schedule is not None
    count = 4 if scheduled else 3
    figure = Figure(figsize=(WIDTH, count * HEIGHT_OF_EACH), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    every = figure.subplots(count, 1, sharex=True)
    loss_axes, score_axes, norm_axes = every[:3]
    settings, dataset = result.settings, result.dataset
    batch = f"batch size {settings.batch_size}"
    figure.suptitle(f"{Path(dataset.name).name}: {settings.optimizer}, {batch}, {result.steps} steps")
    epochs = [epoch.epoch for epoch in result.history]
    loss_axes.plot(epochs, [epoch.train_loss for epoch in result.history], ".-", label="training loss")
    if result.dataset.x_validation is not None:
        losses = [epoch.validation_loss for epoch in result.history]
        loss_axes.plot(epochs, losses, ".--", color="tab:orange", label="validation loss")
    loss_axes.set_ylabel(loss_unit(result))
    draw_scores(score_axes, result, epochs)
    draw_norms(norm_axes, result)
    if scheduled:
        draw_rates(every[3], result)
    every[-1].set_xlabel("epoch")
    every[-1].xaxis.get_major_locator().set_params(integer=True)
    for axes in every:
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(loc="best")
    return figure


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


def draw_rates(axes: Any, result: Result) -> None:
    """The schedule itself, or of one that follows the loss what it was in each epoch."""
    schedule, label = result.optimizer.param_groups[0]["lr"], result.settings.schedule
    assert result.practice is not None
    if isinstance(schedule, Schedule):
        n = len(result.grad_norms)
        steps = np.unique(np.linspace(0, n, min(n + 1, MOST_POINTS)).astype(int))
        at, rates = steps / result.practice.steps_per_epoch, [schedule(step) for step in steps.tolist()]
    else:
        at = np.array([epoch.epoch - 1 for epoch in result.history])
        rates = [epoch.lr for epoch in result.history]
    axes.plot(at, rates, drawstyle="steps-post", color="tab:brown", label=label)
    axes.set_ylabel("learning rate")


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
