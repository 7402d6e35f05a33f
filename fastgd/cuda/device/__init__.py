"""What kernels do beside arithmetic: threads, loads and stores by address, exchange within a warp.

This package is the one place that knows Numba-CUDA. Each primitive has a body for the compiler, an LLVM
intrinsic (compiled.py), and one for the simulator, where addresses are those of host memory (simulated.py).
They are called by name in the text of kernels:

    load_f32x4(address) -> 4 numbers, from an address that is a multiple of 16
    store_u16x8(address, 8 numbers)
    thread(), block(): the index of this thread in its block, of this block in the grid, as int64
    shuffle_f64(value, lane): the value of that lane of the warp; all 32 lanes must take part
    barrier(): all threads of the block get here before any goes on
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from fastgd.arrays import dtype_named
from fastgd.cuda.simulation import SIMULATED
from fastgd.tracing import CODES

_ACCESS = re.compile(r"(load|store)_([a-z]+\d+?)(?:x(\d+))?")
_SHUFFLE = re.compile(r"shuffle_([a-z]\d+)")

#: bytes of the widest load and store there is
WIDEST = 16

#: lanes of a warp
WARP = 32

#: by the codes in names
_DTYPES = {code: functools.partial(dtype_named, name) for name, code in CODES.items()}

#: names of the primitives that have no dtype
_PLAIN = ("thread", "block", "barrier", "i64")

Primitive = Callable[..., Any]


def parsed(name: str) -> tuple[str, np.dtype[Any], int] | None:
    """("load" or "store", dtype, how many) of an access by name; None for other names."""
    found = _ACCESS.fullmatch(name)
    if not found or found[2] not in _DTYPES:
        return None
    return found[1], _DTYPES[found[2]](), int(found[3] or 1)


def is_primitive(name: str) -> bool:
    return name in _PLAIN or bool(parsed(name) or _SHUFFLE.fullmatch(name))


@functools.cache
def primitive(name: str) -> Primitive:
    """What a kernel's text calls by this name."""
    bodies = import_module(f"{__name__}.{'simulated' if SIMULATED else 'compiled'}")
    access, exchange = parsed(name), _SHUFFLE.fullmatch(name)
    if access:
        made: Primitive = bodies.access(name, *access)
    elif exchange:
        made = bodies.shuffle(_DTYPES[exchange[1]]())
    else:
        made = bodies.PLAIN[name]()
    return made
