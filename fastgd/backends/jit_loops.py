"""Loops over elements from the Python bodies of rules: traced, written down, and compiled by Numba.

A loop is an fgd_update_kernel of csrc/fastgd.h for some switches of a rule, in one precision.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastgd.backends.jit_memory import load_intrinsic, store_intrinsic
from fastgd.backends.reference_norms import clipped
from fastgd.rules import Rule
from fastgd.tracing import DType, Source, Trace, code_of


class Loop(NamedTuple):
    """A loop as text, and what its names are."""

    text: str
    source: Source
    real: DType
    #: how many operands there are in memory: parameter, gradient and the slots in use
    operands: int


def loop_of(rule: Rule, on: dict[str, bool], real: Any) -> Loop:
    """The loop of a rule under these switches; TraceError for a body that is no formula of one element."""
    real = np.dtype(real)
    slots = {k: s.name for k, s in enumerate(rule.slots) if s.switch is None or on[s.switch]}
    trace = Trace()

    def symbol(name: str) -> Any:
        return trace.argument(name, real)

    p, g = symbol("p"), clipped(*map(symbol, ("g", "unscale", "bound", "coef")))
    x = {name: symbol(f"slot{k}") for k, name in slots.items()}
    s = SimpleNamespace(**{name: symbol(f"s{i}") for i, name in enumerate(rule.scalars)})

    def body() -> list[Any]:
        state = SimpleNamespace(**x)
        return [rule.body(np, p, g, state, s, SimpleNamespace(**on)), *(vars(state)[n] for n in x)]

    outputs = [trace.convert(output, real) for output in trace.follow(body)]
    source = trace.source(outputs)
    return Loop(_text(source, list(slots), len(rule.scalars), code_of(real)), source, real, 2 + len(slots))


def _text(source: Source, slots: list[int], n_scalars: int, real: str) -> str:
    """Reads what is used once before the loop, or element by element in it."""
    before = [f"to_{slot} = slots[{slot}]" for slot in slots]
    before += [f"{name} = narrowed(prepare[{i}])" for i, name in enumerate(("unscale", "bound", "coef"))]
    before += [f"s{i} = narrowed(scalars[{i}])" for i in range(n_scalars) if f"s{i}" in source.arguments]
    inside = ["p = load_0(param, i)"] if "p" in source.arguments else []
    inside += ["g = load_1(grad, i)"] if "g" in source.arguments else []
    inside += [
        f"slot{slot} = load_{k}(to_{slot}, i)"
        for k, slot in enumerate(slots, 2)
        if f"slot{slot}" in source.arguments
    ]
    inside += source.lines
    targets = ["param", *(f"to_{slot}" for slot in slots)]
    numbers = [0, *range(2, 2 + len(slots))]
    inside += [
        f"store_{k}({target}, i, {value})"
        for k, target, value in zip(numbers, targets, source.outputs, strict=True)
    ]
    head = f"def loop_{real}(n, param, grad, slots, scalars, switches, prepare):"
    lines = [*(f"    {line}" for line in before), "    for i in range(n):"]
    return "\n".join([head, *lines, *(f"        {line}" for line in inside), ""])


# ---- Compiling --------------------------------------------------------------------------------------

#: loops that are compiled, which must stay as long as the process: C holds their addresses
_COMPILED: dict[str, Any] = {}


def compiled(loop: Loop) -> int:
    """The address of the loop as machine code. Not to be called by several threads at once."""
    key = "\n".join([loop.text, *(f"{n} = {c.what!r}" for n, c in loop.source.constants.items())])
    if key not in _COMPILED:
        _COMPILED[key] = _compile(loop)
    return int(_COMPILED[key].address)


@functools.cache
def _signature() -> Any:
    import numba

    types: Any = numba.types
    pointers, numbers = types.CPointer(types.voidptr), types.CPointer(types.float64)
    operands = (types.int64, types.voidptr, types.voidptr, pointers, numbers, types.uint32, numbers)
    return types.void(*operands)


def _compile(loop: Loop) -> Any:
    import numba
    import numba.extending

    from fastgd import llvm

    source, types = loop.source, numba.types
    functions = source.functions.values()
    names = llvm.namespace(numba.extending, types, functions, source.constants, rounded=False)
    for k in range(loop.operands):
        names[f"load_{k}"] = load_intrinsic(loop.real, k, loop.operands)
        names[f"store_{k}"] = store_intrinsic(loop.real, k, loop.operands)
    names["narrowed"] = llvm.numba_type(types, loop.real)
    exec(compile(loop.text, "<loop of a rule>", "exec"), names)
    function = names[f"loop_{code_of(loop.real)}"]
    return numba.cfunc(_signature())(function)
