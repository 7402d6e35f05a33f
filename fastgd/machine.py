"""What this machine offers and what is in use: instruction set, threads, backends."""

from __future__ import annotations

import operator
import platform
import sys
from typing import Any

import numpy as np

from fastgd import backends
from fastgd._native import ffi, lib
from fastgd.checks import named, whole
from fastgd.version import __version__

MAX_THREADS: int = lib.FGD_MAX_THREADS

#: as fgd_get_cache_size has it
UNKNOWN = 2**63 - 1


def instruction_sets() -> dict[str, bool]:
    """Those compiled in, the plainest first, and whether this CPU runs them."""
    names = [ffi.string(lib.fgd_isa_name(i)).decode() for i in range(lib.fgd_isa_count())]
    return {name: bool(lib.fgd_isa_supported(i)) for i, name in enumerate(names)}


def get_instruction_set() -> str:
    """The one in use; at first the last of `instruction_sets()` that this CPU runs."""
    return list(instruction_sets())[int(lib.fgd_get_isa())]


def set_instruction_set(name: str) -> None:
    """Makes all kernels of the process use it; results do not depend on it.

    ValueError when it was not compiled in or this CPU does not run it.
    """
    known = instruction_sets()
    if not known.get(name):
        usable = ", ".join(n for n, ok in known.items() if ok)
        raise ValueError(f"instruction set {name!r} cannot be used here; usable are {usable}")
    lib.fgd_set_isa(list(known).index(name))


def get_num_threads() -> int:
    """Threads that large work is spread over; 1 in a forked child, where the parent's pool is gone."""
    return int(lib.fgd_get_num_threads())


def set_num_threads(n: int) -> None:
    """Sets the number of threads for large work, from 1 to 1024; results do not depend on it.

    ValueError for anything else.
    """
    try:
        number = 0 if isinstance(n, bool) else operator.index(n)
    except TypeError:
        number = 0
    if not 1 <= number <= MAX_THREADS or lib.fgd_set_num_threads(number) < 0:
        raise ValueError(f"the number of threads must be a whole number from 1 to {MAX_THREADS}, not {n!r}")


def get_cache_size() -> int | None:
    """Bytes that the last caches of the threads in use hold together; None where the CPU does not tell.

    A step over more than three quarters of it leaves state out of them, so that it does not drive out what is
    read between two steps.
    """
    size = int(lib.fgd_get_cache_size())
    return None if size == UNKNOWN else size


def set_cache_size(size: int | None) -> None:
    """Sets this number of bytes, from 0 on, or None for what the CPU tells; results do not depend on it.

    TypeError or ValueError for anything else.
    """
    lib.fgd_set_cache_size(-1 if size is None else named("the size of caches", whole(0, 2**63), size))


def info() -> dict[str, Any]:
    """What is in use and what is available, with the reason where something is not.

    Looks for every matrix product there may be, which imports SciPy where it is installed.
    """
    from fastgd import gemm

    return {
        "fastgd": __version__,
        "abi": int(lib.fgd_abi_version()),
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "machine": platform.machine(),
        "instruction_set": get_instruction_set(),
        "instruction_sets": instruction_sets(),
        "threads": get_num_threads(),
        "openmp": bool(lib.fgd_has_openmp()),
        "cache": get_cache_size(),
        "backends": {name: backends.unavailable(name) or "available" for name in backends.MODULES},
        "matrix_product": gemm.info(),
    }
