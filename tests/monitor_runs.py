"""Runs that fail, each in its own way, and runs that are healthy: what a monitor is to tell apart."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastgd
from fastgd import monitor, nn

F32 = np.float32


@dataclass
class Run:
    """A model, its optimizer and batches. options: of the step."""

    layers: list[nn.Layer]
    loss: nn.Loss
    rule: type[fastgd.Optimizer]
    settings: dict[str, Any]
    batches: list[tuple[Any, Any]]
    options: dict[str, Any] = field(default_factory=dict)
    #: changes the model before it is trained
    prepare: Callable[[nn.Sequential], None] = lambda model: None

    def made(self) -> tuple[nn.Sequential, fastgd.Optimizer]:
        model = nn.Sequential(*self.layers, loss=self.loss, seed=0)
        self.prepare(model)
        return model, self.rule(model.named_parameters(), **self.settings)


def watched(run: Run, every: int | str = 1) -> monitor.Monitor:
    model, opt = run.made()
    watch = monitor.Monitor(model, opt, every=every)
    with np.errstate(all="ignore"):
        for x, y in run.batches:
            watch.train_step(x, y, **run.options)
    return watch


# ---- data


def digits(steps: int, size: int = 32, images: bool = False) -> list[tuple[Any, Any]]:
    from sklearn.datasets import load_digits

    data = load_digits()
    x, y = (data.data / 16).astype(F32), data.target.astype(np.int64)
    x = x.reshape(-1, 1, 8, 8) if images else x
    rng = np.random.default_rng(0)
    rows = (rng.integers(0, len(x), size) for _ in range(steps))
    return [(x[r], y[r]) for r in rows]


def line(steps: int, size: int = 32, noise: float = 0.1) -> list[tuple[Any, Any]]:
    """Ten normal features and a target that is linear in them."""
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((10, 1))
    batches = []
    for _ in range(steps):
        x = rng.standard_normal((size, 10))
        batches.append((x.astype(F32), (x @ weight + noise * rng.standard_normal((size, 1))).astype(F32)))
    return batches


def echo(steps: int, time: int, size: int = 32) -> list[tuple[Any, Any]]:
    """Sequences of noise whose first number's sign is to be told at the end."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((steps, size, time, 1)).astype(F32)
    return [(batch, (batch[:, 0, 0] > 0).astype(np.int64)) for batch in x]


def same(batch: tuple[Any, Any], steps: int) -> list[tuple[Any, Any]]:
    return [batch] * steps


def changed(batches: list[tuple[Any, Any]], x: Any = None, y: Any = None) -> list[tuple[Any, Any]]:
    """With functions of all inputs or targets in their place."""
    return [(x(a) if x else a, y(b) if y else b) for a, b in batches]


def mlp(*widths: int, between: Callable[[], nn.Layer] = nn.ReLU) -> list[nn.Layer]:
    layers: list[nn.Layer] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), between()]
    return layers[:-1]


def weights(model: nn.Sequential) -> list[Any]:
    return [array for array in model.parameters() if array.ndim > 1]


def scaled(factor: float) -> Callable[[nn.Sequential], None]:
    def scale(model: nn.Sequential) -> None:
        for weight in weights(model):
            weight *= factor

    return scale


def biased(value: float) -> Callable[[nn.Sequential], None]:
    def bias(model: nn.Sequential) -> None:
        for layer in model.layers[:-1]:
            if isinstance(layer, nn.Linear):
                layer.bias[...] = value

    return bias


def zeros(model: nn.Sequential) -> None:
    for array in model.parameters():
        array[...] = 0


def steep_rnn(model: nn.Sequential) -> None:
    """A recurrent matrix that doubles what it is given."""
    recurrent = model.layers[0].parameters()["weight_hh_l0"]
    fastgd.nn.init.orthogonal_(recurrent, gain=2.0, rng=np.random.default_rng(0))


