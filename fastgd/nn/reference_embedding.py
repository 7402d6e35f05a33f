"""Embedding in NumPy: what csrc/embedding.c does, in the same order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array

OK = 0
ERROR_LABEL = -13


class Embedding(NamedTuple):
    """What fgd_embedding is in C."""

    padding: int


def _outside(indices: Array, rows: int) -> bool:
    return bool(((indices < 0) | (indices >= rows)).any())


def forward(
    dtype: Any, of: Embedding, n: int, rows: int, dim: int, indices: Array, weight: Array, y: Array
) -> int:
    if _outside(indices, rows):
        return ERROR_LABEL
    y[...] = weight[indices.reshape(n)].reshape(y.shape)
    return OK


def backward(
    dtype: Any, of: Embedding, n: int, rows: int, dim: int, indices: Array, dy: Array, dweight: Array
) -> int:
    if _outside(indices, rows):
        return ERROR_LABEL
    counted = indices.reshape(n) != of.padding
    dweight[...] = 0
    with np.errstate(all="ignore"):
        np.add.at(dweight, indices.reshape(n)[counted], dy.reshape(n, dim)[counted])
    return OK


ENTRIES = {"embedding_forward": forward, "embedding_backward": backward}
DESCRIPTIONS = {"embedding": Embedding}
