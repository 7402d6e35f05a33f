"""A model's passes as native calls of XLA: what each reads and writes, and its program without addresses.

`Plan` binds layers as nn.Sequential does, and cuts the program where the backward pass begins. What both
sides use is handed over as one array, `SAVED`; all else that lies between input and output is in scratch
memory. fastgd/jax/_passes.c runs the programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd._native import ffi, lib
from fastgd.arrays import Array, address
from fastgd.nn.base import Layer
from fastgd.nn.compiled import chain, copied
from fastgd.nn.kernels import Kernels, kernels_of
from fastgd.nn.program import Builder, Op, Shape, Storage, Value, places

#: operands beside parameters, which go by their names; SCRATCH is always the last result
X, LENGTHS, Y, DY, DX = "x", "lengths", "y", "dy", "dx"
SAVED, SCRATCH = "saved", "scratch"

#: of scratch memory's parts, in bytes
ALIGNMENT = 64

Contents = tuple[Shape, np.dtype[Any]]


def gradient_of(name: str) -> str:
    """The operand with the gradient of a parameter."""
    return f"gradient of {name}"


class NativeCall(NamedTuple):
    """One call."""

    #: names of the arguments
    reads: tuple[str, ...]
    #: shape and dtype of each result, but for scratch memory; what is read, too, is written in place
    writes: Mapping[str, Contents]
    #: bytes
    scratch: int
    #: what _passes.c runs, int64 [...]
    program: Array


class Plan:
    """The passes for inputs x of one shape and dtype.

    parameters: the layers' arrays by name; only where they lie matters.
    has_lengths: whether the sequences of a batch have lengths of their own.
    derives: whether there is a backward call. needs_dx: whether it gives the derivative with respect to x.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        parameters: Mapping[str, Array],
        x: Contents,
        dtype: np.dtype[Any],
        *,
        has_lengths: bool,
        derives: bool,
        needs_dx: bool,
    ) -> None:
        kernels = kernels_of("native")
        into = {
            id(array): Value(array.shape, array.dtype, Storage(0, gradient_of(name)))
            for name, array in parameters.items()
        }
        # for layers that keep nothing, training decides only what is saved
        to = Builder(kernels, dtype, training=derives, gradients=into if derives else {})  # type: ignore[arg-type]
        if has_lengths:
            to.lengths = to.input(LENGTHS, x[0][:1], np.int64)
        output, backward = chain(to, layers, to.input(X, *x))
        if output.storage.name:
            output = copied(to, output)
        cut = len(to.ops)
        dx = backward(to.input(DY, output.shape, dtype), needs_dx) if derives else None
        if dx is not None and dx.storage.name != DY and dx.storage.first < cut:
            dx = copied(to, dx)
        #: the operand that holds the derivative with respect to x; None: nobody asked for it
        self.dx = None if dx is None else dx.storage.name or DX
        self.x, self.y = x, (output.shape, dtype)
        self.parameters = {name: (array.shape, array.dtype) for name, array in parameters.items()}

        storages = {id(s): s for s in _storages(to.ops)}
        own = {id(output.storage): Y}
        if self.dx == DX:
            assert dx is not None
            own[id(dx.storage)] = DX
        inside = [s for key, s in storages.items() if key not in own]
        saved, saved_bytes = places([s for s in inside if s.first < cut <= s.last])
        where: dict[int, tuple[str, int]] = {key: (name, 0) for key, name in own.items()}
        where |= {id(s): (SAVED, at) for at, s in saved}
        handed = {Y: self.y, SAVED: ((saved_bytes,), np.dtype(np.uint8))}
        arrays = _Arrays(parameters)
        before = [s for s in inside if s.last < cut]
        self.forward = _call(kernels, to.ops[:cut], before, where, arrays, handed, {})
        self.backward: NativeCall | None = None
        if derives:
            behind = [s for s in inside if s.first >= cut]
            made = {gradient_of(name): contents for name, contents in self.parameters.items()}
            changed = {**handed, DY: self.y}
            self.backward = _call(kernels, to.ops[cut:], behind, where, arrays, {**made, DX: x}, changed)