def one_nan(batches: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    x = batches[7][0].copy()
    x[3, 5] = np.nan
    return [*batches[:7], (x, batches[7][1]), *batches[8:]]


def one_infinite_target(batches: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    y = batches[4][1].copy()
    y[2, 0] = np.inf
    return [*batches[:4], (batches[4][0], y), *batches[5:]]


def huge_layer(model: nn.Sequential) -> None:
    weights(model)[1][...] *= F32(1e38)


def apart(model: nn.Sequential) -> None:
    """Outputs far from where a squared error of a sigmoid has a slope."""
    model.layers[-2].bias[...] = 14.0


def one_bad_weight(model: nn.Sequential) -> None:
    weights(model)[1][3, 5] = np.nan


def parabola() -> tuple[Any, Any]:
    x = line(1, 256)[0][0]
    return x, x[:, :1] ** 2


def small_products(model: nn.Sequential) -> None:
    """Weights of a linear model of two layers next to 0, where its loss has a saddle."""
    for weight in weights(model):
        weight *= F32(1e-3)


CE, MSE = nn.CrossEntropyLoss, nn.MSELoss
SGD, ADAM = fastgd.SGD, fastgd.Adam


def _halves(x: Any) -> Any:
    return np.concatenate([x[:, :5] * F32(1000), x[:, 5:]], axis=1)


#: name -> (run, the kind that is to be found first)
FAILING: dict[str, tuple[Callable[[], Run], str]] = {
    "24 sigmoid layers": (
        lambda: Run(mlp(64, *[32] * 24, 10, between=nn.Sigmoid), CE(), SGD, {"lr": 0.1}, digits(60)),
        "vanishing",
    ),
    "weights too large for 12 layers": (
        lambda: Run(mlp(64, *[32] * 12, 10), CE(), SGD, {"lr": 1e-3}, digits(40), prepare=scaled(10)),
        "exploding_signal",
    ),
    "a layer that overflows": (
        lambda: Run(mlp(64, 64, 64, 10), CE(), ADAM, {"lr": 1e-3}, digits(20), prepare=huge_layer),
        "exploding_signal",
    ),
    "an RNN without clipping": (
        lambda: Run(
            [nn.RNN(1, 32, output="last"), nn.Linear(32, 2)],
            CE(),
            SGD,
            {"lr": 0.1},
            echo(80, 60),
            prepare=steep_rnn,
        ),
        "exploding",
    ),
    "SGD too fast": (
        lambda: Run(mlp(64, 64, 10), CE(), SGD, {"lr": 50.0}, digits(60)),
        "lr_too_high",
    ),
    "SGD much too fast, to NaN": (
        lambda: Run(mlp(10, 32, 1), MSE(), SGD, {"lr": 3.0}, line(40)),
        "lr_too_high",
    ),
    "SGD just too fast for a line": (
        lambda: Run([nn.Linear(10, 1)], MSE(), SGD, {"lr": 1.3}, same(line(1)[0], 60)),
        "lr_too_high",
    ),
    "Adam too fast": (
        lambda: Run(mlp(64, 64, 64, 10), CE(), ADAM, {"lr": 1.0}, digits(80)),
        "lr_too_high",
    ),
    "Adam too slow": (
        lambda: Run(mlp(64, 64, 10), CE(), ADAM, {"lr": 1e-7}, digits(80)),
        "lr_too_low",
    ),
    "SGD too slow": (
        lambda: Run(mlp(64, 64, 10), CE(), SGD, {"lr": 1e-5}, digits(80)),
        "lr_too_low",
    ),
    "ReLU with large negative biases": (
        lambda: Run(mlp(64, 64, 64, 10), CE(), SGD, {"lr": 0.1}, digits(60), prepare=biased(-10)),
        "dead",
    ),
    "tanh with large weights": (
        lambda: Run(
            mlp(64, 64, 64, 10, between=nn.Tanh), CE(), SGD, {"lr": 0.01}, digits(60), prepare=scaled(30)
        ),
        "saturated",
    ),
    "inputs of 0 to 4000": (
        lambda: Run(
            mlp(64, 64, 10, between=nn.Tanh),
            CE(),
            SGD,
            {"lr": 0.1},
            changed(digits(60), x=lambda x: x * F32(4000)),
        ),
        "unnormalised",
    ),
    "features of very different size": (
        lambda: Run(mlp(10, 32, 1), MSE(), ADAM, {"lr": 1e-3}, changed(line(60), x=_halves)),
        "unnormalised",
    ),
    "targets of millions": (
        lambda: Run(mlp(10, 32, 1), MSE(), ADAM, {"lr": 1e-3}, changed(line(60), y=lambda y: y * F32(1e6))),
        "unnormalised",
    ),
    "NaN in one input": (
        lambda: Run(mlp(64, 64, 10), CE(), ADAM, {"lr": 1e-3}, one_nan(digits(20))),
        "data_nonfinite",
    ),
    "one infinite target": (
        lambda: Run(mlp(10, 32, 1), MSE(), ADAM, {"lr": 1e-3}, one_infinite_target(line(20))),
        "data_nonfinite",
    ),
    "labels that are all the same": (
        lambda: Run(
            mlp(64, 64, 10), CE(), ADAM, {"lr": 1e-3}, changed(digits(20), y=lambda y: np.zeros_like(y))
        ),
        "constant",
    ),
    "labels of -1 and 1 for a binary cross-entropy": (
        lambda: Run(
            mlp(10, 32, 1),
            nn.BCEWithLogitsLoss(),
            ADAM,
            {"lr": 1e-2},
            changed(line(40), y=lambda y: np.sign(y)),
        ),
        "target_range",
    ),
    "weights of 0": (
        lambda: Run(mlp(64, 64, 10), CE(), SGD, {"lr": 0.1}, digits(60), prepare=zeros),
        "symmetric",
    ),
    "the saddle of a linear model of two layers": (
        lambda: Run(
            [nn.Linear(10, 8, bias=False), nn.Linear(8, 1, bias=False)],
            MSE(),
            SGD,
            {"lr": 1e-3},
            same(line(1, 64)[0], 80),
            prepare=small_products,
        ),
        "saddle",
    ),
    "a line for a parabola": (
        lambda: Run([nn.Linear(10, 1)], MSE(), SGD, {"lr": 0.1}, same(parabola(), 200)),
        "plateau",
    ),
    "an output on the flat side of a sigmoid": (
        lambda: Run(
            [nn.Linear(10, 1), nn.Sigmoid()],
            MSE(),
            SGD,
            {"lr": 0.1},
            changed(line(60), y=lambda y: (y > 0) * F32(0.2)),
            prepare=apart,
        ),
        "saturated",
    ),
    "a weight that is NaN from the start": (
        lambda: Run(mlp(64, 64, 10), CE(), ADAM, {"lr": 1e-3}, digits(20), prepare=one_bad_weight),
        "nonfinite",
    ),
    "a clip limit far too small": (
        lambda: Run(mlp(64, 64, 10), CE(), SGD, {"lr": 0.1}, digits(80), {"clip_norm": 1e-4}),
        "clipped",
    ),
    "labels that have nothing to do with inputs": (
        lambda: Run(
            mlp(64, 16, 10),
            CE(),
            SGD,
            {"lr": 0.05},
            [(x, np.random.default_rng(i).integers(0, 10, 32)) for i, (x, _) in enumerate(digits(250))],
        ),
        "stalled",
    ),
}

HEALTHY: dict[str, Callable[[], Run]] = {
    "MLP on digits by Adam": lambda: Run(mlp(64, 128, 10), CE(), ADAM, {"lr": 1e-3}, digits(400)),
    "the same long after it has learned them": lambda: Run(
        mlp(64, 128, 128, 10), CE(), ADAM, {"lr": 3e-3}, digits(1500)
    ),
    "a tanh network by SGD with momentum": lambda: Run(
        mlp(64, 64, 64, 10, between=nn.Tanh), CE(), SGD, {"lr": 0.1, "momentum": 0.9}, digits(500)
    ),
    "CNN with batch norm": lambda: Run(
        [
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Dropout(0.2),
            nn.Linear(16 * 16, 10),
        ],
        CE(),
        fastgd.AdamW,
        {"lr": 2e-3},
        digits(200, images=True),
    ),
    "LSTM with clipping": lambda: Run(
        [nn.LSTM(1, 32, output="last"), nn.Linear(32, 2)],
        CE(),
        ADAM,
        {"lr": 5e-3},
        echo(300, 8),
        {"clip_norm": 1.0},
    ),
    "residual network of 12 layers": lambda: Run(
        [
            nn.Linear(64, 64),
            *[
                nn.Residual(nn.LayerNorm(64), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
                for _ in range(6)
            ],
            nn.Linear(64, 10),
        ],
        CE(),
        ADAM,
        {"lr": 1e-3},
        digits(250),
    ),
    "regression by SGD": lambda: Run(mlp(10, 32, 1), MSE(), SGD, {"lr": 0.02}, line(500)),
    "full-batch regression that has converged": lambda: Run(
        [nn.Linear(10, 1)], MSE(), SGD, {"lr": 0.1}, same(line(1, 256)[0], 400)
    ),
    "batches of one": lambda: Run(mlp(64, 64, 10), CE(), SGD, {"lr": 0.01}, digits(1500, 1)),
    "autoencoder with sigmoid outputs": lambda: Run(
        [nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 64), nn.Sigmoid()],
        MSE(),
        ADAM,
        {"lr": 3e-3},
        [(x, x) for x, _ in digits(400)],
    ),
    "GELU and layer norm by AdamW": lambda: Run(
        [nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10)],
        CE(),
        fastgd.AdamW,
        {"lr": 1e-3},
        digits(400),
    ),
    "pixels of 0 to 16": lambda: Run(
        mlp(64, 64, 10), CE(), ADAM, {"lr": 1e-3}, changed(digits(300), x=lambda x: x * F32(16))
    ),
}
