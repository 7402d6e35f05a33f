"""Batch, stochastic and mini-batch descent on one regression: noise, time, and the loss they reach.

The gradient of B examples is the whole gradient with noise of variance sigma^2 / B, sigma^2 being the
variance of one example's (Robbins and Monro 1951; Bottou, Curtis and Nocedal 2018, section 4). Small batches
buy many steps with the same examples and pay in noise: at a constant rate the loss stops falling where steps
gain as much as the noise costs, and the more examples a batch has, the higher the rate that suits it. Halving
the noise takes twice the examples, which is worth while until the noise is as small as the gradient
(McCandlish et al. 2018, section 2.2). Falling to 0, the rate takes the noise with it.

The model is a linear regression of the ten classes' indicators on the pixels of scikit-learn's digits,
because its lowest loss can be computed: losses are those above it. Each batch size has the learning rate
whose loss is lowest after the same number of examples. Seconds depend on the machine and decide nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastgd
from fastgd import nn
from fastgd.arrays import Array
from fastgd.data import batches, load
from fastgd.lab import Table
from fastgd.schedules import Cosine

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: four for each power of ten
RATES = tuple(np.logspace(-3, 0.25, 14).tolist())
#: of batches whose gradients are compared with the whole one, as far as there are as many examples
NOISE_SIZES = tuple(2**k for k in range(11))
#: the loss that a descent reaches is the mean over so many epochs' ends
LAST = 3


class Problem(NamedTuple):
    """Inputs float32 [n, 64], targets [n, 10], and the lowest loss that a linear model can have."""

    x: Array
    y: Array
    lowest: float


class Descent(NamedTuple):
    """One run: the loss above the lowest by examples that were seen, and the seconds its steps took."""

    batch_size: int
    falls: bool
    lr: float
    seen: Array
    seconds: Array
    losses: Array

    @property
    def label(self) -> str:
        return f"{self.batch_size:,}{', falling rate' if self.falls else ''}"

    @property
    def reached(self) -> float:
        """Infinite where the loss grew beyond all bounds."""
        mean = float(np.mean(self.losses[-LAST:]))
        return mean if np.isfinite(mean) else np.inf


class Noise(NamedTuple):
    """The variance of gradients by batch size, all relative to the squared norm of the whole gradient."""

    place: str
    sizes: tuple[int, ...]
    #: the mean squared distance from the whole gradient, for each of sizes
    measured: list[float]
    #: sigma^2 from the gradients of all single examples: the batch size at which noise and gradient are equal
    scale: float


class Result(NamedTuple):
    #: batch size and whether the rate falls -> a run for each rate
    tried: list[list[Descent]]
    noises: list[Noise]
    epochs: int
    examples: int

    @property
    def best(self) -> list[Descent]:
        return [min(runs, key=lambda run: run.reached) for runs in self.tried]


def problem(examples: int | None = None) -> Problem:
    """The training part of the digits, or its first examples."""
    digits = load("digits")
    x, y = digits.x_train[:examples], np.eye(10, dtype=np.float32)[digits.y_train[:examples]]
    with_bias = np.c_[x, np.ones(len(x))].astype(np.float64)
    weights = np.linalg.lstsq(with_bias, y, rcond=None)[0]
    return Problem(x, y, float(np.mean((with_bias @ weights - y) ** 2)))


def new_model(seed: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(64, 10), loss=nn.MSELoss(), seed=seed)


def run(
    *,
    sizes: Sequence[int] = (1, 4, 16, 64, 256),
    epochs: int = 20,
    rates: Sequence[float] = RATES,
    draws: int = 100,
    examples: int | None = None,
    seed: int = 0,
) -> Result:
    """sizes: of mini-batches; all examples at once and, for the middle size, a rate that falls come on top.

    draws: batches for each measurement of noise. examples: how many to train on; None: all 1,438.
    """
    data = problem(examples)
    kinds = [(size, False) for size in (*sizes, len(data.x))] + [(sizes[len(sizes) // 2], True)]
    tried = []
    with np.errstate(over="ignore", invalid="ignore"):  # at rates that are too high
        for size, falls in kinds:
            tried.append([descend(data, new_model(seed), size, falls, lr, epochs, seed) for lr in rates])
    model = new_model(seed)
    noises = [noise(data, model, "at the start", draws, seed)]
    best = min(tried[len(sizes) // 2], key=lambda descent: descent.reached)
    descend(data, model, best.batch_size, best.falls, best.lr, 1, seed)
    noises.append(noise(data, model, "after one epoch", draws, seed))
    return Result(tried, noises, epochs, len(data.x))


def descend(
    data: Problem, model: nn.Sequential, size: int, falls: bool, lr: float, epochs: int, seed: int
) -> Descent:
    """Trains for so many epochs; losses are taken ever more rarely, and then at the end of each epoch."""
    n = len(data.x)
    rate = Cosine(lr, steps=epochs * -(-n // size)) if falls else lr
    opt = fastgd.SGD(model.named_parameters(), lr=rate)
    rng = np.random.default_rng(seed)
    marks = iter([*np.geomspace(1, n, 25)[:-1].tolist(), *range(n, n * epochs + 1, n), np.inf])
    mark, seen, seconds = next(marks), 0, 0.0
    points = [(0, 0.0, model.evaluate(data.x, data.y).loss - data.lowest)]
    for _ in range(epochs):
        for rows in batches(n, size, rng):
            x, y = data.x[rows], data.y[rows]
            begun = time.perf_counter()
            model.train_step(x, y, opt)
            seconds += time.perf_counter() - begun
            seen += len(rows)
            if seen >= mark:
                points.append((seen, seconds, model.evaluate(data.x, data.y).loss - data.lowest))
                while mark <= seen:
                    mark = next(marks)
    return Descent(size, falls, lr, *np.array(points, np.float64).T)


def noise(data: Problem, model: nn.Sequential, place: str, draws: int, seed: int) -> Noise:
    """How far gradients of batches, drawn with replacement, are from that of all examples."""

    def gradient(rows: Array) -> Array:
        _, grads = model.loss_and_grad(data.x[rows], data.y[rows])
        return np.concatenate([grad.ravel() for grad in grads]).astype(np.float64)

    n, rng = len(data.x), np.random.default_rng(seed)
    whole = gradient(np.arange(n))

    def distance(rows: Array) -> float:
        return float(np.sum((gradient(rows) - whole) ** 2) / np.sum(whole**2))

    sizes = tuple(size for size in NOISE_SIZES if size <= n)
    measured = [
        float(np.mean([distance(rng.integers(n, size=size)) for _ in range(draws)])) for size in sizes
    ]
    return Noise(place, sizes, measured, float(np.mean([distance(np.array([row])) for row in range(n)])))


def slope(noise: Noise) -> float:
    """The exponent p of noise = c size^p, by least squares on logarithms; theory: -1."""
    return float(np.polyfit(np.log(noise.sizes), np.log(noise.measured), 1)[0])


def table(result: Result) -> Table:
    rows: list[tuple[str, ...]] = [
        (
            descent.label,
            f"{descent.lr:.2g}",
            f"{result.epochs * -(-result.examples // descent.batch_size):,}",
            f"{descent.reached:.2g}",
            examples_to(descent, result),
            f"{descent.seconds[-1]:.2f}",
        )
        for descent in result.best
    ]
    columns = ("batch size", "rate", "steps", "loss above the lowest", "examples to full batch's", "seconds")
    return Table(columns, rows)


def full_batch(result: Result) -> Descent:
    return next(descent for descent in result.best if descent.batch_size == result.examples)


def examples_to(descent: Descent, result: Result) -> str:
    """How many examples it has seen when its loss first is what full batches reach with all of theirs."""
    there = descent.losses <= full_batch(result).losses[-1]
    return f"{descent.seen[np.argmax(there)]:,.0f}" if there.any() else "never"


def verdict(result: Result) -> str:
    best = min((descent for descent in result.best if not descent.falls), key=lambda d: d.reached)
    falling = next(descent for descent in result.best if descent.falls)
    full = full_batch(result)
    slopes = " and ".join(f"{slope(noise):.2f} {noise.place}" for noise in result.noises)
    scales = " and ".join(f"{noise.scale:.2g}" for noise in result.noises)
    return (
        f"The gradient's variance falls with the batch size to the power {slopes} (theory: -1), and equals "
        f"the gradient's square at batches of {scales}. After {result.epochs} epochs, batches of "
        f"{best.batch_size} are {best.reached:.2g} above the lowest loss and full batches "
        f"{full.reached:.2g}, {full.reached / best.reached:.1f} times as far; batches of "
        f"{falling.batch_size} with a rate that falls to 0 are {falling.reached:.2g} above it."
    )


def draw(result: Result) -> Figure:
    from fastgd.lab.drawing import COLOURS, finish, new_figure

    figure, axes = new_figure(2, 2, height=9.2)
    examples, seconds, rates, noises = axes.flat
    colours: dict[int, str] = {}
    for descent, runs in zip(result.best, result.tried, strict=True):
        colour = colours.setdefault(descent.batch_size, COLOURS[len(colours)])
        style: dict[str, Any] = {"color": colour, "linestyle": "--" if descent.falls else "-"}
        examples.plot(descent.seen[1:], descent.losses[1:], label=descent.label, **style)
        seconds.plot(descent.seconds[1:], descent.losses[1:], **style)
        rates.plot([run.lr for run in runs], [run.reached for run in runs], marker="o", ms=4, **style)
    worst = result.best[0].losses[0]
    for panel in (examples, seconds, rates):
        panel.set(
            xscale="log", yscale="log", ylim=(0.5 * min(d.losses.min() for d in result.best), 2 * worst)
        )
    finish(examples, "examples seen", "loss above the lowest", "by examples", legend=False)
    finish(seconds, "seconds of training steps", "loss above the lowest", "by time", legend=False)
    title = f"after {result.epochs} epochs, by learning rate"
    finish(rates, "learning rate", "loss above the lowest", title, legend=False)
    draw_noise(noises, result.noises)
    handles, labels = examples.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), title="batch size")
    return figure


def draw_noise(axes: Axes, noises: Sequence[Noise]) -> None:
    from fastgd.lab.drawing import finish

    for noise, marker in zip(noises, "os", strict=True):
        axes.plot(noise.sizes, noise.measured, marker, color="black", mfc="none", label=noise.place)
        theory = [noise.scale / size for size in noise.sizes]
        axes.plot(noise.sizes, theory, "-", color="0.6", label="sigma² / B" if noise is noises[-1] else None)
    axes.axhline(1, color="black", linestyle=":", lw=1)
    axes.set(xscale="log", yscale="log")
    finish(axes, "batch size B", "variance / squared norm of the gradient", "noise of the gradient")
