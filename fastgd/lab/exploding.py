"""A recurrent network's gradient explodes: what one such step does, and clipping by norm and by value.

The temporal order problem (Hochreiter and Schmidhuber 1997, experiment 6a; Pascanu, Mikolov and Bengio
2013, section 4.1.1): a sequence of random symbols holds an X or a Y in its second tenth, and another one
just behind its middle. Which of XX, XY, YX and YY it was is asked at the end. To remember, recurrent
weights must neither shrink nor stretch the state, and where they begin to stretch it, the loss has walls,
on which gradients are larger by orders of magnitude (Pascanu et al., section 2.3). A step that begins on
such a wall throws the weights to where states are saturated or dead, and no gradient leads back. Clipped by
norm, it goes in the same direction, but not far; clipped by value, in a similar one.

tanh bounds the states: the loss jumps above that of guessing, and rarely comes down again. A ReLU does not
(here its recurrent weights begin as the identity: Le, Jaitly and Hinton 2015): losses jump higher, or
overflow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

import fastgd
from fastgd import nn
from fastgd.arrays import Array
from fastgd.lab import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HIDDEN, BATCH_SIZE = 50, 50
#: c, d, e and f say nothing
SYMBOLS = ("X", "Y", "c", "d", "e", "f")
ORDERS = ("XX", "XY", "YX", "YY")
GUESSING = math.log(len(ORDERS))
#: solved, as in the papers: fewer than 1 % of the test sequences wrong
SOLVED, TEST_SEQUENCES, TEST_EVERY = 0.99, 1000, 50


def sequences(count: int, length: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """x float32 [count, length, symbols], each row a unit vector, and the order's number, int64 [count]."""
    rows, tenth = np.arange(count), length // 10
    symbols = rng.integers(2, len(SYMBOLS), (count, length))
    first, second = rng.integers(0, 2, (2, count))
    symbols[rows, rng.integers(tenth, 2 * tenth, count)] = first
    symbols[rows, rng.integers(5 * tenth, 6 * tenth, count)] = second
    return np.eye(len(SYMBOLS), dtype=np.float32)[symbols], 2 * first + second


def orthogonal(weights: dict[str, Array], rng: np.random.Generator) -> None:
    nn.init.orthogonal_(weights["weight_hh_l0"], rng=rng)


def identity(weights: dict[str, Array], rng: np.random.Generator) -> None:
    nn.init.normal_(weights["weight_ih_l0"], std=0.1, rng=rng)
    weights["weight_hh_l0"][...] = np.eye(HIDDEN)


class Network(NamedTuple):
    nonlinearity: str
    #: draws the recurrent layer's weights; biases are 0
    start: Callable[[dict[str, Array], np.random.Generator], None]
    lr: float
    steps: int
    #: each way to clip, and the options of the step that say it
    clipping: dict[str, dict[str, Any]]


NETWORKS = (
    Network(
        "tanh",
        orthogonal,
        0.03,
        600,
        {"none": {}, "norm 5": {"clip_norm": 5.0}, "value 0.1": {"clip_value": 0.1}},
    ),
    Network(
        "relu",
        identity,
        0.01,
        1500,
        {"none": {}, "norm 5": {"clip_norm": 5.0}, "value 0.03": {"clip_value": 0.03}},
    ),
)


class Run(NamedTuple):
    """One training: until the problem is solved, a loss or gradient is not finite, or steps are over."""

    nonlinearity: str
    clipping: str
    #: of each step's batch, float64
    losses: Array
    #: of each step's gradient before clipping, float64
    norms: Array
    #: the share of test sequences that are right at the end; NaN where the loss is not finite
    accuracy: float

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.losses[-1]) and np.isfinite(self.norms[-1]))

    @property
    def solved(self) -> bool:
        return self.accuracy > SOLVED

    @property
    def highest(self) -> float:
        """The largest loss, infinite if one was infinite or NaN."""
        return float(self.losses.max()) if self.finite else math.inf

    @property
    def label(self) -> str:
        return f"{self.nonlinearity}, clipping {self.clipping}"

    @property
    def end(self) -> str:
        return f"{100 * self.accuracy:.1f} % right" if self.finite else "not finite"


class Result(NamedTuple):
    runs: list[Run]
    length: int


