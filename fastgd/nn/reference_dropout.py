"""Dropout in NumPy: the mask of csrc/dropout.c."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.storage import mixed, random_bits

OK = 0


class Dropout(NamedTuple):
    """What fgd_dropout is in C."""

    p: float
    place: int


def _dropped(of: Dropout, x: Array, stream: Array, counter: Array) -> Array:
    key = mixed(mixed(mixed(int(stream[0])) + of.place) + int(counter[0]))
    bits = random_bits(key, np.arange(x.size)).reshape(x.shape)
    kept = bits >= np.uint64(math.ceil(of.p * 2.0**32))
    scale = 1 / (1 - of.p) if of.p < 1 else 0.0
    with np.errstate(all="ignore"):
        dropped: Array = np.where(kept, x * x.dtype.type(scale), x.dtype.type(0))
    return dropped


def forward(dtype: Any, of: Dropout, n: int, x: Array, stream: Array, counter: Array, y: Array) -> int:
    counter += np.uint64(1)
    y[...] = _dropped(of, x, stream, counter)
    return OK


def backward(dtype: Any, of: Dropout, n: int, dy: Array, stream: Array, counter: Array, dx: Array) -> int:
    dx[...] = _dropped(of, dy, stream, counter)
    return OK


ENTRIES = {"dropout_forward": forward, "dropout_backward": backward}
DESCRIPTIONS = {"dropout": Dropout}
