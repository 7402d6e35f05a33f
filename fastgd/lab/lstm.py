"""Memory over long lags: RNN, LSTM and GRU, and gates that begin half closed or open.

The adding problem (Hochreiter and Schmidhuber 1997, experiment 4): in a sequence of random numbers from -1
to 1, one in the first tenth and one just behind the middle are marked; their sum is asked at the end. The
first has to be kept for nearly the length of the sequence, as a number: it is not enough to hold a bit.

Back in time, an RNN's gradient is multiplied by the recurrent weights and tanh's derivative at each step,
and shrinks even where the weights are orthogonal at first, as here. An LSTM's cell and a GRU's state
multiply it by a gate that can stay near 1. But it has to get there: a gate with the bias b forgets in about
1 + exp(b) steps, which is 2 for 0, near which a GRU's begins, and 4 for the usual forget bias of 1 (Gers,
Schmidhuber and Cummins 2000; Jozefowicz, Zaremba and Sutskever 2015). Here "open" means biases of log(u),
with u uniform from 1 to the lag: gates that remember for as long as is needed from the start (Tallec and
Ollivier 2018).

All have about 1,900 parameters and learn by Adam at 0.01, but the RNN at 0.003, which suits it better.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

import fastgd
from fastgd import nn
from fastgd.arrays import Array
from fastgd.lab import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZE, CLIP_NORM = 50, 1.0
TEST_SEQUENCES, TEST_EVERY = 500, 25
#: mean squared error over the variance of what is asked; 1 is reached by always answering 0
SOLVED = 0.05


def sequences(count: int, lag: int, rng: np.random.Generator) -> tuple[Array, Array]:
    """x float32 [count, lag, 2], numbers and marks, and the sums of the two marked, float32 [count, 1]."""
    rows, tenth = np.arange(count), max(1, lag // 10)
    x = np.zeros((count, lag, 2), np.float32)
    x[:, :, 0] = rng.uniform(-1, 1, (count, lag))
    first = rng.integers(0, tenth, count)
    second = rng.integers(lag // 2, lag // 2 + tenth, count)
    x[rows, first, 1] = x[rows, second, 1] = 1
    return x, (x[rows, first, 0] + x[rows, second, 0])[:, np.newaxis]


# ---- The networks


def rnn(lag: int, rng: np.random.Generator) -> nn.RNN:
    layer = nn.RNN(2, 42, output="last", seed=rng)
    nn.init.orthogonal_(layer.parameters()["weight_hh_l0"], rng=rng)
    return layer


def lstm(lag: int, rng: np.random.Generator) -> nn.LSTM:
    return nn.LSTM(2, 20, output="last", forget_bias=1.0, seed=rng)


def gru(lag: int, rng: np.random.Generator) -> nn.GRU:
    return nn.GRU(2, 23, output="last", seed=rng)


def open_lstm(lag: int, rng: np.random.Generator) -> nn.LSTM:
    """The longer a cell remembers, the less it takes in at each step."""
    layer = lstm(lag, rng)
    input_gate, forget_gate = gates(layer)[:2]
    forget_gate[...] = np.log(rng.uniform(1, lag, len(forget_gate)))
    input_gate[...] = -forget_gate
    return layer


def open_gru(lag: int, rng: np.random.Generator) -> nn.GRU:
    """Its gate z is both: what is taken in is multiplied by 1 - z."""
    layer = gru(lag, rng)
    z = gates(layer)[1]
    z[...] = np.log(rng.uniform(1, lag, len(z)))
    return layer


def gates(layer: nn.LSTM | nn.GRU) -> Array:
    """The biases [gates, hidden_size] of a layer, a view; of the two that it adds, the other becomes 0."""
    biases = layer.parameters()
    nn.init.zeros_(biases["bias_hh_l0"])
    return biases["bias_ih_l0"].reshape(-1, layer.hidden_size)


class Network(NamedTuple):
    layer: Callable[[int, np.random.Generator], nn.RNN | nn.LSTM | nn.GRU]
    lr: float


NETWORKS = {
    "RNN, orthogonal": Network(rnn, 0.003),
    "LSTM, forget bias 1": Network(lstm, 0.01),
    "LSTM, open": Network(open_lstm, 0.01),
    "GRU": Network(gru, 0.01),
    "GRU, open": Network(open_gru, 0.01),
}


# ---- The experiment


class Run(NamedTuple):
    """One training: until the problem is solved or steps are over."""

    network: str
    lag: int
    #: error / variance on the test sequences, after every TEST_EVERY steps
    errors: Array

    @property
    def steps(self) -> int:
        return len(self.errors) * TEST_EVERY

    @property
    def solved(self) -> bool:
        return bool(self.errors[-1] < SOLVED)


def run(
    *,
    lags: tuple[int, ...] = (10, 20, 40, 80),
    steps: int = 500,
    networks: tuple[str, ...] = tuple(NETWORKS),
    seed: int = 0,
) -> list[Run]:
    """lags: lengths of sequences, 2 or more. steps: of Adam, at most, TEST_EVERY or more."""
    return [trained(name, lag, steps, seed) for name in networks for lag in lags]


def trained(network: str, lag: int, steps: int, seed: int) -> Run:
    rng = np.random.default_rng(seed)
    layer = NETWORKS[network].layer(lag, rng)
    model = nn.Sequential(layer, nn.Linear(layer.hidden_size, 1, seed=rng), loss=nn.MSELoss())
    opt = fastgd.Adam(model.named_parameters(), lr=NETWORKS[network].lr)
    x_test, y_test = sequences(TEST_SEQUENCES, lag, rng)
    errors: list[float] = []
    for step in range(1, steps + 1):
        model.train_step(*sequences(BATCH_SIZE, lag, rng), opt, clip_norm=CLIP_NORM)
        if step % TEST_EVERY == 0:
            errors.append(model.loss(x_test, y_test) / float(y_test.var()))
            if errors[-1] < SOLVED:
                break
    return Run(network, lag, np.array(errors))


# ---- What it shows


def by_network(runs: list[Run]) -> dict[str, list[Run]]:
    return {
        name: [one for one in runs if one.network == name] for name in dict.fromkeys(r.network for r in runs)
    }


def table(runs: list[Run]) -> Table:
    lags = list(dict.fromkeys(one.lag for one in runs))
    rows: list[tuple[str, ...]] = [
        (name, *(f"{one.steps:,} steps" if one.solved else f"error {one.errors[-1]:.2f}" for one in own))
        for name, own in by_network(runs).items()
    ]
    return Table(("network", *(f"lag {lag}" for lag in lags)), rows)


def verdict(runs: list[Run]) -> str:
    parts = []
    for name, own in by_network(runs).items():
        solved = [str(one.lag) for one in own if one.solved]
        parts.append(f"{name}: {', '.join(solved) or 'none'}")
    return (
        f"Lags at which at most {100 * SOLVED:.0f} % of the variance is left unexplained after "
        f"{max(one.steps for one in runs):,} steps or fewer: {'; '.join(parts)}."
    )


def draw(runs: list[Run]) -> Figure:
    from fastgd.lab.drawing import COLOURS, finish, new_figure

    longest = max(one.lag for one in runs)
    figure, ((by_lag, by_step),) = new_figure(1, 2, height=5.2, sharey=True)
    for (name, own), colour, marker in zip(by_network(runs).items(), COLOURS, "osD^v", strict=False):
        style = {"color": colour, "marker": marker, "ms": 6}
        by_lag.plot([one.lag for one in own], [one.errors[-1] for one in own], **style, label=name)
        for one in own:
            if one.lag == longest:
                by_step.plot(TEST_EVERY * np.arange(1, len(one.errors) + 1), one.errors, **style, label=name)
    for axes in (by_lag, by_step):
        axes.axhline(1, color="0.3", ls="--", lw=1, label="always 0")
        axes.axhline(SOLVED, color="0.3", ls=":", lw=1, label="counts as solved")
        axes.set_yscale("log")
    by_lag.set_xscale("log")
    ticks = list(dict.fromkeys(one.lag for one in runs))
    by_lag.set_xticks(ticks, [str(lag) for lag in ticks])
    by_lag.minorticks_off()
    finish(by_lag, "lag (steps of the sequence)", "test error / variance", "at the end of training")
    finish(by_step, "training step", "", f"lag {longest}", legend=False)
    figure.suptitle("the adding problem: what is left of the error, with about 1,900 parameters each")
    return figure
