"""A user's function of one element, called with symbols: as operations, or refused with the line at fault."""

from __future__ import annotations

import contextlib
import inspect
import math
import os
import traceback
from collections.abc import Callable, Sequence
from types import CellType, CodeType, FunctionType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastgd.own.scalars import Scalar, Scalars
from fastgd.tracing import DType, Operation, Symbol, Trace, TraceError

#: a formula of one element has a hundred; beyond this, a loop was meant to be one
MOST_OPERATIONS = 4000

#: where no line is the user's
_FOLDERS = (
    os.path.dirname(os.path.abspath(np.__file__)) + os.sep,
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep,
)


#: operations of a rule, by the kind of their operands; what else there is has no place in a formula
_OPERATIONS = {
    "f": {"add", "sub", "mul", "div", "neg", "abs", "sqrt", "lt", "le", "gt", "ge", "eq", "ne", "select"},
    "b": {"and", "or", "xor", "not", "eq", "ne", "select"},
}


def _is_known(operation: Operation) -> bool:
    if operation.name == "convert":
        return operation.kind.kind in _OPERATIONS and operation.dtype.kind == "f"
    beside = operation.name in ("argument", "constant")
    return beside or operation.name in _OPERATIONS.get(operation.kind.kind, ())


class BodyTrace(Trace):
    """Of a user's function: in one precision, with what compiled loops have, refused where it stands."""

    def __init__(self, real: DType) -> None:
        super().__init__()
        self.real = real

    def add(self, operation: Operation) -> Symbol:
        if not _is_known(operation):
            raise TraceError(f"there is no {operation.name} of {operation.kind} in a rule")
        if len(self.operations) > MOST_OPERATIONS:
            raise TraceError(f"there are more than {MOST_OPERATIONS} operations: is a loop very long?")
        return super().add(operation)

    def _promoted(self, values: Sequence[Any]) -> tuple[list[Symbol], DType]:
        """Numbers are of the precision of the elements, whatever they are in Python: np.float64 is what
        np.sqrt gives, and truth values may be counted with. But what the function itself widens stays so."""
        plain = [value.item() if isinstance(value, np.generic) else value for value in values]
        counted = any(isinstance(value, (int, float)) and not isinstance(value, bool) for value in plain)
        symbols, dtype = super()._promoted([self._counted(v) if counted else v for v in plain])
        wide = any(isinstance(v, Symbol) and v.dtype.kind == "f" and v.dtype != self.real for v in plain)
        if dtype == np.bool_ or wide:
            return symbols, dtype
        return [self.convert(s, self.real) for s in symbols], self.real

    def _counted(self, value: Any) -> Any:
        """A truth value as 0 or 1."""
        is_truth = isinstance(value, Symbol) and value.dtype == np.bool_
        return self.convert(value, self.real) if is_truth else value


# ---- The function, with `math` that knows symbols ----------------------------------------------------

#: functions of the module math -> NumPy's, which symbols take part in
_UFUNCS = {"sqrt": np.sqrt, "fabs": np.absolute, "pow": np.power, "exp": np.exp, "log": np.log}


def _of_math(name: str, function: Any) -> Any:
    def called(*values: Any) -> Any:
        if not any(isinstance(value, (Symbol, Scalar)) for value in values):
            return function(*values)
        if name not in _UFUNCS:
            raise TraceError(f"math.{name} has not the same bits everywhere")
        return values[0] ** values[1] if name == "pow" else _UFUNCS[name](*values)

    return called


_MATH = SimpleNamespace(
    **{name: _of_math(name, f) if callable(f) else f for name, f in vars(math).items() if name[0] != "_"}
)
_FUNCTIONS = {id(getattr(math, name)): made for name, made in vars(_MATH).items() if callable(made)}


def _names_in(code: CodeType) -> set[str]:
    """Those of globals that the code, or a function within it, may use."""
    inner = (c for c in code.co_consts if isinstance(c, CodeType))
    return set(code.co_names).union(*map(_names_in, inner))


