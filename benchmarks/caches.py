"""AdamW's step with state left out of the caches and not, by bytes in all: both take turns, medians of times.

`python benchmarks/caches.py [--rounds 31] [--threads 2] [--out FILE.json]`
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import numpy as np

import fastgd

MIB = 2**20
SIZES = [1, 2, 4, 6, 8, 9, 10, 12, 14, 16, 20, 24, 32, 64, 256]

#: elements of a tensor
TENSOR = 4096

#: of parameter, gradient and two slots
BYTES = 16


def measured(size: int, rounds: int) -> dict[str, float]:
    """Seconds of a step over so many bytes, and how many times as fast it is with state left out."""
    count = size // (TENSOR * BYTES)
    params = [np.ones(TENSOR, np.float32) for _ in range(count)]
    grads = [np.full(TENSOR, 1e-3, np.float32) for _ in range(count)]
    opt = fastgd.AdamW(params)
    repeats = max(2, 40 * MIB // size)
    # caches that hold nothing, and such that hold everything
    sides = {"left_out": 0, "kept": 2**62}
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, cache in sides.items():
            fastgd.set_cache_size(cache)
            opt.step(grads)
            began = time.perf_counter()
            for _ in range(repeats):
                opt.step(grads)
            seconds[name].append((time.perf_counter() - began) / repeats)
    fastgd.set_cache_size(None)
    left_out, kept = (statistics.median(seconds[name]) for name in sides)
    return {"kept": kept, "left_out": left_out, "speed": kept / left_out}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out")
    asked = parser.parse_args()
    fastgd.set_num_threads(asked.threads)
    rows = {}
    for mib in SIZES:
        row = rows[f"{mib} MiB"] = measured(mib * MIB, asked.rounds)
        taken = f"kept {row['kept'] * 1e6:.0f} us, left out {row['left_out'] * 1e6:.0f} us"
        print(f"{mib:4} MiB: {taken}: {row['speed']:.2f} times as fast", flush=True)
    if asked.out:
        facts = {
            "cores": os.cpu_count(),
            "isa": fastgd.info()["instruction_set"],
            "cache": fastgd.get_cache_size(),
            "threads": asked.threads,
        }
        with open(asked.out, "w", encoding="utf-8") as file:
            json.dump({**facts, "rounds": asked.rounds, "rows": rows}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
