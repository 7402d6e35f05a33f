"""A function of numbers, called with symbols in place of arrays, becomes a list of operations on one element.

So the NumPy reference is the source of kernels too: bodies of rules, formats of storage and elementary
functions are traced, and what they did is written down as Python in which every line is one operation:

    v4 = mul_f32(v2, v3)

A symbol has the dtype that an array would have, by NumPy's promotion, and takes part in NumPy's functions by
its protocols (NEP 13 and NEP 18). Where the function branches on a symbol, it is called once for each way,
and a `select` joins what comes of them: no operation has an effect, so all of them may be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

DType = np.dtype[Any]


class TraceError(TypeError):
    """A function does with a symbol what can be done with a number or an array only."""


#: name of a dtype -> how it is called in the names of operations
CODES = {
    "bool": "b1",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "float32": "f32",
    "float64": "f64",
    "bfloat16": "bf16",
    "float16": "f16",
}

#: what is stored only: it can be seen as bits, and that is all
STORED = ("bfloat16", "float16")


def code_of(dtype: DType) -> str:
    """How a dtype is called in the names of operations; TraceError for one that has none."""
    if dtype.name not in CODES:
        raise TraceError(f"there are no operations of {dtype}")
    return CODES[dtype.name]


BOOL = np.dtype(np.bool_)

#: ways through a function, by its branches, above which it is refused, and branches on one way
MOST_WAYS = 1024
MOST_BRANCHES = 64


class Operation(NamedTuple):
    """One line: what it does, to which earlier lines, and what it gives."""

    #: of OPERATIONS, or "argument" or "constant"
    name: str
    #: of its operands but for a select's condition; of the result for those without
    kind: DType
    dtype: DType
    operands: tuple[int, ...]
    #: the name of an argument, or the bytes of a constant
    what: Any = None

    @property
    def function(self) -> str:
        """The name of what computes it: "add_f32", and with both dtypes where they differ freely."""
        name = f"{self.name}_{code_of(self.kind)}"
        return f"{name}_{code_of(self.dtype)}" if self.name in ("convert", "view") else name


def _numpy_select(condition: Any, a: Any, b: Any) -> Any:
    return np.where(condition, a, b)[()]


#: what there is, in terms of NumPy: (operands) -> result, both of the dtypes in the name. `convert` and
#: `view` take the dtype of the result as well
OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "floordiv": np.floor_divide,
    "rem": np.remainder,
    "neg": np.negative,
    "abs": np.absolute,
    "sqrt": np.sqrt,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "select": _numpy_select,
    "convert": lambda value, dtype: np.asarray(value).astype(dtype)[()],
    "view": lambda value, dtype: value.view(dtype),
}

_COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")

#: NumPy's ufunc -> the operation that it is
_UFUNCS: dict[Any, str] = {
    **{ufunc: name for name, ufunc in OPERATIONS.items() if isinstance(ufunc, np.ufunc)},
    np.logical_and: "and",
    np.logical_or: "or",
    np.logical_xor: "xor",
    np.logical_not: "not",
}


class Symbol(np.lib.mixins.NDArrayOperatorsMixin):
    """One number of a trace, which stands for an array in whatever is traced."""

    __slots__ = ("dtype", "index", "trace")

    shape: tuple[int, ...] = ()
    ndim, size = 0, 1

    def __init__(self, trace: Trace, index: int) -> None:
        self.trace, self.index, self.dtype = trace, index, trace.operations[index].dtype

    def __repr__(self) -> str:
        return f"Symbol({self.operation.function} -> {self.dtype})"

    @property
    def operation(self) -> Operation:
        return self.trace.operations[self.index]

    # ---- what NumPy asks for ----

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            raise TraceError(f"np.{ufunc.__name__} with {method} or options has no operation of one element")
        derived = _DERIVED.get(ufunc)
        if derived is not None:
            return derived(self.trace, *inputs)
        name = _UFUNCS.get(ufunc)
        if name is None:
            raise TraceError(
                f"np.{ufunc.__name__} has no operation of one element with the same bits everywhere"
            )
        return self.trace.apply(name, inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        made = _FUNCTIONS.get(function)
        if made is None or kwargs:
            raise TraceError(f"np.{function.__name__} has no operation of one element")
        return made(self.trace, *args)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TraceError("a symbol is no array: it has no numbers yet")

    def astype(self, dtype: Any) -> Symbol:
        return self.trace.convert(self, np.dtype(dtype))

    def view(self, dtype: Any) -> Symbol:
        dtype = np.dtype(dtype)
        if dtype.itemsize != self.dtype.itemsize:
            raise TraceError(f"{self.dtype} cannot be seen as {dtype}, which has another size")
        if dtype == self.dtype:
            return self
        return self.trace.add(Operation("view", self.dtype, dtype, (self.index,)))

    def __pow__(self, exponent: Any) -> Any:
        known = isinstance(exponent, (int, float, np.number))
        if known and exponent == 0.5:
            return np.sqrt(self)
        if not known or not -64 <= exponent <= 64 or exponent != int(exponent):
            raise TraceError(
                f"only known whole powers up to 64 and 0.5 have the same bits everywhere, not {exponent!r}"
            )
        n, base, result = abs(int(exponent)), self, None
        while n:
            if n & 1:
                result = base if result is None else result * base
            base, n = base * base, n >> 1
        if result is None:
            return self.trace.constant(1, self.dtype)
        return result if exponent > 0 else 1.0 / result

    # ---- what makes it a number ----

    def __bool__(self) -> bool:
        return self.trace.decide(self if self.dtype == BOOL else self != 0)

    def _refused(self) -> Any:
        raise TraceError("the value of a symbol is not known yet: it depends on the element")

    __int__ = __float__ = __index__ = __len__ = __iter__ = _refused

    def __getitem__(self, index: Any) -> Any:
        raise TraceError("a symbol is one number, which has no elements")

    __hash__ = object.__hash__  # the mixin's comparison takes the default away


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
        _computed(dtype)
        operation = self.operations[value.index]
        if operation.name == "constant":
            with np.errstate(all="ignore"):
                return self.constant(np.frombuffer(operation.what, operation.dtype)[0].astype(dtype), dtype)
        return self.add(Operation("convert", value.dtype, dtype, (value.index,)))

    def _promoted(self, values: Sequence[Any]) -> tuple[list[Symbol], DType]:
        """The values as symbols of the dtype that NumPy would compute them in; Python's numbers are weak."""
        plain = [_plain(value) for value in values]
        dtype = np.result_type(*(v.dtype if isinstance(v, (Symbol, np.generic)) else v for v in plain))
        symbols = [
            self.convert(v, dtype) if isinstance(v, Symbol) else self.constant(v, dtype) for v in plain
        ]
        return symbols, dtype

    def _symbol(self, value: Any) -> Symbol:
        return self._promoted((value,))[0][0]

    def apply(self, name: str, values: Sequence[Any]) -> Symbol:
        """An operation on symbols and numbers."""
        symbols, kind = self._promoted(values)
        _computed(kind)
        if name == "div" and kind.kind != "f":
            symbols, kind = [self.convert(s, np.dtype(np.float64)) for s in symbols], np.dtype(np.float64)
        dtype = BOOL if name in _COMPARISONS else kind
        return self.add(Operation(name, kind, dtype, tuple(s.index for s in symbols)))

    def select(self, condition: Any, a: Any, b: Any) -> Symbol:
        """`a` where the condition holds, else `b`."""
        condition = _plain(condition)
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
            result = [_plain(value) for value in function()]
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

    def evaluate(self, outputs: Sequence[Symbol], arguments: dict[str, Any]) -> list[Any]:
        """The outputs for arrays or NumPy's numbers in the dtypes of the arguments."""
        values: dict[int, Any] = {}
        with np.errstate(all="ignore"):
            for index in self.needed(outputs):
                operation = self.operations[index]
                if operation.name == "argument":
                    values[index] = arguments[operation.what]
                elif operation.name == "constant":
                    values[index] = number(operation)
                else:
                    values[index] = numpy_operation(operation)(*(values[i] for i in operation.operands))
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