def _for_symbols(value: Any, made: dict[int, Any]) -> Any:
    """The value, its module math taking symbols, as in the functions that it calls."""
    if value is math:
        return _MATH
    if id(value) in _FUNCTIONS:
        return _FUNCTIONS[id(value)]
    if not isinstance(value, FunctionType) or _is_ours(value.__code__.co_filename):
        return value
    if id(value) not in made:
        cells = tuple(CellType() for _ in value.__closure__ or ())
        known = value.__globals__
        own = {"__builtins__": known.get("__builtins__", __builtins__)}
        copy = FunctionType(value.__code__, own, value.__name__, value.__defaults__, cells)
        copy.__kwdefaults__ = value.__kwdefaults__
        made[id(value)] = copy
        for name in _names_in(value.__code__) & known.keys():
            own[name] = _for_symbols(known[name], made)
        for cell, given in zip(cells, value.__closure__ or (), strict=True):
            with contextlib.suppress(ValueError):  # of one that nothing has been put into yet
                cell.cell_contents = _for_symbols(given.cell_contents, made)
    return made[id(value)]


def _is_ours(filename: str) -> bool:
    return os.path.abspath(filename).startswith(_FOLDERS) or filename.startswith("<frozen")


# ---- Tracing ----------------------------------------------------------------------------------------


class Body(NamedTuple):
    """A function in one precision."""

    trace: Trace
    #: the new parameter and slots
    outputs: list[Symbol]


#: what the elements are called in a trace, but for the slots
PARAM, GRAD = "p", "g"


def slot_name(number: int) -> str:
    return f"slot{number}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def traced(
    function: Callable[..., Any], n_slots: int, keywords: dict[str, Any], scalars: Scalars, real: DType
) -> Body:
    """The function of (p, g, slots..., **keywords) in one precision.

    keywords: hyperparameters and the step, as symbols of `scalars`. Raises TypeError that names the line for
    what it does that is no formula of one element, or where it returns something else than it should.
    """
    trace = BodyTrace(real)
    scalars.trace, scalars.real = trace, real
    symbols = [trace.argument(name, real) for name in (PARAM, GRAD, *map(slot_name, range(n_slots)))]
    called = _for_symbols(function, {})

    def outputs() -> Sequence[Any]:
        result = called(*symbols, **keywords)
        values = list(result) if isinstance(result, (tuple, list)) else [result]
        if len(values) != 1 + n_slots:
            found = "nothing" if result is None else _counted(len(values), "value")
            beside = f" and {_counted(n_slots, 'slot')}" if n_slots else ""
            raise TraceError(f"it returns {found}, not the parameter{beside}")
        return values

    try:
        found = [trace.convert(symbol, real) for symbol in trace.follow(outputs)]
    except Exception as error:
        raise TypeError(f"{_place_of(error, function)}: {_reason(error)}{_line_of(error)}") from error
    return Body(trace, found)


def _users_frame(error: BaseException) -> traceback.FrameSummary | None:
    """The innermost line of the user's."""
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame for frame in reversed(frames) if not _is_ours(frame.filename)), None)


def _place_of(error: BaseException, function: Callable[..., Any]) -> str:
    frame, code = _users_frame(error), inspect.unwrap(function).__code__
    where = (frame.filename, frame.lineno) if frame else (code.co_filename, code.co_firstlineno)
    return f"rule {function.__name__!r}, {where[0]}, line {where[1]}"


def _line_of(error: BaseException) -> str:
    frame = _users_frame(error)
    return f"\n    {frame.line}" if frame and frame.line else ""


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, TraceError) else f"{type(error).__name__}: {error}"


def replayed(xp: Any, body: Body, arguments: dict[str, Any]) -> list[Any]:
    """What the body gives for arrays, or for symbols of another trace, as `xp` has them."""
    return body.trace.evaluate(body.outputs, arguments, xp)
