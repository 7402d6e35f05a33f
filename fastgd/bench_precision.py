"""Times the step of one large model in every precision and under other rules, beside AdamW in float32.

All take turns in one run, with the memory bandwidth measured in each round, as in fastgd.bench.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

import fastgd
from fastgd.arrays import Array, dtype_named
from fastgd.bench import Shapes, bandwidth, timed
from fastgd.optimizer import Optimizer
from fastgd.rules import RULES

#: a step of 67 M elements
SHAPES: Shapes = [(4096, 4096)] * 4


class Case(NamedTuple):
    """One way to make a step."""

    name: str
    rule: str
    #: hyperparameters and settings
    options: dict[str, Any]
    #: of parameters and gradients
    dtype: str = "float32"


#: the first is what the others are compared with
CASES = (
    Case("AdamW", "adamw", {}),
    Case("AdamW, moments in bfloat16", "adamw", {"state_dtype": "bfloat16"}),
    Case("AdamW, all in bfloat16", "adamw", {}, "bfloat16"),
    Case("AdamW, all in bfloat16, stochastic", "adamw", {"rounding": "stochastic"}, "bfloat16"),
    Case("AdamW, bfloat16, split", "adamw", {"rounding": "split", "state_dtype": "float32"}, "bfloat16"),
    Case("AdamW, moments in 8 bits", "adamw", {"state_dtype": "8bit"}),
    Case("AdamW with a running average", "adamw", {"ema_decay": 0.999}),
    Case("SGD with momentum", "sgd", {"momentum": 0.9}),
    Case("Lion", "lion", {}),
    Case("LAMB", "lamb", {}),
    Case("Adafactor", "adafactor", {}),
)

BITSANDBYTES = "bitsandbytes AdamW8bit"


def _arrays(shapes: Shapes, dtype: str) -> list[Array]:
    rng = np.random.default_rng(0)
    return [rng.standard_normal(s, np.float32).astype(dtype_named(dtype)) for s in shapes]


def moved(opt: Optimizer, params: list[Array], grads: list[Array]) -> int:
    """Bytes that one step must read and write at least.

    Parameters, state and averages both ways and gradients once; for a trust ratio of the step once more the
    parameters and the state, which have to be whole before the first element can be changed. For second
    moments of rows and columns the gradients are read twice more, because these have to be whole before that.
    """
    held = sum(p.nbytes for p in params) + opt.state_bytes()
    rule = RULES[opt.rule.name]
    passes_over_gradient = 1 if rule.factored is None else 3
    return (2 + (rule.trust is not None)) * held + passes_over_gradient * sum(g.nbytes for g in grads)


def _bitsandbytes(shapes: Shapes, threads: int) -> Callable[[], object] | None:
    if find_spec("bitsandbytes") is None or find_spec("torch") is None:
        return None
    import torch
    from bitsandbytes import optim

    torch.set_num_threads(threads)
    tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in _arrays(shapes, "float32")]
    for tensor, grad in zip(tensors, _arrays(shapes, "float32"), strict=True):
        tensor.grad = torch.from_numpy(grad)
    step: Callable[[], object] = vars(optim)["AdamW8bit"](tensors).step
    return step


def run(
    *,
    shapes: Shapes = SHAPES,
    threads: int | None = None,
    rounds: int = 15,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Times every case and returns {"elements", "rounds", "bandwidth", "cases", "missing"}.

    A case has its median seconds, the bytes an element that must be moved, and medians over the rounds, of
    its speed over the first case's in the same round, and of its bytes a second over the bandwidth.
    """
    threads = threads or fastgd.get_num_threads()
    fastgd.set_num_threads(threads)
    elements = sum(math.prod(s) for s in shapes)
    grads = {dtype: _arrays(shapes, dtype) for dtype in {case.dtype for case in CASES}}
    steps: list[tuple[str, Callable[[], object], float | None]] = []
    for case in CASES:
        progress(f"preparing {case.name}")
        params = _arrays(shapes, case.dtype)
        opt = fastgd.optim.create(case.rule, params, **case.options)
        given = grads[case.dtype]
        opt.step(given)  # makes the state
        steps.append((case.name, lambda opt=opt, given=given: opt.step(given), moved(opt, params, given)))  # type: ignore[misc]  # a lambda's defaults
    peer = _bitsandbytes(shapes, threads)
    if peer is not None:
        progress(f"preparing {BITSANDBYTES}")
        peer()
        steps.append((BITSANDBYTES, peer, None))
    probe = bandwidth(threads)
    taken: dict[str, list[float]] = {name: [] for name, _, _ in steps}
    rates = []
    for turn in range(rounds):
        progress(f"round {turn + 1} of {rounds}")
        rates.append(next(probe))
        for name, step, _ in steps:
            taken[name].append(timed(step, 1))
    first = taken[CASES[0].name]
    cases = []
    for name, _, item_bytes in steps:
        times = taken[name]
        shares = [] if item_bytes is None else [item_bytes / t / r for t, r in zip(times, rates, strict=True)]
        cases.append(
            {
                "name": name,
                "seconds": statistics.median(times),
                "bytes_per_element": None if item_bytes is None else item_bytes / elements,
                "speed": statistics.median(a / t for a, t in zip(first, times, strict=True)),
                "of_bandwidth": statistics.median(shares) if shares else None,
            }
        )
    missing = None if peer else f"{BITSANDBYTES} is not timed: pip install bitsandbytes torch==2.13.0"
    return {
        "elements": elements,
        "threads": threads,
        "rounds": rounds,
        "bandwidth": statistics.median(rates),
        "cases": cases,
        "missing": missing,
    }
