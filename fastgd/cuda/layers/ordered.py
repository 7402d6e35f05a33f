"""The kernel that adds up numbers from the first to the last: one warp, which loads ahead of its one sum."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastgd.cuda.device import WARP
from fastgd.cuda.layers.elements import write_number
from fastgd.cuda.layers.launching import Run
from fastgd.cuda.writer import Text, Writer

F64 = np.dtype(np.float64)

#: numbers that each lane loads before they are added
AHEAD = 4


@functools.cache
def text() -> Text:
    """float64 sum / divisor of n numbers; the divisor is in memory where it has an address."""
    writer = Writer("ordered_sum", ["n", "values_at", "sum_at", "divisor_at", "divisor_word"], WARP)
    zero = writer.number(0.0, F64)
    add, div = writer.operation("add", F64, F64), writer.operation("div", F64, F64)
    write_number(writer, "divisor", F64)
    writer.lines(f"""
if divisor_at != 0:
    divisor = load_f64(divisor_at)
total = {zero}
first = i64(0)""")
    with writer.indented(f"while first + {AHEAD * WARP} <= n:"):
        for k in range(AHEAD):
            writer.line(f"value_{k} = load_f64(values_at + (first + thread() + {k * WARP}) * 8)")
        for k in range(AHEAD):
            for lane in range(WARP):
                writer.line(f"total = {add}(total, shuffle_f64(value_{k}, i64({lane})))")
        writer.line(f"first += {AHEAD * WARP}")
    with writer.indented("while first < n:"):
        writer.lines(f"""
value = {zero}
if first + thread() < n:
    value = load_f64(values_at + (first + thread()) * 8)
lane = i64(0)
while lane < {WARP} and first + lane < n:
    total = {add}(total, shuffle_f64(value, lane))
    lane += 1
first += {WARP}""")
    with writer.indented("if thread() == 0:"):
        writer.line(f"store_f64(sum_at, {div}(total, divisor))")
    return writer.done()


def ordered_sum(run: Run, n: int, values: Any, to: Any, divisor: Any = 1.0) -> None:
    """to [1] = the sum of values [n] / divisor, a number or an array [1]."""
    number = isinstance(divisor, (int, float))
    given = (None, np.float64(divisor)) if number else (divisor, np.float64(1))
    run(text(), 1, n, values, to, *given)
