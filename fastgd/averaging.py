"""Moves arrays towards others in place: what every running average of parameters is made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from fastgd import backends
from fastgd.arrays import Spans, addresses, as_arrays, memory_order, owned_arrays
from fastgd.backends.base import Block, Item, Options, Work
from fastgd.checks import finite, named
from fastgd.rules import LERP
from fastgd.settings import DEFAULTS

__all__ = ["lerp_"]


def lerp_(arrays: Iterable[Any], towards: Iterable[Any], weight: float, *, backend: str = "auto") -> None:
    """Moves arrays by `weight` of the way to their counterparts, in place: a + weight (t - a), as torch.lerp.

    arrays: float32, float64, bfloat16 or float16, any shapes and strides, mixed; written, rounded to nearest.
    towards: an array for each of them, of its shape and dtype; read.
    weight: 0 leaves the arrays as they are, 1 gives the counterparts exactly, others go between or beyond.
    backend: "auto", or one that fastgd.info() lists.

    The same bits whatever the backend, instruction set and thread count. Raises TypeError or ValueError,
    naming the array, before anything is changed; also for a counterpart that shares memory with an array.
    """
    own, others = owned_arrays(arrays, "array"), as_arrays(towards, "counterpart")
    if len(own) != len(others):
        raise ValueError(f"got {len(others)} counterparts for {len(own)} arrays")
    for i, (array, other) in enumerate(zip(own, others, strict=True)):
        if other.shape != array.shape:
            raise ValueError(f"counterpart {i} has shape {other.shape}, the array {array.shape}")
        if other.dtype != array.dtype:
            raise TypeError(f"counterpart {i} has dtype {other.dtype}, the array {array.dtype}")
    alias = Spans(own).find(others, addresses(others))
    if alias:
        raise ValueError(f"counterpart {alias[0]} shares memory with array {alias[1]}")
    values = {**DEFAULTS, **LERP.defaults, "weight": named("weight", finite, weight)}
    items = [Item(a, t, (), 0, 0, memory_order(a)) for a, t in zip(own, others, strict=True)]
    backends.get(backend).plan(Work([Block(LERP, values, 0)], items, np.zeros(1, np.int64))).step(Options())
