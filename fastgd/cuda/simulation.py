"""Whether kernels run in Numba's CUDA simulator, and how a thread of it finds its place and meets others.

NUMBA_ENABLE_CUDASIM=1, set before Numba is imported, chooses the simulator for the whole process: device
memory is host memory then, and every CUDA thread a Python one. It is for tests. The simulator has no exchange
within a warp by itself.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Any

#: as Numba reads it
SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")

#: seconds after which lanes that wait for one that never comes give up
PATIENCE = 60.0

_lock = threading.Lock()

if SIMULATED:
    # the simulator asks without end whether its threads are done, and takes their time
    sys.setswitchinterval(1e-4)


def _current() -> Any:
    """Numba's thread that runs the kernel."""
    return threading.current_thread()


def thread() -> int:
    return int(_current().threadIdx.x)


def block() -> int:
    return int(_current().blockIdx.x)


def barrier() -> None:
    _current().syncthreads()


class _Warp:
    """Where 32 threads meet, with two boxes to exchange through in turn, so that one meeting is enough."""

    def __init__(self, lanes: int) -> None:
        self.meeting = threading.Barrier(lanes, timeout=PATIENCE)
        self.boxes: tuple[dict[int, Any], ...] = {}, {}


def _warp() -> tuple[int, _Warp]:
    """The lane of this thread, and its warp."""
    current = _current()
    manager = current._manager
    warp, lane = divmod(current.thread_id, 32)
    with _lock:
        warps = manager.__dict__.setdefault("warps", {})
        if warp not in warps:
            threads = manager._block_dim[0] * manager._block_dim[1] * manager._block_dim[2]
            warps[warp] = _Warp(min(32, threads - 32 * warp))
    return lane, warps[warp]


def shuffle(value: Any, lane: int) -> Any:
    """The value that a lane of the warp has; all of them must take part."""
    own, warp = _warp()
    current = _current()
    current.shuffles = turn = getattr(current, "shuffles", 0) + 1
    box = warp.boxes[turn % 2]
    box[own] = value
    warp.meeting.wait()
    return box[int(lane)]
