"""The kernels that compute elements each by itself, from a traced function of any inputs to any outputs.

A block takes as many elements as its threads hold in a vector each. Where all arrays are aligned they are
read and written by 128 bits; the rest of the last block, or all of it where they are not, one by one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.cuda.device import WIDEST
from fastgd.cuda.layers.launching import Run, blocks_of
from fastgd.cuda.passes import WIDE, Operand, load_run, store_run
from fastgd.cuda.writer import Text, Writer
from fastgd.tracing import Symbol, Trace, code_of

I64, F64 = np.dtype(np.int64), np.dtype(np.float64)


def argument(trace: Trace, name: str, dtype: Any) -> Any:
    """A symbol, by the type of what the reference's functions take."""
    return trace.argument(name, dtype)


class Walk:
    """Which row of a smaller array goes with element i: i // inner % outer, both arguments of the kernel."""

    def __init__(self, name: str) -> None:
        self.name, self.inner, self.outer = name, f"{name}_inner", f"{name}_outer"

    def at(self, writer: Writer, suffix: str, number: str) -> None:
        """Writes the row of an element, and its place among those with this row."""
        name = self.name
        writer.line(f"{name}_runs{suffix} = ({number}) // {self.inner}")
        writer.line(f"{name}_place{suffix} = ({number}) - {name}_runs{suffix} * {self.inner}")
        writer.line(f"{name}{suffix} = {name}_runs{suffix} % {self.outer}")

    def step(self, writer: Writer, suffix: str, before: str) -> None:
        """Writes that of the element behind another, without a division."""
        name = self.name
        writer.line(f"{name}_place{suffix} = {name}_place{before} + 1")
        writer.line(f"{name}{suffix} = {name}{before}")
        with writer.indented(f"if {name}_place{suffix} == {self.inner}:"):
            writer.line(f"{name}_place{suffix} = 0")
            writer.line(f"{name}{suffix} += 1")
            with writer.indented(f"if {name}{suffix} == {self.outer}:"):
                writer.line(f"{name}{suffix} = 0")


class Beside:
    """A number of a smaller array, which goes with an element by the row of a walk."""

    def __init__(
        self, name: str, dtype: Any, walk: Walk, *, of: str = "", stride: int = 1, at: int = 0
    ) -> None:
        """of: the array's name if it is another. stride: numbers of a row, of which this is number `at`."""
        self.name, self.dtype, self.walk = name, np.dtype(dtype), walk
        self.of, self.stride, self.number = of or name, stride, at

    def load(self, writer: Writer, suffix: str) -> None:
        size = self.dtype.itemsize
        row = f"{self.walk.name}{suffix} * {self.stride * size}"
        place = f"{self.of}_at + {row} + {self.number * size}"
        writer.line(f"{self.name}{suffix} = load_{code_of(self.dtype)}({place})")


class Ready(NamedTuple):
    """A kernel, and of how much of its n each block takes care."""

    text: Text
    each: int
    #: names of its arguments behind n, without "_at" and "_word"
    arguments: tuple[str, ...]

    def __call__(self, run: Run, n: int, **given: Any) -> None:
        """Arrays, numbers and sizes by name; what the kernel does not need is passed over."""
        words = [given[name] for name in self.arguments]
        run(self.text, blocks_of(n, self.each), n, *words)


