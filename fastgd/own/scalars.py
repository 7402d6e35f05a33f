"""What a rule's function does with hyperparameters and the step alone: computed once a step, in float64.

Symbols of another kind than those of elements: what is computed from them only becomes a function of Python's
own numbers, the `fold` of a rule. Where one of them meets an element, it is one of the rule's scalars.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastgd.rules import Carried, Hyperparameters
from fastgd.rules.powers import exponential, logarithm, power, real_power
from fastgd.tracing import Symbol, Trace, TraceError

# ---- Arithmetic of float64 as IEEE has it, where Python raises ---------------------------------------


def _divided(a: float, b: float) -> float:
    if b:
        return a / b
    return math.nan if a == 0 or a != a else math.copysign(math.inf, a) * math.copysign(1.0, b)


def _quotient(a: float, b: float) -> float:
    return a // b if b and math.isfinite(a) else math.nan


def _remainder(a: float, b: float) -> float:
    return a % b if b and math.isfinite(a) else math.nan


def _root(x: float) -> float:
    return math.sqrt(x) if x >= 0 else math.nan


def _raised(base: float, exponent: float) -> float:
    """base**exponent with the same bits everywhere, as the rules of the library have it."""
    if not math.isfinite(base) or not math.isfinite(exponent):
        return float(np.power(np.float64(base), np.float64(exponent)))
    size = abs(exponent)
    if size == int(size) < 2**63:
        result = power(float(base), int(size))
    else:
        result = real_power(float(base), size) if base >= 0 else math.nan
    return result if exponent >= 0 else _divided(1.0, result)


def _exponential(x: float) -> float:
    if math.isfinite(x):
        return exponential(float(x))
    return 0.0 if x == -math.inf else x


def _logarithm(x: float) -> float:
    if 0 < x < math.inf:
        return logarithm(float(x))
    return -math.inf if x == 0 else x if x > 0 else math.nan


def _smaller(a: float, b: float) -> float:
    return a if a < b or a != a else b


def _larger(a: float, b: float) -> float:
    return a if a > b or a != a else b


def _inverted(x: int) -> int:
    return not x if isinstance(x, bool) else ~x


_NAMES: dict[str, Any] = {
    "inf": math.inf,
    "nan": math.nan,
    "divided": _divided,
    "quotient": _quotient,
    "remainder": _remainder,
    "root": _root,
    "raised": _raised,
    "exponential": _exponential,
    "logarithm": _logarithm,
    "smaller": _smaller,
    "larger": _larger,
    "inverted": _inverted,
}

#: NumPy's ufunc -> how it is written
_WRITTEN: dict[Any, str] = {
    np.add: "{} + {}",
    np.subtract: "{} - {}",
    np.multiply: "{} * {}",
    np.true_divide: "divided({}, {})",
    np.floor_divide: "quotient({}, {})",
    np.remainder: "remainder({}, {})",
    np.power: "raised({}, {})",
    np.float_power: "raised({}, {})",
    np.negative: "-{}",
    np.positive: "+{}",
    np.absolute: "abs({})",
    np.fabs: "abs({})",
    np.square: "{0} * {0}",
    np.sqrt: "root({})",
    np.exp: "exponential({})",
    np.log: "logarithm({})",
    np.minimum: "smaller({}, {})",
    np.maximum: "larger({}, {})",
    np.less: "{} < {}",
    np.less_equal: "{} <= {}",
    np.greater: "{} > {}",
    np.greater_equal: "{} >= {}",
    np.equal: "{} == {}",
    np.not_equal: "{} != {}",
    np.bitwise_and: "{} & {}",
    np.bitwise_or: "{} | {}",
    np.bitwise_xor: "{} ^ {}",
    np.invert: "inverted({})",
    np.logical_and: "bool({}) & bool({})",
    np.logical_or: "bool({}) | bool({})",
    np.logical_xor: "bool({}) ^ bool({})",
    np.logical_not: "not {}",
}

# ---- Symbols ----------------------------------------------------------------------------------------


class _Line(NamedTuple):
    text: str
    #: earlier lines that it needs
    operands: tuple[int, ...]


class Scalars:
    """All that one function computes from hyperparameters and the step."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._known: dict[str, int] = {}
        #: numbers of lines that meet elements, in the order of the rule's scalars
        self.met: list[int] = []
        #: of the elements that they meet
        self.trace: Trace
        self.real: Any

    def given(self, text: str) -> Scalar:
        """What an expression of `h`, the hyperparameters by name, and `step` gives."""
        return self._line(_Line(text, ()))

    def _line(self, line: _Line) -> Scalar:
        index = self._known.setdefault(line.text, len(self._lines))
        if index == len(self._lines):
            self._lines.append(line)
        return Scalar(self, index)

    def write(self, form: str, values: tuple[Any, ...]) -> Scalar:
        """A line: the form with these scalars and numbers in it."""
        operands = tuple(v.index for v in values if isinstance(v, Scalar))
        return self._line(_Line(form.format(*map(_word, values)), operands))

    def symbol(self, index: int) -> Symbol:
        """The scalar as a number beside elements, in their precision."""
        if index not in self.met:
            self.met.append(index)
        return self.trace.argument(scalar_name(self.met.index(index)), self.real)

    def fold(self) -> Callable[[Hyperparameters, int, Carried], tuple[float, ...]]:
        """(hyperparameters, step, what is carried) -> the scalars that meet elements."""
        needed: set[int] = set()
        waiting = list(self.met)
        while waiting:
            index = waiting.pop()
            if index not in needed:
                needed.add(index)
                waiting += self._lines[index].operands
        lines = [f"    v{i} = {self._lines[i].text}" for i in sorted(needed)]
        values = "".join(f"float(v{i}), " for i in self.met)
        text = "\n".join(["def fold(h, step, carried):", *lines, f"    return ({values})"])
        names = dict(_NAMES)
        exec(compile(text, "<scalars of a rule>", "exec"), names)
        made: Callable[[Hyperparameters, int, Carried], tuple[float, ...]] = names["fold"]
        return made


