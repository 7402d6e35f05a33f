"""Sums over 16 lanes, by as many threads: element i goes to lane i modulo 16, and lanes are put together in
halves, as on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastgd.cuda.device import WARP
from fastgd.cuda.layout import LANES
from fastgd.cuda.passes import Operand, Places
from fastgd.cuda.writer import Writer
from fastgd.tracing import BOOL, code_of

F64 = np.dtype(np.float64)

#: elements that a thread loads before it adds them up, so that the memory's latency is waited for once
AHEAD = 8


class Lanes:
    """Writes a loop over elements, and sums of what becomes of them."""

    def __init__(self, writer: Writer, sums: Sequence[str]) -> None:
        """The text so far says `lane`, and elements of which it is one, from `first` to before `end`."""
        self.writer, self.sums = writer, sums
        writer.line("i = first + lane")
        zero = writer.number(0.0, F64)
        for name in sums:
            writer.line(f"{name} = {zero}")

    def loop(
        self,
        operands: Sequence[Operand],
        places: Places,
        element: Callable[[str, str], Mapping[str, str]],
        ahead: int = AHEAD,
        step: str = str(LANES),
    ) -> None:
        """element: (suffix, number) -> what the sums are to grow by, by their names, once operands are
        loaded. step: from one element of a lane to the next, in the text."""
        writer = self.writer
        # finding places takes more than waiting for memory
        for count in (ahead, 1) if places.layout != "strided" else (1,):
            with writer.indented(f"while i + {count - 1} * {step} < end:"):
                for j in range(count):
                    suffix, number = f"_{count}{j}", f"i + {j} * {step}"
                    places.find(suffix, number)
                    for operand in operands:
                        place = places.of(operand, suffix, number)
                        writer.line(f"{operand.name}{suffix} = load_{operand.code}({place})")
                for j in range(count):
                    for name, value in element(f"_{count}{j}", f"i + {j} * {step}").items():
                        writer.line(f"{name} = {value}")
                writer.line(f"i += {count} * {step}")

    def fold(self, how: Mapping[str, str]) -> None:
        """Puts lanes together, so that lane 0 has the sums. how: sum -> the operation on two lanes."""
        distance = LANES // 2
        while distance:
            for name in self.sums:
                exchanged(self.writer, name, distance, how[name], F64)
            distance //= 2


def exchanged(writer: Writer, name: str, distance: int, how: str, kind: np.dtype[Any]) -> None:
    """Writes what a lane's number becomes with that of a lane so far away. how: an operation as a format."""
    writer.line(f"{name}_other = shuffle_{code_of(kind)}({name}, (thread() + {distance}) % {WARP})")
    writer.line(f"{name} = {how.format(name, f'{name}_other')}")


def added(writer: Writer, kind: np.dtype[Any] = F64) -> str:
    """The sum of two numbers, as a format."""
    return writer.operation("add", kind, kind) + "({}, {})"


def larger(writer: Writer, kind: np.dtype[Any] = F64) -> str:
    """The larger of two, of which the second is passed over when it is NaN, as a format."""
    greater, select = writer.operation("gt", kind, BOOL), writer.operation("select", kind, kind)
    return f"{select}({greater}({{1}}, {{0}}), {{1}}, {{0}})"
