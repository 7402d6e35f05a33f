"""What kernels of rows begin with: 16 threads for each row, and sums over it in the reference's order.

Element i of a row goes to lane i modulo 16, and lanes are put together in halves, as
fastgd.backends.reference_norms.lane_sums does it. Rows may also be pieces of one array, all but the last of
the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastgd.backends.reference_norms import LANES
from fastgd.cuda.device import WARP
from fastgd.cuda.lanes import added, exchanged, larger
from fastgd.cuda.passes import WIDE, Operand
from fastgd.cuda.writer import Writer
from fastgd.tracing import code_of

#: elements that a thread loads before it works on them, so that the memory's latency is waited for once
AHEAD = 4

#: rows of a block of threads
ROWS = WIDE // LANES


class Lanes:
    """Writes passes over the rows of arrays [rows, cols]. Kernels have the arguments rows and cols."""

    def __init__(self, name: str, arguments: Sequence[str], *, flat: bool = False) -> None:
        """flat: of an array of n elements instead, whose rows are pieces of `cols`; has the argument n."""
        first = ("rows", "cols", "n") if flat else ("rows", "cols")
        self.writer = writer = Writer(name, [*first, *arguments], WIDE)
        writer.lines(f"""
lane = thread() % {LANES}
row = block() * {ROWS} + thread() // {LANES}
here = row < rows
if not here:
    row = 0
first = row * cols
end = first + cols""")
        if flat:
            with writer.indented("if end > n:"):
                writer.line("end = n")
        with writer.indented("if not here:"):
            writer.line("end = first")

    def constant(self, value: Any, dtype: Any) -> str:
        return self.writer.number(value, dtype)

    def over(
        self,
        reads: Sequence[Operand],
        element: Callable[[str, str], None],
        *,
        by_column: Sequence[Operand] = (),
        ahead: int = AHEAD,
    ) -> None:
        """A pass. element: (suffix of what is loaded, number of the element) -> writes what is done with it.

        by_column: arrays [cols], of which the number in the element's column is loaded.
        """
        writer = self.writer
        writer.line("i = first + lane")
        for count in dict.fromkeys((ahead, 1)):
            with writer.indented(f"while i + {(count - 1) * LANES} < end:"):
                for j in range(count):
                    suffix, place = f"_{count}{j}", f"i + {j * LANES}"
                    for operand in reads:
                        where = f"{operand.at} + ({place}) * {operand.size}"
                        writer.line(f"{operand.name}{suffix} = load_{operand.code}({where})")
                    for operand in by_column:
                        where = f"{operand.at} + ({place} - first) * {operand.size}"
                        writer.line(f"{operand.name}{suffix} = load_{operand.code}({where})")
                for j in range(count):
                    element(f"_{count}{j}", f"i + {j * LANES}")
                writer.line(f"i += {count * LANES}")

    def fold(self, name: str, how: str, dtype: Any) -> None:
        """Puts the lanes' numbers of this name together, so that each lane of the row has the result.

        how: text of an operation on two of them.
        """
        kind, distance = np.dtype(dtype), LANES // 2
        while distance:
            exchanged(self.writer, name, distance, how, kind)
            distance //= 2
        first = f"thread() % {WARP} // {LANES} * {LANES}"
        self.writer.line(f"{name} = shuffle_{code_of(kind)}({name}, {first})")

    def add(self, dtype: Any = np.float64) -> str:
        return added(self.writer, np.dtype(dtype))

    def larger(self, dtype: Any) -> str:
        return larger(self.writer, np.dtype(dtype))

    def grow(self, sums: Mapping[str, str], how: str) -> None:
        """Adds values to the lane's sums."""
        for name, value in sums.items():
            self.writer.line(f"{name} = {how.format(name, value)}")

    def only(self, condition: str) -> Any:
        """Lines for the first lane of each row that there is."""
        return self.writer.indented(f"if lane == 0 and here{condition}:")
