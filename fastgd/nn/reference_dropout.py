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


def key_of(of: Dropout, stream: int, counter: int) -> int:
    """Of the random bits of a mask."""
    return mixed(mixed(mixed(stream) + of.place) + counter)


def limits(of: Dropout) -> tuple[int, float]:
    """The least bits of what is kept, and what that is multiplied by."""
    return math.ceil(of.p * 2.0**32), 1 / (1 - of.p) if of.p < 1 else 0.0


def kept_or_0(x: Array, bits: Array, least: Any, scale: Any) -> Array:
    """bits: 32 random ones for each element, in 64. scale: of x's dtype."""
    dropped: Array = np.where(bits >= least, x * scale, x.dtype.type(0))
    return dropped


def _dropped(of: Dropout, x: Array, stream: Array, counter: Array) -> Array:
    key = key_of(of, int(stream[0]), int(counter[0]))
    bits = random_bits(key, np.arange(x.size)).astype(np.uint64).reshape(x.shape)
    least, scale = limits(of)
    with np.errstate(all="ignore"):
        return kept_or_0(x, bits, np.uint64(least), x.dtype.type(scale))


def forward(dtype: Any, of: Dropout, n: int, x: Array, stream: Array, counter: Array, y: Array) -> int:
    counter += np.uint64(1)
    y[...] = _dropped(of, x, stream, counter)
    return OK


def backward(dtype: Any, of: Dropout, n: int, dy: Array, stream: Array, counter: Array, dx: Array) -> int:
    dx[...] = _dropped(of, dy, stream, counter)
    return OK


ENTRIES = {"dropout_forward": forward, "dropout_backward": backward}
DESCRIPTIONS = {"dropout": Dropout}
