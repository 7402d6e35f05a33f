"""The seam between layers and backends: the kernels a layer calls, native or reference.

Functions have the names and arguments of csrc/fastgd.h without fgd_: `k.linear_forward(dtype, of, sizes...,
pointers...)`. For a pointer they take a handle, what `k.handle(array)` gives, which is a pointer or the array
itself. Each returns 0 or an error code of csrc/fastgd.h, and `check` turns that into an exception.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.backends import AUTO
from fastgd.memory import HOST, Memory, kind_of
from fastgd.nn import (
    reference,
    reference_attention,
    reference_batch_norm,
    reference_conv,
    reference_dropout,
    reference_embedding,
    reference_layer_norm,
    reference_losses,
    reference_pool,
    reference_recurrent,
    reference_softmax,
    reference_steps,
)
from fastgd.nn.program import Op, Value


class OperationFailed(RuntimeError):
    """An operation of a program was refused, and those behind it have not run."""

    def __init__(self, op: int, code: int, text: str) -> None:
        super().__init__(f"an operation of the program was refused: {text}")
        #: its number
        self.op = op
        self.code = code


class Program(ABC):
    """Operations ready to run, again and again, on other inputs."""

    @abstractmethod
    def bind(self, name: str, array: Array) -> None:
        """Sets the array, contiguous and aligned, that comes in under a name. The caller keeps it alive."""

    @abstractmethod
    def run(self) -> None:
        """Runs all operations; OperationFailed when one fails."""

    def then(self, update: Callable[..., int], *arguments: Any) -> int:
        """Runs all operations, then update(*arguments), and returns what that returns."""
        self.run()
        return update(*arguments)


class Kernels(ABC):
    """One backend."""

    name: str
    #: the handle of no array
    null: Any
    #: the code that says a label is out of range
    error_label = reference_losses.ERROR_LABEL

    @abstractmethod
    def __getattr__(self, entry: str) -> Callable[..., int]:
        """The function of its namesake fgd_<entry> in csrc/fastgd.h."""

    @abstractmethod
    def handle(self, array: Array) -> Any:
        """What functions take for the array, which must be contiguous and aligned."""

    @abstractmethod
    def dtype(self, dtype: np.dtype[Any]) -> Any:
        """What functions take for float32 or float64."""

    @abstractmethod
    def activation(self, name: str, a: float = 0.0, b: float = 0.0) -> Any:
        """An fgd_activation, by its name in csrc/layers.def and its parameters."""

    @abstractmethod
    def loss(self, name: str, a: float = 0.0, divisor: float = 1.0) -> Any:
        """An fgd_loss, by its name in csrc/losses.def, its parameter and what the sum is divided by."""

    @abstractmethod
    def describe(self, what: str, *fields: Any) -> Any:
        """The description fgd_<what> with these fields, in its order; arrays for pointers."""

    @abstractmethod
    def error_text(self, code: int) -> str:
        """One English sentence."""

    @abstractmethod
    def program(self, ops: Sequence[Op], ranges: Sequence[tuple[int, int]]) -> Program:
        """Operations whose values have their places; ranges: Builder.gradient_ranges."""

    def together(self, programs: Sequence[Program]) -> Callable[[], None]:
        """What runs programs that do not depend on each other; OperationFailed when one fails."""

        def run() -> None:
            for program in programs:
                program.run()

        return run

    def check(self, code: int) -> None:
        if code:
            raise RuntimeError(f"the {self.name} kernels refused the call: {self.error_text(code)}")


class ReferenceProgram(Program):
    def __init__(self, kernels: Kernels, ops: Sequence[Op]) -> None:
        self._calls: list[tuple[Callable[..., int], list[Any]]] = []
        self._inputs: dict[str, list[tuple[list[Any], int, tuple[int, ...]]]] = {}
        for op in ops:
            first = len(op.sizes) + 2
            call: list[Any] = [op.dtype, op.of, *op.sizes]
            for i, argument in enumerate(op.arguments, first):
                if not isinstance(argument, Value):
                    call.append(argument)
                elif argument.storage.name:
                    cells = self._inputs.setdefault(argument.storage.name, [])
                    cells.append((call, i, argument.shape))
                    call.append(None)
                else:
                    call.append(argument.array)
            self._calls.append((getattr(kernels, op.entry), call))
        self._error_text = kernels.error_text

    def bind(self, name: str, array: Array) -> None:
        for call, i, shape in self._inputs.get(name, []):
            call[i] = array.reshape(shape)

    def run(self) -> None:
        for op, (function, arguments) in enumerate(self._calls):
            code = function(*arguments)
            if code:
                raise OperationFailed(op, code, self._error_text(code))


#: modules with ENTRIES, name -> function, and DESCRIPTIONS, name -> class, of the kernels in NumPy
REFERENCE: tuple[ModuleType, ...] = (
    reference,
    reference_losses,
    reference_layer_norm,
    reference_softmax,
    reference_embedding,
    reference_dropout,
    reference_batch_norm,
    reference_conv,
    reference_pool,
    reference_recurrent,
    reference_attention,
    reference_steps,
)


class ReferenceKernels(Kernels):
    """NumPy."""

    name = "reference"
    null = None

    def __init__(self) -> None:
        self._entries = {name: f for module in REFERENCE for name, f in module.ENTRIES.items()}
        self._descriptions = {name: d for module in REFERENCE for name, d in module.DESCRIPTIONS.items()}

    def __getattr__(self, entry: str) -> Callable[..., int]:
        if entry.startswith("_") or entry not in self._entries:
            raise AttributeError(entry)
        function: Callable[..., int] = self._entries[entry]
        return function

    def handle(self, array: Array) -> Any:
        return array

    def dtype(self, dtype: np.dtype[Any]) -> Any:
        return dtype

    def activation(self, name: str, a: float = 0.0, b: float = 0.0) -> Any:
        return reference.bound(name, a, b)

    def loss(self, name: str, a: float = 0.0, divisor: float = 1.0) -> Any:
        return reference_losses.loss_of(name, a, divisor)

    def describe(self, what: str, *fields: Any) -> Any:
        return self._descriptions[what](*fields)

    def error_text(self, code: int) -> str:
        return f"error {code}"

    def program(self, ops: Sequence[Op], ranges: Sequence[tuple[int, int]]) -> Program:
        return ReferenceProgram(self, ops)


def _native() -> Kernels:
    from fastgd.nn.native import NativeKernels

    return NativeKernels()


def _cuda() -> Kernels:
    from fastgd.cuda.layers.kernels import CudaKernels

    return CudaKernels()


#: name -> the kind of memory that it is for, and its kernels
_BACKENDS: dict[str, tuple[str, Callable[[], Kernels]]] = {
    "native": ("host", cache(_native)),
    "reference": ("host", cache(ReferenceKernels)),
    "cuda": ("cuda", cache(_cuda)),
}


def kernels_of(backend: str, memory: Memory = HOST) -> Kernels:
    """The kernels of a backend, "native", "reference" or "cuda"; "auto" is the best for arrays of a memory.

    Raises ValueError when there is no such backend or it is for other memory, and ImportError when it cannot
    be used here.
    """
    kind = kind_of(memory)
    if backend == "auto":
        backend = AUTO.get(kind, kind)
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be auto, {' or '.join(_BACKENDS)}, not {backend!r}")
    wanted, kernels = _BACKENDS[backend]
    if wanted != kind:
        fitting = " or ".join(["auto", *(name for name, (own, _) in _BACKENDS.items() if own == kind)])
        raise ValueError(
            f"backend {backend!r} is for arrays on {wanted}, and these are on {memory.name}: take {fitting}"
        )
    return kernels()
