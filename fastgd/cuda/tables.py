"""The tables that kernels read: tensors, their tiles and chunks, and memory of the device that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.base import Codes, Item
from fastgd.cuda.driver import Driver
from fastgd.cuda.layout import CHUNK, TENSOR
from fastgd.storage import mixed

#: columns of a tensor's row, as indices
COLUMN = {name: k for k, name in enumerate(TENSOR)}


class Held:
    """A table on the device, and what it was last given."""

    def __init__(self, device: Driver, values: Array, nbytes: int | None = None) -> None:
        """nbytes: of all its memory, where that is more."""
        self._device = device
        self.buffer = device.allocate(values.nbytes if nbytes is None else nbytes)
        self.pointer = self.buffer.pointer
        self.host = values

    def send(self, stream: int) -> None:
        """What the host has is there before what comes next on the stream."""
        if self.host.nbytes:
            self._device.upload(self.pointer, self.host, stream)


def room(device: Driver, nbytes: int) -> Held:
    """Memory that only kernels write."""
    return Held(device, np.empty(0, np.uint8), nbytes)


def tensor_rows(items: Sequence[Item], seed: int) -> Array:
    """int64 [items, columns]: all but the gradients' addresses, scopes and coefficients."""
    rows = np.zeros((len(items), len(TENSOR)), np.int64)
    start = mixed(seed & 0xFFFFFFFFFFFFFFFF)
    for row, item in zip(rows, items, strict=True):
        param: Any = item.param
        width = param.size // max(param.shape[0], 1) if item.rows is not None else 0
        row[COLUMN["size"]] = param.size if item.rows is None else item.rows.size * width
        row[COLUMN["width"]] = width
        row[COLUMN["param"]] = param.pointer
        row[COLUMN["block"]] = item.block
        row[COLUMN["noise"]] = np.array(mixed(start + item.stream), np.uint64).view(np.int64)
        unit = param.size // max(param.shape[0], 1) if param.ndim >= 2 else param.size
        row[COLUMN["unit"]] = max(unit, 1)
        for name in ("residual", "average", "copy"):
            array: Any = getattr(item, name)
            if array is not None:
                row[COLUMN[name]] = array.pointer
        for k, state in enumerate(item.state):
            parts: tuple[Any, ...] = state if isinstance(state, Codes) else (state,)
            for name, part in zip(("state", "scales"), parts, strict=False):
                if part is not None:
                    row[COLUMN[f"{name}{k}"]] = part.pointer
    return rows


def pieces(sizes: Sequence[int], length: int) -> Array:
    """int64 [pieces, 2]: (tensor, number of the piece in it) of tensors that are cut into pieces."""
    counts = -(-np.asarray(sizes, np.int64) // length)
    tensors = np.repeat(np.arange(len(counts)), counts)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    return np.stack([tensors, np.arange(len(tensors)) - firsts], 1).astype(np.int64)


class Chunks(NamedTuple):
    """The chunks of all tensors, by number."""

    #: int64 [chunks, 4], as layout.CHUNK_BYTES has them
    rows: Array
    #: int64 [tensors + 1]: the chunks of tensor k are those from first[k] to first[k + 1]
    first: Array

    @classmethod
    def of(cls, sizes: Sequence[int]) -> Chunks:
        cut = pieces(sizes, CHUNK)
        numbered = np.zeros((len(cut), 4), np.int64)
        numbered[:, :2], numbered[:, 2] = cut, np.arange(len(cut))
        counts = -(-np.asarray(sizes, np.int64) // CHUNK)
        return cls(numbered, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))

    def of_tensors(self, tensors: Sequence[int]) -> Array:
        """The rows of some tensors only."""
        chosen: Array = self.rows[np.isin(self.rows[:, 0], tensors)]
        return np.ascontiguousarray(chosen)
