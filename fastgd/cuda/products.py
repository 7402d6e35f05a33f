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
    def multiply() -> None:
        with np.errstate(all="ignore"):
            np.matmul(reached(a), reached(b), out=reached(out))

    memory: Any = out.memory
    graph = memory.device.graph
    if graph is None:
        multiply()
    else:
        graph.append(multiply)


def _by_torch(stream: int, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
    torch = import_module("torch")
    device = torch.device("cuda", int(out.memory.name.partition(":")[2]))
    legacy = stream == DEFAULT_STREAM
    own = torch.cuda.default_stream(device) if legacy else torch.cuda.ExternalStream(stream, device=device)
    with torch.no_grad(), torch.cuda.device(device), torch.cuda.stream(own):
        first, second, to = (torch.as_tensor(_Lent(array), device=device) for array in (a, b, out))
        torch.matmul(first, second, out=to)


def _by_cupy(stream: int, a: DeviceArray, b: DeviceArray, out: DeviceArray) -> None:
    cupy = import_module("cupy")
    number = int(out.memory.name.partition(":")[2])
    legacy = stream == DEFAULT_STREAM
    own = cupy.cuda.Stream.null if legacy else cupy.cuda.ExternalStream(stream, number)
    with cupy.cuda.Device(number), own:
        first, second, to = (cupy.asarray(_Lent(array)) for array in (a, b, out))
        cupy.matmul(first, second, out=to)


class _Lent:
    """An array as it is lent to the library, which need not wait for a stream: it works on the right one."""

    def __init__(self, array: DeviceArray) -> None:
        self.__cuda_array_interface__ = {**array.__cuda_array_interface__, "stream": None}


Multiply = Callable[[int, DeviceArray, DeviceArray, DeviceArray], None]

#: library -> whether, as it is installed, it reaches a GPU, and its product
LIBRARIES: dict[str, tuple[Callable[[Any], bool], Multiply]] = {
    "torch": (lambda torch: bool(torch.cuda.is_available()), _by_torch),
    "cupy": (lambda cupy: bool(cupy.cuda.is_available()), _by_cupy),
}


def library(owner: Any = None) -> Multiply:
    """The product of the owner's library, or else of one that is imported already, or that can be.

    ImportError, with the remedy, when there is none.
    """
    return _by_numpy if SIMULATED else _library(type(owner).__module__.partition(".")[0])


@functools.cache
def _library(own: str) -> Multiply:
    reasons = []
    for name in sorted(LIBRARIES, key=lambda name: (name != own, name not in sys.modules)):
        reaches, multiply = LIBRARIES[name]
        try:
            if reaches(import_module(name)):
                return multiply
            reasons.append(f"{name} sees no GPU")
        except ImportError as error:
            reasons.append(str(error))
    raise ImportError(
        f"matrix products on a GPU are torch's or CuPy's, and there is neither ({'; '.join(reasons)}): pip "
        "install cupy-cuda13x, or torch with CUDA"
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
    library(out.owner)(stream, first, second, out)