def number(constant: Operation) -> Any:
    """The value of a constant, as NumPy's scalar."""
    return np.frombuffer(constant.what, constant.dtype)[0]


def numpy_operation(operation: Operation) -> Callable[..., Any]:
    """The operation for NumPy's arrays and scalars."""
    function = OPERATIONS[operation.name]
    if operation.name in ("convert", "view"):
        dtype = operation.dtype
        return lambda value: function(value, dtype)
    return function


def _computed(dtype: DType) -> None:
    """TraceError for a dtype that nothing is computed in."""
    if dtype.name in STORED:
        raise TraceError(f"nothing is computed in {dtype}: it can only be seen as bits")
    code_of(dtype)


def constant_name(operation: Operation) -> str:
    return f"c_{code_of(operation.dtype)}_{operation.what[::-1].hex()}"


def _plain(value: Any) -> Any:
    """A symbol, a scalar of NumPy's or one of Python's. What stands for a symbol says so by `as_symbol`."""
    if hasattr(value, "as_symbol"):
        return value.as_symbol()
    if isinstance(value, np.ndarray):
        if value.size != 1:
            raise TraceError(f"an array of shape {value.shape} has no place beside one element")
        return value.reshape(())[()]
    if not isinstance(value, (Symbol, np.generic, bool, int, float)):
        raise TraceError(f"{type(value).__name__} is no number")
    return value


