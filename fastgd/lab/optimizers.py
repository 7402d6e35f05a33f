"""All update rules on two problems, digits and text, each with the best of a few learning rates.

A rule is only as good as its rate, and rates of different rules do not compare. So each begins with its
default rate and goes up, or else down, by factors of the root of 10 for as long as the last training loss
falls. All other hyperparameters have their defaults; first weights, batches and the number of steps are the
same for all.

Two small problems and one seed say little about others: which rule wins depends on the problem and on what
is searched (Choi et al. 2019; Schmidt, Schneider and Hennig 2021). Rprop compares the signs of two
gradients of the whole data set (Riedmiller and Braun 1993); those of mini-batches differ by chance. Muon
takes matrices only; AdamW with its default rate has the vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastgd
from fastgd import nn
from fastgd.arrays import Array
from fastgd.data import Dataset, load
from fastgd.lab import Table
from fastgd.nn.sequential import Evaluation
from fastgd.rules import RULES, Rule
from fastgd.text import load_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: between two learning rates, and how many are tried at most in one direction
FACTOR, MOST = math.sqrt(10), 8
#: steps between two evaluations
EVERY = 10

#: what the picture shows together -> the files of fastgd.rules
FAMILIES = {
    "plain and averaged": ("sgd", "averaged"),
    "sums of squares": ("adagrad",),
    "Adam and its kin": ("adam", "variance"),
    "several momenta; signs": ("mixed", "signs"),
    "whole tensors": ("trust", "factored", "orthogonal"),
}


class Problem(NamedTuple):
    """What is learned, and by what."""

    data: Dataset
    #: of training data and of test data, the examples that are evaluated
    rows: tuple[int, int]
    #: seed -> the model
    model: Callable[[int], nn.Sequential]
    batch_size: int
    #: the training loss that counts as reached, nats
    goal: float
    #: what is told of the test set, and how it is computed
    score: str
    score_of: Callable[[Evaluation], float]


class Training(NamedTuple):
    """One rule with one rate."""

    lr: float
    #: on training data, before the first step and after every EVERY; infinite from where it is not finite
    losses: Array
    score: float


class Result(NamedTuple):
    problems: dict[str, Problem]
    #: problem -> rule -> the trainings that were tried, the first with the default rate
    tried: dict[str, dict[str, list[Training]]]

    def best(self, problem: str, rule: str) -> Training:
        return min(self.tried[problem][rule], key=last)


def last(training: Training) -> float:
    return float(training.losses[-1])


def digits() -> Problem:
    """Scikit-learn's digits, by one hidden layer."""
    data = load("digits")

    def model(seed: int) -> nn.Sequential:
        layers = nn.Linear(data.n_features, 32), nn.ReLU(), nn.Linear(32, data.n_outputs)
        return nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=seed)

    def score(found: Evaluation) -> float:
        return 100 * (found.accuracy or 0.0)

    return Problem(data, (512, 360), model, 32, 0.1, "test accuracy (%)", score)


def characters() -> Problem:
    """Each character in windows of 24 from those before it, by a recurrent network."""
    data = load_text("text", context=24)
    n = len(data.scaling.class_names)

    def model(seed: int) -> nn.Sequential:
        layers = nn.Embedding(n, 16), nn.GRU(16, 32), nn.Linear(32, n)
        return nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=seed)

    def score(found: Evaluation) -> float:
        return found.loss / math.log(2)

    return Problem(data, (48, 256), model, 8, 2.5, "test bits per character", score)


PROBLEMS = {"digits": digits, "text": characters}


def run(
    *, rules: Sequence[str] = tuple(RULES), problems: Sequence[str] = tuple(PROBLEMS), steps: int = 300
) -> Result:
    """rules: by their names. steps: of each training, a multiple of 10."""
    made = {name: PROBLEMS[name]() for name in problems}
    tried = {
        name: {rule: search(problem, RULES[rule], steps) for rule in rules} for name, problem in made.items()
    }
    return Result(made, tried)


def search(problem: Problem, rule: Rule, steps: int) -> list[Training]:
    """Trainings with the default rate and with others, up or else down from it, until the loss rises."""
    tried = [follow(problem, rule, rule.defaults["lr"], steps)]
    for factor in (FACTOR, 1 / FACTOR):
        best = tried[0]
        for _ in range(MOST):
            tried.append(follow(problem, rule, best.lr * factor, steps))
            if not last(tried[-1]) < last(best):
                break
            best = tried[-1]
        if best is not tried[0]:
            break
    return tried


