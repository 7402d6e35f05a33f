"""The C backend: turns work into the structs of csrc/fastgd.h and makes one call."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgd._native import ffi, lib
from fastgd.arrays import DTYPE_CODES, Array, address, collapsed
from fastgd.backends.base import UNMEASURED, Measured, Options, Plan, Work, folding
from fastgd.rules import RULES, Rule


def error_text(code: int) -> str:
    text: str = ffi.string(lib.fgd_error_text(code)).decode()
    return text


def _names(pointers: Any, count: int) -> tuple[str, ...]:
    return tuple(ffi.string(pointers[i]).decode() for i in range(count))


def _kernel_index(rule: Rule) -> int:
    """The rule's row in the C table; ImportError when the two tables do not say the same."""
    index: int = lib.fgd_rule_find(rule.kernel.encode())
    if index < 0:
        raise ImportError(f"the compiled library has no rule {rule.kernel!r}: build fastgd again")
    row = lib.fgd_rule_at(index)
    switches = _names(row.switches, row.n_switches)
    slots = tuple(
        (name, switches[row.slot_switch[i]] if row.slot_switch[i] >= 0 else None, bool(row.slot_unsigned[i]))
        for i, name in enumerate(_names(row.slots, row.n_slots))
    )
    compiled = (slots, switches, _names(row.scalars, row.n_scalars))
    declared = (tuple((s.name, s.switch, s.unsigned) for s in rule.slots), tuple(rule.switches), rule.scalars)
    if compiled != declared:
        raise ImportError(
            f"rule {rule.name!r} differs: fastgd/rules.py has {declared}, csrc/rules.def {compiled}"
        )
    return index


KERNELS = {rule.name: _kernel_index(rule) for rule in RULES.values()}


