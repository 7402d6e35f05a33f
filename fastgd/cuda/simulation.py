"""Whether kernels run in Numba's CUDA simulator, and how a thread of it finds its place and meets others.

NUMBA_ENABLE_CUDASIM=1, set before Numba is imported, chooses the simulator for the whole process: device
memory is host memory then, and every CUDA thread a Python one. It is for tests. The simulator has no exchange
within a warp by itself.
"""

from __future__ import annotations

import os
import threading
from typing import Any

#: as Numba reads it
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")

#: seconds after which lanes that wait for one that never comes give up
PATIENCE = 60.0

_lock = threading.Lock()


def _current() -> Any:
    """Numba's thread that runs the kernel."""
    return threading.current_thread()


def thread() -> int:
    return int(_current().threadIdx.x)


def block() -> int:
    return int(_current().blockIdx.x)


def barrier() -> None:
    _current().syncthreads()


def _warp() -> tuple[int, threading.Barrier, dict[int, Any]]:
    """The lane of this thread, and what its warp meets at and exchanges through."""
    current = _current()
    manager = current._manager
    warp, lane = divmod(current.thread_id, 32)
    with _lock:
        warps = manager.__dict__.setdefault("warps", {})
        if warp not in warps:
            threads = manager._block_dim[0] * manager._block_dim[1] * manager._block_dim[2]
            warps[warp] = threading.Barrier(min(32, threads - 32 * warp), timeout=PATIENCE), {}
    return lane, *warps[warp]


def shuffle(value: Any, lane: int) -> Any:
    """The value that a lane of the warp has; all of them must take part."""
    own, meeting, box = _warp()
    box[own] = value
    meeting.wait()
    result = box[int(lane)]
    meeting.wait()
    return result
