"""Fifty layers: what arrives of the gradient at the first, by activation, initialisation and shortcuts.

Back-propagation multiplies by one layer's derivative after the other. Where these are mostly below 1, what
is left for the first layers is exponentially small; where they are above 1, it is exponentially large
(Hochreiter 1991; Bengio, Simard and Frasconi 1994). A sigmoid's derivative is at most 1/4, and no usual
initialisation makes up for it. A ReLU's is 1 for half of its inputs: with weights of variance 2 / fan_in (He
et al. 2015, section 2.2) the gradient keeps its size, with the layers' default it does not. A shortcut (He et
al. 2016) hands it on whole; with He's weights it is then the sum that grows, unless each branch is scaled
by 1 / sqrt(their number).

All have the same number of weight matrices and are trained on scikit-learn's digits in the same way, by Adam,
which divides by the gradient's size: what it cannot train is not just in need of a higher rate.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastgd
from fastgd import data, nn
from fastgd.arrays import Array
from fastgd.lab import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZE = 64
#: a network whose test accuracy reaches this has learned; guessing gives 0.1
LEARNED = 0.75
MEASUREMENTS = 20


# ---- The networks and where they start


def plain(sizes: list[int], dtype: Any, activation: Callable[[], nn.Layer]) -> list[nn.Layer]:
    """Linear layers from each size to the next, with an activation between any two."""
    layers: list[nn.Layer] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [nn.Linear(fan_in, fan_out, dtype=dtype), activation()]
    return layers[:-1]


def sigmoid(sizes: list[int], dtype: Any) -> list[nn.Layer]:
    return plain(sizes, dtype, nn.Sigmoid)


def relu(sizes: list[int], dtype: Any) -> list[nn.Layer]:
    return plain(sizes, dtype, nn.ReLU)


def residual(sizes: list[int], dtype: Any) -> list[nn.Layer]:
    """As relu, but Linear layers between the first and the last are in pairs with a shortcut around each."""
    first, *inner, last = plain(sizes, dtype, nn.ReLU)[::2]
    blocks = [nn.Residual(a, nn.ReLU(), b) for a, b in zip(inner[::2], inner[1::2], strict=True)]
    return [first, nn.ReLU(), *blocks, last]


def default(model: nn.Sequential, rng: np.random.Generator) -> None:
    """As made: uniform in +-1 / sqrt(fan_in), the heuristic of Glorot and Bengio 2010, equation 1."""


def glorot(model: nn.Sequential, rng: np.random.Generator) -> None:
    for _, p in model.named_parameters():
        nn.init.xavier_normal_(p, rng=rng) if p.ndim == 2 else nn.init.zeros_(p)


def he(model: nn.Sequential, rng: np.random.Generator) -> None:
    for _, p in model.named_parameters():
        nn.init.kaiming_normal_(p, nonlinearity="relu", rng=rng) if p.ndim == 2 else nn.init.zeros_(p)


def scaled_he(model: nn.Sequential, rng: np.random.Generator) -> None:
    """He's, and each branch's last weight over the root of the branches' number (Hayou et al. 2021)."""
    he(model, rng)
    blocks = [layer for layer in model.layers if isinstance(layer, nn.Residual)]
    for block in blocks:
        block.parameters()["2.weight"][...] /= math.sqrt(len(blocks))


class Case(NamedTuple):
    """A network and its initialisation."""

    network: str
    start: str
    layers: Callable[[list[int], Any], list[nn.Layer]]
    initialise: Callable[[nn.Sequential, np.random.Generator], None]
    #: of the picture
    line: str

    @property
    def label(self) -> str:
        return f"{self.network}, {self.start}"


CASES = (
    Case("sigmoid", "default", sigmoid, default, ":"),
    Case("sigmoid", "Glorot", sigmoid, glorot, "-"),
    Case("ReLU", "default", relu, default, ":"),
    Case("ReLU", "He", relu, he, "-"),
    Case("residual", "He", residual, he, ":"),
    Case("residual", "default", residual, default, "--"),
    Case("residual", "scaled He", residual, scaled_he, "-"),
)


# ---- The experiment


class Finding(NamedTuple):
    """What was measured of one network."""

    case: Case
    #: of each weight's gradient before the first step, float64 [depth]
    norms: Array
    #: on the test part, 0 to 1, after each of the steps of the result
    accuracies: Array

    @property
    def ratio(self) -> float:
        """The first layer's gradient norm over the last one's."""
        return float(self.norms[0] / self.norms[-1])

    @property
    def learned(self) -> bool:
        return bool(self.accuracies[-1] >= LEARNED)


