"""What every pass over the elements of tensors begins with: its operands, and what is the same for all."""

from __future__ import annotations

import numpy as np

from fastgd.arrays import dtype_named
from fastgd.cuda.element import Variant, traced_keys
from fastgd.cuda.layout import TENSOR_BYTES, TILE, TILE_BYTES, control, tensor
from fastgd.cuda.writer import Writer
from fastgd.settings import CODED
from fastgd.storage import BLOCK
from fastgd.tracing import Symbol, Trace, code_of

#: threads of a block
THREADS = 128

#: what a row of a step has beside the rule's scalars, in this order; `step` is an int64
BESIDE = ("average_weight", "step")

I64, U32, U64 = (np.dtype(kind) for kind in (np.int64, np.uint32, np.uint64))


def of_element(name: str) -> bool:
    """Whether an argument of a step differs from element to element."""
    return name in ("p", "g", "low", "residual", "average", "unit_coef") or name.startswith(("x_", "scale_"))


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


def operands_of(variant: Variant) -> list[Operand]:
    """The parameter, the gradient, and all that lies beside them."""
    slots = [s.name for s in variant.of.slots]
    found = [Operand("p", "param", variant.param), Operand("g", "grad", variant.grad, writes=False)]
    found += [Operand(f"x_{s}", f"state{slots.index(s)}", kind) for s, kind in variant.slots.items()]
    if variant.residual:
        found.append(Operand("residual", "residual", variant.residual))
    if variant.average:
        found.append(Operand("average", "average", variant.real.name))
    if variant.copy:
        found.append(Operand("copy", "copy", variant.copy, reads=False))
    return found


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


class Uniform:
    """Writes what is the same for all elements of a tile: addresses, scalars, keys."""

    def __init__(self, writer: Writer, variant: Variant) -> None:
        self.writer, self.variant = writer, variant
        self.real = variant.real
        self.code, self.size = code_of(self.real), self.real.itemsize

    def addresses(self, operands: list[Operand]) -> None:
        for operand in operands:
            self.writer.line(f"{operand.at} = load_i64(of + {tensor(operand.column)})")
        for k, kind in enumerate(self.variant.state):
            if kind == CODED:
                name = self.variant.of.slots[k].name
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
        if self.variant.random and needed & set(self._key_names()):
            self._keys(count)

    def _key_names(self) -> list[str]:
        return [f"key{operand}_{part}" for operand in self.variant.random for part in ("first", "second")]

    def units(self) -> None:
        """Loads where the coefficients of units are."""
        if self.variant.units:
            self.writer.line(f"unit = load_i64(of + {tensor('unit')})")
            self.writer.line(f"unit_coefs = load_i64(of + {tensor('unit_coefs')})")

    def operations(self, trace: Trace, outputs: list[Symbol]) -> dict[int, str]:
        """Writes the operations that follow from uniform arguments alone, and gives their names."""
        needed = trace.needed(outputs)
        varies: set[int] = set()
        for i in needed:
            operation = trace.operations[i]
            own = operation.name == "argument" and of_element(operation.what)
            if own or varies.intersection(operation.operands):
                varies.add(i)
        known: dict[int, str] = {}
        given = {name: name for name in trace.arguments(outputs)}
        self.writer.traced(trace, [Symbol(trace, i) for i in needed if i not in varies], given, "u", known)
        return known

    def element(self, needed: set[str], suffix: str, number: str) -> None:
        """Writes what an element is told beside what it is stored as; number: its own, in the text."""
        if "low" in needed:
            self.writer.line(f"low{suffix} = {self.writer.operation('convert', I64, U32)}({number})")
        if "unit_coef" in needed:
            place = f"unit_coefs + ({number}) // unit * {self.size}"
            self.writer.line(f"unit_coef{suffix} = load_{self.code}({place})")

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
        # a tile does not go beyond a multiple of 2^32
        writer.line(f"high = {writer.operation('convert', I64, U64)}(first >> 32)")
        trace, keys = traced_keys(self.variant)
        given = {name: name for name in ("noise", "step", "high")}
        names = writer.traced(trace, list(keys.values()), given, "k")
        for key, name in zip(keys, names, strict=True):
            writer.line(f"{key} = {name}")
