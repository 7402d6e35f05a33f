"""How fast users' own rules are beside the built-in ones: both sides take turns in one run, medians.

`python benchmarks/jit_rules.py [--rounds 21] [--out FILE.json]`; needs the extra `jit`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import numpy as np

import fastgd
from fastgd import machine


@fastgd.jit
def lion(
    p: Any, g: Any, exp_avg: Any, *, lr: float = 1e-4, betas: Any = (0.9, 0.99), weight_decay: float = 0.0
) -> Any:
    beta1, beta2 = betas
    update = beta1 * exp_avg + (1 - beta1) * g
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    return (1 - lr * weight_decay) * p - lr * np.sign(update), exp_avg


@fastgd.jit(unsigned=("exp_avg_sq",))
def adamw(
    p: Any,
    g: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    *,
    lr: float = 1e-3,
    betas: Any = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    step: Any,
) -> Any:
    beta1, beta2 = betas
    exp_avg = exp_avg + (1 - beta1) * (g - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    denominator = np.sqrt(exp_avg_sq) * (1 / np.sqrt(1 - beta2**step)) + eps
    return (1 - lr * weight_decay) * p - lr / (1 - beta1**step) * (exp_avg / denominator), exp_avg, exp_avg_sq


#: elements -> steps that are timed as one
SIZES = {1 << 14: 200, 1 << 20: 10, 1 << 26: 1}

PAIRS = {"Lion": (fastgd.Lion, lion), "AdamW": (fastgd.AdamW, adamw)}

SETTINGS: tuple[dict[str, str], ...] = ({}, {"state_dtype": "bfloat16"}, {"state_dtype": "8bit"})


def measured(pair: tuple[Any, Any], size: int, settings: dict[str, str], rounds: int) -> dict[str, Any]:
    """Seconds of a step on both sides, and how often the built-in's the own one's goes into it."""
    rng = np.random.default_rng(0)
    grad = rng.standard_normal(size, np.float32)
    opts = [rule([rng.standard_normal(size, np.float32)], lr=1e-3, **settings) for rule in pair]
    for opt in (*opts, *opts):
        opt.step([grad])
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for opt, taken in zip(opts, seconds, strict=True):
            began = time.perf_counter()
            for _ in range(SIZES[size]):
                opt.step([grad])
            taken.append((time.perf_counter() - began) / SIZES[size])
    built_in, own = map(statistics.median, seconds)
    return {"elements": size, **settings, "built_in": built_in, "own": own, "speed": built_in / own}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--out")
    asked = parser.parse_args()
    found: dict[str, Any] = {"threads": machine.get_num_threads(), "rounds": asked.rounds, "rules": {}}
    for name, pair in PAIRS.items():
        rows = found["rules"][name] = []
        for settings in SETTINGS:
            for size in SIZES if not settings else [1 << 20]:
                row = measured(pair, size, settings, asked.rounds)
                rows.append(row)
                stored = settings.get("state_dtype", "float32")
                times = f"{row['built_in'] * 1e6:10.1f} us {row['own'] * 1e6:10.1f} us"
                print(f"{name:6} {size:10,} elements, state in {stored:9}{times} {row['speed']:6.2f}x")
    if asked.out:
        with open(asked.out, "w") as file:
            json.dump(found, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
