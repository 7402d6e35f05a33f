"""Where arrays live: what is done with memory that only its own device can reach.

The core passes a DeviceArray along wherever it passes a NumPy array, and under the same type: a DeviceArray
has what the core asks of either. Whoever has to see or set elements goes through the array's Memory.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol, cast

import numpy as np

from fastgd.storage import Array

#: kind of device memory -> module with `memory(number) -> Memory`, the same object every time, and
#: `device_of(pointer) -> int`, the number of the device that a pointer belongs to
DEVICES = {"cuda": "fastgd.cuda.memory"}


class Memory(Protocol):
    """The memory of one device, as one object: arrays are in the same memory if theirs are the same object.

    All arrays that it makes are dense: they have no gaps.
    """

    #: its kind, and the number of the device behind a colon where there may be several: "host", "cuda:0"
    name: str

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """A new array of zeros in C order."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int | None = None) -> Any:
        """A new array in C order with anything in it. stream: of a device, on which it is written first."""

    def zeros_like(self, array: Any, dtype: np.dtype[Any]) -> Any:
        """A new array of zeros, its axes in the `memory_order` of the array's: see `dense_strides`."""

    def to_host(self, array: Any) -> Array:
        """A copy as a NumPy array, made when all work on the array is done."""

    def write(self, array: Any, values: Array) -> None:
        """Sets all elements, after all work on them. values: of the array's shape and dtype, any strides."""

    def copy(self, array: Any) -> Any:
        """A new array of this memory with the same elements, in C order."""


class _Host:
    name = "host"

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return np.zeros(shape, dtype)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], stream: int | None = None) -> Array:
        return np.empty(shape, dtype)

    def zeros_like(self, array: Array, dtype: np.dtype[Any]) -> Array:
        return np.zeros_like(array, dtype, subok=False)

    def to_host(self, array: Array) -> Array:
        return array.copy()

    def write(self, array: Array, values: Array) -> None:
        array[...] = values

    def copy(self, array: Array) -> Array:
        return array.copy()


HOST: Memory = _Host()


class Flags(NamedTuple):
    """As ndarray.flags has them."""

    c_contiguous: bool
    f_contiguous: bool
    writeable: bool


