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
        values: Array = self._seen(array, self._span(array)).copy()
        return values

    def write(self, array: Any, values: Array) -> None:
        """Sets all elements; what lies in gaps between them is written with what was read there."""
        first, nbytes = _reach(array)
        span = self._span(array) if nbytes != array.nbytes else np.empty(nbytes, np.uint8)
        self._seen(array, span)[...] = values
        if array.size:
            with self._alone() as stream:
                self.device.upload(array.pointer + first, span, stream)

    def copy(self, array: Any) -> DeviceArray:
        if not array.flags.c_contiguous:
            new = self.zeros(array.shape, array.dtype)
            self.write(new, self.to_host(array))
            return new
        with self._alone() as stream:
            new = self._new(array.shape, None, array.dtype)
            self.device.copy(new.pointer, array.pointer, array.nbytes, stream)
        return new

    def _span(self, array: Any) -> Array:
        """All bytes from the array's first to its last, on the host."""
        first, nbytes = _reach(array)
        span = np.empty(nbytes, np.uint8)
        if nbytes:
            with self._alone() as stream:
                self.device.download(array.pointer + first, span, stream)
        return span

    def _seen(self, array: Any, span: Array) -> Array:
        """Its span on the host, as the array sees it."""
        if not array.size:
            return np.empty(array.shape, array.dtype)
        return np.ndarray(array.shape, array.dtype, span.data, -_reach(array)[0], array.strides)


def _reach(array: Any) -> tuple[int, int]:
    """Where its first byte lies, from the element with index 0 in every dimension, and bytes to the last."""
    if not array.size:
        return 0, 0
    steps = [(n - 1) * s for n, s in zip(array.shape, array.strides, strict=True)]
    first = sum(min(step, 0) for step in steps)
    return first, sum(max(step, 0) for step in steps) - first + array.itemsize


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
