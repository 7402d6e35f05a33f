"""bfloat16 lent through DLPack, which NumPy refuses: it is taken as uint16 and seen as bfloat16."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

#: where DLTensor begins in the struct that a capsule of this name holds (dlpack.h)
TENSOR_AT = {b"dltensor": 0, b"dltensor_versioned": 32}

#: DLTensor.dtype, after data (8 bytes), device (8) and ndim (4): code (1 byte), bits (1) and lanes (2)
DTYPE_AT = 20

#: codes of 16 bits
UNSIGNED, BFLOAT = 1, 4


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


def data_type(capsule: Any) -> _DataType:
    """The DLDataType in a capsule, to be read and written."""
    api = ctypes.pythonapi
    api.PyCapsule_GetName.restype, api.PyCapsule_GetPointer.restype = ctypes.c_char_p, ctypes.c_void_p
    name = api.PyCapsule_GetName(ctypes.py_object(capsule))
    address = api.PyCapsule_GetPointer(ctypes.py_object(capsule), ctypes.c_char_p(name))
    return _DataType.from_address(address + TENSOR_AT[name] + DTYPE_AT)


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
