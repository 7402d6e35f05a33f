"""The kernels for second moments by rows and columns: sums of squares, new averages, and their factors.

In the order of backends/reference_factored.py: 16 lanes over a row; a column down each band of rows, and band
after band.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastgd.backends.reference_factored import BAND, BAND_ELEMENTS
from fastgd.cuda.element import Variant, traced, traced_line
from fastgd.cuda.lanes import AHEAD, F64, Lanes, added
from fastgd.cuda.layout import CHUNK, LANES, TENSOR_BYTES, TILE_BYTES, control, tensor
from fastgd.cuda.passes import THREADS, Operand, Places, Uniform, gradient_of, states_of
from fastgd.cuda.update import ARGUMENTS, Made, pass_text
from fastgd.cuda.writer import MANY, Text, Writer
from fastgd.tracing import Trace, code_of

I64 = np.dtype(np.int64)


def _begin(name: str, threads: int, pieces: Sequence[str]) -> Writer:
    """A kernel whose tiles are pieces of a tensor's matrices; loads these numbers and addresses."""
    writer = Writer(name, ARGUMENTS, threads)
    with writer.indented(f"if load_i64(numbers + {control('skipped')}) != 0:"):
        writer.line("return")
    writer.line(f"tensor, tile = load_i64x2(tiles + block() * {TILE_BYTES})")
    writer.line(f"of = tensors + tensor * {TENSOR_BYTES}")
    for column in ("size", "lines", "columns", *pieces):
        writer.line(f"{column} = load_i64(of + {tensor(column)})")
    return writer


def _squares(writer: Writer, variant: Variant, step: str) -> None:
    """Writes the sum `squares` of prepared gradients from `first`, `step` apart, to `end`."""
    made = traced(variant)
    g = made.seen["g"].astype(F64)
    squares: list[Any] = [g * g]
    needed = made.trace.arguments(squares)
    operands = [gradient_of(variant)]
    uniform = Uniform(writer, variant)
    uniform.addresses(operands)
    uniform.scalars(needed)
    uniform.lines(needed)
    places = Places(writer, variant.layout, operands)
    known = uniform.operations(made.trace, squares)
    add = added(writer)
    lanes = Lanes(writer, ["squares"])

    def element(suffix: str, number: str) -> dict[str, str]:
        uniform.element(needed, suffix, number)
        given = {name: name + suffix if uniform.varies(name) else name for name in needed}
        (value,) = writer.traced(made.trace, squares, given, suffix[1:], dict(known))
        return {"squares": add.format("squares", value)}

    lanes.loop(operands, places, element, step=step)
    if step == str(LANES):
        lanes.fold({"squares": add})


@functools.cache
def row_sums_text(variant: Variant, threads: int = THREADS) -> Text:
    """The kernel that sums squares over rows; a tile is as many as a block has lanes for."""
    writer = _begin("row_sums", threads, ["row_sums"])
    writer.lines(f"""
lane = thread() % {LANES}
number = tile * {threads // LANES} + thread() // {LANES}
first = number * columns
end = first + columns
if end > size:
    end = first""")
    _squares(writer, variant, str(LANES))
    with writer.indented("if lane == 0 and number * columns < size:"):
        writer.line("store_f64(row_sums + number * 8, squares)")
    return writer.done()


@functools.cache
def band_sums_text(variant: Variant, threads: int = THREADS) -> Text:
    """The kernel that sums squares down the columns of each band: a thread for each."""
    writer = _begin("band_sums", threads, ["band_sums"])
    writer.lines(f"""
band = i64({BAND})
if columns > {CHUNK}:
    band = {BAND_ELEMENTS} // columns
    if band < 1:
        band = i64(1)
bands = (lines + band - 1) // band
number = tile * {threads} + thread()
row = number // columns % bands * band
rows = band
if rows > lines - row:
    rows = lines - row
matrix = number // columns // bands
lane = i64(0)
first = (matrix * lines + row) * columns + number % columns
end = first + rows * columns
if first >= size:
    end = first""")
    _squares(writer, variant, "columns")
    with writer.indented("if first < size:"):
        writer.line("store_f64(band_sums + number * 8, squares)")
    text = writer.done()
    return text if variant.layout == "gapless" else text._replace(registers=MANY)


