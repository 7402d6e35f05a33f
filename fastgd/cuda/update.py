"""The kernels that update: one pass over all memory of a step, a block of threads for each tile."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.cuda.device import WARP, WIDEST
from fastgd.cuda.element import Variant, traced, traced_codes
from fastgd.cuda.layout import control
from fastgd.cuda.passes import THREADS, Operand, Places, Uniform, begin_tile, load_run, operands_of, store_run
from fastgd.cuda.writer import FEW, MANY, Text, Writer
from fastgd.settings import CODED
from fastgd.storage import BLOCK, inverse_scale, scale_of
from fastgd.tracing import Trace

#: elements of a block of codes that a lane of a warp has
OF_LANE = BLOCK // WARP

#: words at hand, in all operands, that go with FEW registers and with MANY
FEW_WORDS, MOST_WORDS = 24, 56

#: registers of a thread for more words: as many as there can be
ALL = 255

#: arguments of all these kernels: addresses of the tables of tensors and of tiles, and of the step's numbers
ARGUMENTS = ("tensors", "tiles", "numbers")


class Made(NamedTuple):
    """What a pass makes of each element."""

    trace: Trace
    #: by the names of the operands that they are stored in; of 8-bit state, "bits_<slot>"
    outputs: dict[str, Any]
    operands: Sequence[Operand]


@functools.cache
def update_text(variant: Variant, threads: int = THREADS) -> Text:
    """The kernel that makes the step of elements stored this way."""
    made = traced(variant)
    return pass_text("update", variant, Made(made.trace, made.outputs, operands_of(variant)), threads)


def pass_text(
    name: str, variant: Variant, made: Made, threads: int = THREADS, real: np.dtype[Any] | None = None
) -> Text:
    """A kernel over tiles of elements. real: what is computed in, where that is not the variant's."""
    writer = Writer(name, ARGUMENTS, threads)
    begin_tile(writer)
    with writer.indented(f"if load_i64(numbers + {control('skipped')}) != 0:"):
        writer.line("return")
    kernel = _Pass(writer, variant, made, threads, real)
    if kernel.coded:
        kernel.write_coded()
    else:
        kernel.write_plain()
    return writer.done(kernel.registers)