def _pointer(array: Array) -> Any:
    if array.flags.c_contiguous:
        return ffi.from_buffer(array)
    return ffi.cast("void *", address(array))


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
            table.fill(i, array, array if writing else None)
        return table

    def grad_column(self) -> Array:
        """The grad pointers of all rows as an array over the same memory, to be set many at a time."""
        offset, size = ffi.offsetof("fgd_tensor", "grad"), ffi.sizeof("fgd_tensor")
        words = np.frombuffer(ffi.buffer(self.rows), np.intp).reshape(-1, size // np.intp().itemsize)
        column: Array = words[: self.count, offset // np.intp().itemsize]
        return column

    def fill(
        self, i: int, grad: Array, param: Array | None = None, state: Sequence[Array | None] = ()
    ) -> Any:
        row = self.rows[i]
        row.size = grad.size
        row.dtype = DTYPE_CODES[grad.dtype]
        row.grad = _pointer(grad)
        if param is not None:
            row.param = _pointer(param)
        for k, array in enumerate(state):
            if array is not None:
                row.state[k] = _pointer(array)
        operands = [grad if param is None else param, grad, *(grad if a is None else a for a in state)]
        layout = collapsed(operands)
        row.layout = ffi.NULL if layout is None else self._layout(i, *layout)
        return row

    def _layout(self, i: int, shape: list[int], strides: list[list[int]]) -> Any:
        c_shape = ffi.new("int64_t[]", shape)
        c_strides = ffi.new("int64_t[]", [s for row in strides for s in row])
        layout = ffi.new("fgd_layout *", {"ndim": len(shape), "shape": c_shape, "strides": c_strides})
        self._layouts[i] = (c_shape, c_strides, layout)
        return layout

    def workspace(self) -> tuple[Any, int]:
        size: int = lib.fgd_workspace_size(self.rows, self.count)
        return ffi.new("int64_t[]", size // 8), size


def _set_options(c: Any, options: Options) -> None:
    c.grad_scale = options.grad_scale
    c.clip_value = options.clip_value
    c.clip_norm = options.clip_norm
    c.norm = lib.FGD_NORM_INF if math.isinf(options.norm) else lib.FGD_NORM_2
    c.measure = options.measure
    c.skip_nonfinite = options.skip_nonfinite


def _check(code: int, report: Any) -> None:
    if code:
        where = f" (tensor {report.error_tensor})" if report.error_tensor >= 0 else ""
        raise RuntimeError(error_text(code) + where)


#: Measured from a tuple, in half the time its constructor takes
_all_finite = functools.partial(tuple.__new__, Measured)


def _measured(report: Any) -> Measured:
    tensor = report.nonfinite_tensor
    return Measured(report.norm, report.clip_coef, None if tensor < 0 else tensor, bool(report.skipped))


class _Step:
    """A step that is called again and again: the C structs stay, only the scalars are folded anew."""

    def __init__(self, work: Work) -> None:
        self._table = table = Table(len(work.items))
        self._counters = ffi.cast("int64_t *", address(work.steps))
        # parameters and state must outlive the pointers to them; gradients are the caller's to keep
        self._steps = work.steps
        self._tensors = [(item.param, item.state) for item in work.items]
        # without a layout all operands lie in one order, which need not be C's
        self._in_c_order = [
            all(a is None or a.flags.c_contiguous for a in (param, *state)) for param, state in self._tensors
        ]
        #: items that only need another pointer when another gradient in C order comes
        self._packed = np.zeros(len(work.items), np.bool_)
        self._grad_column = table.grad_column()
        for i, item in enumerate(work.items):
            row = table.fill(i, item.grad, item.param, item.state)
            self._packed[i] = self._in_c_order[i] and not row.layout
            row.group = item.block
            row.step = self._counters + item.counter
        self._groups = ffi.new("fgd_group[]", max(len(work.blocks), 1))
        self._folds = []
        for i, block in enumerate(work.blocks):
            group = self._groups[i]
            group.rule = KERNELS[block.rule.name]
            group.switches = sum(on << bit for bit, on in enumerate(block.rule.active(block.values).values()))
            group.maximize = block.values["maximize"]
            fold = folding(block.rule)
            self._folds.append((group, fold, block.values, block.counter, block.carriers))
        self._options, self._report = ffi.new("fgd_options *"), ffi.new("fgd_report *")
        self._set: Options | None = None
        self._update = lib.fgd_update
        tables = (self._groups, len(work.blocks), table.rows, table.count)
        self._arguments = (*tables, self._options, *table.workspace(), self._report)

    def set_grads(self, items: Sequence[int], grads: Sequence[Array], at: Array) -> None:
        if self._packed[items].all() and all(g.flags.c_contiguous for g in grads):
            self._grad_column[items] = at
            return
        for i, grad in zip(items, grads, strict=True):
            param, state = self._tensors[i]
            row = self._table.fill(i, grad, param, state)
            self._packed[i] = self._in_c_order[i] and not row.layout

    def step(self, options: Options) -> Measured:
        if options is not self._set:
            _set_options(self._options, options)
            self._set = options
        counters, report = self._counters, self._report
        for group, fold, values, counter, carriers in self._folds:
            group.scalars = fold(values, counters[counter] + 1, carriers)
        code = self._update(*self._arguments)
        if code:
            _check(code, report)
        if not report.measured:
            return UNMEASURED
        norm = report.norm
        if norm < math.inf:  # then every element is finite
            return _all_finite((norm, report.clip_coef, None, False))
        return _measured(report)


class NativeBackend:
    """See the module."""

    name = "native"

    def supports(self, rule: Rule, dtype: Any) -> bool:
        return rule.name in KERNELS and dtype in DTYPE_CODES

    def plan(self, work: Work) -> Plan:
        return _Step(work)

    def measure(self, arrays: Sequence[Array], options: Options) -> Measured:
        return self._call(lib.fgd_measure, Table.of(arrays), options, ffi.NULL)

    def norms(self, arrays: Sequence[Array], options: Options) -> list[float]:
        norms = ffi.new("double[]", max(len(arrays), 1))
        self._call(lib.fgd_measure, Table.of(arrays), options, norms)
        return list(norms[0 : len(arrays)])

    def clip(self, arrays: Sequence[Array], options: Options) -> Measured:
        return self._call(lib.fgd_clip, Table.of(arrays, writing=True), options)

    def _call(self, entry: Any, table: Table, options: Options, *norms: Any) -> Measured:
        c_options, report = ffi.new("fgd_options *"), ffi.new("fgd_report *")
        _set_options(c_options, options)
        code = entry(table.rows, table.count, c_options, *norms, *table.workspace(), report)
        _check(code, report)
        return _measured(report) if report.measured else UNMEASURED


BACKEND = NativeBackend()
