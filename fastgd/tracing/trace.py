"""The operations of one function, each there once, and the text that they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.tracing.operations import (
    BOOL,
    COMPARISONS,
    OPERATIONS,
    DType,
    Operation,
    TraceError,
    check_computed,
    constant_name,
    number,
    numpy_operation,
)
from fastgd.tracing.symbols import Symbol, plain

#: ways through a function, by its branches, above which it is refused, and branches on one way
MOST_WAYS = 1024
MOST_BRANCHES = 64


class Trace:
    """The operations of one function, each there once."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []
        self._known: dict[Operation, int] = {}
        #: (condition, way taken) at each branch of this call; what stands there when it begins is prescribed
        self._path: list[tuple[int, bool]] = []

    def add(self, operation: Operation) -> Symbol:
        index = self._known.setdefault(operation, len(self.operations))
        if index == len(self.operations):
            self.operations.append(operation)
        return Symbol(self, index)

    def argument(self, name: str, dtype: Any) -> Symbol:
        """What is given under this name when it is run."""
        return self.add(Operation("argument", np.dtype(dtype), np.dtype(dtype), (), name))

    def constant(self, value: Any, dtype: Any) -> Symbol:
        dtype = np.dtype(dtype)
        with np.errstate(over="ignore"):  # a bound beyond float32 is infinite there
            number = np.asarray(value).astype(dtype) if isinstance(value, float) else np.asarray(value, dtype)
        return self.add(Operation("constant", dtype, dtype, (), number.tobytes()))

    # ---- operations ----

    def convert(self, value: Symbol, dtype: DType) -> Symbol:
        if value.dtype == dtype:
            return value
        check_computed(dtype)
        operation = self.operations[value.index]
        if operation.name == "constant":
            with np.errstate(all="ignore"):
                return self.constant(np.frombuffer(operation.what, operation.dtype)[0].astype(dtype), dtype)
        return self.add(Operation("convert", value.dtype, dtype, (value.index,)))

    def _promoted(self, values: Sequence[Any]) -> tuple[list[Symbol], DType]:
        """The values as symbols of the dtype that NumPy would compute them in; Python's numbers are weak."""
        numbers = [plain(value) for value in values]
        dtype = np.result_type(*(v.dtype if isinstance(v, (Symbol, np.generic)) else v for v in numbers))
        symbols = [
            self.convert(v, dtype) if isinstance(v, Symbol) else self.constant(v, dtype) for v in numbers
        ]
        return symbols, dtype

    def _symbol(self, value: Any) -> Symbol:
        return self._promoted((value,))[0][0]

    def apply(self, name: str, values: Sequence[Any]) -> Symbol:
        """An operation on symbols and numbers."""
        symbols, kind = self._promoted(values)
        check_computed(kind)
        if name == "abs" and kind.kind != "f":
            return self.select(symbols[0] < 0, -symbols[0], symbols[0])
        if name == "div" and kind.kind != "f":
            symbols, kind = [self.convert(s, np.dtype(np.float64)) for s in symbols], np.dtype(np.float64)
        dtype = BOOL if name in COMPARISONS else kind
        return self.add(Operation(name, kind, dtype, tuple(s.index for s in symbols)))

    def select(self, condition: Any, a: Any, b: Any) -> Symbol:
        """`a` where the condition holds, else `b`."""
        condition = plain(condition)
        (first, second), kind = self._promoted((a, b))
        if not isinstance(condition, Symbol):
            return first if condition else second
        if condition.dtype != BOOL:
            condition = condition != 0
        if first.index == second.index:
            return first
        return self.add(Operation("select", kind, kind, (condition.index, first.index, second.index)))

    # ---- branches ----

    def decide(self, condition: Symbol) -> bool:
        """Which way the function goes in this call."""
        for index, way in self._path:
            if index == condition.index:
                return way
        if len(self._path) == MOST_BRANCHES:
            raise TraceError(
                f"there are more than {MOST_BRANCHES} branches on one way: does a loop's end depend on them?"
            )
        self._path.append((condition.index, True))
        return True

    def follow(self, function: Callable[[], Sequence[Any]]) -> list[Symbol]:
        """What the function returns, a sequence of symbols and numbers, whichever way it goes."""
        ways: list[tuple[list[tuple[int, bool]], list[Any]]] = []
        self._path = []
        while True:
            result = [plain(value) for value in function()]
            ways.append((list(self._path), result))
            if len(ways) > MOST_WAYS:
                raise TraceError(f"there are more than {MOST_WAYS} ways through its branches")
            while self._path and not self._path[-1][1]:
                self._path.pop()
            if not self._path:
                return [self._symbol(value) for value in self._joined(ways, 0)]
            self._path[-1] = (self._path[-1][0], False)

    def _joined(self, ways: list[tuple[list[tuple[int, bool]], list[Any]]], depth: int) -> list[Any]:
        """Ways that are the same up to their branch number `depth`."""
        path, result = ways[0]
        if len(path) == depth:
            return result
        condition = Symbol(self, path[depth][0])
        sides = [self._joined([w for w in ways if w[0][depth][1] is way], depth + 1) for way in (True, False)]
        if len(sides[0]) != len(sides[1]):
            raise TraceError("its branches return different numbers of values")
        return [self.select(condition, a, b) for a, b in zip(*sides, strict=True)]

    # ---- what came of it ----

    def needed(self, outputs: Sequence[Symbol]) -> list[int]:
        """The operations that outputs follow from, each after its operands."""
        found: set[int] = set()
        waiting = [s.index for s in outputs]
        while waiting:
            index = waiting.pop()
            if index not in found:
                found.add(index)
                waiting += self.operations[index].operands
        return sorted(found)

    def arguments(self, outputs: Sequence[Symbol]) -> set[str]:
        """The names of the arguments that outputs follow from."""
        needed = (self.operations[i] for i in self.needed(outputs))
        return {operation.what for operation in needed if operation.name == "argument"}

    def evaluate(self, outputs: Sequence[Symbol], arguments: Mapping[str, Any], xp: Any = np) -> list[Any]:
        """The outputs for arrays or numbers in the dtypes of the arguments, or for symbols of another trace.

        xp: what has `where` for them.
        """
        values: dict[int, Any] = {}
        with np.errstate(all="ignore"):
            for index in self.needed(outputs):
                operation = self.operations[index]
                operands = [values[i] for i in operation.operands]
                if operation.name == "argument":
                    values[index] = arguments[operation.what]
                elif operation.name == "constant":
                    values[index] = number(operation)
                elif operation.name == "select":
                    values[index] = xp.where(*operands)
                elif operation.name == "convert":
                    values[index] = operands[0].astype(operation.dtype)
                else:
                    values[index] = numpy_operation(operation)(*operands)
        return [values[s.index] for s in outputs]

    def source(self, outputs: Sequence[Symbol]) -> Source:
        """The operations as text."""
        lines, constants, arguments = [], {}, []
        names: dict[int, str] = {}
        for index in self.needed(outputs):
            operation = self.operations[index]
            if operation.name == "argument":
                names[index] = operation.what
                arguments.append(operation.what)
            elif operation.name == "constant":
                names[index] = name = constant_name(operation)
                constants[name] = operation
            else:
                names[index] = f"v{index}"
                operands = ", ".join(names[i] for i in operation.operands)
                lines.append(f"v{index} = {operation.function}({operands})")
        functions = {
            self.operations[i].function: self.operations[i]
            for i in self.needed(outputs)
            if self.operations[i].name in OPERATIONS
        }
        return Source(lines, [names[s.index] for s in outputs], arguments, constants, functions)


class Source(NamedTuple):
    """A trace as text."""

    #: an assignment each
    lines: list[str]
    #: the names of the outputs
    outputs: list[str]
    #: the names of the arguments that they depend on
    arguments: list[str]
    #: name -> a constant of these lines
    constants: dict[str, Operation]
    #: name -> an operation that it computes
    functions: dict[str, Operation]