@functools.cache
def column_sums_text(threads: int = THREADS) -> Text:
    """The kernel that adds up bands into `work` of the columns: a thread for each.

    Of the lines' own rows of tensors: `lines` is the number of bands, `size` that of columns of all matrices.
    """
    writer = _begin("column_sums", threads, ["band_sums", "work"])
    zero = writer.number(0.0, F64)
    add = added(writer)
    writer.line(f"number = tile * {threads} + thread()")
    with writer.indented("if number < size:"):
        writer.line(f"total, band = {zero}, i64(0)")
        writer.line("at = band_sums + (number // columns * lines * columns + number % columns) * 8")
        with writer.indented("while band < lines:"):
            writer.line(f"total = {add.format('total', 'load_f64(at + band * columns * 8)')}")
            writer.line("band += 1")
        writer.line("store_f64(work + number * 8, total)")
    return writer.done()


@functools.cache
def line_text(variant: Variant, slot: str, threads: int = THREADS) -> Text:
    """The kernel that takes sums of rows or columns into their averages.

    Of the lines' own rows of tensors: `width` is how many squares a sum is of; the averages of rows are left
    in `work`, the factors of columns in `copy`.
    """
    made = traced_line(variant, slot)
    total = Operand("total", "work", "float64", writes="total" in made.outputs)
    operands = [*states_of(variant, [slot]), total]
    if "factor" in made.outputs:
        operands.append(Operand("factor", "copy", variant.real.name, reads=False))
    plain = variant._replace(layout="gapless")
    return pass_text("lines", plain, Made(made.trace, made.outputs, operands), threads, np.dtype(np.float64))


@functools.cache
def row_factors_text(variant: Variant, threads: int = THREADS) -> Text:
    """The kernel that makes the factors of rows of their averages: a block for each matrix."""
    factored = variant.of.factored
    assert factored is not None
    writer = _begin("row_factors", threads, ["row_sums", "band_sums", "row_factors"])
    trace = Trace()
    names = ("row", "mean", *(f"s_{name}" for name in variant.of.scalars))
    row, mean, *scalars = (trace.argument(name, F64) for name in names)
    s = SimpleNamespace(**dict(zip(variant.of.scalars, scalars, strict=True)))
    factor: Any = factored.row_factor(np, row, mean, s)
    outputs = [factor.astype(variant.real)]
    needed = trace.arguments(outputs)
    # added up by one thread, from the first row to the last, and kept where sums of bands are done with
    writer.line("at = row_sums + tile * lines * 8")
    writer.line("mean_at = band_sums + tile * 8")
    with writer.indented("if thread() == 0:"):
        zero, add = writer.number(0.0, F64), added(writer)
        writer.line(f"total, i = {zero}, i64(0)")
        for count in (AHEAD, 1):
            with writer.indented(f"while i + {count} <= lines:"):
                for j in range(count):
                    writer.line(f"row_{j} = load_f64(at + (i + {j}) * 8)")
                for j in range(count):
                    writer.line(f"total = {add.format('total', f'row_{j}')}")
                writer.line(f"i += {count}")
        divide, convert = writer.operation("div", F64, F64), writer.operation("convert", I64, F64)
        writer.line(f"store_f64(mean_at, {divide}(total, {convert}(lines)))")
    writer.line("barrier()")
    Uniform(writer, variant, F64).scalars(needed)
    writer.line("mean = load_f64(mean_at)")
    writer.line("i = thread()")
    real = variant.real
    with writer.indented("while i < lines:"):
        writer.line("row = load_f64(at + i * 8)")
        (value,) = writer.traced(trace, outputs, {name: name for name in needed}, "f")
        place = f"row_factors + (tile * lines + i) * {real.itemsize}"
        writer.line(f"store_{code_of(real)}({place}, {value})")
        writer.line(f"i += {threads}")
    return writer.done()
