"""Times fastgd.torch.functional beside torch's functions: both sides take turns in one run, medians.

`python benchmarks/torch_functional.py [--rounds 15] [--threads 2] [--only NAME] [--out FILE]`; needs torch.
A forward pass with no gradients, and a forward and backward pass, on the same tensors.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import fastgd
import fastgd.torch.functional as F

N = torch.nn.functional


class Case(NamedTuple):
    """Two functions of the same inputs, [0] of which gets a gradient, and how many calls are timed as one."""

    name: str
    ours: Callable[..., Tensor]
    theirs: Callable[..., Tensor]
    inputs: list[Tensor]
    calls: int
    #: whether the inputs' own gradient is asked for, or only that of the others
    needs_dx: bool = True


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def elements(name: str, shape: tuple[int, ...], calls: int, **arguments: Any) -> Case:
    ours, theirs = getattr(F, name), getattr(torch, name, None) or getattr(N, name)
    title = " ".join([name, *map(str, arguments.values())])
    return Case(
        title,
        lambda x: ours(x, **arguments),
        lambda x: theirs(x, **arguments),
        [drawn(*shape)],
        calls,
    )


def layer_norm(rows: int, cols: int, calls: int) -> Case:
    weight, bias = torch.ones(cols).requires_grad_(), torch.zeros(cols).requires_grad_()
    sides = [lambda x, *p, f=package.layer_norm: f(x, (cols,), *p) for package in (F, N)]
    return Case("layer_norm", *sides, [drawn(rows, cols), weight, bias], calls)


def cross_entropy(rows: int, classes: int, calls: int) -> Case:
    labels = torch.arange(rows) % classes
    sides = [lambda x, f=package.cross_entropy: f(x, labels) for package in (F, N)]
    return Case("cross_entropy", *sides, [drawn(rows, classes)], calls)


def recurrent(cell: str, title: str, batch: int, steps: int, size: int) -> Case:
    module = getattr(torch.nn, title)(size, size, batch_first=True)
    ours = getattr(F, cell)

    def fastgds(x: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = ours(x, None, parameters, batch_first=True)[0]
        return y

    def torchs(x: Tensor, *parameters: Tensor) -> Tensor:
        y: Tensor = module(x)[0]
        return y

    return Case(cell, fastgds, torchs, [drawn(batch, steps, size), *module.parameters()], 1, needs_dx=False)


#: functions that make the cases, so that only one of them is in memory
CASES: list[Callable[[], Case]] = [
    *(
        lambda name=name, shape=shape, calls=calls: elements(name, shape, calls)
        for name in ("tanh", "sigmoid", "relu", "gelu", "silu")
        for shape, calls in (((32, 64), 500), ((256, 1024), 20), ((4096, 4096), 1))
    ),
    lambda: elements("gelu", (4096, 4096), 1, approximate="tanh"),
    lambda: layer_norm(32, 64, 500),
    lambda: layer_norm(4096, 1024, 2),
    lambda: cross_entropy(32, 10, 500),
    lambda: cross_entropy(4096, 8192, 1),
    lambda: recurrent("lstm", "LSTM", 32, 64, 256),
    lambda: recurrent("gru", "GRU", 32, 64, 256),
    lambda: recurrent("rnn_tanh", "RNN", 32, 64, 256),
]


def passes(case: Case, function: Callable[..., Tensor], backward: bool) -> Callable[[], object]:
    """One pass, timed as it is in training: gradients are dropped, not summed."""
    x, *others = case.inputs
    x = x.detach().requires_grad_(backward and case.needs_dx)
    asked = [a for a in (x, *others) if a.requires_grad]
    if not backward:

        def forward() -> object:
            with torch.no_grad():
                return function(x, *others)

        return forward
    dy = torch.ones_like(function(x, *others))

    def both() -> object:
        # as a model does: x is no leaf, so that nobody copies its gradient
        function(x, *others).backward(dy, inputs=asked)
        for a in asked:
            a.grad = None
        return None

    return both


def measured(case: Case, rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"name": case.name, "shape": [*case.inputs[0].shape]}
    for which, backward in (("forward", False), ("forward_backward", True)):
        steps = [passes(case, side, backward) for side in (case.ours, case.theirs)]
        for step in (*steps, *steps):
            step()
        taken: list[list[float]] = []
        for _ in range(rounds):
            turn = []
            for step in steps:
                began = time.perf_counter()
                for _ in range(case.calls):
                    step()
                turn.append((time.perf_counter() - began) / case.calls)
            taken.append(turn)
        ours, theirs = (statistics.median(turn[i] for turn in taken) for i in (0, 1))
        ratio = statistics.median(turn[1] / turn[0] for turn in taken)
        found[which] = {"seconds": ours, "torch_seconds": theirs, "ratio": ratio}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only")
    parser.add_argument("--out")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    fastgd.set_num_threads(asked.threads)
    found: dict[str, Any] = {"threads": asked.threads, "rounds": asked.rounds, "torch": torch.__version__}
    rows = found["cases"] = []
    for make in CASES:
        case = make()
        if asked.only not in (None, case.name):
            continue
        row = measured(case, asked.rounds)
        rows.append(row)
        texts = []
        for which in ("forward", "forward_backward"):
            ours, theirs, ratio = row[which].values()
            texts.append(f"{ours * 1e6:11.1f} us, torch {theirs * 1e6:11.1f} us {ratio:6.2f}x")
        print(f"{case.name:14} {row['shape']!s:16} {texts[0]} | {texts[1]}", flush=True)
    if asked.out:
        with open(asked.out, "w") as file:
            json.dump(found, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
