"""Matrices that are multiplied when a step is made: products are planned as they are written down."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastgd.cuda.products import Multiply
from fastgd.memory import DeviceArray, Memory


class Workspace:
    """Memory for matrices that come and go while steps are planned; on one stream it is reused at once."""

    def __init__(self, memory: Memory, dtype: np.dtype[Any], multiply: Multiply) -> None:
        self.memory, self.dtype, self.multiply = memory, dtype, multiply
        self._free: dict[int, list[Any]] = {}
        #: what is to be done, in turn
        self.planned: list[Callable[[int], None]] = []

    def matrix(self, rows: int, cols: int) -> Matrix:
        free = self._free.setdefault(rows * cols, [])
        array = free.pop() if free else self.memory.zeros((rows * cols,), self.dtype)
        return Matrix(self, _Lease(array, free), rows, cols)


class _Lease:
    """Gives memory back when nobody uses it any more."""

    def __init__(self, array: Any, free: list[Any]) -> None:
        self.array, self._free = array, free

    def __del__(self) -> None:
        self._free.append(self.array)


class Matrix:
    """A matrix that will be there when what is planned so far has been done."""

    def __init__(self, pool: Workspace, lease: _Lease, rows: int, cols: int, *, turned: bool = False) -> None:
        """rows, cols: as it lies in memory, in C order; turned: it is the transpose of that."""
        self.pool, self._lease, self.turned = pool, lease, turned
        self.lies = rows, cols

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.lies
        return (cols, rows) if self.turned else (rows, cols)

    @property
    def pointer(self) -> int:
        return int(self._lease.array.pointer)

    @property
    def T(self) -> Matrix:
        return Matrix(self.pool, self._lease, *self.lies, turned=not self.turned)

    def __matmul__(self, other: Matrix) -> Matrix:
        result = self.pool.matrix(self.shape[0], other.shape[1])
        multiply, a, b, to = self.pool.multiply, self.seen, other.seen, result.seen
        self.pool.planned.append(lambda stream: multiply(stream, a, b, to))
        return result

    @property
    def seen(self) -> DeviceArray:
        """The matrix in its own shape."""
        return self.array.transpose() if self.turned else self.array

    @property
    def array(self) -> DeviceArray:
        """As it lies in memory; it keeps that alive."""
        own, dtype = self._lease.array, self.pool.dtype
        return DeviceArray(self.pool.memory, self.pointer, self.lies, None, dtype, own)
