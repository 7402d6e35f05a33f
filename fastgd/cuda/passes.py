"""What every pass over the elements of tensors begins with: its operands, and what is the same for all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import dtype_named
from fastgd.cuda.device import WARP, WIDEST
from fastgd.cuda.element import Variant, traced_keys
from fastgd.cuda.layout import STRIDED, TENSOR_BYTES, TILE, TILE_BYTES, control, stride, tensor
from fastgd.cuda.simulation import SIMULATED
from fastgd.cuda.writer import Writer
from fastgd.settings import CODED
from fastgd.storage import BLOCK
from fastgd.tracing import Symbol, Trace, code_of

#: threads of a block
THREADS = 128

#: the same, but few where each of them is one of Python's
WIDE = WARP if SIMULATED else THREADS

#: what a row of a step has beside the rule's scalars, in this order; `step` is an int64
BESIDE = ("average_weight", "step")

I64, U32, U64 = (np.dtype(kind) for kind in (np.int64, np.uint32, np.uint64))


def of_element(name: str) -> bool:
    """Whether an argument of a step differs from element to element."""
    own = ("p", "g", "low", "residual", "average", "unit_coef", "work", "total")
    return name in own or name.startswith(("x_", "scale_", "factor_"))


class Operand:
    """An array that the kernel reads or writes, element for element."""

    def __init__(
        self, name: str, column: str, dtype: str, *, reads: bool = True, writes: bool = True
    ) -> None:
        #: of the argument in the trace, where it lies in a tensor's row, and what it is stored in
        self.name, self.column, self.reads, self.writes = name, column, reads, writes
        self.dtype = np.dtype(np.uint8) if dtype == CODED else dtype_named(dtype)
        self.size = self.dtype.itemsize
        self.code = code_of(self.dtype)

    @property
    def at(self) -> str:
        """The name of its address in the text."""
        return f"{self.name}_at"


def gradient_of(variant: Variant) -> Operand:
    """The gradient, which is only read."""
    return Operand("g", "grad", variant.grad, writes=False)


def operands_of(variant: Variant) -> list[Operand]:
    """What an update reads and writes: parameter, gradient, and all that lies beside them."""
    found = [Operand("p", "param", variant.param), gradient_of(variant)]
    if variant.of.orthogonal is not None:
        if not variant.cautious:
            found.pop()
        found.append(Operand("work", "turned", variant.real.name, writes=False))
    else:
        found += states_of(variant, [s for s in variant.slots if s not in variant.lines])
    if variant.residual:
        found.append(Operand("residual", "residual", variant.residual))
    if variant.average:
        found.append(Operand("average", "average", variant.real.name))
    if variant.copy:
        found.append(Operand("copy", "copy", variant.copy, reads=False))
    return found


def states_of(variant: Variant, names: Iterable[str]) -> list[Operand]:
    """The state of these slots."""
    slots = [s.name for s in variant.of.slots]
    return [Operand(f"x_{s}", f"state{slots.index(s)}", variant.slots[s]) for s in names]


def _vectors(operand: Operand, names: list[str]) -> list[tuple[int, list[str]]]:
    """(first, names) of the accesses of at most WIDEST bytes that these elements take."""
    count = min(len(names), WIDEST // operand.size)
    return [(i, names[i : i + count]) for i in range(0, len(names), count)]


def load_run(writer: Writer, operand: Operand, names: list[str], at: str = "i") -> None:
    """Writes the loads of elements that follow each other."""
    for first, some in _vectors(operand, names):
        access = f"load_{operand.code}x{len(some)}" if len(some) > 1 else f"load_{operand.code}"
        place = f"{operand.at} + {at} * {operand.size} + {first * operand.size}"
        writer.line(f"{', '.join(some)} = {access}({place})")


def store_run(writer: Writer, operand: Operand, values: list[str], at: str = "i") -> None:
    """Writes the stores of elements that follow each other."""
    for first, some in _vectors(operand, values):
        access = f"store_{operand.code}x{len(some)}" if len(some) > 1 else f"store_{operand.code}"
        place = f"{operand.at} + {at} * {operand.size} + {first * operand.size}"
        writer.line(f"{access}({place}, {', '.join(some)})")


def begin_tile(writer: Writer) -> None:
    """Which tensor, and which of its elements: from `first` to `end`."""
    writer.lines(f"""
