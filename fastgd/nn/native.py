"""The layers' kernels in C, and their programs: arrays of fgd_op that one call runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from fastgd import gemm
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPE_CODES, Array
from fastgd.nn.kernels import Kernels, OperationFailed, Program
from fastgd.nn.program import Op, Value

_POINTERS = {"float32": "float[]", "float64": "double[]"}
_POINTERS |= {name: f"{name}_t[]" for name in ("int32", "int64", "uint64")}
_CTYPES = {np.dtype(name): kind for name, kind in _POINTERS.items()}


class NativeProgram(Program):
    def __init__(self, kernels: Kernels, ops: Sequence[Op], ranges: Sequence[tuple[int, int]]) -> None:
        self.ops = ffi.new("fgd_op[]", max(len(ops), 1))
        self.count = len(ops)
        self._failed = ffi.new("int64_t *")
        self._error_text = kernels.error_text
        #: what the operations point to
        self._alive: list[Any] = []
        self._inputs: dict[str, list[tuple[Any, int]]] = {}
        for row, op, (first, count) in zip(self.ops, ops, ranges, strict=False):
            row.entry = lib.fgd_op_find(op.entry.encode())
            info = lib.fgd_op_at(row.entry)
            assert info != ffi.NULL, f"csrc/ops.def has no {op.entry}"
            given = len(op.sizes), len(op.arguments)
            assert given == (info.n_sizes, info.n_pointers), f"{op.entry} does not take {given}"
            row.dtype, row.of = kernels.dtype(op.dtype), op.of
            row.first_gradient, row.n_gradients = first, count
            self._alive.append(op.of)
            for i, size in enumerate(op.sizes):
                row.sizes[i] = size
            for i, argument in enumerate(op.arguments):
                if isinstance(argument, Value) and argument.storage.name:
                    self._inputs.setdefault(argument.storage.name, []).append((row.pointers, i))
                elif argument is not None:
                    array = argument.array if isinstance(argument, Value) else argument
                    handle = kernels.handle(array)
                    self._alive.append(handle)
                    row.pointers[i] = handle

    def bind(self, name: str, array: Array) -> None:
        for pointers, i in self._inputs.get(name, ()):
            pointers[i] = ffi.from_buffer(array)

    def run(self) -> None:
        code = lib.fgd_run(self.ops, self.count, self._failed)
        if code:
            raise OperationFailed(self._failed[0], code, self._error_text(code))

    def then(self, update: Callable[..., int], *arguments: Any) -> int:
        if update is not lib.fgd_update:
            return super().then(update, *arguments)
        code: int = lib.fgd_train(self.ops, self.count, self._failed, *arguments)
        if code and self._failed[0] >= 0:
            raise OperationFailed(self._failed[0], code, self._error_text(code))
        return code


class NativeKernels(Kernels):
    """C."""

    name = "native"
    null = ffi.NULL
    error_label = lib.FGD_ERROR_LABEL

    def __init__(self) -> None:
        #: a description -> what it points to
        self._alive: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def __getattr__(self, entry: str) -> Callable[..., int]:
        function: Callable[..., int] = getattr(lib, f"fgd_{entry}")
        setattr(self, entry, function)
        return function

    def handle(self, array: Array) -> Any:
        return ffi.from_buffer(_CTYPES[array.dtype], array)

    def dtype(self, dtype: np.dtype[Any]) -> Any:
        gemm.ensure(dtype.name)
        return DTYPE_CODES[dtype]

    def activation(self, name: str, a: float = 0.0, b: float = 0.0) -> Any:
        return self.describe("activation", lib.fgd_activation_find(name.encode()), a, b)

    def loss(self, name: str, a: float = 0.0, divisor: float = 1.0) -> Any:
        return self.describe("loss", lib.fgd_loss_find(name.encode()), a, divisor)

    def describe(self, what: str, *fields: Any) -> Any:
        pointers = [self.handle(field) if isinstance(field, np.ndarray) else field for field in fields]
        given = [self.null if pointer is None else pointer for pointer in pointers]
        made = ffi.new(f"fgd_{what} *", given)
        self._alive[made] = given
        return made

    def error_text(self, code: int) -> str:
        text: str = ffi.string(lib.fgd_error_text(code)).decode()
        return text

    def program(self, ops: Sequence[Op], ranges: Sequence[tuple[int, int]]) -> Program:
        return NativeProgram(self, ops, ranges)

    def together(self, programs: Sequence[Program]) -> Callable[[], None]:
        rows, failed = ffi.new("fgd_program[]", len(programs)), ffi.new("int64_t[2]")
        for row, program in zip(rows, programs, strict=False):
            assert isinstance(program, NativeProgram)
            row.ops, row.n_ops = program.ops, program.count
        run_together, count = lib.fgd_run_together, len(programs)

        def run() -> None:
            code = run_together(rows, count, failed)
            if code:
                raise OperationFailed(failed[1], code, self.error_text(code))

        return run
