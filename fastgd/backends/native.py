"""The C backend: turns work into the structs of csrc/fastgd.h and makes one call."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastgd import gemm
from fastgd._native import ffi, lib
from fastgd.arrays import Array, address, code_of, collapsed, memory_order
from fastgd.backends.base import (
    SCOPES,
    UNMEASURED,
    Block,
    Codes,
    Item,
    Measured,
    Options,
    Plan,
    Program,
    Work,
    folding,
)
from fastgd.rules import INTERNAL, RULES, Rule, is_built_in
from fastgd.settings import ROUNDINGS, STATE_ROUNDINGS, state_rounding
from fastgd.storage import arithmetic


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
    matrices = (row.row_slot, row.col_slot, bool(row.orthogonal))
    compiled = (slots, switches, _names(row.scalars, row.n_scalars), *matrices, bool(row.whole))
    overs = [s.over for s in rule.slots]
    declared = (
        tuple((s.name, s.switch, s.unsigned) for s in rule.slots),
        tuple(rule.switches),
        rule.scalars,
        *(overs.index(axis) if axis in overs else -1 for axis in (-1, -2)),
        rule.orthogonal is not None,
        rule.whole is not None,
    )
    if compiled != declared:
        raise ImportError(
            f"rule {rule.name!r} differs: fastgd/rules has {declared}, csrc/rules.def {compiled}"
        )
    return index


KERNELS = {name: _kernel_index(rule) for name, rule in (RULES | INTERNAL).items()}


def compiled_kernel(work: Work, block: int) -> int:
    """The row of the C table that a block's rule has."""
    return KERNELS[work.blocks[block].rule.name]


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
        words, halves = table._words(np.int64), table._words(np.int32)
        for field, values in (("size", sizes), ("param", pointers), ("grad", pointers)):
            words[:, _OFFSETS[field] // 8] = values
        for field in ("dtype", "grad_dtype"):
            halves[:, _OFFSETS[field] // 4] = codes
        return table

    def _words(self, dtype: type[np.int64] | type[np.int32]) -> Array:
        """All rows as integers of one width, over the same memory, to be set many at a time."""
        words = np.frombuffer(ffi.buffer(self.rows), dtype)
        return words.reshape(-1, ffi.sizeof("fgd_tensor") // words.itemsize)[: self.count]

    def grad_column(self) -> Array:
        """The grad pointers of all rows."""
        column: Array = self._words(np.int64)[:, _OFFSETS["grad"] // 8]
        return column

    def lay_out(self, i: int, array: Array) -> None:
        """Gives row i of a table without parameters the array's layout."""
        self._lay_out(i, array, [array, array], memory_order(array))

    def measure(self, options: Options) -> Measured:
        """The global norm of the gradients."""
        return _called(lib.fgd_measure, self, options, ffi.NULL)

    def clip(self, options: Options) -> Measured:
        """Clips in place, unless it is skipped; with an infinite clip_norm and clip_value only measures."""
        return _called(lib.fgd_clip, self, options)

    def fill(self, i: int, item: Item, rule: Rule) -> None:
        """All of a row but what belongs to the work as a whole."""
        row, param = self.rows[i], item.param
        row.size = item.grad.size
        row.norm_group = item.group
        row.dtype = code_of(param.dtype)
        row.param = _pointer(param)
        row.stream = item.counter
        row.unit = math.prod(param.shape[1:]) if param.ndim >= 2 else 0
        if rule.orthogonal is not None:
            row.matrix_rows = param.shape[0]
            gemm.ensure(np.dtype(arithmetic(param.dtype)).name)
        slots = zip(rule.slots, item.state, strict=True)
        if any(slot.over is not None and state is not None for slot, state in slots):
            row.factor_rows, row.factor_cols = param.shape[-2:]
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
        if item.rows is not None:
            row.rows, row.n_rows = ffi.from_buffer("int64_t[]", item.rows), item.rows.size
            row.width = math.prod(param.shape[1:])
        self.set_grad(i, item, item.grad)

    def set_grad(self, i: int, item: Item, grad: Array) -> None:
        """Points a filled row to a gradient, which need not be the item's."""
        row = self.rows[i]
        row.grad, row.grad_dtype = _pointer(grad), code_of(grad.dtype)
        if item.rows is None:
            # slots of lines lie in C order and have no strides
            beside = [a if a is None or a.shape == grad.shape else None for a in operands(item)]
            self._lay_out(i, grad, [item.param, grad, *beside], item.order)

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


def operands(item: Item) -> list[Array | None]:
    """What lies beside the parameter and the gradient, in the order of fgd_layout."""
    state = [s.codes if isinstance(s, Codes) else s for s in item.state]
    return [*state, item.residual, item.average, item.copy]


def _set_options(c: Any, options: Options) -> None:
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


def _check(code: int, report: Any) -> None:
    if code:
        where = f" (tensor {report.error_tensor})" if report.error_tensor >= 0 else ""
        raise RuntimeError(error_text(code) + where)


#: Measured from a tuple, in half the time its constructor takes
_all_finite = functools.partial(tuple.__new__, Measured)


def _measured(report: Any) -> Measured:
    tensor = report.nonfinite_tensor
    return Measured(report.norm, report.clip_coef, None if tensor < 0 else tensor, bool(report.skipped))


class Step:
    """A step that is called again and again: the C structs stay, only the scalars are folded anew."""

    def __init__(self, work: Work, kernel_of: Callable[[Work, int], int] = compiled_kernel) -> None:
        """kernel_of: (work, number of a block) -> the row of the C table with its rule."""
        kernels = [kernel_of(work, i) for i in range(len(work.blocks))]
        self._table = table = Table(len(work.items))
        self._counters = ffi.cast("int64_t *", address(work.steps))
        # all but the gradients, which are the caller's to keep, must outlive the pointers to it
        self._steps = work.steps
        self._items = [item._replace(grad=item.param) for item in work.items]
        # without a layout all operands lie in one order, which need not be C's
        self._in_c_order = [
            all(a is None or a.flags.c_contiguous for a in (item.param, *operands(item)))
            for item in work.items
        ]
        #: items that only need another pointer when another gradient in C order comes
        self._packed = np.zeros(len(work.items), np.bool_)
        self._grad_column = table.grad_column()
        for i, item in enumerate(work.items):
            table.fill(i, item, work.blocks[item.block].rule)
            row = table.rows[i]
            self._packed[i] = self._in_c_order[i] and not row.layout
            row.group = item.block
            row.step = self._counters + item.counter
        self._groups = ffi.new("fgd_group[]", max(len(work.blocks), 1))
        self._folds = []
        #: the groups with an average
        self._averaging = []
        for i, block in enumerate(work.blocks):
            group, values = self._groups[i], block.values
            group.rule = kernels[i]
            _set_group(group, block)
            group.seed = work.seed
            self._folds.append((group, folding(block.rule), values, block.counter, block.carriers))
            if values["ema_decay"] is not None:
                self._averaging.append((group, values))
        self._options, self._report = ffi.new("fgd_options *"), ffi.new("fgd_report *")
        self._set: Options | None = None
        #: whether the norm was measured elsewhere
        self._told = False
        self._update = lib.fgd_update
        tables = (self._groups, len(work.blocks), table.rows, table.count)
        self._arguments = (*tables, self._options, *table.workspace(), self._report)

    def set_grads(self, items: Sequence[int], grads: Sequence[Array], at: Array) -> None:
        if self._packed[items].all() and all(g.flags.c_contiguous for g in grads):
            self._grad_column[items] = at
            return
        for i, grad in zip(items, grads, strict=True):
            self._table.set_grad(i, self._items[i], grad)
            self._packed[i] = self._in_c_order[i] and not self._table.rows[i].layout

    def move_grads(self, at: Array) -> bool:
        self._grad_column[:] = at
        return True

    def measure(self, options: Options) -> Measured:
        return self._table.measure(options)

    def step(self, options: Options, program: Program | None = None) -> Measured:
        if options is not self._set:
            _set_options(self._options, options)
            self._set, self._told = options, options.total_norm is not None
            self._clips_units = not math.isinf(options.clip_unit)
        counters, report = self._counters, self._report
        for group, fold, values, counter, carriers in self._folds:
            group.scalars = fold(values, counters[counter] + 1, carriers)
        for group, values in self._averaging:
            decay = values["ema_decay"]
            if decay is not None:  # as it is when another thread has just set it
                group.average_weight = 1.0 - decay
        update = self._update
        code = program.then(update, *self._arguments) if program else update(*self._arguments)
        if code:
            _check(code, report)
        if not report.measured:
            return UNMEASURED._replace(clip_coef=report.clip_coef) if self._clips_units else UNMEASURED
        norm = report.norm
        if norm < math.inf and not self._told:  # then every element is finite
            return _all_finite((norm, report.clip_coef, None, False))
        return _measured(report)

    def settle(self) -> int:
        return 0


def _set_group(group: Any, block: Block) -> None:
    values = block.values
    group.switches = sum(on << bit for bit, on in enumerate(block.rule.active(values).values()))
    group.maximize = values["maximize"]
    group.cautious = values["cautious"]
    group.rounding = ROUNDINGS.index(values["rounding"])
    group.state_rounding = STATE_ROUNDINGS.index(state_rounding(values))


def _called(entry: Any, table: Table, options: Options, *norms: Any) -> Measured:
    c_options, report = ffi.new("fgd_options *"), ffi.new("fgd_report *")
    _set_options(c_options, options)
    code = entry(table.rows, table.count, c_options, *norms, *table.workspace(), report)
    _check(code, report)
    return _measured(report) if report.measured else UNMEASURED


class NativeBackend:
    """See the module."""

    name = "native"
    memory = "host"

    def supports(self, rule: Rule, dtype: Any) -> bool:
        return is_built_in(rule) and code_of(np.dtype(dtype)) is not None

    def plan(self, work: Work) -> Plan:
        return Step(work)

    def measure(self, arrays: Sequence[Array], options: Options) -> Measured:
        return Table.of(arrays).measure(options)

    def norms(self, arrays: Sequence[Array], options: Options) -> list[float]:
        norms = ffi.new("double[]", max(len(arrays), 1))
        _called(lib.fgd_measure, Table.of(arrays), options, norms)
        return list(norms[0 : len(arrays)])

    def clip(self, arrays: Sequence[Array], options: Options) -> Measured:
        return Table.of(arrays, writing=True).clip(options)


BACKEND = NativeBackend()
