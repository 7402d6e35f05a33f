"""The kernels that update: one pass over all memory of a step, a block of threads for each tile."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgd.cuda.device import WARP, WIDEST
from fastgd.cuda.element import Traced, Variant, traced, traced_codes
from fastgd.cuda.layout import control
from fastgd.cuda.passes import THREADS, Operand, Uniform, begin_tile, of_element, operands_of
from fastgd.cuda.writer import FEW, Text, Writer
from fastgd.settings import CODED
from fastgd.storage import BLOCK, inverse_scale, scale_of
from fastgd.tracing import Trace

#: elements of a block of codes that a lane of a warp has
OF_LANE = BLOCK // WARP

#: words at hand, in all operands, that go with FEW registers and with MANY
FEW_WORDS, MOST_WORDS = 24, 56

#: registers of a thread for more words, and as many as there can be
MANY, ALL = 128, 255

#: arguments of all these kernels: addresses of the tables of tensors and of tiles, and of the step's numbers
ARGUMENTS = ("tensors", "tiles", "numbers")


def update_text(variant: Variant, threads: int = THREADS) -> Text:
    """The kernel that makes the step of elements stored this way."""
    writer = Writer("update", ARGUMENTS, threads)
    begin_tile(writer)
    with writer.indented(f"if load_i64(numbers + {control('skipped')}) != 0:"):
        writer.line("return")
    kernel = _Update(writer, variant, threads)
    if CODED in variant.state:
        kernel.write_coded()
    else:
        kernel.write_plain()
    return writer.done(kernel.registers)


class _Update:
    """Writes the kernel of one variant."""

    def __init__(self, writer: Writer, variant: Variant, threads: int) -> None:
        self.writer, self.variant, self.threads = writer, variant, threads
        self.traced: Traced = traced(variant)
        self.operands = operands_of(variant)
        self.read = [o for o in self.operands if o.reads]
        self.written = [o for o in self.operands if o.writes]
        trace, outputs = self.traced.trace, list(self.traced.outputs.values())
        self.needed = trace.arguments(outputs)
        if CODED in variant.state and variant.state_rounding == "stochastic":
            self.needed |= {
                "low",
                *(f"key{k}_{part}" for k in variant.random for part in ("first", "second")),
            }
        self.uniform = uniform = Uniform(writer, variant)
        uniform.addresses(self.operands)
        uniform.scalars(self.needed)
        uniform.units()
        self.known = uniform.operations(trace, outputs)
        together = " | ".join(o.at for o in self.operands)
        writer.line(f"aligned = ({together}) & {WIDEST - 1} == 0")

    @property
    def width(self) -> int:
        """Elements that a thread takes at a time: for accesses as wide as can be, but not beyond MOST_WORDS."""
        if CODED in self.variant.state:
            return OF_LANE
        width = WIDEST // min(o.size for o in self.operands)
        while self._words(width) > MOST_WORDS and width > WIDEST // self.variant.real.itemsize:
            width //= 2
        return width

    def _words(self, width: int) -> int:
        """What a thread has at hand of all operands, in words of 32 bits."""
        return width * len(self.operands) * self.variant.real.itemsize // 4

    @property
    def registers(self) -> int:
        """Of a thread, at most: as few as go without spilling, by tests/test_cuda_offline.py."""
        words = self._words(self.width)
        if words <= FEW_WORDS and self.variant.real.itemsize == 4 and not self.variant.units:
            return FEW
        return MANY if words <= MOST_WORDS else ALL

    def _given(self, suffix: str) -> dict[str, str]:
        """The name of each argument in the text; a scale is that of the block of codes at hand."""
        return {
            name: name + suffix if of_element(name) and not name.startswith("scale_") else name
            for name in self.needed
        }

    # ---- one element ----

    def _computed(self, suffix: str) -> dict[str, str]:
        """Writes an element's operations; what is stored -> its name."""
        outputs = self.traced.outputs
        names = self.writer.traced(
            self.traced.trace, list(outputs.values()), self._given(suffix), suffix[1:], dict(self.known)
        )
        return dict(zip(outputs, names, strict=True))

    # ---- all operands as they are ----

    def write_plain(self) -> None:
        width, writer = self.width, self.writer
        writer.line(f"i = first + thread() * {width}")
        with writer.indented("if aligned:"):
            with writer.indented(f"while i + {width} <= end:"):
                for operand in self.read:
                    self._load(operand, width)
                results = []
                for j in range(width):
                    self.uniform.element(self.needed, f"_{j}", f"i + {j}")
                for j in range(width):
                    results.append(self._computed(f"_{j}"))
                for operand in self.written:
                    self._store(operand, [r[operand.name] for r in results])
                writer.line(f"i += {self.threads * width}")
            writer.line(f"i = end - (end - first) % {width} + thread()")
        with writer.indented("else:"):
            writer.line("i = first + thread()")
        with writer.indented("while i < end:"):
            for operand in self.read:
                writer.line(f"{operand.name}_t = load_{operand.code}({operand.at} + i * {operand.size})")
            self.uniform.element(self.needed, "_t", "i")
            result = self._computed("_t")
            for operand in self.written:
                value = result[operand.name]
                writer.line(f"store_{operand.code}({operand.at} + i * {operand.size}, {value})")
            writer.line(f"i += {self.threads}")

    def _load(self, operand: Operand, width: int, at: str = "i") -> None:
        for first, names in _vectors(operand, [f"{operand.name}_{j}" for j in range(width)]):
            access = f"load_{operand.code}x{len(names)}" if len(names) > 1 else f"load_{operand.code}"
            place = f"{operand.at} + {at} * {operand.size} + {first * operand.size}"
            self.writer.line(f"{', '.join(names)} = {access}({place})")

    def _store(self, operand: Operand, values: list[str], at: str = "i") -> None:
        for first, names in _vectors(operand, values):
            access = f"store_{operand.code}x{len(names)}" if len(names) > 1 else f"store_{operand.code}"
            place = f"{operand.at} + {at} * {operand.size} + {first * operand.size}"
            self.writer.line(f"{access}({place}, {', '.join(names)})")

    # ---- 8-bit state: a warp for each block of codes, and of its elements 8 in a row for each lane ----

    def write_coded(self) -> None:
        writer = self.writer
        lanes = f"thread() % {WARP}"
        writer.line(f"lane = {lanes}")
        writer.line(f"block_first = first + thread() // {WARP} * {BLOCK}")
        with writer.indented("while block_first < end:"):
            writer.line(f"i = block_first + lane * {OF_LANE}")
            writer.line("left = end - i")
            coded = [name for name, kind in self.variant.slots.items() if kind == CODED]
            for name in coded:
                writer.line(f"scale_{name} = load_f32(scale_{name}_at + block_first // {BLOCK} * 4)")
            writer.line(f"whole = aligned and left >= {OF_LANE}")
            with writer.indented("if whole:"):
                for operand in self.read:
                    self._load(operand, OF_LANE)
            with writer.indented("else:"):
                for operand in self.read:
                    zero = writer.constant(Trace().constant(0, _bits_of(operand)).operation)
                    for j in range(OF_LANE):
                        place = f"{operand.at} + (i + {j}) * {operand.size}"
                        value = f"load_{operand.code}({place}) if left > {j} else {zero}"
                        writer.line(f"{operand.name}_{j} = {value}")
            for j in range(OF_LANE):
                self.uniform.element(self.needed, f"_{j}", f"i + {j}")
            results = []
            for j in range(OF_LANE):
                results.append(self._computed(f"_{j}"))
            codes = {name: self._codes(name, [r[f"bits_{name}"] for r in results]) for name in coded}
            values = {
                o.name: codes[o.name[2:]] if o.name[2:] in codes and o.name.startswith("x_") else None
                for o in self.written
            }
            stored = {o.name: values[o.name] or [r[o.name] for r in results] for o in self.written}
            with writer.indented("if whole:"):
                for operand in self.written:
                    self._store(operand, stored[operand.name])
            with writer.indented("else:"):
                for operand in self.written:
                    for j in range(OF_LANE):
                        with writer.indented(f"if left > {j}:"):
                            place = f"{operand.at} + (i + {j}) * {operand.size}"
                            writer.line(f"store_{operand.code}({place}, {stored[operand.name][j]})")
            writer.line(f"block_first += {self.threads // WARP * BLOCK}")

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


def _vectors(operand: Operand, names: list[str]) -> list[tuple[int, list[str]]]:
    """(first, names) of the accesses of at most WIDEST bytes that these elements take."""
    count = min(len(names), WIDEST // operand.size)
    return [(i, names[i : i + count]) for i in range(0, len(names), count)]
