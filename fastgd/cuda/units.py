"""The kernels that clip gradients unit by unit: norms of units, their coefficients, the smallest of all."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastgd.backends.reference_norms import unit_coef
from fastgd.cuda.device import WARP
from fastgd.cuda.element import Variant, traced
from fastgd.cuda.lanes import AHEAD, F64, Lanes, added
from fastgd.cuda.layout import (
    CHUNK,
    LANES,
    REPORT_BYTES,
    REPORTS,
    TENSOR_BYTES,
    TILE_BYTES,
    control,
    tensor,
)
from fastgd.cuda.passes import THREADS, Places, Uniform, gradient_of, operands_of
from fastgd.cuda.writer import Text, Writer
from fastgd.tracing import Trace, code_of

#: bytes of what a piece of a unit sums up to: squares of the parameter, and of the gradient
UNIT_BYTES = 16

ARGUMENTS = ("tensors", "tiles", "numbers")


def _begin(name: str, arguments: Sequence[str], threads: int) -> Writer:
    writer = Writer(name, arguments, threads)
    with writer.indented(f"if load_i64(numbers + {control('skipped')}) != 0:"):
        writer.line("return")
    return writer


def _of_tile(writer: Writer) -> None:
    """Which tensor, and which of its pieces or units; its units, and the pieces of each."""
    writer.lines(f"""
tensor, tile = load_i64x2(tiles + block() * {TILE_BYTES})
of = tensors + tensor * {TENSOR_BYTES}
unit = load_i64(of + {tensor("unit")})
units = load_i64(of + {tensor("size")}) // unit
pieces = (unit + {CHUNK - 1}) // {CHUNK}
unit_sums = load_i64(of + {tensor("unit_sums")})""")


def pieces_in(unit: int) -> int:
    """How many pieces a unit of so many elements is summed in."""
    return -(-unit // CHUNK)


@functools.cache
def unit_sums_text(variant: Variant, threads: int = THREADS) -> Text:
    """The kernel that sums squares of each piece of each unit; a tile is as many as a block has lanes for."""
    variant = variant._replace(units=False)
    writer = _begin("unit_sums", ARGUMENTS, threads)
    _of_tile(writer)
    writer.lines(f"""
lane = thread() % {LANES}
piece = tile * {threads // LANES} + thread() // {LANES}
number = piece // pieces
first = number * unit + piece % pieces * {CHUNK}
end = first + {CHUNK}
if end > (number + 1) * unit:
    end = (number + 1) * unit
if number >= units:
    end = first""")
    names = ("params", "grads")
    lanes = Lanes(writer, names)
    made = traced(variant)
    wide: list[Any] = [made.seen[name].astype(F64) for name in ("param", "prepared")]
    outputs = [value * value for value in wide]
    needed = made.trace.arguments(outputs)
    others = [o for o in operands_of(variant) if o.name in needed and o.name != "g"]
    operands = [*others, gradient_of(variant)]
    uniform = Uniform(writer, variant)
    uniform.addresses(operands)
    uniform.scalars(needed)
    places = Places(writer, variant.layout, operands)
    known = uniform.operations(made.trace, outputs)
    add = added(writer)

    def element(suffix: str, number: str) -> dict[str, str]:
        given = {name: name + suffix if uniform.varies(name) else name for name in needed}
        values = writer.traced(made.trace, outputs, given, suffix[1:], dict(known))
        return {name: add.format(name, value) for name, value in zip(names, values, strict=True)}

    lanes.loop(operands, places, element, ahead=4)
    lanes.fold(dict.fromkeys(names, add))
    with writer.indented("if lane == 0 and number < units:"):
        writer.line(f"store_f64x2(unit_sums + piece * {UNIT_BYTES}, params, grads)")
    return writer.done()


@functools.cache
def unit_coefs_text(real: np.dtype[Any], threads: int = THREADS) -> Text:
    """The kernel that makes coefficients, in `real`, of sums: a thread for each unit.

    `least` receives the smallest of each warp.
    """
    writer = _begin("unit_coefs", (*ARGUMENTS, "least"), threads)
    _of_tile(writer)
    zero = writer.number(0.0, F64)
    writer.lines(f"""
number = tile * {threads} + thread()
coefs = load_i64(of + {tensor("unit_coefs")})
clip_unit = load_f64(numbers + {control("clip_unit")})
unit_eps = load_f64(numbers + {control("unit_eps")})
params, grads = {zero}, {zero}
piece = number * pieces
last = piece + pieces
if number >= units:
    last = piece""")
    add = added(writer)
    with writer.indented("while piece < last:"):
        writer.line(f"param, grad = load_f64x2(unit_sums + piece * {UNIT_BYTES})")
        writer.line(f"params, grads = {add.format('params', 'param')}, {add.format('grads', 'grad')}")
        writer.line("piece += 1")
    trace = Trace()
    names = ("params", "grads", "clip_unit", "unit_eps")
    params, grads, clip_unit, unit_eps = (trace.argument(name, F64) for name in names)
    norms: list[Any] = [np.sqrt(params), np.sqrt(grads)]
    coef: Any = unit_coef(norms[0], norms[1], SimpleNamespace(clip_unit=clip_unit, unit_eps=unit_eps))
    made = writer.traced(trace, [coef, coef.astype(real)], {name: name for name in names}, "c")
    one = writer.number(1.0, F64)
    writer.line(f"coef = {made[0]} if number < units else {one}")
    with writer.indented("if number < units:"):
        writer.line(f"store_{code_of(real)}(coefs + number * {real.itemsize}, {made[1]})")
    _least_of_warp(writer)
    with writer.indented(f"if thread() % {WARP} == 0:"):
        warp = f"block() * {threads // WARP} + thread() // {WARP}"
        writer.line(f"store_f64(least + ({warp}) * 8, coef)")
    return writer.done()


def _least(writer: Writer, other: str, suffix: str) -> None:
    """Writes `coef` anew: the smaller of it and another, NaN when one is."""
    trace = Trace()
    smaller: Any = np.minimum(trace.argument("coef", F64), trace.argument("other", F64))
    (name,) = writer.traced(trace, [smaller], {"coef": "coef", "other": other}, suffix)
    writer.line(f"coef = {name}")


def _least_of_warp(writer: Writer) -> None:
    distance = WARP // 2
    while distance:
        writer.line(f"other = shuffle_f64(coef, thread() % {WARP} ^ {distance})")
        _least(writer, "other", f"w{distance}")
        distance //= 2


@functools.cache
def least_coef_text() -> Text:
    """The kernel that puts the smallest coefficient of all units into the last report: one warp."""
    writer = _begin("least_coef", ("numbers", "least", "count"), WARP)
    one = writer.number(1.0, F64)
    writer.line(f"coef = {one}")
    writer.line("at = thread()")
    for count in (AHEAD, 1):
        with writer.indented(f"while at + {(count - 1) * WARP} < count:"):
            for j in range(count):
                writer.line(f"other_{j} = load_f64(least + (at + {j * WARP}) * 8)")
            for j in range(count):
                _least(writer, f"other_{j}", f"a{count}{j}")
            writer.line(f"at += {count * WARP}")
    _least_of_warp(writer)
    with writer.indented("if thread() == 0:"):
        writer.lines(f"""
issued = load_i64(numbers + {control("issued")})
report = load_i64(numbers + {control("reports")}) + (issued - 1) % {REPORTS} * {REPORT_BYTES}
store_f64(report + 8, coef)""")
    return writer.done()
