"""Steps of fastgd.jax beside optax, both under jit: they take turns in one run, medians of their times.

`python benchmarks/jax_steps.py [--rounds 31] [--threads 2] [--only NAME] [--out FILE.json]`; needs optax.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

import fastgd
import fastgd.jax

Shapes = list[tuple[int, ...]]


class Workload(NamedTuple):
    """What is timed."""

    shapes: Shapes
    #: steps that are timed as one
    repeats: int
    clip_norm: float | None = None
    #: steps that are made in one compiled loop, and timed as one
    looped: int = 0
    #: what each side is given: the arrays as they are, or put together by fastgd.jax.pack
    packed: tuple[bool, bool] = (False, False)


SMALL: Shapes = [(64, 64)] * 150 + [(64,)] * 150
BIG: Shapes = [(4096, 1024)] * 4  # 16.8 million elements

WORKLOADS = {
    "small: step": Workload(SMALL, 20),
    "small: clip+step": Workload(SMALL, 20, clip_norm=1.0),
    "small, ours packed: clip+step": Workload(SMALL, 20, clip_norm=1.0, packed=(False, True)),
    "small, packed: clip+step": Workload(SMALL, 20, clip_norm=1.0, packed=(True, True)),
    "small: clip+step in a loop": Workload(SMALL, 1, clip_norm=1.0, looped=50),
    "big: step": Workload(BIG, 1),
    "big: clip+step": Workload(BIG, 1, clip_norm=1.0),
}


def arrays(workload: Workload, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        f"p{i:03}": jax.numpy.array(rng.standard_normal(shape, np.float32))
        for i, shape in enumerate(workload.shapes)
    }


def stepping(
    step: Callable[..., Any], params: Any, grads: Any, state: Any, looped: int
) -> Callable[[], None]:
    """Steps of a compiled function, parameters and state donated; so many in a compiled loop, unless 0."""

    def loop(params: Any, grads: Any, state: Any) -> Any:
        return jax.lax.fori_loop(0, looped, lambda _, at: step(at[0], grads, at[1]), (params, state))

    compiled, at = jax.jit(loop if looped else step, donate_argnums=(0, 2)), [params, state]

    def run() -> None:
        at[:] = compiled(at[0], grads, at[1])
        jax.block_until_ready(at)

    return run


def steps(workload: Workload) -> tuple[Callable[[], None], Callable[[], None]]:
    """A step of optax and one of ours."""
    clip, lr, decay = workload.clip_norm, 1e-3, 1e-2
    theirs = optax.adamw(lr, weight_decay=decay)
    if clip is not None:
        theirs = optax.chain(optax.clip_by_global_norm(clip), theirs)
    ours = fastgd.jax.adamw(lr, weight_decay=decay, clip_norm=clip)

    def step(params: Any, grads: Any, state: Any) -> Any:
        updates, state = theirs.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    sides = []
    for made, init, is_packed in zip(
        (step, ours.step), (theirs.init, ours.init), workload.packed, strict=True
    ):
        grads, params = (arrays(workload, seed) for seed in (1, 0))
        if is_packed:
            grads, params = fastgd.jax.pack(grads), fastgd.jax.pack(params)
        sides.append(stepping(made, params, grads, init(params), workload.looped))
    return sides[0], sides[1]


def measured(workload: Workload, rounds: int) -> dict[str, float]:
    """Seconds of a step on both sides, and how often ours goes into optax's."""
    sides = steps(workload)
    for step in (*sides, *sides, *sides):
        step()
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for step, taken in zip(sides, seconds, strict=True):
            began = time.perf_counter()
            for _ in range(workload.repeats):
                step()
            taken.append((time.perf_counter() - began) / workload.repeats / max(workload.looped, 1))
    theirs, ours = map(statistics.median, seconds)
    return {"optax": theirs, "fastgd": ours, "speed": theirs / ours}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=WORKLOADS)
    parser.add_argument("--out")
    asked = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # XLA has as many threads as there are cores
        cores = sorted(os.sched_getaffinity(0))[: asked.threads]
        os.sched_setaffinity(0, cores)
    fastgd.set_num_threads(asked.threads)
    rows = {}
    for name, workload in WORKLOADS.items():
        if asked.only in (None, name):
            rows[name] = measured(workload, asked.rounds)
            taken = "{optax:.3g} s, fastgd {fastgd:.3g} s".format(**rows[name])
            print(f"{name:30} optax {taken}: {rows[name]['speed']:.2f} times as fast", flush=True)
    if asked.out:
        facts = {
            "cores": os.cpu_count(),
            "isa": fastgd.info()["instruction_set"],
            "jax": jax.__version__,
            "optax": optax.__version__,
            "threads": asked.threads,
        }
        with open(asked.out, "w", encoding="utf-8") as file:
            json.dump({**facts, "rounds": asked.rounds, "rows": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
