"""One way in for any buffer: what fastgd accepts as an array, and how its memory is laid out.

An array is a NumPy array, or anything that lends its memory without a copy: through the buffer protocol,
`__array_interface__` or DLPack on the CPU, and as a `DeviceArray` what lies on a GPU: fastgd/lenders.py.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from fastgd import lenders
from fastgd._native import ffi
from fastgd.lenders import dtype_named as dtype_named
from fastgd.memory import DeviceArray
from fastgd.memory import memory_order as memory_order
from fastgd.storage import FORMATS

#: name of what arrays of floats may be stored in -> its number in the C ABI's fgd_dtype
CODES = {name: code for code, name in enumerate(FORMATS)}

#: what is computed in
DTYPES: tuple[np.dtype[Any], ...] = (np.dtype(np.float32), np.dtype(np.float64))
DTYPE_CODES = {dtype: CODES[dtype.name] for dtype in DTYPES}

Array = np.ndarray[Any, np.dtype[Any]]


@functools.cache
def code_of(dtype: np.dtype[Any]) -> int | None:
    """The dtype's number in the C ABI's fgd_dtype; None for one that fastgd does not work on.

    bfloat16 is whichever dtype bears that name: that of ml_dtypes, which need not be imported for it.
    """
    return CODES.get(dtype.name) if dtype.isnative else None


def as_array(value: Any, what: str, *, writable: bool = False, beside: Any = None) -> Array:
    """The value as an array over the same memory: NumPy's, or a DeviceArray for what is on a device.

    `what` names it in errors. TypeError for objects that do not lend their memory, for object arrays and
    for dtypes outside `CODES`; ValueError for memory that may not be written though `writable` asks;
    ImportError for memory of a device that cannot be used here. beside: as `lenders.on_device`.
    """
    array = lent(value, what, beside)
    if code_of(array.dtype) is None:
        if not array.dtype.isnative and code_of(array.dtype.newbyteorder("=")) is not None:
            raise TypeError(f"{what} has dtype {array.dtype.str}, which is not in this machine's byte order")
        raise TypeError(f"{what} has dtype {array.dtype}; fastgd works on {', '.join(CODES)}")
    if writable and not array.flags.writeable:
        raise ValueError(f"{what} is read-only")
    return array


def lent(value: Any, what: str, beside: Any = None) -> Array:
    """The value as an array of any dtype over the same memory; otherwise as `as_array`."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{what} is a masked array, whose mask would be ignored: give its data")
    if isinstance(value, np.ndarray):
        return value.view(np.ndarray)
    on_device = lenders.on_device(value, what, beside)
    if on_device is not None:
        return cast(Array, on_device)
    if hasattr(value, "__dlpack__"):
        return _by_dlpack(value, what)
    if isinstance(value, (np.generic, bytes)):
        raise TypeError(f"{what} is {type(value).__name__}, a value that has no memory to lend")
    if hasattr(value, "__array_interface__") or _has_buffer(value):
        try:
            return np.asarray(value, copy=False)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{what} does not lend its memory ({error})") from None
    raise TypeError(
        f"{what} is {type(value).__name__}, not an array: fastgd takes NumPy arrays and objects with the "
        "buffer protocol, __array_interface__, __cuda_array_interface__ or DLPack"
    )


def _by_dlpack(value: Any, what: str) -> Array:
    refusals = (AttributeError, BufferError, RuntimeError, TypeError, ValueError)
    try:
        return np.from_dlpack(value)
    except refusals as error:
        from fastgd.dlpack import bfloat16_bits

        with contextlib.suppress(*refusals):
            bits = bfloat16_bits(value)
            if bits is not None:
                return bits.view(dtype_named("bfloat16"))
        raise TypeError(f"{what} does not lend its memory ({error})") from None


def _has_buffer(value: Any) -> bool:
    try:
        memoryview(value).release()
    except TypeError:
        return False
    except (BufferError, ValueError):  # a buffer that is closed: np.asarray will say so
        return True
    return True


