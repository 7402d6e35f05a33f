"""Whose arrays lie on a device, and what they say of themselves: torch, CuPy, Numba and DLPack.

They are told by their interfaces; no library is imported for it, only looked up among those that are.
"""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from typing import Any

import numpy as np

from fastgd.memory import DeviceArray, Memory, device_of, open_device

#: the handle of CUDA's legacy default stream, in its interfaces and in `__cuda_array_interface__`
LEGACY_STREAM = 1

#: what objects raise that do not lend their memory, and what comes of interfaces that are not right
_REFUSALS = (AttributeError, BufferError, LookupError, RuntimeError, TypeError, ValueError)

#: kinds of device in DLPack (dlpack.h): memory of a GPU, and memory that the host reaches too
DLPACK_DEVICES = {2: "cuda", 13: "cuda"}


def dtype_named(name: str) -> np.dtype[Any]:
    """NumPy's dtype of that name, bfloat16 being that of ml_dtypes; TypeError when there is none."""
    return np.dtype(import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def on_device(value: Any, what: str, beside: Any = None) -> DeviceArray | None:
    """`_lent`, and ValueError for elements that do not lie where a device can reach them."""
    array = _lent(value, what, beside)
    if array is not None and any(at % array.itemsize for at in (array.pointer, *array.strides)):
        raise ValueError(f"{what} is misaligned: a device reads elements at multiples of their size only")
    return array


def _lent(value: Any, what: str, beside: Any) -> DeviceArray | None:
    """The memory of a value if it is on a device; None for all other values. `what` names it in errors.

    beside: the array whose owner's stream our work will be on; it waits there for the work of whoever lends
    by DLPack. None: on the legacy default stream.

    TypeError for what does not lend its memory, as masked, sparse and lazily negated arrays do not, and for
    dtypes that NumPy does not have; ImportError when the device's memory cannot be used here.
    """
    if type(value) is DeviceArray:
        return value
    if is_torch(value):
        return _from_torch(value, what) if value.is_cuda else None
    try:
        interface = value.__cuda_array_interface__
    except AttributeError:
        pass
    except _REFUSALS as error:
        raise TypeError(f"{what} does not lend its memory ({error})") from None
    else:
        return _from_interface(value, interface, what)
    kind = DLPACK_DEVICES.get(_dlpack_device(value)[0])
    if kind is None:
        return None
    from fastgd.dlpack import Managed

    try:
        lent = Managed(value, owner_stream(beside) or LEGACY_STREAM)
    except _REFUSALS as error:
        raise TypeError(f"{what} does not lend its memory ({error})") from None
    try:
        dtype = dtype_named(lent.dtype)
    except TypeError:
        raise _unknown(lent.dtype, what) from None
    memory = _opened(kind, what, number=lent.device)
    return DeviceArray(memory, lent.pointer, lent.shape, lent.strides, dtype, lent, lent.writeable)


def _opened(kind: str, what: str, *, number: int = 0, pointer: int = 0) -> Memory:
    """The memory of a device; of the one that the pointer belongs to if it is not 0."""
    try:
        return open_device(kind, device_of(kind, pointer) if pointer else number)
    except ImportError as error:
        raise ImportError(f"{what}: {error}") from None


def _unknown(dtype: Any, what: str) -> TypeError:
    return TypeError(f"{what} has dtype {dtype}, which NumPy does not have")


# ---- torch: its interface refuses what requires gradients and has no name for bfloat16 --------------


def _is_a(value: Any, library: str, name: str) -> bool:
    """Whether it is of that class of a library, which is not imported for it."""
    return isinstance(value, getattr(sys.modules.get(library), name, ()))


def is_torch(value: Any) -> bool:
    return _is_a(value, "torch", "Tensor")


@functools.cache
def _torch_dtype(dtype: Any) -> np.dtype[Any]:
    return dtype_named(str(dtype).rpartition(".")[2])


def _from_torch(tensor: Any, what: str) -> DeviceArray:
    try:
        dtype = _torch_dtype(tensor.dtype)
    except TypeError:
        raise _unknown(tensor.dtype, what) from None
    if tensor.is_neg() or tensor.is_conj():
        raise TypeError(f"{what} is a lazily negated view: call resolve_neg() and resolve_conj()")
    try:
        strides = [step * dtype.itemsize for step in tensor.stride()]
        # detached, for a tensor may be given other memory while this is still in use
        pointer, owner = tensor.data_ptr(), tensor.detach()
    except RuntimeError as error:  # sparse, or of no memory of its own
        raise TypeError(f"{what} does not lend its memory ({error})") from None
    memory = _opened("cuda", what, number=tensor.device.index or 0)
    return DeviceArray(memory, pointer, tensor.shape, strides, dtype, owner)


# ---- __cuda_array_interface__: CuPy, Numba and others -----------------------------------------------


def _from_interface(value: Any, interface: dict[str, Any], what: str) -> DeviceArray:
    try:
        mask, (pointer, read_only) = interface.get("mask"), interface["data"]
        shape, strides = interface["shape"], interface.get("strides")
        dtype = np.dtype(interface["typestr"])
    except _REFUSALS as error:
        raise TypeError(f"{what} does not lend its memory (its interface: {error!r})") from None
    if mask is not None:
        raise TypeError(f"{what} is a masked array, whose mask would be ignored: give its data")
    own = getattr(value, "dtype", None)
    if dtype.kind == "V" and isinstance(own, np.dtype) and own.itemsize == dtype.itemsize:
        dtype = own  # bfloat16, for which the interface has no name
    # an array without elements has no pointer to tell its device by
    memory = _opened("cuda", what, number=max(_dlpack_device(value)[1], 0), pointer=pointer)
    return DeviceArray(memory, pointer, shape, strides, dtype, value, not read_only)


def _dlpack_device(value: Any) -> tuple[int, int]:
    """As `__dlpack_device__` gives them; -1 for no device."""
    try:
        kind, number = value.__dlpack_device__()
        return int(kind), int(number)
    except _REFUSALS:
        return -1, -1


# ---- What is asked at every step --------------------------------------------------------------------


def mark(value: Any) -> tuple[Any, ...] | None:
    """What tells in little time whether a value on a device lies in the same memory as before, and alike.

    None for one that only a new conversion can tell.
    """
    if type(value) is DeviceArray:
        return value.pointer, value.shape, value.strides, value.dtype
    if is_torch(value):
        if not value.is_cuda:
            return None
        return value.data_ptr(), value.shape, value.stride(), value.dtype
    if _is_a(value, "cupy", "ndarray"):
        return value.data.ptr, value.shape, value.strides, value.dtype
    try:
        found = value.__cuda_array_interface__
        known = found["data"], found["shape"], found.get("strides"), found["typestr"], found.get("mask")
    except _REFUSALS:
        return None
    return *known, getattr(value, "dtype", None)


def torch_captures() -> bool:
    """Whether torch records a CUDA graph on its current stream."""
    torch = sys.modules.get("torch")
    return bool(torch and torch.cuda.is_initialized() and torch.cuda.is_current_stream_capturing())


def owner_stream(value: Any) -> int | None:
    """The handle of the stream that the owner of an array on CUDA works on now; None: it does not say.

    For a DeviceArray it is that of its owner.
    """
    if type(value) is DeviceArray:
        return owner_stream(value.owner)
    if is_torch(value):
        if not value.is_cuda:
            return None
        return int(sys.modules["torch"].cuda.current_stream(value.device).cuda_stream)
    if _is_a(value, "cupy", "ndarray"):
        return int(sys.modules["cupy"].cuda.get_current_stream(value.device.id).ptr)
    try:
        stream = value.__cuda_array_interface__.get("stream")
    except _REFUSALS:
        return None
    return None if stream is None else int(stream)