def scalar_name(number: int) -> str:
    """How a rule names the scalar of this number."""
    return f"s{number}"


def _word(value: Any) -> str:
    if isinstance(value, Scalar):
        return f"v{value.index}"
    if isinstance(value, np.generic):
        value = value.item()
    if not isinstance(value, (bool, int, float)):
        raise TraceError(f"{type(value).__name__} is no number")
    return f"({value!r})"


class Scalar(np.lib.mixins.NDArrayOperatorsMixin):
    """A hyperparameter, the number of the step, or what follows from them."""

    __slots__ = ("index", "owner")

    def __init__(self, owner: Scalars, index: int) -> None:
        self.owner, self.index = owner, index

    def __repr__(self) -> str:
        return "what follows from hyperparameters and the step"

    def as_symbol(self) -> Symbol:
        """What it is beside an element."""
        return self.owner.symbol(self.index)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__" or options:
            raise TraceError(f"np.{ufunc.__name__} with {method} or options is nothing to do with a number")
        if any(isinstance(value, Symbol) for value in inputs):
            return ufunc(*(v.as_symbol() if isinstance(v, Scalar) else v for v in inputs))
        if ufunc not in _WRITTEN:
            raise TraceError(f"np.{ufunc.__name__} of a hyperparameter has not the same bits everywhere")
        return self.owner.write(_WRITTEN[ufunc], inputs)

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        if function is not np.where or len(args) != 3 or kwargs:
            raise TraceError(f"np.{function.__name__} is nothing to do with a hyperparameter")
        if any(isinstance(value, Symbol) for value in args):
            return np.where(*(v.as_symbol() if isinstance(v, Scalar) else v for v in args))
        condition, a, b = args
        return self.owner.write("{1} if {0} else {2}", (condition, a, b))

    def __bool__(self) -> bool:
        return bool(self.as_symbol())

    def _refused(self) -> Any:
        raise TraceError("the value of a hyperparameter is not known yet: it can be changed at any time")

    __int__ = __float__ = __index__ = __len__ = __iter__ = _refused

    def __getitem__(self, index: Any) -> Any:
        raise TraceError("this hyperparameter is one number, which has no elements")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        return self._refused()

    __hash__ = object.__hash__  # the mixin's comparison takes the default away
