"""Tensors as the C library takes them: the structs of csrc/fastgd.h, and what its calls report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgd import gemm
from fastgd._native import ffi, lib
from fastgd.arrays import Array, address, code_of, collapsed, memory_order
from fastgd.backends.base import SCOPES, UNMEASURED, Codes, Item, Measured, Options
from fastgd.rules import Rule, Slot
from fastgd.storage import arithmetic


def error_text(code: int) -> str:
    text: str = ffi.string(lib.fgd_error_text(code)).decode()
    return text


def _pointer(array: Array) -> Any:
    if array.flags.c_contiguous:
        return ffi.from_buffer(array)
    return ffi.cast("void *", address(array))


#: where fields of fgd_tensor are, in bytes
_OFFSETS = {field: ffi.offsetof("fgd_tensor", field) for field, _ in ffi.typeof("fgd_tensor").fields}


class Table:
    """An array of fgd_tensor with the memory its pointers need."""

    def __init__(self, count: int) -> None:
        self.rows = ffi.new("fgd_tensor[]", max(count, 1))
        self.count = count
        self._layouts: dict[int, Any] = {}

    @classmethod
    def of(cls, arrays: Sequence[Array], *, writing: bool = False) -> Table:
        """The arrays as gradients to measure, or to be clipped in place."""
        table = cls(len(arrays))
        for i, array in enumerate(arrays):
            row = table.rows[i]
            row.size = array.size
            row.dtype = row.grad_dtype = code_of(array.dtype)
            row.grad = _pointer(array)
            if writing:
                row.param = row.grad
            table.lay_out(i, array)
        return table

    @classmethod
    def at(cls, pointers: Array, sizes: Array, codes: int | Sequence[int]) -> Table:
        """The arrays at these addresses as gradients to measure, or to be clipped in place.

        sizes: in elements. codes: of fgd_dtype. Arrays with gaps still need `lay_out`. None is kept alive.
        """
        table = cls(len(sizes))
        for field, values in (("size", sizes), ("param", pointers), ("grad", pointers)):
            table.column(field)[:] = values
        for field in ("dtype", "grad_dtype"):
            table.column(field, np.int32)[:] = codes
        return table

    def _words(self, dtype: type[np.int64] | type[np.int32]) -> Array:
        """All rows as integers of one width, over the same memory, to be set many at a time."""
        words = np.frombuffer(ffi.buffer(self.rows), dtype)
        return words.reshape(-1, ffi.sizeof("fgd_tensor") // words.itemsize)[: self.count]

    def column(self, field: str, dtype: type[np.int64] | type[np.int32] = np.int64) -> Array:
        """A field of all rows, to be written."""
        words = self._words(dtype)
        found: Array = words[:, _OFFSETS[field] // words.itemsize]
        return found

    def some(self, chosen: Array) -> Table:
        """These rows in a table of their own. What they point to still is this one's."""
        table = Table(len(chosen))
        table._words(np.int64)[:] = self._words(np.int64)[chosen]
        return table

    def lay_out(self, i: int, array: Array) -> None:
        """Gives row i of a table without parameters the array's layout."""
        self._lay_out(i, array, [array, array], memory_order(array))

    def measure(self, options: Options) -> Measured:
        """The global norm of the gradients."""
        return called(lib.fgd_measure, self, options, ffi.NULL)

    def clip(self, options: Options) -> Measured:
        """Clips in place, unless it is skipped; with an infinite clip_norm and clip_value only measures."""
        return called(lib.fgd_clip, self, options)

    def fill(self, i: int, item: Item, rule: Rule) -> None:
        """All of a row but what belongs to the work as a whole."""
        row, param = self.rows[i], item.param
        slots = zip(rule.slots, item.state, strict=True)
        used = [slot for slot, state in slots if state is not None]
        set_shape(row, rule, used, param.shape, param.dtype)
        row.norm_group = item.group
        row.param = _pointer(param)
        row.stream = item.stream
        for k, state in enumerate(item.state):
            if isinstance(state, Codes):
                row.state_dtype[k] = lib.FGD_CODES
                row.state[k] = _pointer(state.codes)
                row.scales[k] = ffi.cast("float *", _pointer(state.scales))
            elif state is not None:
                row.state_dtype[k] = code_of(state.dtype)
                row.state[k] = _pointer(state)
        if item.residual is not None:
            row.residual = _pointer(item.residual)
        if item.average is not None:
            row.average = _pointer(item.average)
        if item.copy is not None:
            row.copy, row.copy_dtype = _pointer(item.copy), code_of(item.copy.dtype)
        self.set_grad(i, item, item.grad)

    def set_grad(self, i: int, item: Item, grad: Array) -> None:
        """Points a filled row to a gradient, which need not be the item's, of the item's rows."""
        row = self.rows[i]
        row.size, row.grad, row.grad_dtype = grad.size, _pointer(grad), code_of(grad.dtype)
        if item.rows is None:
            row.rows, row.n_rows, row.width = ffi.NULL, 0, 0
            # slots of lines lie in C order and have no strides
            beside = [a if a is None or a.shape == grad.shape else None for a in operands(item)]
            self._lay_out(i, grad, [item.param, grad, *beside], item.order)
        else:
            row.rows, row.n_rows = ffi.from_buffer("int64_t[]", item.rows), item.rows.size
            row.width, row.layout = math.prod(item.param.shape[1:]), ffi.NULL

    def _lay_out(self, i: int, stand_in: Array, arrays: Sequence[Array | None], order: Sequence[int]) -> None:
        """Gives a row its layout. stand_in: whose strides are given where there is no array."""
        layout = collapsed([stand_in if a is None else a for a in arrays], order)
        self.rows[i].layout = ffi.NULL if layout is None else self._layout(i, *layout)

    def _layout(self, i: int, shape: list[int], strides: list[list[int]]) -> Any:
        c_shape = ffi.new("int64_t[]", shape)
        c_strides = ffi.new("int64_t[]", [s for row in strides for s in row])
        layout = ffi.new("fgd_layout *", {"ndim": len(shape), "shape": c_shape, "strides": c_strides})
        self._layouts[i] = (c_shape, c_strides, layout)
        return layout

    def workspace(self) -> tuple[Any, int]:
        size: int = lib.fgd_workspace_size(self.rows, self.count)
        return ffi.new("int64_t[]", size // 8), size


def set_shape(
    row: Any, rule: Rule, used: Sequence[Slot], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """What an fgd_tensor says of a parameter of this shape and dtype whose rule uses these slots."""
    row.dtype = code_of(dtype)
    row.unit = math.prod(shape[1:]) if len(shape) >= 2 else 0
    if rule.orthogonal is not None:
        row.matrix_rows = shape[0]
        gemm.ensure(np.dtype(arithmetic(dtype)).name)
    if any(slot.over is not None for slot in used):
        row.factor_rows, row.factor_cols = shape[-2:]


def operands(item: Item) -> list[Array | None]:
    """What lies beside the parameter and the gradient, in the order of fgd_layout."""
    state = [s.codes if isinstance(s, Codes) else s for s in item.state]
    return [*state, item.residual, item.average, item.copy]


def set_options(c: Any, options: Options) -> None:
    c.grad_scale = options.grad_scale
    c.clip_value = options.clip_value
    c.clip_norm = options.clip_norm
    c.clip_unit, c.unit_eps = options.clip_unit, options.unit_eps
    c.total_norm = -1.0 if options.total_norm is None else options.total_norm
    c.scope = SCOPES.index(options.scope)
    c.normalize = options.normalize
    c.norm = lib.FGD_NORM_INF if math.isinf(options.norm) else lib.FGD_NORM_2
    c.measure = options.measure
    c.skip_nonfinite = options.skip_nonfinite


def check(code: int, report: Any) -> None:
    if code:
        where = f" (tensor {report.error_tensor})" if report.error_tensor >= 0 else ""
        raise RuntimeError(error_text(code) + where)


def measured(report: Any) -> Measured:
    tensor = report.nonfinite_tensor
    return Measured(report.norm, report.clip_coef, None if tensor < 0 else tensor, bool(report.skipped))


def called(entry: Any, table: Table, options: Options, *norms: Any) -> Measured:
    c_options, report = ffi.new("fgd_options *"), ffi.new("fgd_report *")
    set_options(c_options, options)
    code = entry(table.rows, table.count, c_options, *norms, *table.workspace(), report)
    check(code, report)
    return measured(report) if report.measured else UNMEASURED