tensor, tile = load_i64x2(tiles + block() * {TILE_BYTES})
of = tensors + tensor * {TENSOR_BYTES}
size = load_i64(of + {tensor("size")})
first = tile * {TILE}
end = first + {TILE}
if end > size:
    end = size""")


class Places:
    """Writes where the elements of operands lie in a layout of element.LAYOUTS."""

    def __init__(self, writer: Writer, layout: str, operands: Sequence[Operand]) -> None:
        """operands: those whose elements are asked for; their addresses must have been written."""
        self.writer, self.layout = writer, layout
        self._strided = [o for o in operands if layout == "strided" and o.column in STRIDED]
        if layout == "strided":
            writer.line(f"layout = load_i64(of + {tensor('layout')})")
            writer.line("dimensions = load_i64(layout)")
        elif layout == "rows":
            writer.line(f"rows = load_i64(of + {tensor('rows')})")
            writer.line(f"width = load_i64(of + {tensor('width')})")

    def find(self, suffix: str, number: str) -> str:
        """Writes what the places of an element follow from; `number` is its own among those gone over.

        Returns its number among the elements of the parameter.
        """
        writer = self.writer
        if self.layout == "rows":
            row = f"load_i64(rows + ({number}) // width * 8)"
            writer.line(f"own{suffix} = {row} * width + ({number}) % width")
            return f"own{suffix}"
        if self.layout == "strided":
            for o in self._strided:
                writer.line(f"{o.name}_place{suffix} = {o.at}")
            writer.line(f"rest = {number}")
            writer.line("dimension = dimensions")
            with writer.indented("while dimension > 0:"):
                writer.line("dimension -= 1")
                writer.line("length = load_i64(layout + 8 + dimension * 8)")
                writer.line("index = rest % length")
                writer.line("rest = rest // length")
                for o in self._strided:
                    step = f"load_i64(layout + {stride(o.column)} + dimension * 8)"
                    writer.line(f"{o.name}_place{suffix} += index * {step}")
        return number

    def of(self, operand: Operand, suffix: str, number: str) -> str:
        """The address of an element that was found."""
        if operand in self._strided:
            return f"{operand.name}_place{suffix}"
        if self.layout == "rows" and operand.column != "grad":
            return f"{operand.at} + own{suffix} * {operand.size}"
        return f"{operand.at} + ({number}) * {operand.size}"


class Uniform:
    """Writes what is the same for all elements of a tile: addresses, scalars, keys."""

    def __init__(self, writer: Writer, variant: Variant, real: np.dtype[Any] | None = None) -> None:
        """real: what is computed in, where that is not the variant's."""
        self.writer, self.variant = writer, variant
        self.real = real or variant.real
        self.code, self.size = code_of(self.real), self.real.itemsize

    def varies(self, name: str) -> bool:
        """Whether an argument differs from element to element; keys do where rows are far apart."""
        return of_element(name) or (self.variant.layout == "rows" and name in self._key_names())

    def addresses(self, operands: Sequence[Operand]) -> None:
        for operand in operands:
            self.writer.line(f"{operand.at} = load_i64(of + {tensor(operand.column)})")
        for k, kind in enumerate(self.variant.state):
            name = self.variant.of.slots[k].name
            if kind == CODED and any(o.name == f"x_{name}" for o in operands):
                self.writer.line(f"scale_{name}_at = load_i64(of + {tensor(f'scales{k}')})")

    def scalars(self, needed: set[str]) -> None:
        """Loads those of the arguments of a trace that are uniform."""
        writer, narrow = self.writer, self.size == 4
        rule = self.variant.of
        names = [f"s_{name}" for name in rule.scalars] + [BESIDE[0]]
        count = len(rule.scalars) + len(BESIDE)
        writer.line(f"row_number = load_i64(of + {tensor('block')}) * {count}")
        row = control("row32" if narrow else "row")
        writer.line(f"row = load_i64(numbers + {row}) + row_number * {self.size}")
        trust = "s_trust" if rule.trust is not None else None
        for k, name in enumerate(names):
            if name in needed and name != trust:
                writer.line(f"{name} = load_{self.code}(row + {k * self.size})")
        if needed & {"s_trust", "cautious_scale"}:
            writer.line(f"ratios = load_i64(of + {tensor('ratios')})")
        for k, name in enumerate(("s_trust", "cautious_scale")):
            if name in needed and (name != "s_trust" or trust):
                writer.line(f"{name} = load_{self.code}(ratios + {16 + 4 * k if narrow else 8 * k})")
        if "coef" in needed:
            writer.line(f"scope = load_i64(of + {tensor('scope')})")
            writer.line(f"coef = load_{self.code}(scope + {8 if narrow else 0})")
            if self.variant.maximize:
                writer.line(f"coef = {writer.operation('neg', self.real, self.real)}(coef)")
        for name in ("unscale", "bound"):
            if name in needed:
                place = control(f"{name}32" if narrow else name)
                writer.line(f"{name} = load_{self.code}(numbers + {place})")
        if needed & set(self._key_names()):
            self._keys(count)
        if "length" in needed:
            length = f"load_i64(of + {tensor('width')})"
            writer.line(f"length = {writer.operation('convert', I64, self.real)}({length})")

    def _key_names(self) -> list[str]:
        return [f"key{operand}_{part}" for operand in self.variant.random for part in ("first", "second")]

    def lines(self, needed: set[str]) -> None:
        """Loads where what units, rows and columns have in common is."""
        if "unit_coef" in needed:
            self.writer.line(f"unit = load_i64(of + {tensor('unit')})")
            self.writer.line(f"unit_coefs = load_i64(of + {tensor('unit_coefs')})")
        if any(name.startswith("factor_") for name in needed):
            for name in ("lines", "columns", "row_factors", "col_factors"):
                self.writer.line(f"{name} = load_i64(of + {tensor(name)})")

    def operations(self, trace: Trace, outputs: list[Symbol]) -> dict[int, str]:
        """Writes the operations that follow from uniform arguments alone, and gives their names."""
        return self.writer.hoisted(trace, outputs, self.varies)

    def element(self, needed: set[str], suffix: str, number: str, before: str | None = None) -> None:
        """Writes what an element is told beside what it is stored as.

        number: its own, in the text. before: the suffix of the element before it, if that was written.
        """
        if self.variant.layout == "rows" and needed & set(self._key_names()):
            self._key_of(f"({number}) >> 32", suffix)
        if "low" in needed:
            self.writer.line(f"low{suffix} = {self.writer.operation('convert', I64, U32)}({number})")
        if "unit_coef" in needed:
            self._divided("of_unit", "unit", suffix, number, before)
            place = f"unit_coefs + of_unit{suffix} * {self.size}"
            self.writer.line(f"unit_coef{suffix} = load_{self.code}({place})")
        lines = {name: axis for name, axis in self.variant.lines.items() if f"factor_{name}" in needed}
        if lines:
            self._divided("line", "columns", suffix, number, before)
        for name, axis in lines.items():
            place = f"row_factors + line{suffix} * {self.size}"
            if axis == -2:
                # of a single matrix, which is the rule, without another division
                self.writer.line(
                    f"matrix{suffix} = line{suffix} // lines if line{suffix} >= lines else i64(0)"
                )
                column = f"matrix{suffix} * columns + line_rest{suffix}"
                place = f"col_factors + ({column}) * {self.size}"
            self.writer.line(f"factor_{name}{suffix} = load_{self.code}({place})")

    def _divided(self, name: str, by: str, suffix: str, number: str, before: str | None) -> None:
        """Writes the quotient, by that name, and the rest; division takes long where none is at hand."""
        writer = self.writer
        if before is None:
            writer.line(f"{name}{suffix} = ({number}) // {by}")
            writer.line(f"{name}_rest{suffix} = ({number}) - {name}{suffix} * {by}")
            return
        writer.line(f"{name}_rest{suffix} = {name}_rest{before} + 1")
        writer.line(f"{name}_over{suffix} = {name}_rest{suffix} == {by}")
        over = f"if {name}_over{suffix} else"
        writer.line(f"{name}{suffix} = {name}{before} + 1 {over} {name}{before}")
        writer.line(f"{name}_rest{suffix} = i64(0) {over} {name}_rest{suffix}")

    def scales(self, needed: set[str], suffix: str, number: str) -> None:
        """Loads the scales of the blocks of codes that an element is in."""
        for name in self.variant.slots:
            if f"scale_{name}" in needed:
                place = f"scale_{name}_at + ({number}) // {BLOCK} * 4"
                self.writer.line(f"scale_{name}{suffix} = load_f32({place})")

    def _keys(self, count: int) -> None:
        writer = self.writer
        step = f"load_i64(numbers + {control('row')}) + (row_number + {count - 1}) * 8"
        writer.line(f"noise = load_u64(of + {tensor('noise')})")
        writer.line(f"step = load_u64({step})")
        if self.variant.layout != "rows":
            # a tile does not go beyond a multiple of 2^32
            self._key_of("first >> 32", "")

    def _key_of(self, high: str, suffix: str) -> None:
        """Writes the keys of elements whose numbers have this upper half."""
        writer = self.writer
        writer.line(f"high{suffix} = {writer.operation('convert', I64, U64)}({high})")
        trace, keys = traced_keys(self.variant)
        given = {"noise": "noise", "step": "step", "high": f"high{suffix}"}
        names = writer.traced(trace, list(keys.values()), given, f"k{suffix}")
        for key, name in zip(keys, names, strict=True):
            writer.line(f"{key}{suffix} = {name}")
