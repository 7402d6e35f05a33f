"""The native backend with loops that Numba compiles from the Python bodies of rules, at their first step.

So it has every rule that is a formula of one element, a user's own included, with all that the native backend
does around its loops: storage formats, clipping, threads. Numba is imported at the first step.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastgd._native import ffi, lib
from fastgd.arrays import code_of
from fastgd.backends.base import Block, Item, Plan, Work
from fastgd.backends.jit_loops import compiled, loop_of
from fastgd.backends.native import NativeBackend, Step
from fastgd.backends.native_table import error_text
from fastgd.rules import Rule
from fastgd.storage import arithmetic

if find_spec("numba") is None:
    raise ImportError("it needs numba, which is not installed: pip install 'fastgd[jit]'")

#: (id of a rule, its switches, the precisions) -> (the rule, which keeps the id, and its row of the C table)
_ROWS: dict[tuple[Any, ...], tuple[Rule, int]] = {}
#: what a row consists of -> its number: rules that are the same but for their names share it
_ADDED: dict[tuple[Any, ...], int] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    """The thread that held the lock does not exist in the child."""
    global _lock
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _row_of(rule: Rule, on: dict[str, bool], reals: tuple[str, ...]) -> int:
    key = (id(rule), tuple(on.values()), reals)
    with _lock:
        if key not in _ROWS:
            _ROWS[key] = rule, _added(rule, on, reals)
        return _ROWS[key][1]


def _added(rule: Rule, on: dict[str, bool], reals: tuple[str, ...]) -> int:
    """The row of the C table with the loops of a rule under these switches, in these precisions."""
    loops = {real: compiled(loop_of(rule, on, real)) for real in reals}
    slots = tuple((slot.name, slot.switch, slot.unsigned) for slot in rule.slots)
    parts = (tuple(loops.items()), slots, tuple(rule.switches), rule.scalars, rule.whole is not None)
    if parts not in _ADDED:
        _ADDED[parts] = _add(rule, loops)
    return _ADDED[parts]


def _add(rule: Rule, loops: dict[str, int]) -> int:
    switches = list(rule.switches)
    texts = {
        field: [ffi.new("char[]", name.encode()) for name in names]
        for field, names in (
            ("slots", [slot.name for slot in rule.slots]),
            ("switches", switches),
            ("scalars", rule.scalars),
        )
    }
    # a name is what C tells rows apart by; this one is no rule's of the table, nor another user's
    name = ffi.new("char[]", f"jit {len(_ADDED)}".encode())
    row = ffi.new(
        "fgd_rule *",
        {
            "name": name,
            "n_slots": len(rule.slots),
            "n_switches": len(switches),
            "n_scalars": len(rule.scalars),
            **texts,
            "slot_switch": [-1 if s.switch is None else switches.index(s.switch) for s in rule.slots],
            "slot_unsigned": [int(slot.unsigned) for slot in rule.slots],
            "decay": rule.scalars.index("decay") if "decay" in rule.scalars else -1,
            **dict.fromkeys(("trust", "row_slot", "col_slot"), -1),
            "whole": int(rule.whole is not None),
        },
    )
    kernels = [ffi.cast("fgd_update_kernel", loops.get(real, 0)) for real in ("float32", "float64")]
    index: int = lib.fgd_rule_add(row, *kernels)
    if index < 0:
        raise RuntimeError(f"{rule.title} cannot be added to the compiled rules: {error_text(index)}")
    return index


def _kernel_of(block: Block, items: Sequence[Item]) -> int:
    reals = {np.dtype(arithmetic(item.param.dtype)).name for item in items}
    return _row_of(block.rule, block.rule.active(block.values), tuple(sorted(reals)))


class JitBackend(NativeBackend):
    """See the module."""

    name = "jit"

    def supports(self, rule: Rule, dtype: Any) -> bool:
        of_lines = any(slot.over is not None for slot in rule.slots)
        return rule.elementwise and not of_lines and code_of(np.dtype(dtype)) is not None

    def plan(self, work: Work) -> Plan:
        return Step(work, _kernel_of)


BACKEND = JitBackend()
