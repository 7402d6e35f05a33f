"""A number of a trace, which stands for an array in whatever is traced: its place in NumPy's protocols."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd.tracing.operations import BOOL, OPERATIONS, Operation, TraceError

if TYPE_CHECKING:
    from fastgd.tracing.trace import Trace

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


def plain(value: Any) -> Any:
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
