"""The C backend: turns work into the structs of csrc/fastgd.h and makes one call."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastgd._native import ffi, lib
from fastgd.arrays import Array, address, code_of
from fastgd.backends.base import UNMEASURED, Block, Item, Measured, Options, Plan, Program, Work, folding
from fastgd.backends.native_table import Table, called, check, measured, operands, set_options
from fastgd.rules import INTERNAL, RULES, Rule, is_built_in
from fastgd.settings import ROUNDINGS, STATE_ROUNDINGS, state_rounding


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


def compiled_kernel(block: Block, items: Sequence[Item]) -> int:
    """The row of the C table that a block's rule has."""
    return KERNELS[block.rule.name]


#: Measured from a tuple, in half the time its constructor takes
_all_finite = functools.partial(tuple.__new__, Measured)


#: (a block, its items) -> the row of the C table with its rule
KernelOf = Callable[[Block, Sequence[Item]], int]


class Step:
    """A step that is called again and again: the C structs stay, only the scalars are folded anew."""

    def __init__(self, work: Work, kernel_of: KernelOf = compiled_kernel) -> None:
        self._table = Table(len(work.items))
        self._kernel_of, self._seed = kernel_of, work.seed
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
        for i, item in enumerate(work.items):
            self._table.fill(i, item, work.blocks[item.block].rule)
            self._note_packed(i)
            self._table.rows[i].step = self._counters + item.counter
        self._options, self._report = ffi.new("fgd_options *"), ffi.new("fgd_report *")
        self._set: Options | None = None
        #: whether the norm was measured elsewhere
        self._told = False
        self._update = lib.fgd_update
        of = [item.block for item in work.items]
        self._compose(self._table, work.blocks, of, self._items)

    def _note_packed(self, i: int) -> None:
        row = self._table.rows[i]
        self._packed[i] = self._in_c_order[i] and not row.layout and not row.rows

    def _compose(
        self, table: Table, blocks: Sequence[Block], of: Sequence[int], items: Sequence[Item]
    ) -> None:
        """Makes the table what steps are of, each row of the block that `of` says. items: its own."""
        members: list[list[Item]] = [[] for _ in blocks]
        for item, number in zip(items, of, strict=True):
            members[number].append(item)
        self._used = table
        table.column("group", np.int32)[:] = of
        self._grad_column = table.column("grad")
        self._groups = ffi.new("fgd_group[]", max(len(blocks), 1))
        self._folds = []
        #: the groups with an average
        self._averaging = []
        for i, block in enumerate(blocks):
            group, values = self._groups[i], block.values
            group.rule = self._kernel_of(block, members[i])
            set_group(group, block)
            group.seed = self._seed
            self._folds.append((group, folding(block.rule, values), values, block.counter, block.carriers))
            if values["ema_decay"] is not None:
                self._averaging.append((group, values))
        tables = (self._groups, len(blocks), table.rows, table.count)
        self._arguments = (*tables, self._options, *table.workspace(), self._report)

    def set_grads(self, items: Sequence[int], grads: Sequence[Array], at: Array) -> None:
        if self._packed[items].all() and all(g.flags.c_contiguous for g in grads):
            self._grad_column[items] = at
            return
        for i, grad in zip(items, grads, strict=True):
            self._table.set_grad(i, self._items[i], grad)
            self._note_packed(i)

    def grad_addresses(self) -> Array | None:
        return self._used.column("grad")

    def arrange(
        self, chosen: Array, blocks: Sequence[Block], of: Sequence[int], exchanged: Mapping[int, Item]
    ) -> bool:
        for i, item in exchanged.items():
            self._items[i] = item._replace(grad=item.param)
            self._table.set_grad(i, self._items[i], item.grad)
            self._note_packed(i)
        table = self._table if len(chosen) == self._table.count else self._table.some(chosen)
        self._compose(table, blocks, of, [self._items[i] for i in chosen.tolist()])
        return True

    def measure(self, options: Options) -> Measured:
        return self._used.measure(options)

    def step(self, options: Options, program: Program | None = None) -> Measured:
        self._ready(options)
        update = self._update
        code = program.then(update, *self._arguments) if program else update(*self._arguments)
        return self._found(code)

    def fetching(self, options: Options, fetch: tuple[int, int]) -> Callable[[], Measured | None]:
        self._set_options(options)
        function, context = ffi.cast("fgd_fetch", fetch[0]), ffi.cast("void *", fetch[1])
        arguments = (*self._arguments, function, context)
        update, fold, found, failed = lib.fgd_update_fetched, self._fold, self._found, lib.FGD_ERROR_FETCH

        def step() -> Measured | None:
            fold()
            code = update(*arguments)
            return None if code == failed else found(code)

        return step

    def _ready(self, options: Options) -> None:
        """Brings options and scalars up to date."""
        if options is not self._set:
            self._set_options(options)
        self._fold()

    def _set_options(self, options: Options) -> None:
        set_options(self._options, options)
        self._set, self._told = options, options.total_norm is not None
        self._clips_units = not math.isinf(options.clip_unit)

    def _fold(self) -> None:
        counters = self._counters
        for group, fold, values, counter, carriers in self._folds:
            group.scalars = fold(values, counters[counter] + 1, carriers)
        for group, values in self._averaging:
            decay = values["ema_decay"]
            if decay is not None:  # as it is when another thread has just set it
                group.average_weight = 1.0 - decay

    def _found(self, code: int) -> Measured:
        report = self._report
        if code:
            check(code, report)
        if not report.measured:
            return UNMEASURED._replace(clip_coef=report.clip_coef) if self._clips_units else UNMEASURED
        norm = report.norm
        if norm < math.inf and not self._told:  # then every element is finite
            return _all_finite((norm, report.clip_coef, None, False))
        return measured(report)

    def settle(self) -> int:
        return 0


def set_group(group: Any, block: Block) -> None:
    """All of an fgd_group that holds for every step but its rule and seed."""
    values = block.values
    group.switches = sum(on << bit for bit, on in enumerate(block.rule.active(values).values()))
    group.maximize = values["maximize"]
    group.cautious = values["cautious"]
    group.rounding = ROUNDINGS.index(values["rounding"])
    group.state_rounding = STATE_ROUNDINGS.index(state_rounding(values))


class NativeBackend:
    """See the module."""

    name = "native"
    memory = "host"
    rearranges = True

    def supports(self, rule: Rule, dtype: Any) -> bool:
        return is_built_in(rule) and code_of(np.dtype(dtype)) is not None

    def plan(self, work: Work) -> Plan:
        return Step(work)

    def measure(self, arrays: Sequence[Array], options: Options) -> Measured:
        return Table.of(arrays).measure(options)

    def norms(self, arrays: Sequence[Array], options: Options) -> list[float]:
        norms = ffi.new("double[]", max(len(arrays), 1))
        called(lib.fgd_measure, Table.of(arrays), options, norms)
        return list(norms[0 : len(arrays)])

    def clip(self, arrays: Sequence[Array], options: Options) -> Measured:
        return Table.of(arrays, writing=True).clip(options)


BACKEND = NativeBackend()
