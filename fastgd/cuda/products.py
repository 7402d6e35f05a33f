"""Matrix products on a device, by whatever library the arrays come from: torch or CuPy.

In the simulator they are NumPy's, on host memory.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.cuda.driver import DEFAULT_STREAM
from fastgd.cuda.simulation import SIMULATED
from fastgd.memory import DeviceArray


class _Interface:
    """A device's memory for NumPy, which reaches it in the simulator only."""

    def __init__(self, array: DeviceArray) -> None:
        data, strides = (array.pointer, False), array.strides
        self.__array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "strides": strides,
            "typestr": array.dtype.str,
            "data": data,
        }


def reached(array: DeviceArray) -> Array:
    return np.asarray(_Interface(array))


def _by_numpy(stream: int, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
    with np.errstate(all="ignore"):
        np.matmul(reached(a), reached(b), out=reached(out))


def _by_torch(stream: int, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
    torch = import_module("torch")
    device = torch.device("cuda", int(out.memory.name.partition(":")[2]))
    legacy = stream == DEFAULT_STREAM
    own = torch.cuda.default_stream(device) if legacy else torch.cuda.ExternalStream(stream, device=device)
    with torch.cuda.device(device), torch.cuda.stream(own):
        first, second, to = (torch.as_tensor(_On(array, stream), device=device) for array in (a, b, out))
        torch.matmul(first, second, out=to)


def _by_cupy(stream: int, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
    cupy = import_module("cupy")
    number = int(out.memory.name.partition(":")[2])
    legacy = stream == DEFAULT_STREAM
    own = cupy.cuda.Stream.null if legacy else cupy.cuda.ExternalStream(stream, number)
    with cupy.cuda.Device(number), own:
        first, second, to = (cupy.asarray(_On(array, stream)) for array in (a, b, out))
        cupy.matmul(first, second, out=to)


class _On:
    """An array as it is lent to the library, for work on this stream: nobody has to wait for another."""

    def __init__(self, array: DeviceArray, stream: int) -> None:
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "stream": stream}


Multiply = Callable[[int, DeviceArray, DeviceArray, DeviceArray], None]

#: library -> whether, as it is installed, it reaches a GPU, and its product
LIBRARIES: dict[str, tuple[Callable[[Any], bool], Multiply]] = {
    "torch": (lambda torch: bool(torch.cuda.is_available()), _by_torch),
    "cupy": (lambda cupy: bool(cupy.cuda.is_available()), _by_cupy),
}


@functools.cache
def library() -> Multiply:
    """The product of what is imported already, or else of what can be.

    ImportError, with the remedy, when there is none.
    """
    if SIMULATED:
        return _by_numpy
    for name in sorted(LIBRARIES, key=lambda name: name not in sys.modules):
        reaches, multiply = LIBRARIES[name]
        try:
            if reaches(import_module(name)):
                return multiply
        except ImportError:
            continue
    raise ImportError(
        "matrix products on CUDA are torch's or CuPy's, and neither is there for a GPU: pip install "
        "cupy-cuda13x, or torch with CUDA"
    )


def product(
    stream: int,
    a: DeviceArray,
    b: DeviceArray,
    out: DeviceArray,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
) -> None:
    """out [m, n] = a b, of [m, k] and [k, n] or, transposed, [k, m] and [n, k]. Nothing waits for it."""
    if not out.size:
        return
    first = a.transpose() if transpose_a else a
    second = b.transpose() if transpose_b else b
    library()(stream, first, second, out)