def run(*, length: int = 40, networks: tuple[Network, ...] = NETWORKS, seed: int = 3) -> Result:
    """length: symbols in a sequence, 10 or more."""
    runs = [
        trained(network, name, options, length, seed)
        for network in networks
        for name, options in network.clipping.items()
    ]
    return Result(runs, length)


def trained(network: Network, name: str, options: dict[str, Any], length: int, seed: int) -> Run:
    """SGD, each step on new sequences; the same ones and the same start whatever the clipping."""
    rng = np.random.default_rng(seed)
    rnn = nn.RNN(len(SYMBOLS), HIDDEN, nonlinearity=network.nonlinearity, output="last")
    output = nn.Linear(HIDDEN, len(ORDERS))
    model = nn.Sequential(rnn, output, loss=nn.CrossEntropyLoss(), seed=rng)
    weights = rnn.parameters()
    for bias in ("bias_ih_l0", "bias_hh_l0"):
        nn.init.zeros_(weights[bias])
    network.start(weights, rng)
    opt = fastgd.SGD(model.named_parameters(), lr=network.lr)
    test = sequences(TEST_SEQUENCES, length, rng)
    losses, norms, accuracy = [], [], math.nan
    for step in range(1, network.steps + 1):
        loss, grads = model.loss_and_grad(*sequences(BATCH_SIZE, length, rng))
        losses.append(loss)
        norms.append(fastgd.global_norm(grads))
        if not (np.isfinite(loss) and np.isfinite(norms[-1])):
            accuracy = math.nan
            break
        opt.step(grads, **options)
        if step % TEST_EVERY == 0:
            accuracy = model.evaluate(*test).accuracy or 0.0
            if accuracy > SOLVED:
                break
    return Run(network.nonlinearity, name, np.array(losses), np.array(norms), accuracy)


def table(result: Result) -> Table:
    columns = ("network", "clipping", "steps", "highest loss", "largest gradient norm", "right at the end")
    rows: list[tuple[str, ...]] = [
        (
            one.nonlinearity,
            one.clipping,
            f"{len(one.losses):,}",
            f"{one.highest:.3g}",
            f"{one.norms.max():.2g}",
            one.end,
        )
        for one in result.runs
    ]
    return Table(columns, rows)


def verdict(result: Result) -> str:
    solved = [one for one in result.runs if one.solved]
    open_ = [one for one in result.runs if not one.solved]
    parts = []
    if open_:
        runs = "; ".join(f"{one.label}: highest loss {one.highest:.3g}, {one.end}" for one in open_)
        parts.append(f"Not solved, where guessing has a loss of {GUESSING:.3g} and 25 % are right: {runs}.")
    if solved:
        runs = "; ".join(f"{one.label} in {len(one.losses):,} steps" for one in solved)
        parts.append(f"Solved: {runs}.")
    return " ".join(parts)


def draw(result: Result) -> Figure:
    from fastgd.lab.drawing import COLOURS, finish, new_figure

    networks = list(dict.fromkeys(one.nonlinearity for one in result.runs))
    figure, axes = new_figure(2, len(networks), height=7.4, sharex="col", sharey="row")
    for column, network in enumerate(networks):
        losses, norms = axes[:, column]
        runs = [one for one in result.runs if one.nonlinearity == network]
        for one, colour in zip(runs, COLOURS, strict=False):
            steps = np.arange(1, len(one.losses) + 1)
            for where, values in ((losses, one.losses), (norms, one.norms)):
                where.plot(steps, values, color=colour, lw=0.9, label=f"clipping: {one.clipping}")
                if one.solved or not one.finite:
                    last = values[np.isfinite(values)][-1]
                    where.plot(steps[-1], last, "o" if one.solved else "X", color=colour, ms=9)
        losses.axhline(GUESSING, color="0.3", ls="--", lw=1, label="guessing: ln 4")
        losses.set_yscale("log")
        norms.set_yscale("log")
        first = column == 0
        finish(losses, "", "cross-entropy of a batch (nats)" if first else "", network)
        finish(norms, "step", "gradient norm before clipping" if first else "", legend=False)
    figure.suptitle(
        f"temporal order, {result.length} symbols (disc: solved; cross: a loss or gradient was not finite)"
    )
    return figure