class _Pass:
    """Writes the kernel of one variant."""

    def __init__(
        self, writer: Writer, variant: Variant, made: Made, threads: int, real: np.dtype[Any] | None
    ) -> None:
        self.writer, self.variant, self.threads, self.made = writer, variant, threads, made
        self.operands, self.real = made.operands, real or variant.real
        trace, outputs = made.trace, list(made.outputs.values())
        self.needed = trace.arguments(outputs)
        self.read = [o for o in self.operands if o.reads]
        self.written = [o for o in self.operands if o.writes]
        slots = variant.slots.items()
        self.coded = [s for s, kind in slots if kind == CODED and f"bits_{s}" in made.outputs]
        if self.coded and variant.state_rounding == "stochastic":
            self.needed |= {
                "low",
                *(f"key{k}_{part}" for k in variant.random for part in ("first", "second")),
            }
        self.uniform = uniform = Uniform(writer, variant, real)
        uniform.addresses(self.operands)
        uniform.scalars(self.needed)
        uniform.lines(self.needed)
        self.places = Places(writer, variant.layout, self.operands)
        self.known = uniform.operations(trace, outputs)
        self.gapless = variant.layout == "gapless"
        if self.gapless:
            together = " | ".join(o.at for o in self.operands)
            writer.line(f"aligned = ({together}) & {WIDEST - 1} == 0")

    @property
    def width(self) -> int:
        """Elements that a thread takes at a time: as wide accesses as can be, but not beyond MOST_WORDS."""
        if self.coded:
            return OF_LANE
        width = WIDEST // min(o.size for o in self.operands)
        while self._words(width) > MOST_WORDS and width > WIDEST // self.real.itemsize:
            width //= 2
        return width

    def _words(self, width: int) -> int:
        """What a thread has at hand of all operands, in words of 32 bits."""
        return width * len(self.operands) * self.real.itemsize // 4

    @property
    def registers(self) -> int:
        """Of a thread, at most: as few as go without spilling, by tests/test_cuda_offline.py."""
        if not self.gapless:
            return ALL if self.coded else MANY
        words, single = self._words(self.width), self.real.itemsize == 4
        if words <= FEW_WORDS:
            return FEW if single and not self.variant.units else MANY
        return MANY if single and words <= MOST_WORDS else ALL

    def _given(self, suffix: str) -> dict[str, str]:
        """The name of each argument in the text; a scale is that of the block of codes at hand."""
        return {
            name: name + suffix if self.uniform.varies(name) and not name.startswith("scale_") else name
            for name in self.needed
        }

    # ---- one element ----

    def _computed(self, suffix: str) -> dict[str, str]:
        """Writes an element's operations; what is stored -> its name."""
        outputs = self.made.outputs
        names = self.writer.traced(
            self.made.trace, list(outputs.values()), self._given(suffix), suffix[1:], dict(self.known)
        )
        return dict(zip(outputs, names, strict=True))

    # ---- all operands as they are ----

    def write_plain(self) -> None:
        width, writer = self.width, self.writer
        writer.line(f"i = first + thread() * {width}")
        if self.gapless:
            with writer.indented("if aligned:"):
                self._write_vectors(width)
            with writer.indented("else:"):
                writer.line("i = first + thread()")
        else:
            writer.line("i = first + thread()")
        with writer.indented("while i < end:"):
            number = self.places.find("_t", "i")
            for operand in self.read:
                writer.line(f"{operand.name}_t = load_{operand.code}({self.places.of(operand, '_t', 'i')})")
            self.uniform.element(self.needed, "_t", number)
            result = self._computed("_t")
            for operand in self.written:
                place = self.places.of(operand, "_t", "i")
                writer.line(f"store_{operand.code}({place}, {result[operand.name]})")
            writer.line(f"i += {self.threads}")

    def _write_vectors(self, width: int) -> None:
        writer = self.writer
        with writer.indented(f"while i + {width} <= end:"):
            for operand in self.read:
                load_run(writer, operand, [f"{operand.name}_{j}" for j in range(width)])
            results = []
            for j in range(width):
                self.uniform.element(self.needed, f"_{j}", f"i + {j}", f"_{j - 1}" if j else None)
            for j in range(width):
                results.append(self._computed(f"_{j}"))
            for operand in self.written:
                store_run(writer, operand, [r[operand.name] for r in results])
            writer.line(f"i += {self.threads * width}")
        writer.line(f"i = end - (end - first) % {width} + thread()")

    # ---- 8-bit state: a warp for each block of codes, and of its elements 8 in a row for each lane ----

    def write_coded(self) -> None:
        writer = self.writer
        lanes = f"thread() % {WARP}"
        writer.line(f"lane = {lanes}")
        writer.line(f"block_first = first + thread() // {WARP} * {BLOCK}")
        with writer.indented("while block_first < end:"):
            writer.line(f"i = block_first + lane * {OF_LANE}")
            writer.line("left = end - i")
            for name in self.coded:
                writer.line(f"scale_{name} = load_f32(scale_{name}_at + block_first // {BLOCK} * 4)")
            if self.gapless:
                writer.line(f"whole = aligned and left >= {OF_LANE}")
                with writer.indented("if whole:"):
                    for operand in self.read:
                        load_run(writer, operand, [f"{operand.name}_{j}" for j in range(OF_LANE)])
                with writer.indented("else:"):
                    self._load_some()
            else:
                for j in range(OF_LANE):
                    self.places.find(f"_{j}", f"i + {j}")
                self._load_some()
            for j in range(OF_LANE):
                # what is beyond the end is computed too, and must not be looked up there
                writer.line(f"number_{j} = i + {j} if left > {j} else first")
                self.uniform.element(self.needed, f"_{j}", f"number_{j}")
            results = []
            for j in range(OF_LANE):
                results.append(self._computed(f"_{j}"))
            stored = {o.name: [r[o.name] for r in results] for o in self.written if o.name in results[0]}
            for name in self.coded:
                stored[f"x_{name}"] = self._codes(name, [r[f"bits_{name}"] for r in results])
            if self.gapless:
                with writer.indented("if whole:"):
                    for operand in self.written:
                        store_run(writer, operand, stored[operand.name])
                with writer.indented("else:"):
                    self._store_some(stored)
            else:
                self._store_some(stored)
            writer.line(f"block_first += {self.threads // WARP * BLOCK}")

    def _load_some(self) -> None:
        for operand in self.read:
            zero = self.writer.number(0, _bits_of(operand))
            for j in range(OF_LANE):
                place = self.places.of(operand, f"_{j}", f"i + {j}")
                value = f"load_{operand.code}({place}) if left > {j} else {zero}"
                self.writer.line(f"{operand.name}_{j} = {value}")

    def _store_some(self, stored: dict[str, list[str]]) -> None:
        for operand in self.written:
            for j in range(OF_LANE):
                with self.writer.indented(f"if left > {j}:"):
                    place = self.places.of(operand, f"_{j}", f"i + {j}")
                    self.writer.line(f"store_{operand.code}({place}, {stored[operand.name][j]})")

    def _codes(self, name: str, bits: list[str]) -> list[str]:
        """Writes the scale of the block of codes and the codes of the lane's elements; gives their names."""
        writer = self.writer
        u32 = np.dtype(np.uint32)
        trace = Trace()
        elements = [trace.argument(f"bits{j}", u32) for j in range(OF_LANE)]
        magnitudes = [
            np.where(trace.argument(f"in{j}", np.bool_), e & 0x7FFFFFFF, np.uint32(0))
            for j, e in enumerate(elements)
        ]
        largest: Any = magnitudes[0]
        for magnitude in magnitudes[1:]:
            largest = np.maximum(largest, magnitude)
        for j in range(OF_LANE):
            writer.line(f"in_{j} = left > {j}")
        given = {f"bits{j}": b for j, b in enumerate(bits)} | {f"in{j}": f"in_{j}" for j in range(OF_LANE)}
        (most,) = writer.traced(trace, [largest], given, f"{name}_most")
        writer.line(f"{name}_largest = {most}")
        of_two = Trace()
        larger: Any = np.maximum(of_two.argument("a", u32), of_two.argument("b", u32))
        distance = WARP // 2
        while distance:
            writer.line(f"{name}_other = shuffle_u32({name}_largest, lane ^ {distance})")
            (most,) = writer.traced(
                of_two, [larger], {"a": f"{name}_largest", "b": f"{name}_other"}, f"{name}_{distance}"
            )
            writer.line(f"{name}_largest = {most}")
            distance //= 2
        unsigned = self.variant.unsigned(name)
        of_block = Trace()
        bits_of_largest: Any = of_block.argument("largest", u32)
        parts: Any = scale_of(bits_of_largest, unsigned), inverse_scale(bits_of_largest, unsigned)
        names = writer.traced(of_block, parts, {"largest": f"{name}_largest"}, f"{name}_scale")
        with writer.indented("if lane == 0:"):
            writer.line(f"store_f32(scale_{name}_at + block_first // {BLOCK} * 4, {names[0]})")
        coding, code = traced_codes(self.variant, name)
        codes = []
        for j in range(OF_LANE):
            given = {f"bits_{name}": bits[j], f"inverse_{name}": names[1], "low": f"low_{j}"}
            given |= {f"largest_{name}": f"{name}_largest"}
            given |= {
                f"key{k}_{part}": f"key{k}_{part}"
                for k in self.variant.random
                for part in ("first", "second")
            }
            codes += writer.traced(coding, [code], given, f"{name}_{j}")
        return codes


def _bits_of(operand: Operand) -> Any:
    return np.dtype(np.uint16) if operand.code in ("bf16", "f16") else operand.dtype
