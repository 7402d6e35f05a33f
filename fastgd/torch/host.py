"""Tensors in host memory as a table of the native backend: what the kernels reach where it lies."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import numpy as np
import torch

from fastgd.arrays import CODES, Array, first_overlap, overlaps_itself
from fastgd.backends.native_table import Table

#: what the kernels work on, and its number in the C ABI's fgd_dtype
DTYPES: dict[torch.dtype, int] = {getattr(torch, name): code for name, code in CODES.items()}

#: classes whose elements are what lies in their memory
PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})

#: what tells whether the kernels reach a tensor of such a class
_kind = attrgetter("dtype", "layout", "is_cpu")
_KINDS = {(dtype, torch.strided, True) for dtype in DTYPES}
_PARTS = {(dtype, torch.strided, True) for dtype in (torch.complex32, torch.complex64, torch.complex128)}

#: by fgd_dtype
_WIDTHS = np.array([torch.finfo(dtype).bits // 8 for dtype in DTYPES])


def all_reached(tensors: Sequence[torch.Tensor]) -> list[torch.dtype] | None:
    """The dtypes of the tensors, each once, if the kernels reach every one as it is; else None."""
    if not PLAIN.issuperset(map(type, tensors)):
        return None
    kinds = set(map(_kind, tensors))
    return [kind[0] for kind in kinds] if kinds <= _KINDS else None


def reached(tensor: torch.Tensor) -> torch.Tensor | None:
    """The tensor's numbers over the same memory, of a complex one both parts; None if no kernel reaches it.

    Signs may be turned, where those of imaginary parts or of all elements are pending.
    """
    if type(tensor) not in PLAIN:
        return None
    kind = _kind(tensor)
    if kind in _PARTS:
        tensor = tensor.detach()
        return torch.view_as_real(tensor.conj() if tensor.is_conj() else tensor)
    return tensor if kind in _KINDS else None


class _Outline:
    """Lends a tensor's addresses to NumPy for questions about these; no element may be read."""

    def __init__(self, tensor: torch.Tensor) -> None:
        width = tensor.element_size()
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "strides": tuple([stride * width for stride in tensor.stride()]),
            "typestr": f"|V{width}",
            "data": (tensor.data_ptr(), False),
        }


def _outline(tensor: torch.Tensor) -> Array:
    return np.asarray(_Outline(tensor))


class HostTensors:
    """Tensors that the kernels reach, in one table.

    They are kept alive; their memory must stay where it is.
    """

    def __init__(self, tensors: Sequence[torch.Tensor], dtypes: Sequence[torch.dtype] = ()) -> None:
        """dtypes: as `all_reached` gives them, where it has been asked."""
        n = len(tensors)
        self._tensors = tensors
        self._at = np.fromiter(map(torch.Tensor.data_ptr, tensors), np.int64, n)
        self._sizes = np.fromiter(map(torch.Tensor.numel, tensors), np.int64, n)
        codes = [DTYPES[tensor.dtype] for tensor in tensors] if len(dtypes) != 1 else DTYPES[dtypes[0]]
        self._bytes = self._sizes * _WIDTHS[codes]
        self.table = Table.at(self._at, self._sizes, codes)
        #: of those that are not in C order
        self._outlines: dict[int, Array] = {}
        if not all(map(torch.Tensor.is_contiguous, tensors)):
            self._outlines = {i: _outline(t) for i, t in enumerate(tensors) if not t.is_contiguous()}
        for i, outline in self._outlines.items():
            self.table.lay_out(i, outline)

    def share_memory(self) -> bool:
        """Whether an element lies where another one lies, of the same tensor or of another."""
        if any(map(overlaps_itself, self._outlines.values())):
            return True
        if not self._outlines:
            order = self._at.argsort()
            begin, end = self._at[order], (self._at + self._bytes)[order]
            if (begin[1:] >= end[:-1]).all():
                return False
        return first_overlap([_outline(tensor) for tensor in self._tensors]) is not None
