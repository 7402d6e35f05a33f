"""What tests of restarts train, in a module that the processes import quickly."""

import math
import os
import sys

import numpy as np

import fastgd


def descend(seed):
    """Ends in one of a double well's two minima."""
    params = [np.random.default_rng(seed).uniform(-2, 2, 1)]
    opt = fastgd.SGD(params, lr=0.05)
    for _ in range(200):
        opt.step([4 * params[0] ** 3 - 4 * params[0] + 0.3])
    x = params[0][0]
    return (x**2 - 1) ** 2 + 0.3 * x, (params[0], fastgd.get_num_threads(), os.getpid())


def environment(seed):
    return -seed, {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


COUNT = 0


def counting(seed):
    """What it leaves in its module must not be there for the next start."""
    global COUNT
    COUNT += 1
    return COUNT, None


class TwoPartedError(Exception):
    """Which cannot be unpickled."""

    def __init__(self, one, two):
        super().__init__(one)


def explode(value):
    raise ValueError(f"cannot be unpickled: {value}")


class Bomb:
    def __reduce__(self):
        return explode, (1,)


def diverse(seed):
    """All that may become of a start."""
    if seed == 1:
        raise TwoPartedError("this start", "failed")
    if seed == 2:
        os._exit(3)
    if seed == 3:
        return 1.0
    if seed == 4:
        return "low", None
    if seed == 5:
        return 0.5, lambda: 1
    if seed == 6:
        return 0.5, Bomb()
    if seed == 8:
        sys.exit(1)
    if seed == 7:
        return math.nan, "nan"
    return np.float32(seed), bytes(300_000)
