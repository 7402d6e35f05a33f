"""Trains two small models in every stored precision and writes docs/precision.md's curves and tables from it.

    python benchmarks/precision_curves.py [--seeds 3] [--epochs 1.0] [--results FILE]

Every run is AdamW at a constant rate on one thread. A seed decides the first parameters, the order of the
examples and the random bits of stochastic rounding; the data are the same for all. Matrix products belong to
whichever library provides them, so last digits may differ from machine to machine.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import itertools
import json
import platform
import pydoc_data.topics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import precision_page
from precision_formats import TRIALS, UNCHANGED, Trial

import fastgd
from fastgd import nn
from fastgd.arrays import Array, dtype_named
from fastgd.data import load
from fastgd.settings import CODED, ROUNDINGS, STATE_ROUNDINGS

RESULTS = precision_page.RESULTS

#: measurements along a run, evenly spaced
POINTS = 24

# ---- What is trained ---------------------------------------------------------------------------------


class Task(NamedTuple):
    """A multilayer perceptron with ReLU, and what it learns."""

    #: of its layers, the input first
    sizes: tuple[int, ...]
    batch: int
    #: how many examples there are to train on, and those with given numbers: x [n, sizes[0]], labels [n]
    n: int
    examples: Callable[[Array], tuple[Array, Array]]
    #: what the training loss and the test accuracy are measured on
    seen: tuple[Array, Array]
    unseen: tuple[Array, Array]

    def model(self, seed: int) -> nn.Sequential:
        layers: list[nn.Layer] = []
        for i, o in itertools.pairwise(self.sizes):
            layers += [nn.Linear(i, o), nn.ReLU()]
        return nn.Sequential(*layers[:-1], loss=nn.CrossEntropyLoss(), seed=seed)


def digits() -> Task:
    """scikit-learn's digits: 8x8 pixels, 10 classes, a fifth to test on."""
    data = load("digits")
    x, y = data.x_train, data.y_train
    return Task(
        sizes=(64, 128, 10),
        batch=32,
        n=len(x),
        examples=lambda rows: (x[rows], y[rows]),
        seen=(x, y),
        unseen=(data.x_test, data.y_test),
    )


#: of the text: characters, how many of them a prediction sees, different ones, and examples a loss is over
TEXT_LENGTH, CONTEXT, ALPHABET, MEASURED = 120_000, 16, 40, 4096


def manual() -> str:
    """The beginning of the reference manual that is part of Python's standard library, in lower case."""
    topics = pydoc_data.topics.topics
    return "".join(topics[name] for name in sorted(topics)).lower()[:TEXT_LENGTH]


def text() -> Task:
    """The next character from the 16 before it, each one-hot; the last tenth of the text to test on."""
    written = manual()
    common = [character for character, _ in collections.Counter(written).most_common(ALPHABET - 1)]
    number = {character: 1 + i for i, character in enumerate(sorted(common))}
    numbers = np.array([number.get(character, 0) for character in written])  # 0: any rarer one
    windows = np.lib.stride_tricks.sliding_window_view(numbers, CONTEXT + 1)
    n = len(numbers) * 9 // 10 - CONTEXT
    one_hot = np.eye(ALPHABET, dtype=np.float32)

    def examples(rows: Array) -> tuple[Array, Array]:
        window = windows[rows]
        return one_hot[window[:, :-1]].reshape(len(rows), -1), window[:, -1]

    return Task(
        sizes=(CONTEXT * ALPHABET, 128, 64, ALPHABET),
        batch=128,
        n=n,
        examples=examples,
        seen=examples(np.random.default_rng(0).choice(n, MEASURED, replace=False)),
        unseen=examples(np.arange(n + CONTEXT, n + CONTEXT + MEASURED)),
    )


TASKS = {"digits": digits, "text": text}


class Regime(NamedTuple):
    task: str
    lr: float
    epochs: int


#: each task at a usual rate, and at one whose steps are mostly below half a spacing of bfloat16
REGIMES = (
    Regime("digits", 3e-3, 40),
    Regime("digits", 1e-4, 120),
    Regime("text", 3e-3, 3),
    Regime("text", 1e-4, 4),
)

# ---- How it is stored --------------------------------------------------------------------------------


class Setting(NamedTuple):
    """Stored precisions of a run."""

    #: of the parameters
    dtype: str
    state_dtype: str
    rounding: str = "nearest"
    state_rounding: str = "nearest"


FLOAT32 = Setting("float32", "float32")

