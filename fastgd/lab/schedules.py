"""Learning rates over a run of 100 epochs: every schedule that has a name.

Texts are what `fastgd train --schedule` and `schedules.from_text` take; lengths in them are epochs. All but
one are functions of the step alone. Reducing on a plateau depends on what training finds; here it is told of
a loss that falls, each epoch, by a third of the way to a level in proportion to the rate, as stochastic
descent does whose noise the rate multiplies.
"""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.lab import Table
from fastgd.schedules import ReduceOnPlateau
from fastgd.schedules.recipes import RECIPES, Run, from_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 4

#: how a schedule is shown where its name alone does not say enough
EXAMPLES = {
    "step": ("step(every=25)",),
    "multi_step": ("multi_step(milestones=[50, 75])",),
    "cosine": ("cosine", "cosine(warmup=10)"),
    "warm_restarts": ("warm_restarts", "warm_restarts(multiplier=2)"),
    "triangular": ("triangular(epochs=20)", "triangular(epochs=20, mode='triangular2')"),
    "warmup_stable_decay": ("warmup_stable_decay(warmup=10)",),
}

#: a paper, or else torch's class, in the documentation of a schedule
SOURCES = (
    r"[A-Z]\w+(?: and [A-Z]\w+| et al\.)? [12]\d{3}(?:, (?:section|equation) \d+(?:\.\d+)*)?",
    r"\w+ of torch",
)


class Curve(NamedTuple):
    """A schedule as a text, the rate of each step, float64 [steps], and where it comes from."""

    text: str
    rates: Array
    source: str


class Result(NamedTuple):
    curves: list[Curve]
    run: Run


def run(*, lr: float = 0.1, epochs: int = 100, steps_per_epoch: int = 10) -> Result:
    """lr: the largest rate of each."""
    whole = Run(epochs * steps_per_epoch, steps_per_epoch)
    texts = [text for name in RECIPES for text in EXAMPLES.get(name, (name,))]
    return Result([curve(text, lr, whole) for text in texts], whole)


def curve(text: str, lr: float, run: Run) -> Curve:
    schedule = from_text(text, lr, run)
    rates, loss = np.empty(run.steps), 1.0
    for step in range(run.steps):
        rates[step] = schedule(step)
        if isinstance(schedule, ReduceOnPlateau) and (step + 1) % run.steps_per_epoch == 0:
            loss += (rates[step] - loss) / 3
            schedule.update(loss)
    return Curve(text, rates, source(schedule))


def source(schedule: Any) -> str:
    """What the documentation of its class names, or of the class it is made of; empty if it names nothing."""
    while hasattr(schedule, "schedule") and not isinstance(schedule, ReduceOnPlateau):
        schedule = schedule.schedule
    text = " ".join((inspect.getdoc(type(schedule)) or "").split())
    found = (re.search(pattern, text) for pattern in SOURCES)
    return next((match[0] for match in found if match), "")


def table(result: Result) -> Table:
    rows: list[tuple[str, ...]] = [
        (text, f"{rates[0]:.3g}", f"{rates.max():.3g}", f"{rates[-1]:.3g}", source)
        for text, rates, source in result.curves
    ]
    return Table(("schedule", "first rate", "largest rate", "last rate", "source"), rows)


def verdict(result: Result) -> str:
    means = {text: rates.mean() / rates.max() for text, rates, _ in result.curves}
    low, high = min(means, key=lambda text: means[text]), max(means, key=lambda text: means[text])
    return (
        f"Of {len(means)} schedules over {result.run.steps:,} steps, {low} has the lowest mean, "
        f"{means[low]:.2f} of its largest rate, and {high} the highest, {means[high]:.2f}."
    )


def draw(result: Result) -> Figure:
    from fastgd.lab.drawing import new_figure

    rows = -(-len(result.curves) // COLUMNS)
    figure, axes = new_figure(rows, COLUMNS, height=2.3 * rows, sharex=True, sharey=True)
    epochs = np.arange(result.run.steps) / result.run.steps_per_epoch
    for panel in axes.flat[len(result.curves) :]:
        panel.remove()
    for panel, (text, rates, _) in zip(axes.flat, result.curves, strict=False):
        panel.plot(epochs, rates, drawstyle="steps-post")
        panel.set_title(text.replace("(", "\n("), fontsize=10)
        panel.set(xlabel="epoch", ylabel="learning rate", ylim=(0, None))
        panel.label_outer()
    return figure
