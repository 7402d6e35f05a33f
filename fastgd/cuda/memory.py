"""The memory of CUDA devices, for arrays that the optimizer makes there."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.cuda import driver
from fastgd.cuda.pool import Pool
from fastgd.memory import DeviceArray, dense_strides, memory_order


class CudaMemory:
    """One device's: fastgd.memory.Memory.

    All of it waits for the device before and after, whatever streams there are: it is not done in every step.
    """

    def __init__(self, number: int) -> None:
        self.name, self.device = f"cuda:{number}", driver.device(number)
        self.pool = Pool(self.device)

    def _new(
        self, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: np.dtype[Any]
    ) -> DeviceArray:
        buffer = self.device.allocate(math.prod(shape) * dtype.itemsize)
        return DeviceArray(self, buffer.pointer, shape, strides, dtype, buffer)

    @contextmanager
    def _alone(self) -> Iterator[int]:
        """Within the block nothing else goes on on the device; gives a stream for what there is to do."""
        with self.device.current():
            self.device.wait()
            yield driver.DEFAULT_STREAM
            self.device.wait()

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        return self._zeros(shape, None, dtype)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int | None = None) -> DeviceArray:
        lent = self.pool.take(math.prod(shape) * dtype.itemsize, stream or driver.DEFAULT_STREAM)
        return DeviceArray(self, lent.pointer, shape, None, dtype, lent)

    def zeros_like(self, array: Any, dtype: np.dtype[Any]) -> DeviceArray:
        return self._zeros(
            array.shape, dense_strides(array.shape, memory_order(array), dtype.itemsize), dtype
        )

    def _zeros(
        self, shape: tuple[int, ...], strides: tuple[int, ...] | None, dtype: np.dtype[Any]
    ) -> DeviceArray:
        with self._alone() as stream:
            array = self._new(shape, strides, dtype)
            self.device.clear(array.pointer, array.nbytes, stream)
        return array

    def to_host(self, array: Any) -> Array:
        lent, values = self._run(array)
        if array.size:
            with self._alone() as stream:
                self.device.download(lent, values, stream)
        return self._in_order(array, values)

    def write(self, array: Any, values: Array) -> None:
        lent, run = self._run(array)
        self._in_order(array, run)[...] = values
        if array.size:
            with self._alone() as stream:
                self.device.upload(lent, run, stream)

    def copy(self, array: Any) -> DeviceArray:
        if not array.flags.c_contiguous:
            new = self.zeros(array.shape, array.dtype)
            self.write(new, self.to_host(array))
            return new
        with self._alone() as stream:
            new = self._new(array.shape, None, array.dtype)
            self.device.copy(new.pointer, array.pointer, array.nbytes, stream)
        return new

    def _run(self, array: Any) -> tuple[int, Array]:
        """Where the array's first byte lies, and a flat host array for it; ValueError if it has gaps."""
        order = memory_order(array)
        dense = dense_strides(array.shape, order, array.itemsize)
        gaps = any(s != d for n, s, d in zip(array.shape, array.strides, dense, strict=True) if n > 1)
        if gaps and array.size:
            raise ValueError(f"{array!r} has gaps: copy it to one that has none")
        return array.pointer, np.empty(array.size, array.dtype)

    def _in_order(self, array: Any, run: Array) -> Array:
        """The flat array seen with the axes of the device's."""
        order = memory_order(array)
        seen: Array = run.reshape([array.shape[axis] for axis in order])
        return seen.transpose(np.argsort(order)) if order else seen


@functools.cache
def memory(number: int) -> CudaMemory:
    """The memory of the device with this number."""
    return CudaMemory(number)


def device_of(pointer: int) -> int:
    """The number of the device that a pointer belongs to; ValueError for host memory."""
    found = driver.device_of(pointer)
    if found is None:
        raise ValueError(f"{pointer:#x} is no memory of a CUDA device")
    return found
