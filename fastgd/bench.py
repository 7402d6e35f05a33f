"""Times the optimizer step beside its peers and beside the memory bandwidth, all in one run.

A workload is a list of shapes, an operation is the step alone or clipping and the step, and a contender is a
library that does it. Contenders take turns, so that a machine whose speed drifts is the same for all; a ratio
is the median over rounds of the two times of one round.
"""

from __future__ import annotations

import math
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

import fastgd
from fastgd.arrays import Array
from fastgd.rules import RULES, Rule, resolved

Shapes = list[tuple[int, ...]]

#: what is updated: name -> (description, shapes)
WORKLOADS: dict[str, tuple[str, Shapes]] = {
    "big": ("4 matrices of 4096 x 4096", [(4096, 4096)] * 4),
    "small": ("150 layers of 64 x 64 and 64", [(64, 64), (64,)] * 150),
    "tiny": ("4 layers of 16 x 16 and 16", [(16, 16), (16,)] * 4),
}

#: the workload that memory bandwidth bounds, and beside which it is measured
LARGEST = "big"

#: name -> the clip_norm that is given
OPERATIONS: dict[str, float | None] = {"step": None, "clip+step": 1.0}


def shapes_for(rule: Rule, workload: str) -> Shapes:
    """Those of the workload that the rule takes."""
    return [shape for shape in WORKLOADS[workload][1] if rule.ndim in (None, len(shape))]


class Contender(NamedTuple):
    """A way to make a step."""

    name: str
    #: (rule, shapes, clip_norm, threads) -> a function that makes one step; None where it has no such rule
    make: Callable[[Rule, Shapes, float | None, int], Callable[[], object] | None]
    #: the package it needs
    package: str


class Timing(NamedTuple):
    """One contender at one operation of one workload."""

    workload: str
    operation: str
    contender: str
    #: median over the rounds
    seconds: float
    #: bytes that must be moved at least, over the time
    gigabytes_per_second: float
    #: median over the rounds of that rate over the bandwidth measured in the same round; None: not measured
    of_bandwidth: float | None
    #: median over the rounds of its time over fastgd's in the same round: above 1, fastgd is faster
    ratio: float


def _arrays(shapes: Shapes) -> tuple[list[Array], list[Array]]:
    rng = np.random.default_rng(0)
    params = [rng.standard_normal(s, np.float32) for s in shapes]
    return params, [rng.standard_normal(s, np.float32) for s in shapes]


def _fastgd(rule: Rule, shapes: Shapes, clip_norm: float | None, threads: int) -> Callable[[], object]:
    fastgd.set_num_threads(threads)
    params, grads = _arrays(shapes)
    opt = fastgd.optim.create(rule.name, params)
    if clip_norm is None:
        return lambda: opt.step(grads)
    return lambda: opt.step(grads, clip_norm=clip_norm)


def _torch(variant: str) -> Callable[..., Callable[[], object] | None]:
    def make(
        rule: Rule, shapes: Shapes, clip_norm: float | None, threads: int
    ) -> Callable[[], object] | None:
        import torch

        torch.set_num_threads(threads)
        params, grads = _arrays(shapes)
        tensors = [torch.nn.Parameter(torch.from_numpy(p)) for p in params]
        for tensor, grad in zip(tensors, grads, strict=True):
            tensor.grad = torch.from_numpy(grad)
        if not rule.in_torch:
            return None
        try:
            opt = getattr(torch.optim, rule.title)(tensors, **{variant: True})
        except TypeError:  # torch has the rule, but not this variant of it
            return None

        def step() -> None:
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(tensors, clip_norm)
            opt.step()

        return step

    return make


def _numpy(rule: Rule, shapes: Shapes, clip_norm: float | None, threads: int) -> Callable[[], object] | None:
    params, grads = _arrays(shapes)
    if rule.factored is not None or rule.orthogonal is not None:
        return None
    h = resolved(rule, rule.defaults)
    first = {s.name: h[s.initial] if s.initial else 0.0 for s in rule.active_slots(h) if s}
    states = [SimpleNamespace(**{k: np.full_like(p, v) for k, v in first.items()}) for p in params]
    on = SimpleNamespace(**rule.active(h))
    count, carried = 0, rule.carried_at_first

    def step() -> None:
        nonlocal count, carried
        count += 1
        scalars = dict(zip(rule.scalars, rule.fold(h, count, carried), strict=True))
        carried = rule.carry(h, count, carried)
        coef = np.float32(1)
        if clip_norm is not None:
            norm = math.sqrt(sum(float(np.vdot(g, g)) for g in grads))
            coef = np.float32(min(1.0, clip_norm / (norm + 1e-6)))
        for p, g, x in zip(params, grads, states, strict=True):
            clipped = g * coef
            if rule.trust is not None:
                scalars["trust"] = _trust(rule, p, clipped, x, scalars, on)
            p[...] = rule.body(np, p, clipped, x, _single(scalars), on)

    return step


def _single(scalars: dict[str, float]) -> SimpleNamespace:
    return SimpleNamespace(**{name: np.float32(value) for name, value in scalars.items()})


