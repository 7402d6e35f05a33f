"""The kernels around products of matrices: what is made orthogonal, its scale, and the polynomial."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any

import numpy as np

from fastgd.cuda.element import Variant, traced_momentum
from fastgd.cuda.lanes import F64, added
from fastgd.cuda.layout import SUM_BYTES, control
from fastgd.cuda.passes import THREADS, Operand, Uniform, gradient_of, states_of
from fastgd.cuda.update import Made, pass_text
from fastgd.cuda.writer import Text, Writer
from fastgd.tracing import Trace, code_of

I64 = np.dtype(np.int64)

#: elements that a thread makes
EACH = 8


@functools.cache
def momentum_text(variant: Variant, threads: int = THREADS) -> Text:
    """The kernel that makes new state, and minus the step so far in `work`."""
    made = traced_momentum(variant)
    work = Operand("work", "work", variant.real.name, reads=False)
    operands = [gradient_of(variant), *states_of(variant, variant.slots), work]
    return pass_text("momentum", variant, Made(made.trace, made.outputs, operands), threads)


@functools.cache
def scale_text(variant: Variant) -> Text:
    """The kernel that finds what a matrix is multiplied by at first: one thread.

    of: the tensor's row; sums: of the chunks from `first` to `last`; to: receives it, in what is computed in.
    """
    writer = Writer("scale", ("of", "sums", "first", "last", "to", "numbers"), 32)
    with writer.indented(f"if thread() != 0 or load_i64(numbers + {control('skipped')}) != 0:"):
        writer.line("return")
    orthogonal, real = variant.of.orthogonal, variant.real
    assert orthogonal is not None
    writer.line(f"total = {writer.number(0.0, F64)}")
    with writer.indented("while first < last:"):
        writer.line(f"total = {added(writer).format('total', f'load_f64(sums + first * {SUM_BYTES})')}")
        writer.line("first += 1")
    trace = Trace()
    total: Any = trace.argument("total", F64)
    s = SimpleNamespace(**{name: trace.argument(f"s_{name}", F64) for name in variant.of.scalars})
    outputs = [value.astype(real) for value in trace.follow(lambda: [orthogonal.scale(np.sqrt(total), s)])]
    needed = trace.arguments(outputs)
    Uniform(writer, variant, F64).scalars(needed)
    (value,) = writer.traced(trace, outputs, {name: name for name in needed}, "n")
    writer.line(f"store_{code_of(real)}(to, {value})")
    return writer.done()


@functools.cache
def scaled_text(real: np.dtype[Any], threads: int = THREADS) -> Text:
    """The kernel that multiplies a matrix of `size` elements by a number."""
    writer = Writer("scaled", ("matrix", "size", "scale"), threads)
    code, bytes_of_one = code_of(real), real.itemsize
    writer.line(f"number = load_{code}(scale)")
    _begin(writer)
    with writer.indented("while i < end:"):
        place = f"matrix + i * {bytes_of_one}"
        times = writer.operation("mul", real, real)
        writer.line(f"store_{code}({place}, {times}(load_{code}({place}), number))")
        writer.line(f"i += {threads}")
    return writer.done()


@functools.cache
def polynomial_text(variant: Variant, threads: int = THREADS) -> Text:
    """The kernel that makes the polynomial of a matrix of n n elements and its square in place of the latter.

    of: the tensor's row.
    """
    writer = Writer("polynomial", ("of", "gram", "square", "n", "numbers"), threads)
    orthogonal, real = variant.of.orthogonal, variant.real
    assert orthogonal is not None
    trace = Trace()
    one, gram, square = (trace.argument(name, real) for name in ("one", "a", "b"))
    s = SimpleNamespace(**{name: trace.argument(f"s_{name}", real) for name in variant.of.scalars})
    outputs = [orthogonal.polynomial(one, gram, square, s)]
    needed = trace.arguments(outputs)
    with writer.indented(f"if load_i64(numbers + {control('skipped')}) != 0:"):
        writer.line("return")
    Uniform(writer, variant).scalars(needed)
    code, bytes_of_one = code_of(real), real.itemsize
    names = [writer.number(value, real) for value in (1.0, 0.0)]
    writer.line("size = n * n")
    _begin(writer)
    with writer.indented("while i < end:"):
        writer.line(f"one = {names[0]} if i // n == i % n else {names[1]}")
        writer.line(f"a = load_{code}(gram + i * {bytes_of_one})")
        writer.line(f"b = load_{code}(square + i * {bytes_of_one})")
        (value,) = writer.traced(trace, outputs, {name: name for name in needed}, "p")
        writer.line(f"store_{code}(square + i * {bytes_of_one}, {value})")
        writer.line(f"i += {threads}")
    return writer.done()


def _begin(writer: Writer) -> None:
    """Which elements of `size` are this thread's: from i to end."""
    each = EACH * writer.threads
    writer.lines(f"""
i = block() * {each} + thread()
end = block() * {each} + {each}
if end > size:
    end = size""")


def blocks_for(size: int, threads: int) -> int:
    """Blocks of threads that make so many elements."""
    return -(-size // (EACH * threads))
