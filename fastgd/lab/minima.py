"""Sharp and flat minima: large and small batches, warm restarts, averaged weights, and the loss around each.

One network on scikit-learn's digits. A fifth of the training labels are drawn anew, so that there is much
to learn that does not hold for others. Large batches end where the loss is steep around the weights; the
noise of small ones, at a larger rate, drives the weights out of narrow valleys into wide ones, which are
said to generalise better (Keskar et al. 2017, section 2). Falling to 0 and rising again, the rate visits
one minimum after another (SGDR: Loshchilov and Hutter 2017, section 3). Held constant, it keeps the weights
on the slopes around a wide minimum, and their average over many epochs lies within it (SWA: Izmailov et al.
2018, section 3).

Sharpness is the largest eigenvalue of the Hessian of the training loss. It depends on how weights are
scaled (Dinh et al. 2017, section 5); slices along filter-normalised directions do not (Li et al. 2018,
section 4). It needs a smooth loss, and so the activation is GELU. All trainings have the same weight decay,
without which a loss becomes flat by going to 0 alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import fastgd
from fastgd import landscape, nn, schedules
from fastgd.arrays import Array
from fastgd.averaging import StochasticWeightAverage
from fastgd.curvature import eigenvalues
from fastgd.data import Dataset, batches, load
from fastgd.lab import Table
from fastgd.nn.sequential import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEST_SIZE, WRONG_LABELS = 0.45, 0.2
HIDDEN = 64
WEIGHT_DECAY = 2e-3
KINDS = ("training", "test")
#: how far the slices go, as a share of each filter's norm
SPAN = 0.5


class Training(NamedTuple):
    """How a minimum is looked for."""

    batch_size: int
    #: how many times as many epochs as others it takes: large batches make fewer steps of each
    longer: int
    #: the number of steps -> the learning rate
    rate: Callable[[int], schedules.Schedule]


TRAININGS = {
    "large batches": Training(250, 6, lambda steps: schedules.Constant(0.2)),
    "small batches": Training(16, 1, lambda steps: schedules.WarmupStableDecay(0.4, steps, 0, steps // 4)),
    "SGDR": Training(16, 1, lambda steps: schedules.WarmRestarts(0.4, steps // 4)),
    "constant rate": Training(16, 1, lambda steps: schedules.Constant(0.4)),
}
#: the training whose weights are averaged, and what they are called
AVERAGED, SWA = "constant rate", "its average (SWA)"
SOLUTIONS = (*TRAININGS, SWA)


class Trained(NamedTuple):
    """A network, and what was kept of its training."""

    model: nn.Sequential
    #: of the weights after each epoch of the second half
    swa: StochasticWeightAverage
    #: the weights after the first half, the last ones and their average, which lie in one plane
    path: landscape.Path
    #: the mean training loss of each epoch, float64 [epochs]
    losses: Array


class Solution(NamedTuple):
    """What there is around the weights that a training ended with."""

    train: Evaluation
    test: Evaluation
    #: the largest eigenvalue of the Hessian of the training loss
    sharpness: float
    #: training and test loss along random directions, float64 [2, directions, points]
    slices: Array


class Result(NamedTuple):
    #: of each of SOLUTIONS, one for each seed
    solutions: dict[str, list[Solution]]
    #: of each of TRAININGS with the first seed: the training loss by epoch
    courses: dict[str, Array]
    #: the positions in the slices, as shares of the filters' norms, float64 [points]
    positions: Array
    #: training and test loss around the first seed's average
    planes: list[landscape.Plane]


def run(*, seeds: int = 4, epochs: int = 120, directions: int = 2, points: int = 25) -> Result:
    """seeds: the number of networks for each training. epochs: of small batches.

    directions: the number of slices around each minimum. points: in each slice, and along each side of a
    plane.
    """
    data = noisy_digits()
    solutions: dict[str, list[Solution]] = {name: [] for name in SOLUTIONS}
    courses: dict[str, Array] = {}
    planes: list[landscape.Plane] = []
    for seed in range(seeds):
        for name, training in TRAININGS.items():
            model, swa, path, course = train(training, data, epochs, seed)
            courses.setdefault(name, course)
            solutions[name].append(look_around(model, data, directions, points))
            if name == AVERAGED:
                with swa.applied():
                    solutions[SWA].append(look_around(model, data, directions, points))
                    planes = planes or planes_through(path, model, data, points)
    return Result(solutions, courses, np.linspace(-SPAN, SPAN, points), planes)


def noisy_digits() -> Dataset:
    data = load("digits", test_size=TEST_SIZE)
    rng = np.random.default_rng(0)
    wrong = rng.random(len(data.y_train)) < WRONG_LABELS
    data.y_train[wrong] = rng.integers(data.n_outputs, size=wrong.sum())
    return data


def train(training: Training, data: Dataset, epochs: int, seed: int) -> Trained:
    model = nn.Sequential(
        nn.Linear(data.n_features, HIDDEN),
        nn.GELU(),
        nn.Linear(HIDDEN, data.n_outputs),
        loss=nn.CrossEntropyLoss(),
        seed=seed,
    )
    epochs *= training.longer
    rows = len(data.x_train)
    rate = training.rate(epochs * -(-rows // training.batch_size))
    opt = fastgd.SGD(model.named_parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    swa, path, losses = StochasticWeightAverage(opt), landscape.Path(model), np.zeros(epochs)
    rng = np.random.default_rng(seed)
    for epoch in range(epochs):
        for batch in batches(rows, training.batch_size, rng):
            step = model.train_step(data.x_train[batch], data.y_train[batch], opt)
            losses[epoch] += step.loss * len(batch) / rows
        if 2 * epoch >= epochs:
            swa.update()
        if swa.count == 1:
            path.record()
    path.record()
    path.record(swa.averages)
    return Trained(model, swa, path, losses)


def losses_of(model: nn.Sequential, data: Dataset) -> tuple[Callable[[], float], Callable[[], float]]:
    """On training and on test data."""
    return (
        lambda: model.loss(data.x_train, data.y_train),
        lambda: model.loss(data.x_test, data.y_test),
    )


def look_around(model: nn.Sequential, data: Dataset, directions: int, points: int) -> Solution:
    x, y = data.x_train, data.y_train
    (sharpness,), _ = eigenvalues(model, lambda: model.loss_and_grad(x, y)[1], tol=1e-2)
    slices = [
        [
            landscape.line(model, loss, span=SPAN, points=points, seed=seed, progress=False).losses
            for seed in range(directions)
        ]
        for loss in losses_of(model, data)
    ]
    test = model.evaluate(data.x_test, data.y_test)
    return Solution(model.evaluate(x, y), test, float(sharpness), np.array(slices))


def planes_through(
    path: landscape.Path, model: nn.Sequential, data: Dataset, points: int
) -> list[landscape.Plane]:
    """Training and test loss over the plane of a path that ends with the model's weights, in its middle."""
    at = np.concatenate([array.ravel() for array in model.parameters()])
    directions, _ = path.principal_directions()
    span = 1.3 * float(np.abs(path.coordinates(at, directions)).max())
    return [
        landscape.plane(model, loss, directions=path, span=span, points=points, progress=False)
        for loss in losses_of(model, data)
    ]


