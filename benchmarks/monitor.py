"""What watching costs: training steps with fastgd.monitor and without, in turns, medians of times.

`python benchmarks/monitor.py [--seconds 20] [--threads 2] [--torch] [--out FILE.json]`

Both sides train the same parameters, lest where arrays lie in memory count as cost. They run at first for
half of --seconds, until the first looks, taken whatever they cost, are a small part; then they are measured
for twice --seconds, in turns.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import fastgd
from fastgd import monitor, nn

#: widths of the layers, and rows of a batch
SIZES = {
    "MLP 64-128-10": ((64, 128, 10), 32),
    "MLP 784-256-128-10": ((784, 256, 128, 10), 32),
    "MLP 784-512-512-10": ((784, 512, 512, 10), 256),
    "MLP 784-1024-1024-1024-10": ((784, 1024, 1024, 1024, 10), 128),
}

#: seconds of one side's turn: so long that each holds several looks, lest a median pass over their cost
TURN = 2.0

Step = Callable[[], Any]


def batch(widths: tuple[int, ...], rows: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, widths[0]), np.float32), rng.integers(0, widths[-1], rows)


def of_fastgd(widths: tuple[int, ...], rows: int) -> tuple[Step, Step, monitor.Monitor]:
    """A plain step, a watched one, and what watches."""
    x, y = batch(widths, rows)
    inside = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*inside[:-1], loss=nn.CrossEntropyLoss(), seed=0)
    opt = fastgd.AdamW(model.named_parameters(), lr=1e-4)
    watch = monitor.Monitor(model, opt)
    return (
        lambda: model.train_step(x, y, opt, clip_norm=1.0),
        lambda: watch.train_step(x, y, clip_norm=1.0),
        watch,
    )


def of_torch(widths: tuple[int, ...], rows: int) -> tuple[Step, Step, monitor.TorchMonitor]:
    import torch

    x, y = map(torch.from_numpy, batch(widths, rows))
    sides = []
    for _ in range(2):
        inside = [
            part for a, b in itertools.pairwise(widths) for part in (torch.nn.Linear(a, b), torch.nn.ReLU())
        ]
        module = torch.nn.Sequential(*inside[:-1])
        if sides:
            for own, shared in zip(module[::2], sides[0][0][::2], strict=True):
                own.weight, own.bias = shared.weight, shared.bias
        sides.append((module, torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)))
    sides[1][1].state = sides[0][1].state
    watch = monitor.watch_torch(*sides[1])

    def step(module: Any, opt: Any, told: Callable[..., None]) -> None:
        loss = torch.nn.functional.cross_entropy(module(x), y)
        told(loss, y)
        opt.zero_grad()
        loss.backward()
        opt.step()

    return lambda: step(*sides[0], lambda *_: None), lambda: step(*sides[1], watch.loss), watch


def measured(made: Any, seconds: float) -> dict[str, float]:
    """Seconds of a step of both sides, how much longer a watched one takes, and how many are looked at."""
    plain, watched, watch = made
    sides = {"plain": plain, "watched": watched}
    repeats = 1
    for name, step in sides.items():
        step()
        began = time.perf_counter()
        while time.perf_counter() - began < seconds / 2:
            step()
            repeats += name == "plain"
    repeats = max(1, round(repeats * TURN / (seconds / 2)))
    looks = len(watch.history.looks)
    steps = watch.history.count
    times: dict[str, list[float]] = {name: [] for name in sides}

    def turn(name: str) -> None:
        began = time.perf_counter()
        for _ in range(repeats):
            sides[name]()
        times[name].append((time.perf_counter() - began) / repeats)

    ends = time.perf_counter() + 2 * seconds
    while time.perf_counter() < ends:
        # else the other side's turn counts as time of training, and pays for as many looks again
        with watch.paused():
            turn("plain")
        turn("watched")
    a, b = (statistics.median(times[name]) for name in sides)
    ratios = [w / p for p, w in zip(times["plain"], times["watched"], strict=True)]
    looked = (len(watch.history.looks) - looks) / (watch.history.count - steps)
    return {"plain": a, "watched": b, "cost": statistics.median(ratios) - 1, "looked_at": looked}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--torch", action="store_true", help="torch's modules and optimizer, too")
    parser.add_argument("--out")
    asked = parser.parse_args()
    fastgd.set_num_threads(asked.threads)
    kinds = {"fastgd": of_fastgd, **({"torch": of_torch} if asked.torch else {})}
    rows = {}
    for library, make in kinds.items():
        for name, size in SIZES.items():
            row = rows[f"{library}, {name}"] = measured(make(*size), asked.seconds)
            taken = f"{row['plain'] * 1e6:.0f} us, watched {row['watched'] * 1e6:.0f} us"
            share = f"{row['looked_at']:.2%} of the steps looked at"
            print(f"{library}, {name}: {taken}: {row['cost']:+.1%}, {share}", flush=True)
    if asked.out:
        facts = {"cores": os.cpu_count(), "isa": fastgd.info()["instruction_set"], "threads": asked.threads}
        with open(asked.out, "w", encoding="utf-8") as file:
            json.dump({**facts, "seconds": asked.seconds, "rows": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