SETTINGS = (
    FLOAT32,
    *(Setting("bfloat16", state, rounding) for state in ("float32", "bfloat16") for rounding in ROUNDINGS),
    *(Setting("bfloat16", state, "stochastic", "stochastic") for state in ("bfloat16", CODED)),
    *(
        Setting("float32", state, state_rounding=rounding)
        for state in ("bfloat16", "float16", CODED)
        for rounding in STATE_ROUNDINGS
    ),
)

# ---- Training ----------------------------------------------------------------------------------------


class Point(NamedTuple):
    """What is measured in the course of a run."""

    #: the training loss
    loss: float
    #: the share of parameters whose step was less than half of what lies between bfloat16's numbers
    lost: float
    #: how long Adam's step is along the one that moments kept in float32 would give
    step: float
    #: the median of how far exp_avg_sq is from what it would be in float32, as a share of that
    error: float


class Run(NamedTuple):
    """What came of a run."""

    points: list[Point]
    #: on the test part, at the end
    accuracy: float
    #: of parameters and state together, per parameter
    bytes: float


#: (number of the step, the optimizer after it)
AfterStep = Callable[[int, fastgd.optim.Optimizer], None]


def train(
    task: Task, setting: Setting, lr: float, epochs: float, seed: int, after_step: AfterStep | None = None
) -> Run:
    """Trains anew. The model computes in float32, from the parameters as they are stored."""
    model = task.model(seed)
    working = model.parameters()
    stored = [p.astype(dtype_named(setting.dtype)) for p in working]
    settings = {name: value for name, value in setting._asdict().items() if name != "dtype"}
    opt = fastgd.AdamW(stored, lr=lr, seed=seed, **settings)
    exact = Moments(working)
    total = steps_of(task, epochs)
    measured = {round(total * (i + 1) / POINTS) for i in range(POINTS)}
    points = []
    for step, rows in zip(range(1, total + 1), batches(task, seed), strict=False):
        put(working, stored)
        _, grads = model.loss_and_grad(*task.examples(rows))
        before = flat(stored) if step in measured else None
        opt.step(grads)
        exact.add(grads)
        if after_step:
            after_step(step, opt)
        if before is not None:
            put(working, stored)
            lost = share_lost(before, flat(stored))
            points.append(Point(model.loss(*task.seen), lost, *exact.compared(opt)))
    x, y = task.unseen
    accuracy = float((model.forward(x).argmax(axis=1) == y).mean())
    size = sum(p.nbytes for p in stored) + opt.state_bytes()
    return Run(points, accuracy, size / sum(p.size for p in stored))