def table(result: Result) -> Table:
    columns = ("weights", "training loss", "test loss", "test accuracy (%)", "largest eigenvalue")
    rows: list[tuple[str, ...]] = [
        (
            name,
            spread([solution.train.loss for solution in found], 3),
            spread([solution.test.loss for solution in found], 3),
            spread([100 * (solution.test.accuracy or 0.0) for solution in found], 1),
            spread([solution.sharpness for solution in found], 2),
        )
        for name, found in result.solutions.items()
    ]
    return Table(columns, rows)


def spread(values: list[float], digits: int) -> str:
    """The mean over seeds and, where there are several, their standard deviation."""
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def means(result: Result, name: str) -> tuple[float, float]:
    """Test loss and sharpness, means over seeds."""
    found = result.solutions[name]
    return float(np.mean([s.test.loss for s in found])), float(np.mean([s.sharpness for s in found]))


def verdict(result: Result) -> str:
    (large, sharp), (small, flat) = means(result, "large batches"), means(result, "small batches")
    (last, _), (average, flattest) = means(result, AVERAGED), means(result, SWA)
    lowest = min(SOLUTIONS, key=lambda name: means(result, name)[0])
    lowest_losses = spread([solution.test.loss for solution in result.solutions[lowest]], 3)
    return (
        f"The minima of small batches are {'flatter' if flat < sharp else 'not flatter'} than those of large "
        f"ones: the largest eigenvalue is {flat:.2f} against {sharp:.2f}, with a test loss of {small:.3f} "
        f"against {large:.3f}. With a constant rate, averaging the weights "
        f"{'lowers' if average < last else 'does not lower'} the test loss, from {last:.3f} for the last "
        f"ones to {average:.3f}, with an eigenvalue of {flattest:.2f}. The lowest test loss is that of: "
        f"{lowest}, {lowest_losses}."
    )


