"""What kernels that sum over columns begin with: a thread for each column of a piece of the rows.

The rows of a piece are added one after the other, or in groups that are put together in their own precision
first, as the reference does it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastgd.cuda.layers.launching import Run, blocks_of
from fastgd.cuda.passes import WIDE, Operand
from fastgd.cuda.writer import Text, Writer
from fastgd.tracing import code_of

F64 = np.dtype(np.float64)

#: groups of rows that a thread loads before it adds them up
AHEAD = 4


class Columns:
    """Writes passes over arrays [rows, cols]. Kernels have the arguments rows, cols and step, of a piece."""

    def __init__(self, name: str, arguments: Sequence[str]) -> None:
        self.writer = writer = Writer(name, ["rows", "cols", "step", *arguments], WIDE)
        writer.lines(f"""
number = block() * {WIDE} + thread()
piece = number // cols
col = number - piece * cols
first = piece * step
here = first < rows
end = first + step
if end > rows:
    end = rows""")

    def constant(self, value: Any, dtype: Any) -> str:
        return self.writer.number(value, dtype)

    def over(
        self,
        reads: Sequence[Operand],
        element: Callable[[str, str], Mapping[str, str]],
        sums: Mapping[str, Any],
        *,
        group: int = 1,
    ) -> None:
        """A pass. element: (suffix of what is loaded, number of the row) -> sum -> what it is to grow by.

        sums: name -> the dtype of its terms; they are float64 themselves.
        """
        writer, add = self.writer, self.writer.operation("add", F64, F64)
        zero = self.constant(0.0, F64)
        for name in sums:
            writer.line(f"{name} = {zero}")
        writer.line("row = first")
        for count in dict.fromkeys((AHEAD * group, group, 1)):
            with writer.indented(f"while row + {count - 1} < end:"):
                for j in range(count):
                    for operand in reads:
                        where = f"{operand.at} + ((row + {j}) * cols + col) * {operand.size}"
                        writer.line(f"{operand.name}_{count}{j} = load_{operand.code}({where})")
                terms = [element(f"_{count}{j}", f"row + {j}") for j in range(count)]
                for first in range(0, count, group):
                    together = terms[first : first + group]
                    for name, dtype in sums.items():
                        value = self._joined([term[name] for term in together], np.dtype(dtype))
                        writer.line(f"{name} = {add}({name}, {value})")
                writer.line(f"row += {count}")

    def _joined(self, values: Sequence[str], dtype: np.dtype[Any]) -> str:
        """The text of the sum of some terms, in their own precision and then as float64."""
        add = self.writer.operation("add", dtype, dtype) if len(values) > 1 else ""
        joined = functools.reduce(lambda a, b: f"{add}({a}, {b})", values)
        return self.stored(joined, dtype, F64)

    def stored(self, value: str, dtype: np.dtype[Any], to: Any) -> str:
        """The text of a value in another precision."""
        to = np.dtype(to)
        return value if dtype == to else f"{self.writer.operation('convert', dtype, to)}({value})"


@functools.cache
def sums_text(of: Any, to: Any) -> Text:
    """The kernel that sums the columns of an array, all of whose rows are one piece, in float64."""
    columns = Columns("column_sums", ["x_at", "sums_at"])
    x = Operand("x", "", of.name)
    columns.over([x], lambda suffix, _: {"total": f"x{suffix}"}, {"total": of})
    with columns.writer.indented("if here:"):
        value = columns.stored("total", F64, to)
        columns.writer.line(f"store_{code_of(to)}(sums_at + col * {to.itemsize}, {value})")
    return columns.writer.done()


def column_sums(run: Run, rows: int, cols: int, x: Any, sums: Any) -> None:
    """sums [cols], in its own precision, of x [rows, cols]."""
    if not rows:
        run.clear(sums)
        return
    run(sums_text(x.dtype, sums.dtype), blocks_of(cols, WIDE), rows, cols, rows, x, sums)