def _smaller(trace: Trace, a: Any, b: Any) -> Symbol:
    return _extreme(trace, "lt", a, b)


def _larger(trace: Trace, a: Any, b: Any) -> Symbol:
    return _extreme(trace, "gt", a, b)


def _extreme(trace: Trace, name: str, a: Any, b: Any) -> Symbol:
    """NaN where one of two is NaN, as in NumPy."""
    (first, second), kind = trace._promoted((a, b))
    chosen = trace.select(trace.apply(name, (first, second)), first, second)
    return trace.select(first != first, first, chosen) if kind.kind == "f" else chosen


def _with_sign(trace: Trace, magnitude: Any, sign: Any) -> Any:
    """By the bits, as copysign does it: a NaN has a sign too."""
    (a, b), kind = trace._promoted((magnitude, sign))
    bits = np.dtype(f"uint{8 * kind.itemsize}")
    highest = bits.type(1 << 8 * kind.itemsize - 1)
    return ((a.view(bits) & ~highest) | (b.view(bits) & highest)).view(kind)


def _sign(trace: Trace, x: Any) -> Any:
    return trace.select(x > 0, 1, trace.select(x < 0, -1, trace.select(x == 0, 0, x)))


def _power(trace: Trace, x: Any, exponent: Any) -> Any:
    if not isinstance(x, Symbol):
        raise TraceError("a power has the same bits everywhere only where its exponent is known")
    return x**exponent


def _is_finite(trace: Trace, x: Any) -> Any:
    return abs(x) < np.inf


#: NumPy's ufunc -> the same by operations
_DERIVED: dict[Any, Callable[..., Any]] = {
    np.minimum: _smaller,
    np.maximum: _larger,
    np.copysign: _with_sign,
    np.square: lambda trace, x: x * x,
    np.sign: _sign,
    np.fabs: lambda trace, x: abs(x),
    np.power: _power,
    np.isnan: lambda trace, x: x != x,
    np.isinf: lambda trace, x: abs(x) == np.inf,
    np.isfinite: _is_finite,
}

#: NumPy's functions that are no ufuncs
_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    np.where: lambda trace, condition, a, b: trace.select(condition, a, b),
    np.full_like: lambda trace, like, value: trace.constant(value, like.dtype),
    np.zeros_like: lambda trace, like: trace.constant(0, like.dtype),
    np.clip: lambda trace, x, low, high: np.minimum(np.maximum(x, low), high),
}