def steps_of(task: Task, epochs: float) -> int:
    return max(POINTS, round(epochs * (task.n // task.batch)))


def batches(task: Task, seed: int) -> Iterator[Array]:
    """Numbers of examples, for ever: all in turn, in a new order each time, but for the rest of a batch."""
    rng = np.random.default_rng(seed)
    while True:
        order = rng.permutation(task.n)
        for first in range(0, task.n - task.batch + 1, task.batch):
            yield order[first : first + task.batch]


def put(working: list[Array], stored: list[Array]) -> None:
    for w, s in zip(working, stored, strict=True):
        w[...] = s


def flat(arrays: list[Array]) -> Array:
    """All their elements in float32."""
    return np.concatenate([array.ravel() for array in arrays]).astype(np.float32)


def share_lost(before: Array, after: Array) -> float:
    half_spacing = np.ldexp(1.0, np.frexp(before)[1] - 9)
    return float(np.mean(np.abs(after - before) < half_spacing))


class Moments:
    """Adam's moments of the gradients that a run has seen, kept in float32 beside it."""

    (beta1, beta2), eps = (fastgd.AdamW.rule.defaults[name] for name in ("betas", "eps"))

    def __init__(self, params: list[Array]) -> None:
        self.params = params
        self.steps = 0
        self.exp_avg, self.exp_avg_sq = (np.zeros(sum(p.size for p in params), np.float32) for _ in range(2))

    def add(self, grads: list[Array]) -> None:
        g = flat(grads)
        self.exp_avg += (g - self.exp_avg) * np.float32(1 - self.beta1)
        self.exp_avg_sq += (g * g - self.exp_avg_sq) * np.float32(1 - self.beta2)
        self.steps += 1

    def compared(self, opt: fastgd.optim.Optimizer) -> tuple[float, float]:
        """Point's step and error of an optimizer that has seen the same."""
        wide = fastgd.AdamW(self.params)
        wide.load_state_dict(opt.state_dict(), convert=True)  # as numbers of float32, whatever it is kept in
        state = wide.state_dict()["state"].values()
        exp_avg, exp_avg_sq = (flat([s[name] for s in state]) for name in ("exp_avg", "exp_avg_sq"))
        step, exact = self.update(exp_avg, exp_avg_sq), self.update(self.exp_avg, self.exp_avg_sq)
        seen = self.exp_avg_sq > 0
        error = np.abs(exp_avg_sq[seen] / self.exp_avg_sq[seen] - 1)
        return float(step @ exact / (exact @ exact)), float(np.median(error))

    def update(self, exp_avg: Array, exp_avg_sq: Array) -> Array:
        corrected = exp_avg_sq.astype(np.float64) / (1 - self.beta2**self.steps)
        return exp_avg / (np.sqrt(corrected) + self.eps)


# ---- The command -------------------------------------------------------------------------------------

#: where the formats of precision_formats.py are tried: both tasks, the second cut short
TRIED_IN = (REGIMES[0], REGIMES[3]._replace(epochs=1))


def recorded(runs: list[Run]) -> dict[str, Any]:
    """Runs that differ in their seed, with as many digits as tables and plots show."""

    def short(value: float) -> float:
        return float(f"{value:.4g}")

    return {
        "accuracy": [short(run.accuracy) for run in runs],
        "error": [short(np.mean([point.error for point in run.points])) for run in runs],
        "lost": [[short(run.points[i].lost) for i in (0, -1)] for run in runs],
        "loss": [[short(point.loss) for point in run.points] for run in runs],
        "step": [[short(point.step) for point in run.points] for run in runs],
    }


def results(seeds: int, epochs: float, tell: Callable[[str], None]) -> dict[str, Any]:
    """All runs, as they stand in the file."""
    import sklearn

    tasks = {name: make() for name, make in TASKS.items()}

    def trained(regime: Regime, setting: Setting, trial: Trial) -> tuple[dict[str, Any], list[Run]]:
        """What every record begins with, and a run for each seed."""
        task, lasts = tasks[regime.task], epochs * regime.epochs
        runs = [
            train(task, setting, regime.lr * trial.rate, lasts, seed, trial.after_step(seed))
            for seed in range(seeds)
        ]
        loss = np.mean([run.points[-1].loss for run in runs])
        tell(f"{regime.task}, {regime.lr:g}: {trial.name}, {', '.join(setting)}: {loss:.4g}")
        return {"task": regime.task, "lr": regime.lr, "steps": steps_of(task, lasts)}, runs

    records, trials = [], []
    for regime, setting in itertools.product(REGIMES, SETTINGS):
        head, runs = trained(regime, setting, UNCHANGED)
        size = round(runs[0].bytes, 2)
        records.append({**head, "setting": setting._asdict(), "bytes": size, **recorded(runs)})
    for regime, trial in itertools.product(TRIED_IN, TRIALS):
        head, runs = trained(regime, FLOAT32, trial)
        trials.append({**head, "trial": trial.name, **recorded(runs)})
    return {
        "made_with": {
            "fastgd": fastgd.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "scikit-learn": sklearn.__version__,
            "machine": platform.machine(),
            "matrix_product": fastgd.info()["matrix_product"]["float32"]["in_use"],
            "text_sha256": hashlib.sha256(manual().encode()).hexdigest(),
        },
        "seeds": seeds,
        "epochs": epochs,
        "runs": records,
        "trials": trials,
    }


def line_by_line(found: dict[str, Any]) -> str:
    """JSON with a line for each run."""
    parts = []
    for name, value in found.items():
        text = json.dumps(value)
        if isinstance(value, list):
            text = "[\n" + ",\n".join(f"  {json.dumps(run)}" for run in value) + "\n ]"
        parts.append(f" {json.dumps(name)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="runs of each kind; default 3")
    parser.add_argument("--epochs", type=float, default=1.0, help="times the epochs of each; default 1")
    parser.add_argument(
        "--results", type=Path, default=RESULTS, help="default: the file that docs/precision.md is made from"
    )
    given = parser.parse_args()
    fastgd.set_num_threads(1)
    found = results(given.seeds, given.epochs, lambda line: print(line, flush=True))
    given.results.write_text(line_by_line(found))
    if given.results == RESULTS:
        precision_page.write()


if __name__ == "__main__":
    main()
