"""Products of matrices on a device, through whatever library the owner of the arrays has.

torch's or CuPy's, on the stream of the step; so they are as precise as the library is set to be. In the
simulator they are NumPy's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

import numpy as np

from fastgd.cuda.driver import DEFAULT_STREAM
from fastgd.cuda.simulation import SIMULATED
from fastgd.memory import DeviceArray, Memory

#: who multiplies, in the order in which they are looked for
LIBRARIES = ("torch", "cupy")


class Products(Protocol):
    """A library that multiplies."""

    def prepared(self, a: Matrix, b: Matrix, to: Matrix) -> Callable[[int], None]:
        """(stream) -> None: a b to `to`, every time it is called."""


class Pool:
    """Memory for matrices that come and go while steps are planned; on one stream it is reused at once."""

    def __init__(self, memory: Memory, dtype: np.dtype[Any], products: Products) -> None:
        self.memory, self.dtype, self.products = memory, dtype, products
        self._free: dict[int, list[Any]] = {}
        #: what is to be done, in turn
        self.planned: list[Callable[[int], None]] = []

    def matrix(self, rows: int, cols: int) -> Matrix:
        free = self._free.setdefault(rows * cols, [])
        array = free.pop() if free else self.memory.zeros((rows * cols,), self.dtype)
        return Matrix(self, _Lease(array, free), rows, cols)


class _Lease:
    """Gives memory back when nobody uses it any more."""

    def __init__(self, array: Any, free: list[Any]) -> None:
        self.array, self._free = array, free

    def __del__(self) -> None:
        self._free.append(self.array)


class Matrix:
    """A matrix that will be there when what is planned so far has been done."""

    def __init__(self, pool: Pool, lease: _Lease, rows: int, cols: int, *, turned: bool = False) -> None:
        """rows, cols: as it lies in memory, in C order; turned: it is the transpose of that."""
        self.pool, self._lease, self.turned = pool, lease, turned
        self.lies = rows, cols

    @property
    def shape(self) -> tuple[int, int]:
        rows, cols = self.lies
        return (cols, rows) if self.turned else (rows, cols)

    @property
    def pointer(self) -> int:
        return int(self._lease.array.pointer)

    @property
    def T(self) -> Matrix:
        return Matrix(self.pool, self._lease, *self.lies, turned=not self.turned)

    def __matmul__(self, other: Matrix) -> Matrix:
        result = self.pool.matrix(self.shape[0], other.shape[1])
        self.pool.planned.append(self.pool.products.prepared(self, other, result))
        return result

    @property
    def array(self) -> DeviceArray:
        """As it lies in memory; it keeps that alive."""
        own, dtype = self._lease.array, self.pool.dtype
        return DeviceArray(self.pool.memory, self.pointer, self.lies, None, dtype, own)


class _Torch:
    """torch.matmul."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch

    def prepared(self, a: Matrix, b: Matrix, to: Matrix) -> Callable[[int], None]:
        torch, number = self._torch, a.pool.memory.name.partition(":")[2]
        device = torch.device("cuda", int(number))
        left, right, out = (_turned(torch.as_tensor(m.array, device=device), m) for m in (a, b, to))

        def run(stream: int) -> None:
            own = torch.cuda.default_stream(device)
            if stream not in (0, DEFAULT_STREAM):
                own = torch.cuda.ExternalStream(stream, device)
            with torch.no_grad(), torch.cuda.stream(own):
                torch.matmul(left, right, out=out)

        return run


class _CuPy:
    """cupy.matmul."""

    def __init__(self, cupy: Any) -> None:
        self._cupy = cupy

    def prepared(self, a: Matrix, b: Matrix, to: Matrix) -> Callable[[int], None]:
        cupy, device = self._cupy, int(a.pool.memory.name.partition(":")[2])

        def seen(matrix: Matrix) -> Any:
            array = matrix.array
            memory = cupy.cuda.UnownedMemory(array.pointer, array.nbytes, array, device)
            pointer = cupy.cuda.MemoryPointer(memory, 0)
            return _turned(cupy.ndarray(array.shape, array.dtype, pointer), matrix)

        left, right, out = map(seen, (a, b, to))

        def run(stream: int) -> None:
            own = cupy.cuda.Stream.null
            if stream not in (0, DEFAULT_STREAM):
                own = cupy.cuda.ExternalStream(stream)
            with cupy.cuda.Device(device), own:
                cupy.matmul(left, right, out=out)

        return run


class _NumPy:
    """Of the simulator, where the device's memory is the host's."""

    def prepared(self, a: Matrix, b: Matrix, to: Matrix) -> Callable[[int], None]:
        def seen(matrix: Matrix) -> Any:
            array = matrix.array
            lent: Any = (ctypes.c_char * array.nbytes).from_address(array.pointer)
            return array, _turned(np.frombuffer(lent, array.dtype).reshape(array.shape), matrix)

        device: Any = a.pool.memory
        kept = [seen(m) for m in (a, b, to)]

        def product() -> None:
            (_, left), (_, right), (_, out) = kept
            np.matmul(left, right, out=out)

        def run(stream: int) -> None:
            graph = device.device.graph
            if graph is None:
                product()
            else:
                graph.append(product)

        return run


def _turned(array: Any, matrix: Matrix) -> Any:
    return array.T if matrix.turned else array


_MAKERS: dict[str, Callable[[Any], Products]] = {"torch": _Torch, "cupy": _CuPy}


def products_of(owner: Any, what: str) -> Products:
    """What multiplies matrices beside an array of this owner: the owner's library, or else any there is.

    ImportError, naming the array as `what`, when there is none.
    """
    if SIMULATED:
        return _NumPy()
    own = type(owner).__module__.partition(".")[0]
    reasons = []
    for name in sorted(LIBRARIES, key=lambda name: name != own):
        try:
            library = import_module(name)
            if library.cuda.is_available():
                return _MAKERS[name](library)
            reasons.append(f"{name} sees no GPU")
        except ImportError as error:
            reasons.append(str(error))
    raise ImportError(
        f"{what}: products of matrices on a GPU are torch's or CuPy's, and there is neither "
        f"({'; '.join(reasons)}): pip install torch, or pip install cupy-cuda13x"
    )
