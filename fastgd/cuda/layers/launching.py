"""How an operation of a layer runs on a device: its launches on one stream, and memory between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.cuda.memory import CudaMemory
from fastgd.cuda.writer import Text
from fastgd.memory import DeviceArray

F64 = np.dtype(np.float64)


class Run:
    """One operation's launches on a stream. Nothing waits for them."""

    def __init__(self, memory: CudaMemory, stream: int) -> None:
        self.memory, self.stream = memory, stream

    def __call__(self, text: Text, blocks: int, *arguments: Any) -> None:
        """Launches a kernel. Of an array its address is handed over, 0 for None."""
        if blocks:
            words = [word_of(argument) for argument in arguments]
            self.memory.device.kernel(text)(blocks, self.stream, *words)

    def empty(self, shape: Sequence[int], dtype: Any) -> DeviceArray:
        """Memory with anything in it."""
        return self.memory.empty(tuple(shape), np.dtype(dtype), self.stream)

    def sent(self, values: Array) -> DeviceArray:
        """A copy of C-contiguous values of the host's, which is there before what comes next."""
        array = self.empty(values.shape, values.dtype)
        if values.size:
            self.memory.device.upload(array.pointer, values, self.stream)
        return array

    def clear(self, array: DeviceArray) -> None:
        """Sets all elements to 0."""
        if array.size:
            self.memory.device.clear(array.pointer, array.nbytes, self.stream)

    def copy(self, to: DeviceArray, array: DeviceArray) -> None:
        """Copies the elements of an array in C order into another."""
        if array.size:
            self.memory.device.copy(to.pointer, array.pointer, array.nbytes, self.stream)


def word_of(argument: Any) -> int:
    """What a kernel's int64 argument is for an array, a size, or a number of NumPy's: its bits."""
    if argument is None:
        return 0
    if isinstance(argument, np.uint64):
        return int(argument.view(np.int64))
    if isinstance(argument, np.float32):
        return int(argument.view(np.uint32))
    if isinstance(argument, np.float64):
        return int(argument.view(np.int64))
    return int(argument.pointer) if isinstance(argument, DeviceArray) else int(argument)


def blocks_of(n: int, each: int) -> int:
    """Blocks for n, of which each block does so many."""
    return -(-n // each)


def part(array: DeviceArray, first: int, *shape: int) -> DeviceArray:
    """Elements of an array in C order, from `first` on, in a shape."""
    at = array.pointer + first * array.itemsize
    assert first + math.prod(shape) <= array.size
    return DeviceArray(array.memory, at, shape, None, array.dtype, array)