def listed(values: Any, what: str) -> list[Any]:
    """The values of a collection; `what` names it in errors.

    TypeError for what is one array, for a set, which has no order, and for what cannot be iterated over.
    """
    # asked of the type, for torch's raises for what requires gradients
    on_device = hasattr(type(values), "__cuda_array_interface__")
    lends = on_device or hasattr(values, "__dlpack__") or hasattr(values, "__array_interface__")
    if lends or _has_buffer(values):
        raise TypeError(f"{what} is one array, not a list of arrays: put it in a list")
    if isinstance(values, (set, frozenset)):
        raise TypeError(f"{what} is a set, which has no order: give a list of arrays")
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise TypeError(f"{what} is {type(values).__name__}, not a list of arrays")
    return list(values)


def address(array: Array) -> int:
    """Where the element with index 0 in every dimension lies."""
    if isinstance(array, DeviceArray):
        return array.pointer
    if array.flags.c_contiguous:
        return int(ffi.cast("intptr_t", ffi.from_buffer(array)))
    return int(array.__array_interface__["data"][0])


_ADDRESS = ffi.typeof("intptr_t")


def addresses(arrays: Sequence[Array]) -> Array:
    """The `address` of each, as int64."""
    cast, memory = ffi.cast, ffi.from_buffer
    try:
        found = [int(cast(_ADDRESS, memory(a))) if a.flags.c_contiguous else address(a) for a in arrays]
    except TypeError:  # one on a device has no buffer
        found = [address(a) for a in arrays]
    return np.array(found, np.int64)


class _Outline:
    """Lends the addresses of an array on a device as if NumPy could reach them."""

    def __init__(self, array: DeviceArray) -> None:
        self.__array_interface__ = {
            "version": 3,
            "shape": array.shape,
            "strides": array.strides,
            "typestr": f"|V{array.itemsize}",
            "data": (array.pointer, True),
        }


def _outline(array: Array) -> Array:
    """An array at the same addresses for questions about these; of one on a device no element can be read.

    All memory that CUDA gives out has addresses of its own, so that they tell arrays on any device apart.
    """
    return np.asarray(_Outline(array)) if isinstance(array, DeviceArray) else array


def bounds(array: Array) -> tuple[int, int]:
    """The first byte and the byte after the last that the array may touch; equal when it is empty."""
    if array.flags.c_contiguous:
        low = address(array)
        return low, low + array.nbytes
    low, high = np.lib.array_utils.byte_bounds(_outline(array))
    return (low, low) if array.size == 0 else (low, high)


def _dimensions(array: Array) -> Iterable[tuple[int, int]]:
    return zip(array.strides, array.shape, strict=True)


def overlaps_itself(array: Array) -> bool:
    """Whether two elements share memory, as in a broadcast array."""
    if array.size < 2 or array.flags.c_contiguous or array.flags.f_contiguous:
        return False
    if any(abs(stride) < array.itemsize for stride, length in _dimensions(array) if length > 1):
        return True
    reach = 0
    for stride, length in sorted((abs(s), n) for s, n in _dimensions(array) if n > 1):
        if stride < reach + array.itemsize:
            break
        reach += stride * (length - 1)
    else:
        return False
    offsets = np.zeros((1,), np.int64)
    for stride, length in _dimensions(array):
        offsets = np.add.outer(offsets, stride * np.arange(length, dtype=np.int64)).reshape(-1)
    offsets.sort()
    return bool((np.diff(offsets) < array.itemsize).any())


def _share(a: Array, b: Array) -> bool:
    """Whether two arrays share memory; True as well for strides so entangled that an answer takes forever."""
    try:
        return np.shares_memory(_outline(a), _outline(b), max_work=1_000_000)  # type: ignore[arg-type]  # the stub has -1 and 0
    except np.exceptions.TooHardError:
        return True


