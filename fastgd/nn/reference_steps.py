"""Positions and ends of sequences in NumPy: what csrc/steps.c does, in the same order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array

OK = 0


class Positions(NamedTuple):
    """What fgd_positions is in C."""

    max_time: int


def forward(
    dtype: Any, of: Positions, batch: int, time: int, dim: int, x: Array, weight: Array, y: Array
) -> int:
    with np.errstate(all="ignore"):
        y[...] = (x.reshape(batch, time, dim) + weight[:time]).reshape(y.shape)
    return OK


def backward(dtype: Any, of: Positions, batch: int, time: int, dim: int, dy: Array, dweight: Array) -> int:
    sums = np.zeros((time, dim))
    with np.errstate(all="ignore"):
        for row in dy.reshape(batch, time, dim):
            sums += row
        dweight[:time] = sums
    dweight[time:] = 0
    return OK


def cut(dtype: Any, none: Any, batch: int, time: int, dim: int, lengths: Array, y: Array) -> int:
    for row, length in zip(y.reshape(batch, time, dim), lengths, strict=True):
        row[length:] = 0
    return OK


ENTRIES = {"positions_forward": forward, "positions_backward": backward, "cut": cut}
DESCRIPTIONS = {"positions": Positions}
