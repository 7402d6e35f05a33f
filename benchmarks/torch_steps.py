"""Steps of fastgd.torch beside torch's fused ones: both sides take turns in one run, medians of their times.

`python benchmarks/torch_steps.py [--rounds 31] [--threads 2] [--only NAME] [--out FILE.json]`; needs torch.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

import fastgd
import fastgd.torch

Shapes = list[tuple[int, ...]]
Steps = tuple[Callable[[], Any], Callable[[], Any]]


class Workload(NamedTuple):
    """What is timed."""

    shapes: Shapes
    #: steps that are timed as one
    repeats: int
    clip_norm: float | None = None
    #: whether each parameter has a group of its own
    grouped: bool = False
    #: whether parameters have gradients
    grads: bool = True
    #: whether each has none in one of three steps, which it is given and loses in what is timed
    comes_and_goes: bool = False


SMALL: Shapes = [(64, 64)] * 150 + [(64,)] * 150
TINY: Shapes = [(16, 16)] * 4 + [(16,)] * 4
BIG: Shapes = [(4096, 4096)] * 4

WORKLOADS = {
    "small: step": Workload(SMALL, 20),
    "small: clip+step": Workload(SMALL, 20, clip_norm=1.0),
    "tiny: step": Workload(TINY, 100),
    "tiny: clip+step": Workload(TINY, 100, clip_norm=1.0),
    "465 groups: step": Workload([(64,)] * 465, 5, grouped=True),
    "465 groups: clip+step": Workload([(64,)] * 465, 5, clip_norm=1.0, grouped=True),
    "200 of 300: step": Workload(SMALL, 20, comes_and_goes=True),
    "200 of 300: clip+step": Workload(SMALL, 20, clip_norm=1.0, comes_and_goes=True),
    "big: step": Workload(BIG, 1),
    "big: clip+step": Workload(BIG, 1, clip_norm=1.0),
    "no gradients: step": Workload([(16,)], 200, grads=False),
    "one element: step": Workload([(1,)], 200),
}


def parameters(workload: Workload) -> tuple[list[torch.nn.Parameter], Any]:
    """Parameters with gradients, and them as an optimizer takes them."""
    torch.manual_seed(0)
    members = [torch.nn.Parameter(torch.randn(shape)) for shape in workload.shapes]
    for p in members:
        p.grad = torch.randn_like(p) if workload.grads else None
    return members, [{"params": [p]} for p in members] if workload.grouped else members


def steps(workload: Workload) -> Steps:
    """A step of torch's and one of ours."""
    members, given = parameters(workload)
    others, given_others = parameters(workload)
    theirs = torch.optim.AdamW(given, fused=True)
    ours = fastgd.torch.AdamW(given_others, clip_norm=workload.clip_norm)

    def clipped() -> None:
        torch.nn.utils.clip_grad_norm_(members, workload.clip_norm or 0.0)
        theirs.step()

    step = theirs.step if workload.clip_norm is None else clipped
    if workload.comes_and_goes:
        return coming_and_going(members, step), coming_and_going(others, ours.step)
    return step, ours.step


def coming_and_going(members: list[torch.nn.Parameter], step: Callable[[], Any]) -> Callable[[], Any]:
    """The step, before which every third gradient is taken away, each time others, and the last are given."""
    thirds = [[(p, p.grad) for p in members[k::3]] for k in range(3)]
    turns = itertools.cycle(zip(thirds, thirds[-1:] + thirds[:-1], strict=True))

    def turned() -> None:
        without, last = next(turns)
        for p, _ in without:
            p.grad = None
        for p, grad in last:
            p.grad = grad
        step()

    return turned


def measured(workload: Workload, rounds: int) -> dict[str, float]:
    """Seconds of a step on both sides, and how often ours goes into torch's."""
    sides = steps(workload)
    for step in (*sides, *sides, *sides):
        step()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for step, taken in zip(sides, seconds, strict=True):
            began = time.perf_counter()
            for _ in range(workload.repeats):
                step()
            taken.append((time.perf_counter() - began) / workload.repeats)
    theirs, ours = map(statistics.median, seconds)
    return {"torch": theirs, "fastgd": ours, "speed": theirs / ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=WORKLOADS)
    parser.add_argument("--out")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    fastgd.set_num_threads(asked.threads)
    rows = {}
    for name, workload in WORKLOADS.items():
        if asked.only in (None, name):
            rows[name] = measured(workload, asked.rounds)
            taken = "{torch:.3g} s, fastgd {fastgd:.3g} s".format(**rows[name])
            print(f"{name:24} torch {taken}: {rows[name]['speed']:.2f} times as fast", flush=True)
    if asked.out:
        facts = {
            "cores": os.cpu_count(),
            "isa": fastgd.info()["instruction_set"],
            "torch": torch.__version__,
            "threads": asked.threads,
        }
        with open(asked.out, "w", encoding="utf-8") as file:
            json.dump({**facts, "rounds": asked.rounds, "rows": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
