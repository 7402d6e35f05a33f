"""The simulated device: host memory, and kernels that run at once in Numba's simulator."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.cuda.compiler import function_of
from fastgd.cuda.driver import Kernel
from fastgd.cuda.writer import Text

#: bytes that a simulated device has
MEMORY = 1 << 30


class _Buffer:
    def __init__(self, nbytes: int) -> None:
        # whatever is not written is wrong, and aligned as a device's memory is
        self._memory = np.full(nbytes + 256, 0xA5, np.uint8)
        self.nbytes = nbytes
        self.pointer = -(-self._memory.ctypes.data // 256) * 256


class _Simulated:
    def __init__(self, text: Text) -> None:
        from numba import cuda

        function = function_of(text, simulated=True)

        def kernel(*arguments: int) -> None:
            # of each thread of the simulator, which is one of Python's
            with np.errstate(all="ignore"):
                function(*arguments)

        self._kernel, self._threads = cuda.jit(kernel), text.threads

    def __call__(self, blocks: int, stream: int, *arguments: int) -> None:
        if blocks:
            self._kernel[blocks, self._threads](*arguments)


class SimulatedDriver:
    """See the module."""

    capability = (9, 0)
    title = "Numba's CUDA simulator"

    def __init__(self, number: int) -> None:
        self.number = number
        self._kernels: dict[str, Kernel] = {}

    def allocate(self, nbytes: int) -> Any:
        if nbytes > MEMORY:
            raise MemoryError(f"cuda:{self.number} has no {nbytes} bytes: it is simulated with {MEMORY}")
        return _Buffer(nbytes)

    def upload(self, pointer: int, values: Array, stream: int) -> None:
        ctypes.memmove(pointer, values.ctypes.data, values.nbytes)

    def download(self, pointer: int, values: Array, stream: int) -> None:
        ctypes.memmove(values.ctypes.data, pointer, values.nbytes)

    def copy(self, to: int, pointer: int, nbytes: int, stream: int) -> None:
        ctypes.memmove(to, pointer, nbytes)

    def clear(self, pointer: int, nbytes: int, stream: int) -> None:
        ctypes.memset(pointer, 0, nbytes)

    def synchronize(self, stream: int) -> None:
        """All is done at once."""

    def kernel(self, text: Text) -> Kernel:
        kernel = self._kernels.get(text.source)
        if kernel is None:
            kernel = self._kernels[text.source] = _Simulated(text)
        return kernel
