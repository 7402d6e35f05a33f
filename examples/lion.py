"""Lion written in ten lines, and compared with the library's own: the same bits, and how fast it is.

`python examples/lion.py`; needs the extra `jit`.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import fastgd


@fastgd.jit(source="Chen et al. 2023, algorithm 2")
def lion(
    p: Any, g: Any, exp_avg: Any, *, lr: float = 1e-4, betas: Any = (0.9, 0.99), weight_decay: float = 0.0
) -> Any:
    beta1, beta2 = betas
    update = beta1 * exp_avg + (1 - beta1) * g
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    return (1 - lr * weight_decay) * p - lr * np.sign(update), exp_avg


SIZE, STEPS = 1_000_000, 20


def trained(make: Any, **settings: Any) -> tuple[Any, list[float]]:
    """A parameter after some steps, and the seconds that each of them took."""
    rng = np.random.default_rng(0)
    p = rng.standard_normal(SIZE).astype(np.float32)
    grads = [rng.standard_normal(SIZE).astype(np.float32) for _ in range(4)]
    opt = make([p], lr=3e-4, weight_decay=0.1, **settings)
    seconds = []
    for step in range(STEPS):
        began = time.perf_counter()
        opt.step([grads[step % 4]], clip_norm=500.0)
        seconds.append(time.perf_counter() - began)
    return p, seconds


def main() -> None:
    print(f"{'':24}{'same bits':12}{'first step':>12}{'others, median':>16}")
    for settings in ({}, {"state_dtype": "bfloat16"}, {"state_dtype": "8bit"}):
        expected, own = trained(fastgd.Lion, **settings)
        actual, users = trained(lion, **settings)
        same = np.array_equal(actual.view(np.uint32), expected.view(np.uint32))
        what = f"state in {settings.get('state_dtype', 'float32')}"
        for name, seconds in (("Lion", own), ("lion", users)):
            first, others = seconds[0], float(np.median(seconds[1:]))
            print(f"{name + ', ' + what:24}{same!s:12}{first * 1e3:9.2f} ms{others * 1e3:13.3f} ms")


if __name__ == "__main__":
    main()