class DeviceArray:
    """An array in the memory of a device: where it lies, not what is in it. It never changes.

    memory: whose. pointer: address of the element with index 0 in every dimension. strides: in bytes; None:
    C order. dtype: bfloat16 is ml_dtypes'. owner: kept alive as long as this is, and so is the memory by it.

    torch, CuPy and Numba read it through `__cuda_array_interface__`. NumPy cannot: `host()` is a copy for it.
    """

    __slots__ = (
        "__weakref__",
        "dtype",
        "flags",
        "itemsize",
        "memory",
        "nbytes",
        "ndim",
        "owner",
        "pointer",
        "shape",
        "size",
        "strides",
    )

    memory: Memory
    pointer: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: np.dtype[Any]
    owner: Any
    flags: Flags
    ndim: int
    size: int
    itemsize: int
    nbytes: int

    def __init__(
        self,
        memory: Memory,
        pointer: int,
        shape: Sequence[int],
        strides: Sequence[int] | None,
        dtype: np.dtype[Any],
        owner: Any,
        writeable: bool = True,
    ) -> None:
        layout = _layout(tuple(shape), None if strides is None else tuple(strides), dtype.itemsize)
        keep = object.__setattr__
        keep(self, "memory", memory)
        keep(self, "pointer", pointer)
        keep(self, "shape", layout.shape)
        keep(self, "strides", layout.strides)
        keep(self, "dtype", dtype)
        keep(self, "owner", owner)
        keep(self, "flags", layout.flags if writeable else layout.flags._replace(writeable=False))
        keep(self, "ndim", len(layout.shape))
        keep(self, "size", layout.size)
        keep(self, "itemsize", dtype.itemsize)
        keep(self, "nbytes", layout.size * dtype.itemsize)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a device array never changes: {name!r} cannot be set")

    def __repr__(self) -> str:
        layout = "" if self.flags.c_contiguous else f", strides {self.strides}"
        access = "" if self.flags.writeable else ", read-only"
        where = f"{self.memory.name} at {self.pointer:#x}"
        return f"DeviceArray({self.dtype.name} {self.shape} on {where}{layout}{access})"

    def __array__(self, *_: Any, **__: Any) -> Array:
        raise TypeError(f"an array on {self.memory.name} is not copied to the host in silence: call host()")

    def __reduce_ex__(self, _: Any) -> Any:
        raise TypeError(f"an array on {self.memory.name} cannot be pickled: call host()")

    def __copy__(self) -> DeviceArray:
        return self.copy()

    def __deepcopy__(self, _: Any) -> DeviceArray:
        return self.copy()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        # of arrays on CUDA alone, lest others are taken for them
        if kind_of(self.memory) != "cuda":
            raise AttributeError(f"an array on {self.memory.name} has no __cuda_array_interface__")
        from fastgd.lenders import LEGACY_STREAM, owner_stream

        return {
            "version": 3,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.pointer if self.size else 0, not self.flags.writeable),
            "strides": None if self.flags.c_contiguous else self.strides,
            # 0 is not allowed here, and means the legacy one
            "stream": owner_stream(self.owner) or LEGACY_STREAM,
        }

    def _seen(self, shape: Sequence[int], strides: Sequence[int] | None) -> DeviceArray:
        own = self.memory, self.pointer, shape, strides, self.dtype, self.owner, self.flags.writeable
        return DeviceArray(*own)

    @property
    def packed(self) -> bool:
        """Whether it lies in C order, at a multiple of its elements' size, as kernels of layers take it."""
        return self.flags.c_contiguous and self.pointer % self.itemsize == 0

    def host(self) -> Array:
        """A copy as a NumPy array, made when all work on this one is done."""
        return self.memory.to_host(self)

    def copy(self) -> DeviceArray:
        """A new array in the same memory, in C order."""
        return cast(DeviceArray, self.memory.copy(self))

    def view(self) -> DeviceArray:
        """Itself: it never changes."""
        return self

    def transpose(self, *axes: Any) -> DeviceArray:
        """The same memory with its axes in that order, given as one or several; reversed when not."""
        order = tuple(axes[0]) if len(axes) == 1 and not isinstance(axes[0], int) else axes
        order = order or tuple(range(self.ndim))[::-1]
        if sorted(order) != list(range(self.ndim)):
            raise ValueError(f"axes {order} are not those of an array of {self.ndim} dimensions")
        return self._seen([self.shape[axis] for axis in order], [self.strides[axis] for axis in order])

    def reshape(self, *shape: Any) -> DeviceArray:
        """The same memory in another shape, of which one length may be -1; ValueError if not in C order."""
        wanted = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
        if not self.flags.c_contiguous:
            raise ValueError("only an array in C order has another shape without a copy")
        known = math.prod(length for length in wanted if length != -1)
        if wanted.count(-1) == 1 and known:
            wanted = tuple(self.size // known if length == -1 else length for length in wanted)
        if math.prod(wanted) != self.size or min(wanted, default=0) < 0:
            raise ValueError(f"{self.size} elements of shape {self.shape} do not fit shape {wanted}")
        return self._seen(wanted, None)


def dense_strides(shape: Sequence[int], order: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Strides in bytes of a gapless array whose axes lie in memory in that order, slowest first."""
    strides, reach = [0] * len(shape), itemsize
    for axis in reversed(order):
        strides[axis] = reach
        reach *= max(shape[axis], 1)
    return tuple(strides)


def memory_order(array: Any) -> tuple[int, ...]:
    """The axes from the longest stride to the shortest: the order in which an array lies in memory."""
    if array.flags.c_contiguous:
        return tuple(range(array.ndim))
    return tuple(sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis])))


class _Layout(NamedTuple):
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    size: int
    flags: Flags


@functools.lru_cache(maxsize=4096)
def _layout(shape: tuple[int, ...], strides: tuple[int, ...] | None, itemsize: int) -> _Layout:
    """What follows from shape and strides, of memory that may be written; None: C order."""
    axes = range(len(shape))
    c_order, f_order = (dense_strides(shape, order, itemsize) for order in (axes, axes[::-1]))
    strides = c_order if strides is None else strides

    def lies(dense: tuple[int, ...]) -> bool:
        return 0 in shape or all(s == d for n, s, d in zip(shape, strides, dense, strict=True) if n != 1)

    return _Layout(shape, strides, math.prod(shape), Flags(lies(c_order), lies(f_order), True))


# ---- Whose memory -----------------------------------------------------------------------------------


def memory_of(array: Array | DeviceArray) -> Memory:
    """Where an array lives."""
    return array.memory if isinstance(array, DeviceArray) else HOST


def kind_of(memory: Memory) -> str:
    """ "host" or "cuda": what backends tell memory by."""
    return memory.name.partition(":")[0]


def check_together(what: str, array: Array, other: str, beside: Array) -> None:
    """ValueError, naming both, for two arrays that must be in the same memory and are not."""
    own, wanted = memory_of(array), memory_of(beside)
    if own is not wanted:
        raise ValueError(f"{what} is on {own.name}, {other} on {wanted.name}")


def _module(kind: str) -> Any:
    try:
        return import_module(DEVICES[kind])
    except ImportError as error:
        raise ImportError(
            f"arrays on {kind} cannot be used here ({error}); pip install 'fastgd[{kind}]'"
        ) from None


def open_device(kind: str, number: int) -> Memory:
    """The memory of a device; ImportError, with the reason and the remedy, when it cannot be used here."""
    memory: Memory = _module(kind).memory(number)
    return memory


def device_of(kind: str, pointer: int) -> int:
    """The number of the device that a pointer belongs to; raises as `open_device`."""
    return int(_module(kind).device_of(pointer))


# ---- What the core does with arrays wherever they are -----------------------------------------------


def on_host(array: Array) -> Array:
    """The array, or a copy of it if it is on a device."""
    return to_host(array) if isinstance(array, DeviceArray) else array


def to_host(array: Array) -> Array:
    """A copy on the host."""
    return memory_of(array).to_host(array)


def placed(memory: Memory, values: Array) -> Array:
    """The values in that memory, in C order there; on the host they are the very array."""
    if memory is HOST:
        return values
    array: Array = memory.zeros(values.shape, values.dtype)
    memory.write(array, values)
    return array


def empty_beside(array: Array, shape: Sequence[int], dtype: Any = None) -> Array:
    """A new array with anything in it, in an array's memory, of its dtype unless another is given."""
    kind = array.dtype if dtype is None else np.dtype(dtype)
    if isinstance(array, np.ndarray):
        return np.empty(shape, kind)
    from fastgd.lenders import owner_stream

    made: Array = memory_of(array).empty(tuple(shape), kind, owner_stream(array))
    return made


def bytes_of(array: Array) -> Array:
    """The memory of an array in C order, uint8 [bytes]."""
    if isinstance(array, DeviceArray):
        size = (array.nbytes,)
        return cast(Array, DeviceArray(array.memory, array.pointer, size, None, np.dtype(np.uint8), array))
    return array.reshape(-1).view(np.uint8)


def shown(memory: Array, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """What such memory begins with, as an array in C order."""
    if isinstance(memory, DeviceArray):
        return cast(Array, DeviceArray(memory.memory, memory.pointer, shape, None, dtype, memory))
    array: Array = memory[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
    return array


def like(array: Array, values: Array) -> Array:
    """A new array that lies in memory as the array does, with the values in their own dtype."""
    memory = memory_of(array)
    own: Array = memory.zeros_like(array, values.dtype)
    memory.write(own, values)
    return own


def converted(array: Array, real: Any) -> Array:
    """A new array that lies in memory as the array does, its numbers in another dtype of NumPy's."""
    if memory_of(array) is HOST:
        return array.astype(real)
    return like(array, on_host(array).astype(real))