def follow(problem: Problem, rule: Rule, lr: float, steps: int, seed: int = 0) -> Training:
    """A training of so many steps with this rate."""
    data, rng = problem.data, np.random.default_rng(seed)
    model = problem.model(seed)
    parts = divide(rule, model, lr)
    losses = np.full(1 + steps // EVERY, math.inf)

    def evaluate(x: Array, y: Array, rows: int) -> Evaluation:
        """With what has been learned, which some rules keep apart from where they take gradients."""
        for opt, _ in parts:
            opt.eval()
        found = model.evaluate(x[:rows], y[:rows])
        for opt, _ in parts:
            opt.train()
        return found

    for i in range(len(losses)):
        for _ in range(EVERY if i else 0):
            batch = rng.integers(len(data.x_train), size=problem.batch_size)
            _, grads = model.loss_and_grad(data.x_train[batch], data.y_train[batch])
            for opt, own in parts:
                opt.step([grads[k] for k in own])
        loss = evaluate(data.x_train, data.y_train, problem.rows[0]).loss
        if not math.isfinite(loss):
            break
        losses[i] = loss
    return Training(lr, losses, problem.score_of(evaluate(data.x_test, data.y_test, problem.rows[1])))


def divide(rule: Rule, model: nn.Sequential, lr: float) -> list[tuple[fastgd.Optimizer, list[int]]]:
    """Optimizers with the parameters they have: the rule's and, of what it does not take, AdamW's."""
    named = list(model.named_parameters())
    own = [i for i, (_, array) in enumerate(named) if rule.ndim in (None, array.ndim)]
    others = [i for i in range(len(named)) if i not in own]
    parts = [(getattr(fastgd, rule.title)([named[i] for i in own], lr=lr), own)]
    if others:
        parts.append((fastgd.AdamW([named[i] for i in others]), others))
    return parts


def steps_to(training: Training, goal: float) -> int | None:
    """The steps before the first evaluation with no more than this loss; None if there is none."""
    reached = np.flatnonzero(training.losses <= goal)
    return int(reached[0]) * EVERY if len(reached) else None


def table(result: Result) -> Table:
    columns = ["rule"]
    rows = {rule: [RULES[rule].title] for tried in result.tried.values() for rule in tried}
    for name, problem in result.problems.items():
        columns += [f"{name}: best rate", "training loss", problem.score, f"steps to {problem.goal:g}"]
        for rule, cells in rows.items():
            best = result.best(name, rule)
            steps = steps_to(best, problem.goal)
            cells += [f"{best.lr:.2g}", f"{last(best):.4f}", f"{best.score:.2f}", f"{steps or '-'}"]
    return Table(tuple(columns), [tuple(cells) for cells in rows.values()])


def verdict(result: Result) -> str:
    return " ".join(summary(result, name) for name in result.problems)


def summary(result: Result, name: str) -> str:
    """Which rules reach the goal of a problem, when, and which ends lowest."""
    goal, tried = result.problems[name].goal, result.tried[name]
    best = {RULES[rule].title: result.best(name, rule) for rule in tried}
    steps = {title: steps_to(training, goal) for title, training in best.items()}
    missing = [title for title, count in steps.items() if count is None]
    counts = [count for count in steps.values() if count is not None]
    when = f", after {min(counts)} to {max(counts)} steps" if counts else ""
    unless = f", but not {', '.join(missing)}" if missing else ""
    at_default = sum(steps_to(trainings[0], goal) is not None for trainings in tried.values())
    lowest = min(best, key=lambda title: last(best[title]))
    return (
        f"On {name}, {len(counts)} of {len(best)} rules reach a loss of {goal:g} with their best rates"
        f"{when}{unless}; with the default rates {at_default} do. {lowest} ends lowest, at "
        f"{last(best[lowest]):.3g}."
    )


def draw(result: Result) -> Figure:
    from fastgd.lab.drawing import new_figure, styled

    names = list(result.problems)
    figure, _ = new_figure(height=15)
    figure.clear()
    # apart, so that the names of rules on one side take no room from the curves
    parts: Any = figure.subfigures(2, 1, height_ratios=(1, 1.9))
    above, below = parts
    with styled():
        ends = above.subplots(1, len(names), squeeze=False)
        curves = below.subplots(len(FAMILIES), len(names), squeeze=False, sharex=True, sharey="col")
    for column, name in enumerate(names):
        draw_ends(ends[0, column], result, name)
        for panel, family in zip(curves[:, column], FAMILIES, strict=True):
            draw_family(panel, result, name, family)
        curves[0, column].set_title(f"{name}, best rates")
        curves[-1, column].set_xlabel("step")
    for panels, family in zip(curves, FAMILIES, strict=True):
        panels[0].set_ylabel("training loss (nats)")
        if panels[-1].get_legend_handles_labels()[0]:
            panels[-1].legend(title=family, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def draw_ends(axes: Axes, result: Result, name: str) -> None:
    """The last losses with the best and with the default rates, the lowest on top."""
    from matplotlib.ticker import LogFormatter

    from fastgd.lab.drawing import COLOURS, finish

    rules = sorted(result.tried[name], key=lambda rule: last(result.best(name, rule)), reverse=True)
    best = [last(result.best(name, rule)) for rule in rules]
    default = [last(result.tried[name][rule][0]) for rule in rules]
    y = range(len(rules))
    axes.hlines(y, best, default, color="0.75", zorder=1)
    axes.plot(default, y, "o", color="white", mec="0.4", ms=8, label="default rate")
    axes.plot(best, y, "o", color=COLOURS[0], ms=6, label="best rate")
    axes.set_yticks(y, [RULES[rule].title for rule in rules])
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))
    finish(axes, "training loss after the last step (nats)", "", name, legend=False)
    axes.set_ylim(top=len(rules) + 2)
    axes.legend(loc="upper right", ncols=2)


def draw_family(axes: Axes, result: Result, name: str, family: str) -> None:
    """The training loss of a family's rules with their best rates, before that of all others in grey."""
    from matplotlib.ticker import LogFormatter

    from fastgd.lab.drawing import COLOURS

    tried = result.tried[name]
    own = [rule for rule in tried if file_of(RULES[rule]) in FAMILIES[family]]
    looks: dict[str, dict[str, Any]] = {
        rule: {"color": "0.85", "lw": 1.0} for rule in tried if rule not in own
    }
    for rule, colour, style in zip(own, COLOURS, cycle(("-", "--", "-.")), strict=False):
        looks[rule] = {"color": colour, "ls": style, "label": RULES[rule].title}
    for rule, look in looks.items():
        losses = result.best(name, rule).losses
        axes.plot(EVERY * np.arange(len(losses)), losses, **look)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1, 0.4)))


def file_of(rule: Rule) -> str:
    """The file of fastgd.rules that it is in."""
    return rule.body.__module__.rpartition(".")[2]