class Elements:
    """What a kernel computes of each element.

    outputs: what is stored -> what it is. reads: what comes element for element -> its dtype. beside: what
    comes by rows. numbers: uniform arguments of the trace and their dtypes. number: whether elements are told
    theirs, as `number`; `first` is that of the block's first.
    """

    def __init__(
        self,
        trace: Trace,
        outputs: Mapping[str, Symbol],
        reads: Mapping[str, Any],
        *,
        beside: Sequence[Beside] = (),
        numbers: Mapping[str, Any] | None = None,
        number: bool = False,
    ) -> None:
        self.trace, self.outputs = trace, dict(outputs)
        self.reads = [Operand(name, "", np.dtype(dtype).name, writes=False) for name, dtype in reads.items()]
        self.writes = [Operand(name, "", s.dtype.name, reads=False) for name, s in outputs.items()]
        self.beside, self.numbers, self.number = list(beside), dict(numbers or {}), number
        self.walks = list(dict.fromkeys(b.walk for b in self.beside))

    @property
    def arguments(self) -> list[str]:
        """Of the kernel: the number of elements, arrays read, arrays written, smaller arrays, walks' sizes,
        numbers."""
        arrays = [o.at for o in (*self.reads, *self.writes)]
        smaller = list(dict.fromkeys(f"{b.of}_at" for b in self.beside))
        sizes = [size for walk in self.walks for size in (walk.inner, walk.outer)]
        return ["n", *arrays, *smaller, *sizes, *(f"{name}_word" for name in self.numbers)]

    @property
    def width(self) -> int:
        """Elements of a thread: a vector of the narrowest."""
        return WIDEST // min(o.size for o in (*self.reads, *self.writes))

    def ready(self, name: str, threads: int = WIDE) -> Ready:
        named = (name.removesuffix("_at").removesuffix("_word") for name in self.arguments[1:])
        return Ready(self.text(name, threads), threads * self.width, tuple(named))

    def text(self, name: str, threads: int = WIDE) -> Text:
        writer = Writer(name, self.arguments, threads)
        width, tile = self.width, threads * self.width
        writer.lines(f"""
first = block() * {tile}
end = first + {tile}
if end > n:
    end = n""")
        known = self._uniform(writer)
        together = " | ".join(o.at for o in (*self.reads, *self.writes))
        with writer.indented(f"if ({together}) & {WIDEST - 1} == 0:"):
            writer.line(f"i = first + thread() * {width}")
            with writer.indented(f"if i + {width} <= end:"):
                self._vector(writer, width, known)
            writer.line(f"i = end - (end - first) % {width} + thread()")
        with writer.indented("else:"):
            writer.line("i = first + thread()")
        with writer.indented("while i < end:"):
            for operand in self.reads:
                writer.line(f"{operand.name}_t = load_{operand.code}({operand.at} + i * {operand.size})")
            for walk in self.walks:
                walk.at(writer, "_t", "i")
            results = self._element(writer, "_t", "i", known)
            for operand, value in zip(self.writes, results, strict=True):
                writer.line(f"store_{operand.code}({operand.at} + i * {operand.size}, {value})")
            writer.line(f"i += {threads}")
        return writer.done()

    def _uniform(self, writer: Writer) -> dict[int, str]:
        """Writes what is the same for all elements, and gives the names of those operations."""
        for name, dtype in self.numbers.items():
            write_number(writer, name, dtype)
        varying = {o.name for o in self.reads} | {b.name for b in self.beside} | {"number"}
        outputs = list(self.outputs.values())
        return writer.hoisted(self.trace, outputs, varying.__contains__)

    def _vector(self, writer: Writer, width: int, known: dict[int, str]) -> None:
        for operand in self.reads:
            load_run(writer, operand, [f"{operand.name}_{j}" for j in range(width)])
        for walk in self.walks:
            walk.at(writer, "_0", "i")
            for j in range(1, width):
                walk.step(writer, f"_{j}", f"_{j - 1}")
        results = [self._element(writer, f"_{j}", f"i + {j}", known) for j in range(width)]
        for k, operand in enumerate(self.writes):
            store_run(writer, operand, [result[k] for result in results])

    def _element(self, writer: Writer, suffix: str, number: str, known: dict[int, str]) -> list[str]:
        for one in self.beside:
            one.load(writer, suffix)
        names = [o.name for o in self.reads] + [one.name for one in self.beside]
        given = {name: name + suffix for name in names}
        if self.number:
            writer.line(f"number{suffix} = {number}")
            given["number"] = f"number{suffix}"
        outputs = list(self.outputs.values())
        return writer.traced(self.trace, outputs, given, suffix[1:], dict(known))


def write_number(writer: Writer, name: str, dtype: Any) -> None:
    """Writes what a number of this dtype is by the int64 argument that carries it."""
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        bits = np.dtype(f"uint{8 * dtype.itemsize}")
        to_bits, view = writer.operation("convert", I64, bits), writer.operation("view", bits, dtype)
        writer.line(f"{name} = {view}({to_bits}({name}_word))")
    elif dtype == I64:
        writer.line(f"{name} = {name}_word")
    else:
        writer.line(f"{name} = {writer.operation('convert', I64, dtype)}({name}_word)")
