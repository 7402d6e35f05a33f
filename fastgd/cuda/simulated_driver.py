"""The simulated device: host memory, and kernels that run at once in Numba's simulator."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.cuda.compiler import function_of
from fastgd.cuda.driver import DeviceError, Kernel, StreamState
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
    def __init__(self, device: SimulatedDriver, text: Text) -> None:
        from numba import cuda

        self._device = device

        function = function_of(text, simulated=True)

        def kernel(*arguments: int) -> None:
            # of each thread of the simulator, which is one of Python's
            with np.errstate(all="ignore"):
                function(*arguments)

        self._kernel, self._threads = cuda.jit(kernel), text.threads

    def __call__(self, blocks: int, stream: int, *arguments: int) -> None:
        graph = self._device.graph
        if not blocks:
            return
        if graph is None:
            self._kernel[blocks, self._threads](*arguments)
        else:
            graph.append(lambda: self._kernel[blocks, self._threads](*arguments))


class SimulatedDriver:
    """See the module."""

    capability: tuple[int, int] = (9, 0)
    title = "Numba's CUDA simulator"

    def __init__(self, number: int) -> None:
        self.number = number
        #: what is recorded in place of being done while a graph is captured
        self.graph: list[Callable[[], None]] | None = None
        #: streams that are there no longer
        self.destroyed: set[int] = set()
        self._kernels: dict[str, Kernel] = {}

    def current(self) -> AbstractContextManager[None]:
        return nullcontext()

    def stream_state(self, stream: int) -> StreamState:
        if stream in self.destroyed:
            raise ValueError(f"stream {stream:#x} of cuda:{self.number} is no stream any more (simulated)")
        return StreamState(self.graph is not None)

    def wait(self) -> None:
        """All is done at once."""
        self._not_in_a_graph()

    def _not_in_a_graph(self) -> None:
        if self.graph is not None:
            raise DeviceError("operation not permitted when stream is capturing (simulated)")

    def allocate(self, nbytes: int) -> Any:
        self._not_in_a_graph()
        if nbytes > MEMORY:
            raise MemoryError(f"cuda:{self.number} has no {nbytes} bytes: it is simulated with {MEMORY}")
        return _Buffer(nbytes)

    def upload(self, pointer: int, values: Array, stream: int) -> None:
        self._not_in_a_graph()
        ctypes.memmove(pointer, values.ctypes.data, values.nbytes)

    def download(self, pointer: int, values: Array, stream: int) -> None:
        self._not_in_a_graph()
        ctypes.memmove(values.ctypes.data, pointer, values.nbytes)

    def copy(self, to: int, pointer: int, nbytes: int, stream: int) -> None:
        ctypes.memmove(to, pointer, nbytes)

    def clear(self, pointer: int, nbytes: int, stream: int) -> None:
        ctypes.memset(pointer, 0, nbytes)

    def kernel(self, text: Text) -> Kernel:
        kernel = self._kernels.get(text.source)
        if kernel is None:
            kernel = self._kernels[text.source] = _Simulated(self, text)
        return kernel