def draw(result: Result) -> Figure:
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    from fastgd.lab.drawing import COLOURS, finish, new_figure

    figure, ((course, scatter), slices, planes) = new_figure(3, 2, height=13.2)
    colours = dict(zip(SOLUTIONS, COLOURS, strict=False))
    for name, losses in result.courses.items():
        course.plot(np.arange(1, len(losses) + 1) / len(losses), losses, color=colours[name])
    course.set_yscale("log")
    finish(course, "share of the training", "mean training loss of an epoch (nats)", "course, first seed")
    for name, found in result.solutions.items():
        ends = [(solution.sharpness, solution.test.loss) for solution in found]
        scatter.plot(*zip(*ends, strict=True), "o", color=colours[name], label=name, ms=8, mec="white")
    scatter.set_xscale("log")
    scatter.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    scatter.xaxis.set_major_formatter(ScalarFormatter())
    scatter.xaxis.set_minor_formatter(NullFormatter())
    finish(scatter, "largest eigenvalue of the Hessian", "test loss (nats)", "where they end", legend=False)
    for i, (kind, panel) in enumerate(zip(KINDS, slices, strict=True)):
        for name, found in result.solutions.items():
            mean = np.concatenate([solution.slices[i] for solution in found]).mean(axis=0)
            panel.plot(result.positions, mean, color=colours[name])
        title = f"{kind} loss along random directions, means"
        finish(panel, "distance (share of each filter's norm)", f"{kind} loss (nats)", title)
    for kind, plane, panel in zip(KINDS, result.planes, planes, strict=True):
        draw_plane(panel, plane, kind)
    figure.legend(*scatter.get_legend_handles_labels(), loc="outside upper center", ncols=len(SOLUTIONS))
    return figure


def draw_plane(axes: Axes, plane: landscape.Plane, kind: str) -> None:
    """The plane through the average, the last weights, and those that averaging began with."""
    title = f"{kind} loss, first seed"
    replace(plane, path=None).draw(axes, loss=f"{kind} loss (nats)", title=title, log=True)
    assert plane.path is not None
    looks = (("s", 9, "white"), ("o", 9, "white"), ("*", 16, "#E69F00"))
    names = ("averaging begins", "last weights", "average (SWA)")
    points = [
        axes.plot(*at, marker, ms=size, color=colour, mec="black", label=name, ls="none", zorder=7)[0]
        for at, (marker, size, colour), name in zip(plane.path, looks, names, strict=True)
    ]
    axes.legend(handles=points, loc="upper right")
    axes.set(xlabel="distance in weight space", ylabel="distance in weight space", aspect="equal")
