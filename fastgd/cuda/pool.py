"""Memory of results and of what lies between launches: kept for the next one of its stream, not given back.

The driver's own calls for memory wait for the device. What is freed here is taken again by work that comes
later on the same stream, which is why nobody has to wait. Who works with it on another stream keeps it until
that is done, as with arrays of torch and CuPy.
"""

from __future__ import annotations

import threading
from typing import Any

from fastgd.cuda.driver import Buffer, Driver

#: sizes are rounded up to a multiple of this, and above it to one of an eighth of a power of two
SMALLEST = 512


def rounded(nbytes: int) -> int:
    """The size that is allocated, so that batches of like shapes find each other's memory."""
    step = max(SMALLEST, (1 << max(nbytes - 1, 0).bit_length()) // 8)
    return max(-(-nbytes // step), 1) * step


class Pool:
    """Of one device."""

    def __init__(self, device: Driver) -> None:
        self._device = device
        self._free: dict[tuple[int, int], list[Buffer]] = {}
        # what is collected while it is held goes back through it, too
        self._lock = threading.RLock()

    def take(self, nbytes: int, stream: int) -> Lent:
        """Memory for work on a stream; MemoryError when there is none even without what is kept."""
        size = rounded(nbytes)
        with self._lock:
            kept = self._free.get((stream, size))
            buffer = kept.pop() if kept else None
        if buffer is None:
            with self._device.current():
                buffer = self._allocated(size)
        return Lent(self, buffer, stream)

    def _allocated(self, size: int) -> Buffer:
        try:
            return self._device.allocate(size)
        except MemoryError:
            self.clear()
            return self._device.allocate(size)

    def put(self, buffer: Buffer, stream: int) -> None:
        with self._lock:
            self._free.setdefault((stream, buffer.nbytes), []).append(buffer)

    def clear(self) -> None:
        """Gives back to the device what nobody uses."""
        with self._lock:
            self._free.clear()


class Lent:
    """Memory that goes back to its pool with the last object that refers to it.

    It says which stream it is written on as arrays of CUDA do: fastgd.lenders.owner_stream.
    """

    def __init__(self, pool: Pool, buffer: Buffer, stream: int) -> None:
        self._pool, self._buffer, self._stream = pool, buffer, stream
        self.pointer = buffer.pointer

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": (self._buffer.nbytes,),
            "typestr": "|u1",
            "data": (self.pointer, False),
            "stream": self._stream,
        }

    def __del__(self) -> None:
        self._pool.put(self._buffer, self._stream)
