"""The kernels that sum up: squares over 16 lanes of a chunk, in the order that the CPU's kernels keep.

16 threads take a chunk, one for each lane: element i of it goes to lane i modulo 16, and lanes are put
together in halves. What is summed is traced from the reference.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from fastgd.arrays import dtype_named
from fastgd.backends.reference_norms import square
from fastgd.backends.reference_update import descends
from fastgd.cuda.element import Variant, traced
from fastgd.cuda.lanes import F64, Lanes, added, larger
from fastgd.cuda.layout import (
    CHUNK,
    CHUNK_BYTES,
    LANES,
    SUM_BYTES,
    TENSOR_BYTES,
    TRIED_BYTES,
    control,
    tensor,
)
from fastgd.cuda.passes import THREADS, Operand, Places, Uniform, operands_of
from fastgd.cuda.writer import FEW, MANY, Text, Writer
from fastgd.settings import CODED
from fastgd.storage import load
from fastgd.tracing import Trace, code_of

ARGUMENTS = ("tensors", "chunks", "count", "sums", "numbers", "scopes")


def _of_chunk(writer: Writer, sums: Sequence[str]) -> Lanes:
    """Sums over the chunk of these threads, which is of the tensor `of`."""
    writer.lines(f"""
lane = thread() % {LANES}
chunk = block() * {writer.threads // LANES} + thread() // {LANES}
tensor, part, number = i64(0), i64(0), i64(0)
if chunk < count:
    tensor, part = load_i64x2(chunks + chunk * {CHUNK_BYTES})
    number = load_i64(chunks + chunk * {CHUNK_BYTES} + 16)
of = tensors + tensor * {TENSOR_BYTES}
first = part * {CHUNK}
end = first + {CHUNK}
size = load_i64(of + {tensor("size")})
if end > size:
    end = size
if chunk >= count:
    end = first""")
    return Lanes(writer, sums)


def _stored(lanes: Lanes, to: str, size: int) -> None:
    """Stores the sums at `to` by the chunk's number."""
    with lanes.writer.indented("if lane == 0 and chunk < count:"):
        for k, name in enumerate(lanes.sums):
            lanes.writer.line(f"store_f64({to} + number * {size} + {8 * k}, {name})")


# ---- Gradients --------------------------------------------------------------------------------------


@functools.cache
def sums_text(
    grad: str,
    real: str,
    *,
    clamped: bool,
    scaled: bool = False,
    layout: str = "gapless",
    column: str = "grad",
    threads: int = THREADS,
) -> Text:
    """The kernel that measures gradients in a dtype, chunk by chunk.

    real: what they are computed in. clamped: whether they are limited to +-bound before. scaled: takes the
    squares of the numbers times the powers of two in the rows of all and of its own scope, if there is need;
    else it gives the sum of squares and the largest magnitude. column: of a tensor's row, where they are.
    """
    writer = Writer("sums", ARGUMENTS, threads)
    if scaled:
        with writer.indented(f"if load_i64(numbers + {control('rescaled')}) == 0:"):
            writer.line("return")
    names = ("of_all", "of_scope") if scaled else ("total", "largest")
    lanes = _of_chunk(writer, names)
    operand = Operand("g", column, grad)
    writer.line(f"g_at = load_i64(of + {tensor(column)})")
    # the gradients of rows have no gaps themselves
    places = Places(writer, "strided" if layout == "strided" else "gapless", [operand])
    kind, code = dtype_named(real), code_of(dtype_named(real))
    given: dict[str, str] = {}
    if clamped or scaled:
        for name in ("unscale", "bound"):
            place = control(f"{name}32" if kind.itemsize == 4 else name)
            writer.line(f"{name} = load_{code}(numbers + {place})")
        given = {"unscale": "unscale", "bound": "bound"}
    if scaled:
        writer.line("all_scale = load_f64(scopes + 16)")
        writer.line(f"scope_scale = load_f64(load_i64(of + {tensor('scope')}) + 16)")
        given |= {"all_scale": "all_scale", "scope_scale": "scope_scale"}
    trace = Trace()
    stored: Any = trace.argument("g", operand.dtype)
    g: Any = load(stored, kind)

    def limits() -> tuple[Any, Any]:
        return trace.argument("unscale", g.dtype), trace.argument("bound", g.dtype)

    results: list[Any]
    if scaled:
        scales = (trace.argument(name, F64) for name in ("all_scale", "scope_scale"))
        results = [square(g, *limits(), scale) for scale in scales]
    elif clamped:
        results = [square(g, *limits(), 1.0), abs(g).astype(F64)]
    else:
        wide = g.astype(F64)
        results = [wide * wide, abs(g).astype(F64)]
    add, most = added(writer), larger(writer)
    how = dict(zip(names, (add, add if scaled else most), strict=True))

    def element(suffix: str, number: str) -> dict[str, str]:
        made = writer.traced(trace, results, {**given, "g": f"g{suffix}"}, suffix[1:])
        return {name: how[name].format(name, value) for name, value in zip(names, made, strict=True)}

    lanes.loop([operand], places, element)
    lanes.fold(how)
    _stored(lanes, "sums", SUM_BYTES)
    return writer.done()


# ---- What trust ratios and cautious updates are made of -------------------------------------------------


TRIAL_ARGUMENTS = ("tensors", "chunks", "count", "tried", "numbers")


@functools.cache
def trial_text(variant: Variant, threads: int = THREADS) -> Text:
    """The kernel that tries a step chunk by chunk: squares of the parameter and of the other vector of its
    trust ratio, and how many elements a cautious update changes."""
    writer = Writer("trial", TRIAL_ARGUMENTS, threads)
    with writer.indented(f"if load_i64(numbers + {control('skipped')}) != 0:"):
        writer.line("return")
    names = ("params", "others", "descending")
    lanes = _of_chunk(writer, names)
    made = traced(variant)
    trace, tried = made.trace, made.tried
    results: dict[str, Any] = {}
    for name, vector in (("params", "param"), ("others", "other")):
        if vector in tried:
            wide = tried[vector].astype(F64)
            results[name] = wide * wide
    if "change" in tried:
        change, g = (tried[name] for name in ("change", "g"))
        results["descending"] = descends(change, g).astype(F64)
    outputs = list(results.values())
    needed = trace.arguments(outputs)
    uniform = Uniform(writer, variant)
    operands = [o for o in operands_of(variant) if o.name in needed]
    uniform.addresses(operands)
    uniform.scalars(needed)
    uniform.lines(needed)
    places = Places(writer, variant.layout, operands)
    known = uniform.operations(trace, outputs)
    add = added(writer)

    def element(suffix: str, number: str) -> dict[str, str]:
        uniform.element(needed, suffix, number)
        uniform.scales(needed, suffix, number)
        given = {name: name + suffix if uniform.varies(name) else name for name in needed}
        values = writer.traced(trace, outputs, given, suffix[1:], dict(known))
        return {name: add.format(name, value) for name, value in zip(results, values, strict=True)}

    lanes.loop(operands, places, element, ahead=2)
    lanes.fold(dict.fromkeys(names, add))
    _stored(lanes, "tried", TRIED_BYTES)
    return writer.done(MANY if CODED in variant.state or variant.real == F64 else FEW)
