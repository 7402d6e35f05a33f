"""Embedding on CUDA: rows gathered, and their gradients added in order by threads that share no row.

On the way back each thread has a column, and the rows whose numbers leave the same remainder; it goes through
all indices in order, so that no two threads write to one place and nothing has to be sorted. An index out of
range gives NaN, and has no gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastgd.cuda.device import WIDEST
from fastgd.cuda.layers.launching import Run, blocks_of
from fastgd.cuda.passes import WIDE, Operand
from fastgd.cuda.simulation import SIMULATED
from fastgd.cuda.writer import Text, Writer
from fastgd.nn.reference_embedding import Embedding

#: indices that a thread loads before it looks at them
AHEAD = 8

#: threads that the way back is spread over at least, as far as rows and columns go
THREADS = 64 if SIMULATED else 1 << 16


@functools.cache
def gather_text(real: Any, width: int) -> Text:
    """The kernel that copies rows, `width` elements a thread; the argument dim counts such vectors."""
    writer = Writer("embedding_forward", ["n", "rows", "dim", "indices_at", "weight_at", "y_at"], WIDE)
    operand = Operand("w", "", real.name)
    many = f"x{width}" if width > 1 else ""
    size = operand.size * width
    names = [f"value_{j}" for j in range(width)]
    nan = writer.number(np.nan, real)
    writer.lines(f"""
i = block() * {WIDE} + thread()
if i >= n * dim:
    return
place = i // dim
row = load_i64(indices_at + place * 8)
{", ".join(names)} = {", ".join([nan] * width)}""")
    with writer.indented("if row >= 0 and row < rows:"):
        at = f"weight_at + (row * dim + i - place * dim) * {size}"
        writer.line(f"{', '.join(names)} = load_{operand.code}{many}({at})")
    writer.line(f"store_{operand.code}{many}(y_at + i * {size}, {', '.join(names)})")
    return writer.done()


@functools.cache
def scatter_text(real: Any) -> Text:
    """The kernel that adds rows; `parts`, a power of two, is what row numbers are divided by."""
    arguments = ["n", "rows", "dim", "parts", "padding", "indices_at", "dy_at", "dweight_at"]
    writer = Writer("embedding_backward", arguments, WIDE)
    operand = Operand("g", "", real.name)
    code, size = operand.code, operand.size
    add = writer.operation("add", operand.dtype, operand.dtype)
    writer.lines(f"""
number = block() * {WIDE} + thread()
part = number // dim
col = number - part * dim
if part >= parts:
    return
i = i64(0)""")
    for count in (AHEAD, 1):
        with writer.indented(f"while i + {count - 1} < n:"):
            for j in range(count):
                writer.line(f"row_{count}{j} = load_i64(indices_at + (i + {j}) * 8)")
            for j in range(count):
                row = f"row_{count}{j}"
                own = f"{row} & (parts - 1) == part and {row} >= 0 and {row} < rows and {row} != padding"
                with writer.indented(f"if {own}:"):
                    writer.lines(f"""
at = dweight_at + ({row} * dim + col) * {size}
store_{code}(at, {add}(load_{code}(at), load_{code}(dy_at + ((i + {j}) * dim + col) * {size})))""")
            writer.line(f"i += {count}")
    return writer.done()


def gather(run: Run, real: Any, n: int, rows: int, dim: int, indices: Any, of: Any, to: Any) -> None:
    """to [n, dim] = the rows of an array [rows, dim] that the indices say."""
    width = WIDEST // real.itemsize
    if dim % width or (of.pointer | to.pointer) % WIDEST:
        width = 1
    vectors = dim // width
    run(gather_text(real, width), blocks_of(n * vectors, WIDE), n, rows, vectors, indices, of, to)


def forward(
    run: Run, real: Any, of: Embedding, n: int, rows: int, dim: int, indices: Any, weight: Any, y: Any
) -> None:
    gather(run, real, n, rows, dim, indices, weight, y)


def backward(
    run: Run, real: Any, of: Embedding, n: int, rows: int, dim: int, indices: Any, dy: Any, dweight: Any
) -> None:
    run.clear(dweight)
    parts = 1 << max(min(rows, THREADS // max(dim, 1)), 1).bit_length() - 1
    arguments = n, rows, dim, parts, of.padding, indices, dy, dweight
    run(scatter_text(real), blocks_of(parts * dim, WIDE), *arguments)


ENTRIES = {"embedding_forward": forward, "embedding_backward": backward}
