"""Calls of the C kernels on torch's tensors: memory order, pointers, and refusals that name an argument."""

from __future__ import annotations

from typing import Any

import torch

from fastgd import gemm
from fastgd._native import ffi, lib
from fastgd.arrays import CODES

#: torch's dtype -> its number in the C ABI's fgd_dtype
REALS: dict[torch.dtype, int] = {getattr(torch, name): CODES[name] for name in ("float32", "float64")}

_POINTER = ffi.typeof("void *")
_DENSE = torch.ops.aten.is_non_overlapping_and_dense.default
_cast = ffi.cast


def real(name: str, tensor: Any) -> int:
    """The number of a tensor's dtype; TypeError that names the argument where kernels do not have it."""
    code = REALS.get(tensor.dtype)
    if code is None:
        given = str(tensor.dtype).removeprefix("torch.")
        raise TypeError(f"{name} must be float32 or float64, not {given}: {name}.float()")
    return code


def product_ready(dtype: torch.dtype) -> None:
    """Finds the library for matrix products of a dtype, the first time."""
    gemm.ensure(str(dtype).removeprefix("torch."))


def alike(name: str, tensor: Any, like: Any) -> None:
    """TypeError that names the argument unless it has the dtype of `input`."""
    if tensor is not None and tensor.dtype != like.dtype:
        wanted, given = (str(t.dtype).removeprefix("torch.") for t in (like, tensor))
        raise TypeError(f"{name} must be {wanted} as input is, not {given}")


def packed(tensor: Any) -> Any:
    """The tensor, or a copy whose elements lie one behind the other, in the order of memory."""
    if tensor.is_contiguous() or _DENSE(tensor):
        return tensor
    return torch.empty_like(tensor).copy_(tensor)


def packed_as(tensor: Any, like: Any) -> Any:
    """The tensor, or a copy of it with the strides of another, which is packed."""
    if tensor.is_contiguous() and like.is_contiguous():
        return tensor
    return tensor if tensor.stride() == like.stride() else torch.empty_like(like).copy_(tensor)


def pointer(tensor: Any) -> Any:
    """Of a packed tensor's memory; NULL for None."""
    return ffi.NULL if tensor is None else _cast(_POINTER, tensor.data_ptr())


def doubles(tensor: Any) -> Any:
    """The pointer of a float64 tensor."""
    return ffi.NULL if tensor is None else _cast("double *", tensor.data_ptr())


def int64s(tensor: Any) -> Any:
    """The pointer of an int64 tensor."""
    return ffi.NULL if tensor is None else _cast("int64_t *", tensor.data_ptr())


def check(code: int) -> None:
    if code:
        text = ffi.string(lib.fgd_error_text(code)).decode()
        raise RuntimeError(f"the native kernels refused the call: {text}")
