"""Programs: the operations of a model's passes over one arena of memory, planned once for a shape of batch.

Layers write operations into a `Builder`, naming what they read and write: parameters and other arrays that
stay, and values, which get their place in the arena when all operations are known. Two values share memory
when no operation needs both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.memory import shown

Shape = tuple[int, ...]

#: Bytes that every value's place in the arena is a multiple of: a cache line, and a register of AVX-512
ALIGNMENT = 64


class Storage:
    """Memory that is used from one operation to another one."""

    def __init__(self, nbytes: int, name: str | None = None) -> None:
        self.nbytes = nbytes
        #: what comes from outside at every run has a name, and no place in the arena
        self.name = name
        #: numbers of the first operation that names it, and of the last
        self.first, self.last = -1, -1
        #: whether it is still needed behind the last
        self.kept = False
        self.memory: Array | None = None

    def used_by(self, op: int) -> None:
        self.first = op if self.first < 0 else self.first
        self.last = op

    def lives_beside(self, other: Storage) -> bool:
        """Whether there is a time when both are needed."""
        ends_before = self.last < other.first and not self.kept
        begins_behind = other.last < self.first and not other.kept
        return not (ends_before or begins_behind)


class Value:
    """An array of a program. Several may show the same memory in different shapes."""

    def __init__(self, shape: Shape, dtype: Any, storage: Storage) -> None:
        self.shape, self.dtype, self.storage = shape, np.dtype(dtype), storage

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    def reshaped(self, shape: Shape) -> Value:
        """The same elements in another shape."""
        if math.prod(shape) != self.size:
            raise ValueError(f"{list(self.shape)} has other elements than {list(shape)}")
        return Value(shape, self.dtype, self.storage)

    @property
    def array(self) -> Array:
        """Where it lies, once the program is built."""
        assert self.storage.memory is not None
        return shown(self.storage.memory, self.shape, self.dtype)


#: what an operation reads or writes; None is NULL
Argument = Value | Array | None

#: From the error code an operation was refused with and the arrays of its arguments, what to raise if it can
#: say what is wrong with them; else None.
Refusal = Callable[[int, Sequence[Array | None]], Exception | None]


class Op(NamedTuple):
    """A call of the kernels' function `entry` with a dtype, a description, sizes and arrays."""

    entry: str
    dtype: np.dtype[Any]
    of: Any
    sizes: tuple[int, ...]
    arguments: tuple[Argument, ...]
    refusal: Refusal | None = None


class Builder:
    """Collects the operations of a program.

    kernels: whose functions they call.
    dtype: what the model computes in.
    training: whether layers that behave differently while training shall do so.
    gradients: id of a parameter -> the array its gradient goes to; empty when there is no backward pass.
    """

    def __init__(
        self,
        kernels: Any,
        dtype: np.dtype[Any],
        *,
        training: bool = False,
        gradients: dict[int, Array] | None = None,
    ) -> None:
        self.kernels, self.dtype, self.training = kernels, dtype, training
        #: the lengths of the sequences in the batch, int64 [batch], where they differ
        self.lengths: Value | None = None
        self._gradients = gradients or {}
        self.ops: list[Op] = []
        self._storages: list[Storage] = []
        self._places = 0

    @property
    def with_gradients(self) -> bool:
        """Whether a backward pass follows, for which layers must keep what they need."""
        return bool(self._gradients)

    def value(self, shape: Shape, dtype: Any = None) -> Value:
        """Room for an array, of the model's dtype unless another is given, with anything in it."""
        of = self.dtype if dtype is None else np.dtype(dtype)
        storage = Storage(math.prod(shape) * of.itemsize)
        self._storages.append(storage)
        return Value(tuple(shape), of, storage)

    def result(self) -> Array:
        """Room for a number that the caller reads, float64 [1]."""
        return np.empty(1)

    def next_place(self) -> int:
        """A number that tells a layer that draws random bits from the model's others: 0, 1 and so on."""
        self._places += 1
        return self._places - 1

    def input(self, name: str, shape: Shape, dtype: Any) -> Value:
        """An array that comes from outside under this name at every run."""
        return Value(tuple(shape), dtype, Storage(0, name))

    def gradient(self, parameter: Array | None) -> Array | None:
        """Where the gradient of a parameter goes; None for None."""
        return None if parameter is None else self._gradients[id(parameter)]

    def emit(
        self,
        entry: str,
        of: Any,
        sizes: Sequence[int],
        arguments: Sequence[Argument],
        refusal: Refusal | None = None,
    ) -> None:
        """Appends a call of `entry` of the kernels. Its dtype is that of the model.

        refusal: explains an error code of this operation.
        """
        for argument in arguments:
            if isinstance(argument, Value):
                argument.storage.used_by(len(self.ops))
        self.ops.append(Op(entry, self.dtype, of, tuple(sizes), tuple(arguments), refusal))

    def emit_first(
        self, entry: str, of: Any, sizes: Sequence[int], arguments: Sequence[Argument], refusal: Refusal
    ) -> None:
        """Puts a call that checks inputs before all others, so that nothing has changed when it refuses."""
        self.ops.insert(0, Op(entry, self.dtype, of, tuple(sizes), tuple(arguments), refusal))
        for storage in self._storages:
            if storage.first >= 0:
                storage.first, storage.last = storage.first + 1, storage.last + 1

    def keep(self, value: Value) -> None:
        """Has a value stay until the end of the program, to be read by the caller."""
        value.storage.kept = True

    def allocate(self) -> int:
        """Gives every value its place in one arena and returns the arena's bytes."""
        placed, size = places(self._storages)
        raw = np.zeros(size + ALIGNMENT, np.uint8)
        arena = raw[-raw.ctypes.data % ALIGNMENT :]
        for at, storage in placed:
            storage.memory = arena[at : at + storage.nbytes]
        return size

    def gradient_ranges(self, order: Sequence[Array]) -> list[tuple[int, int]]:
        """For each operation (first, count): the ones of `order` that are complete behind it.

        All counts are 0 where those of some operation do not follow each other.
        """
        number = {id(array): i for i, array in enumerate(order)}
        last = {}
        for i, op in enumerate(self.ops):
            for argument in op.arguments:
                if id(argument) in number:
                    last[number[id(argument)]] = i
        ranges = [(0, 0)] * len(self.ops)
        for i in set(last.values()):
            mine = sorted(k for k, at in last.items() if at == i)
            if mine != list(range(mine[0], mine[-1] + 1)):
                return [(0, 0)] * len(self.ops)
            ranges[i] = mine[0], len(mine)
        return ranges


def places(storages: Sequence[Storage]) -> tuple[list[tuple[int, Storage]], int]:
    """Where in one arena each that is used begins, and the arena's bytes."""
    placed: list[tuple[int, Storage]] = []
    # the largest first, each at the lowest address that is free for as long as it lives
    for storage in sorted(storages, key=lambda s: -s.nbytes):
        if storage.first < 0:
            continue
        begin = 0
        beside = ((at, s) for at, s in placed if s.lives_beside(storage))
        for at, other in sorted(beside, key=lambda place: place[0]):
            if at - begin >= storage.nbytes:
                break
            begin = max(begin, _aligned(at + other.nbytes))
        placed.append((begin, storage))
    return placed, max((_aligned(at + s.nbytes) for at, s in placed), default=0)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
