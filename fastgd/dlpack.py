"""What NumPy refuses of DLPack: bfloat16, taken as uint16 and seen as bfloat16, and memory of a device."""

from __future__ import annotations

import ctypes
import weakref
from typing import Any

import numpy as np

#: where DLTensor begins in the struct that a capsule of this name holds (dlpack.h)
TENSOR_AT = {b"dltensor": 0, b"dltensor_versioned": 32}

#: DLTensor.dtype, after data (8 bytes), device (8) and ndim (4): code (1 byte), bits (1) and lanes (2)
DTYPE_AT = 20

#: codes of 16 bits
UNSIGNED, BFLOAT = 1, 4

#: DLDataType.code -> the beginning of the name of NumPy's dtype, which goes on with the bits
_KINDS = {0: "int", UNSIGNED: "uint", 2: "float", BFLOAT: "bfloat", 5: "complex"}
_BOOL = 6


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_kind", ctypes.c_int32),
        ("device_number", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


#: of the whole struct. It holds the interpreter's lock, for a deleter need not take it
_DELETER = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)

#: where the deleter is by the capsule's name; where flags are in the versioned struct, and their first bit
_DELETER_AT = {b"dltensor": ctypes.sizeof(_Tensor) + 8, b"dltensor_versioned": 16}
_FLAGS_AT, _READ_ONLY = 24, 1

#: the name of a capsule that its consumer has taken over; capsules point to these bytes for ever
_USED = {name: ctypes.create_string_buffer(b"used_" + name) for name in TENSOR_AT}

_API = ctypes.pythonapi
_NAME = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", _API))
_POINTER = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _API)
)
_RENAME = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_void_p)(("PyCapsule_SetName", _API))


def data_type(capsule: Any) -> _DataType:
    """The DLDataType in a capsule, to be read and written."""
    name = _NAME(capsule)
    return _DataType.from_address(_POINTER(capsule, name) + TENSOR_AT[name] + DTYPE_AT)


class _Renamed:
    """Lends what another object lends, bfloat16 under the name of uint16."""

    def __init__(self, lender: Any) -> None:
        self._lender, self.renamed = lender, False

    def __dlpack_device__(self) -> Any:
        return self._lender.__dlpack_device__()

    def __dlpack__(self, **how: Any) -> Any:
        capsule = self._lender.__dlpack__(**how)
        found = data_type(capsule)
        if (found.code, found.bits, found.lanes) == (BFLOAT, 16, 1):
            found.code, self.renamed = UNSIGNED, True
        return capsule


def bfloat16_bits(lender: Any) -> np.ndarray[Any, np.dtype[Any]] | None:
    """The memory of a bfloat16 array on the CPU as uint16; None for others. Raises as numpy.from_dlpack."""
    renamed = _Renamed(lender)
    array = np.from_dlpack(renamed)
    return array if renamed.renamed else None


class Managed:
    """Memory that an object lends by DLPack, taken over from its capsule; given back when this is gone.

    stream: the lender lets it wait for the lender's own work. Raises TypeError for a dtype without a name,
    and whatever the lender raises.
    """

    def __init__(self, lender: Any, stream: int) -> None:
        try:
            capsule = lender.__dlpack__(stream=stream, max_version=(1, 1), copy=False)
        except TypeError:  # older than version 1
            capsule = lender.__dlpack__(stream=stream)
        name = _NAME(capsule)
        if name not in TENSOR_AT:
            raise ValueError(f"its capsule is named {name!r}")
        whole = _POINTER(capsule, name)
        tensor = _Tensor.from_address(whole + TENSOR_AT[name])
        self.dtype = _dtype_name(tensor.dtype)
        axes = range(tensor.ndim)
        self.shape = tuple(int(tensor.shape[axis]) for axis in axes)
        self.strides: tuple[int, ...] | None = None
        if tensor.strides:
            item = tensor.dtype.bits // 8
            self.strides = tuple(int(tensor.strides[axis]) * item for axis in axes)
        self.pointer: int = (tensor.data or 0) + tensor.byte_offset
        self.device: int = tensor.device_number
        versioned = name != b"dltensor"
        flags = ctypes.c_uint64.from_address(whole + _FLAGS_AT).value if versioned else 0
        self.writeable = not flags & _READ_ONLY
        # from here on it is ours to give back
        _RENAME(capsule, ctypes.addressof(_USED[name]))
        deleter = ctypes.c_void_p.from_address(whole + _DELETER_AT[name]).value
        if deleter:
            # not when the interpreter ends: the lender may be gone by then
            weakref.finalize(self, _DELETER(deleter), whole).atexit = False


def _dtype_name(found: _DataType) -> str:
    name = "bool" if found.code == _BOOL else f"{_KINDS.get(found.code)}{found.bits}"
    if found.lanes != 1 or found.code not in (*_KINDS, _BOOL):
        raise TypeError(f"its dtype has code {found.code}, {found.bits} bits and {found.lanes} lanes")
    return name