def first_overlap(arrays: Sequence[Array]) -> tuple[int, int] | None:
    """The indices of two arrays that share memory, or None."""
    spans = sorted((*bounds(a), i) for i, a in enumerate(arrays) if a.size)
    reaching: list[tuple[int, int]] = []
    for low, high, i in spans:
        reaching = [(end, k) for end, k in reaching if end > low]
        for _, k in reaching:
            if _share(arrays[k], arrays[i]):
                return min(k, i), max(k, i)
        reaching.append((high, i))
    return None


class Spans:
    """The memory of some arrays that do not overlap, for asking whether another array touches any of them."""

    def __init__(self, arrays: Sequence[Array]) -> None:
        self.arrays = arrays
        spans = sorted((*bounds(a), i) for i, a in enumerate(arrays) if a.size)
        self._low = np.array([low for low, _, _ in spans], np.int64)
        self._high = np.maximum.accumulate(np.array([high for _, high, _ in spans], np.int64))
        self._order = [i for _, _, i in spans]

    def find(self, others: Sequence[Array], at: Array) -> tuple[int, int] | None:
        """(index among the others, index among the arrays) of two that share memory, or None.

        at: `addresses(others)`.
        """
        if not self._order or not others:
            return None
        low, high = at, at + np.array([a.nbytes for a in others], np.int64)
        if not all(a.flags.c_contiguous for a in others):
            span = np.array([bounds(a) for a in others], np.int64)
            low, high = span[:, 0], span[:, 1]
        first = np.searchsorted(self._high, low, side="right")
        last = np.searchsorted(self._low, high, side="left")
        for k in np.nonzero((first < last) & (low < high))[0]:
            for i in self._order[int(first[k]) : int(last[k])]:
                if _share(self.arrays[i], others[int(k)]):
                    return int(k), i
        return None


Layout = tuple[list[int], list[list[int]]]


def collapsed(arrays: Sequence[Array], order: Sequence[int]) -> Layout | None:
    """Shape and strides (bytes, a list for each array) of same-shaped arrays, the axes in that order.

    order: the axes, slowest first; of arrays that are all in C order, C's. Neighbouring dimensions are merged
    where every array allows it. None when every array turns out to be one gapless run in that order.
    """
    first = arrays[0]
    if first.size == 0 or all(a.flags.c_contiguous for a in arrays):
        return None
    axes = [axis for axis in order if first.shape[axis] != 1]
    shape: list[int] = []
    strides: list[list[int]] = [[] for _ in arrays]
    for axis in axes:
        length = first.shape[axis]
        steps = [a.strides[axis] for a in arrays]
        if shape and all(s[-1] == step * length for s, step in zip(strides, steps, strict=True)):
            shape[-1] *= length
            for s, step in zip(strides, steps, strict=True):
                s[-1] = step
        else:
            shape.append(length)
            for s, step in zip(strides, steps, strict=True):
                s.append(step)
    if len(shape) <= 1 and all(s == [a.itemsize][: len(shape)] for s, a in zip(strides, arrays, strict=True)):
        return None
    return shape, strides


def as_arrays(values: Iterable[Any], what: str, *, writable: bool = False) -> list[Array]:
    """`as_array` for each value; errors call them "what 0", "what 1", ..."""
    return [as_array(v, f"{what} {i}", writable=writable) for i, v in enumerate(listed(values, f"{what}s"))]


def owned_arrays(values: Iterable[Any], what: str) -> list[Array]:
    """Arrays to be written, as `as_arrays`; also ValueError for any two elements that share memory."""
    arrays = as_arrays(values, what, writable=True)
    for i, array in enumerate(arrays):
        if overlaps_itself(array):
            raise ValueError(f"{what} {i} overlaps itself: several of its elements share memory")
    pair = first_overlap(arrays)
    if pair:
        raise ValueError(f"{what} {pair[0]} and {what} {pair[1]} share memory")
    return arrays