class Result(NamedTuple):
    findings: list[Finding]
    steps: list[int]


def run(
    *,
    depth: int = 50,
    width: int = 64,
    steps: int = 600,
    lr: float = 3e-4,
    cases: tuple[Case, ...] = CASES,
    seed: int = 0,
) -> Result:
    """depth: weight matrices, an even number. width: units in each layer. lr: Adam's rate."""
    digits = data.load("digits")
    sizes = [digits.n_features, *[width] * (depth - 1), digits.n_outputs]
    marks = sorted({round(mark) for mark in np.linspace(0, steps, MEASUREMENTS + 1)})
    findings = []
    for case in cases:
        rng = np.random.default_rng(seed)
        # measured in float64, for some gradients are too small for float32, in which it is trained
        exact, model = (
            nn.Sequential(*case.layers(sizes, dtype), loss=nn.CrossEntropyLoss(), seed=rng)
            for dtype in (np.float64, np.float32)
        )
        case.initialise(exact, rng)
        for own, other in zip(model.parameters(), exact.parameters(), strict=True):
            own[...] = other
        _, grads = exact.loss_and_grad(digits.x_train.astype(np.float64), digits.y_train)
        norms = np.array([np.linalg.norm(grad) for grad in grads if grad.ndim == 2])
        opt = fastgd.Adam(model.named_parameters(), lr=lr)
        accuracies = []
        for step in range(steps + 1):
            if step in marks:
                accuracies.append(model.evaluate(digits.x_test, digits.y_test).accuracy)
            batch = rng.integers(0, len(digits.x_train), BATCH_SIZE)
            model.train_step(digits.x_train[batch], digits.y_train[batch], opt)
        findings.append(Finding(case, norms, np.array(accuracies)))
    return Result(findings, marks)


# ---- What it shows


def table(result: Result) -> Table:
    columns = (
        "network",
        "initialisation",
        "first layer's gradient",
        "last layer's",
        "ratio",
        "test accuracy",
    )
    rows: list[tuple[str, ...]] = [
        (
            found.case.network,
            found.case.start,
            f"{found.norms[0]:.1e}",
            f"{found.norms[-1]:.1e}",
            f"{found.ratio:.1e}",
            f"{100 * found.accuracies[-1]:.1f} %",
        )
        for found in result.findings
    ]
    return Table(columns, rows)


def verdict(result: Result) -> str:
    findings, steps = result
    lowest = min(findings, key=lambda found: found.ratio)
    highest = max(findings, key=lambda found: found.norms.max())
    learned = [found for found in findings if found.learned]
    depth = len(findings[0].norms)
    text = (
        f"Of {depth} layers, the first one's gradient is {lowest.ratio:.0e} of the last one's with "
        f"{lowest.case.label}; with {highest.case.label}, norms reach {highest.norms.max():.0e}. "
        f"After {steps[-1]:,} steps, {len(learned)} of {len(findings)} networks tell "
        f"{100 * LEARNED:.0f} % or more of the test digits"
    )
    if not learned:
        return f"{text}."
    spread = max(found.norms.max() / found.norms.min() for found in learned)
    which = "; ".join(found.case.label for found in learned)
    return f"{text}: {which}. Within each of these, norms differ by a factor of {spread:.0f} or less."


def draw(result: Result) -> Figure:
    from fastgd.lab.drawing import COLOURS, finish, new_figure

    findings, steps = result
    networks = dict.fromkeys(found.case.network for found in findings)
    colours = dict(zip(networks, COLOURS, strict=False))
    figure, ((by_layer, by_step),) = new_figure(1, 2, height=5.6)
    for found in findings:
        style = {"color": colours[found.case.network], "ls": found.case.line}
        by_layer.plot(np.arange(1, len(found.norms) + 1), found.norms, **style, label=found.case.label)
        by_step.plot(steps, 100 * found.accuracies, **style)
    by_layer.set_yscale("log")
    finish(by_layer, "layer (1 is next to the data)", "gradient norm of the weight", "before the first step")
    by_step.axhline(100 * LEARNED, color="0.5", lw=1, label=f"counts as learned: {100 * LEARNED:.0f} %")
    by_step.set_ylim(0, 101)
    finish(by_step, "step", "test accuracy (%)", f"training, batches of {BATCH_SIZE}")
    figure.suptitle(
        f"digits, {len(findings[0].norms)} layers: the gradient by layer, and what can be learned with it"
    )
    return figure