def _trust(rule: Rule, p: Array, g: Array, x: SimpleNamespace, scalars: dict[str, float], on: Any) -> float:
    assert rule.trust is not None
    other = g
    if rule.trust.of == "step":
        other = rule.body(
            np, p, g, SimpleNamespace(**vars(x)), _single({**scalars, "decay": 0.0, "trust": 1.0}), on
        )
    return rule.trust.ratio(
        math.sqrt(np.vdot(p, p)), math.sqrt(np.vdot(other, other)), math.sqrt(p.size), scalars
    )


CONTENDERS = (
    Contender("fastgd", _fastgd, "fastgd"),
    Contender("torch fused", _torch("fused"), "torch"),
    Contender("torch foreach", _torch("foreach"), "torch"),
    Contender("numpy", _numpy, "numpy"),
)


def bytes_moved(rule: Rule, shapes: Shapes, clip_norm: float | None = None) -> int:
    """What a float32 step must read and write at least: parameter and slots both ways, and the gradient once,
    or twice when a norm has to be known before the first element can be updated.
    """
    passes_over_gradient = 1 if clip_norm is None else 2
    elements = 0
    for shape in shapes:
        h = rule.seen(resolved(rule, rule.defaults), shape, "float32")
        slots = sum(math.prod(s.shape(shape)) for s in rule.active_slots(h) if s)
        elements += (2 + passes_over_gradient) * math.prod(shape) + 2 * slots
    return 4 * elements


def bandwidth(threads: int, megabytes: int = 1024) -> Iterator[float]:
    """Bytes per second of NumPy passes over a large array in place, on this many threads; one pass a value.

    Each yields the best of scaling (one read and one write of each element) and of adding a second array
    (two reads and one write).
    """
    n = megabytes * 1024 * 1024 // 8 // threads * threads
    # written, because pages of zeros that were never written all lie in one page of memory
    a, b = np.ones(n, np.float32), np.full(n, 1e-3, np.float32)
    parts = [(a[i : i + n // threads], b[i : i + n // threads]) for i in range(0, n, n // threads)]
    passes: list[tuple[int, Callable[[tuple[Array, Array]], object]]] = [
        (8, lambda part: np.multiply(part[0], np.float32(1), out=part[0])),
        (12, lambda part: np.add(part[0], part[1], out=part[0])),
    ]
    with ThreadPoolExecutor(threads) as pool:
        while True:
            rates = []
            for item_bytes, work in passes:
                start = time.perf_counter()
                list(pool.map(work, parts))
                rates.append(n * item_bytes / (time.perf_counter() - start))
            yield max(rates)


def _repeats(step: Callable[[], object], seconds: float) -> int:
    """How often to call a step so that it takes about that long; also warms it up."""
    step()
    repeats = 1
    while True:
        start = time.perf_counter()
        for _ in range(repeats):
            step()
        taken = time.perf_counter() - start
        if taken >= seconds / 4 or repeats >= 1 << 20:
            return max(1, round(repeats * seconds / max(taken, 1e-9)))
        repeats *= 4


def timed(step: Callable[[], object], repeats: int) -> float:
    """Seconds that one step takes."""
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - start) / repeats


def contenders(names: list[str] | None = None) -> list[Contender]:
    """Those whose package is installed; fastgd first, because ratios are to it."""
    present = [c for c in CONTENDERS if find_spec(c.package) is not None]
    return [c for c in present if names is None or c.name in names or c.name == "fastgd"]


def run(
    rule: str = "adamw",
    workloads: list[str] | None = None,
    *,
    threads: int | None = None,
    rounds: int = 15,
    seconds: float = 0.1,
    only: list[str] | None = None,
    progress: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Times everything and returns {"machine", "rule", "threads", "bandwidth", "timings"}.

    rounds: turns that every contender takes; seconds: how long about each turn is (at least one step).
    bandwidth: median bytes per second of what `bandwidth` measured, once a round of the largest workload.
    """
    threads = threads or fastgd.get_num_threads()
    row, timings, all_rates = RULES[rule], [], []
    probe = bandwidth(threads)
    for workload in WORKLOADS if workloads is None else workloads:
        shapes = shapes_for(row, workload)
        for operation, clip_norm in OPERATIONS.items():
            progress(f"{workload}: {operation}")
            moved = bytes_moved(row, shapes, clip_norm)
            made = [(c.name, c.make(row, shapes, clip_norm, threads)) for c in contenders(only)]
            steps = [(name, step, _repeats(step, seconds)) for name, step in made if step is not None]
            taken: dict[str, list[float]] = {name: [] for name, _, _ in steps}
            rates: list[float] = []
            for _ in range(rounds):
                if workload == LARGEST:
                    rates.append(next(probe))
                for name, step, repeats in steps:
                    taken[name].append(timed(step, repeats))
            for name, times in taken.items():
                ratio = statistics.median(t / own for t, own in zip(times, taken["fastgd"], strict=True))
                shares = [moved / t / rate for t, rate in zip(times, rates, strict=False)]
                share = statistics.median(shares) if shares else None
                median = statistics.median(times)
                timings.append(Timing(workload, operation, name, median, moved / median / 1e9, share, ratio))
            all_rates += rates
    return {
        "machine": {**fastgd.info(), "processor": _processor()},
        "rule": rule,
        "threads": threads,
        "bandwidth": statistics.median(all_rates) if all_rates else None,
        "timings": [t._asdict() for t in timings],
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
