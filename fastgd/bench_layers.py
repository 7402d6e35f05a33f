"""Times the forward and backward passes of activations and losses beside torch's.

All take turns in one run. Both sides are given the same arrays and the same work: an output, then the
gradient of the input from that of the output; for a loss its value and the gradient of the logits.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import fastgd
from fastgd import nn
from fastgd.bench import timed
from fastgd.nn.activations import Activation, bound
from fastgd.nn.compiled import LayerPasses
from fastgd.nn.kernels import kernels_of

Shape = tuple[int, ...]
Step = Callable[[], object]


class Case(NamedTuple):
    """A layer or a loss on an array of this shape."""

    shape: Shape
    #: made by fastgd.nn or torch.nn, whose names and arguments are the same
    make: Callable[[Any], Any]
    #: whether the gradient of the input is asked for, too
    needs_dx: bool = True


LARGE = (4096, 4096)
SEQUENCES = (32, 64, 256)
CASES = (
    Case(LARGE, lambda package: package.ReLU()),
    Case(LARGE, lambda package: package.Sigmoid()),
    Case(LARGE, lambda package: package.Tanh()),
    Case(LARGE, lambda package: package.SiLU()),
    Case(LARGE, lambda package: package.GELU()),
    Case(LARGE, lambda package: package.GELU(approximate="tanh")),
    Case((4096, 1024), lambda package: package.LayerNorm(1024)),
    Case((4096, 8192), lambda package: package.CrossEntropyLoss()),
    Case(SEQUENCES, lambda package: package.LSTM(256, 256), needs_dx=False),
    Case(SEQUENCES, lambda package: package.GRU(256, 256), needs_dx=False),
    Case(SEQUENCES, lambda package: package.RNN(256, 256), needs_dx=False),
)


def example(shape: Shape) -> tuple[Any, Any, Any]:
    """Inputs, gradients of outputs, and labels of rows."""
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal(shape, np.float32) for _ in range(2))
    return x, dy, rng.integers(0, shape[-1], shape[0])


def native(case: Case) -> Step:
    """fastgd's step, which writes to arrays that it has."""
    x, dy, labels = example(case.shape)
    what, k = case.make(nn), kernels_of("native")
    if isinstance(what, nn.CrossEntropyLoss):
        arrays = (x, labels, np.empty_like(x), np.empty(len(x)), np.empty(1))
        arguments = (k.dtype(x.dtype), k.describe("labels", None, 0.0, 0.0, -100), *x.shape)
        handles = [k.handle(array) for array in arrays]
        return lambda: k.check(k.softmax_cross_entropy(*arguments, *handles))
    if not isinstance(what, Activation):
        passes = LayerPasses(what, k, (x.shape, x.dtype), x.dtype, needs_dx=case.needs_dx)
        passes.bind(x, dy)
        return passes.run
    dtype, n = k.dtype(x.dtype), math.prod(case.shape)
    does, saves_input = bound(k, what)
    z, g, y, dz = (k.handle(array) for array in (x, dy, np.empty_like(x), np.empty_like(x)))

    def step() -> None:
        k.check(k.activation_forward(dtype, does, n, z, y))
        k.check(k.activation_backward(dtype, does, n, z if saves_input else y, g, dz))

    return step


def torchs(case: Case, threads: int) -> Step:
    import torch

    torch.set_num_threads(threads)
    x, dy, labels = map(torch.from_numpy, example(case.shape))
    module = case.make(torch.nn)
    x.requires_grad_(case.needs_dx)
    module.batch_first = True  # of recurrent layers, fastgd's only order

    def step() -> None:
        x.grad = None
        module.zero_grad()
        if isinstance(module, torch.nn.CrossEntropyLoss):
            module(x, labels).backward()
        else:
            y = module(x)
            (y[0] if isinstance(y, tuple) else y).backward(dy)

    return step


def run(
    *,
    cases: tuple[Case, ...] = CASES,
    threads: int | None = None,
    rounds: int = 15,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Times every case and returns {"threads", "rounds", "cases", "missing"}.

    A case has its shape, median seconds, and, where torch is installed, the median over the rounds of torch's
    time over fastgd's in the same round.
    """
    threads = threads or fastgd.get_num_threads()
    fastgd.set_num_threads(threads)
    has_torch = find_spec("torch") is not None
    results = []
    for case in cases:
        name = str(case.make(nn))
        progress(f"{name} of {list(case.shape)}")
        sides = [native(case), *([torchs(case, threads)] if has_torch else [])]
        for step in sides:
            step()
        taken = [[timed(step, 1) for step in sides] for _ in range(rounds)]
        result = {
            "name": name,
            "shape": list(case.shape),
            "seconds": statistics.median(turn[0] for turn in taken),
        }
        if has_torch:
            result["torch_seconds"] = statistics.median(turn[1] for turn in taken)
            result["ratio"] = statistics.median(turn[1] / turn[0] for turn in taken)
        results.append(result)
    missing = None if has_torch else "torch is not timed: pip install torch==2.13.0"
    return {"threads": threads, "rounds": rounds, "cases": results, "missing": missing}