class _Arrays:
    """Finds the parameter that an array of a layer's is, or is a part of."""

    def __init__(self, parameters: Mapping[str, Array]) -> None:
        self._begins = [(address(array), array.nbytes, name) for name, array in parameters.items()]

    def place(self, op: Op, array: Array) -> tuple[str, int]:
        at = address(array)
        for begin, nbytes, name in self._begins:
            if begin <= at and at + array.nbytes <= begin + nbytes:
                return name, at - begin
        raise TypeError(
            f"the operation {op.entry} uses an array of a layer that is none of its parameters; "
            "that is state which a function of parameters and x cannot have"
        )


def _storages(ops: Sequence[Op]) -> Iterator[Storage]:
    """Of all values that do not come from outside."""
    for op in ops:
        for argument in op.arguments:
            if isinstance(argument, Value) and not argument.storage.name:
                yield argument.storage


def _call(
    kernels: Kernels,
    ops: Sequence[Op],
    inside: Sequence[Storage],
    where: Mapping[int, tuple[str, int]],
    arrays: _Arrays,
    made: Mapping[str, Contents],
    changed: Mapping[str, Contents],
) -> NativeCall:
    """inside: what lies in scratch memory. where: operands and offsets of other storages, by their ids.

    made: operands that the call fills, if it uses them. changed: those that it gets and may write to.
    """
    descriptions, numbers = _Descriptions(), dict[tuple[str, int], int]()
    rows = ffi.new("fgd_op[]", len(ops))
    for row, op in zip(rows, ops, strict=True):
        row.entry, row.dtype = lib.fgd_op_find(op.entry.encode()), kernels.dtype(op.dtype)
        row.of = ffi.cast("void *", descriptions.number(op.of))
        row.sizes = op.sizes
    first = _aligned(len(descriptions.memory)) + _aligned(ffi.sizeof(rows))
    scratch, scratch_bytes = places(inside)
    located = {**where, **{id(s): (SCRATCH, first + at) for at, s in scratch}}
    for row, op in zip(rows, ops, strict=True):
        for i, argument in enumerate(op.arguments):
            if argument is None:
                continue
            if not isinstance(argument, Value):
                place = arrays.place(op, argument)
            elif argument.storage.name:
                place = argument.storage.name, 0
            else:
                place = located[id(argument.storage)]
            row.pointers[i] = ffi.cast("void *", numbers.setdefault(place, len(numbers) + 1))
    used = dict.fromkeys(name for name, _ in numbers)
    writes = {name: what for name, what in {**made, **changed}.items() if name in used}
    reads = tuple(name for name in used if name not in made and name != SCRATCH)
    # a name that is among both means the result, which lies where the argument does
    operands = {name: number for number, name in enumerate([*reads, *writes, SCRATCH], 1)}
    places_table = [(operands[name], offset) for name, offset in numbers]
    sizes = len(numbers), len(descriptions.links), len(descriptions.memory), len(ops), first + scratch_bytes
    parts = [np.array(part, np.int64).tobytes() for part in (sizes, places_table, descriptions.links)]
    version = np.int64(lib.FGD_ABI_VERSION).tobytes()
    program = b"".join([version, *parts, descriptions.memory, ffi.buffer(rows)])
    return NativeCall(reads, writes, first + scratch_bytes, np.frombuffer(program, np.int64))


class _Descriptions:
    """The structs that operations point to, and what these point to, in one piece of memory."""

    def __init__(self) -> None:
        self.memory = bytearray()
        #: of each pointer inside: where it lies, and what it points to
        self.links: list[tuple[int, int]] = []
        self._known: dict[int, int] = {}

    def number(self, struct: Any) -> int:
        """The offset + 1 of a pointer's struct; 0 for NULL."""
        if struct == ffi.NULL:
            return 0
        key = int(ffi.cast("intptr_t", struct))
        if key not in self._known:
            kind = ffi.typeof(struct).item
            at = self._known[key] = len(self.memory)
            size = ffi.sizeof(kind)
            self.memory += bytes(ffi.buffer(struct, size)) + bytes(-size % 8)
            for name, field in kind.fields:
                if field.type.kind == "pointer" and getattr(struct, name) != ffi.NULL:
                    target = self.number(getattr(struct, name)) - 1
                    self.links.append((at + field.offset, target))
        return self._known[key] + 1


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
