"""A formula as text: parsed without being executed, evaluated for all rows, with exact derivatives."""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgd.arrays import Array

__all__ = ["CONSTANTS", "FUNCTIONS", "Formula", "FormulaError"]

Derivative = Callable[..., Any]


class FormulaError(ValueError):
    """A formula that cannot be used; the message says what is wrong and quotes the place."""


@dataclass(frozen=True)
class Operation:
    """A function of one or two numbers. derivatives: by each, of (result, *arguments); None is 1."""

    function: Callable[..., Any]
    derivatives: tuple[Derivative | None, ...]


def _power_by_exponent(y: Any, base: Any, exponent: Any) -> Any:
    """y log(base), whose limit at base 0 is 0 for positive exponents."""
    return np.where(y == 0, 0.0, y * np.log(np.where(y == 0, 1.0, base)))


OPERATORS: dict[type[ast.AST], Operation] = {
    ast.Add: Operation(np.add, (None, None)),
    ast.Sub: Operation(np.subtract, (None, lambda y, a, b: -1.0)),
    ast.Mult: Operation(np.multiply, (lambda y, a, b: b, lambda y, a, b: a)),
    ast.Div: Operation(np.divide, (lambda y, a, b: 1.0 / b, lambda y, a, b: -y / b)),
    ast.Pow: Operation(np.power, (lambda y, a, b: b * np.power(a, b - 1.0), _power_by_exponent)),
    ast.USub: Operation(np.negative, (lambda y, a: -1.0,)),
}


def _sigmoid(a: Any) -> Any:
    return 0.5 + 0.5 * np.tanh(0.5 * a)


#: the functions that a formula may call, each of one argument
FUNCTIONS: dict[str, Operation] = {
    "abs": Operation(np.abs, (lambda y, a: np.sign(a),)),
    "acos": Operation(np.arccos, (lambda y, a: -1.0 / np.sqrt(1.0 - a * a),)),
    "asin": Operation(np.arcsin, (lambda y, a: 1.0 / np.sqrt(1.0 - a * a),)),
    "atan": Operation(np.arctan, (lambda y, a: 1.0 / (1.0 + a * a),)),
    "cos": Operation(np.cos, (lambda y, a: -np.sin(a),)),
    "cosh": Operation(np.cosh, (lambda y, a: np.sinh(a),)),
    "exp": Operation(np.exp, (lambda y, a: y,)),
    "expm1": Operation(np.expm1, (lambda y, a: y + 1.0,)),
    "log": Operation(np.log, (lambda y, a: 1.0 / a,)),
    "log10": Operation(np.log10, (lambda y, a: 1.0 / (a * math.log(10)),)),
    "log1p": Operation(np.log1p, (lambda y, a: 1.0 / (1.0 + a),)),
    "log2": Operation(np.log2, (lambda y, a: 1.0 / (a * math.log(2)),)),
    "sigmoid": Operation(_sigmoid, (lambda y, a: y * (1.0 - y),)),
    "sin": Operation(np.sin, (lambda y, a: np.cos(a),)),
    "sinh": Operation(np.sinh, (lambda y, a: np.cosh(a),)),
    "sqrt": Operation(np.sqrt, (lambda y, a: 0.5 / y,)),
    "tan": Operation(np.tan, (lambda y, a: 1.0 + y * y,)),
    "tanh": Operation(np.tanh, (lambda y, a: 1.0 - y * y,)),
}

CONSTANTS = {"pi": math.pi}

#: characters
LONGEST = 10_000

#: an operation and the numbers of the nodes it is applied to, or the name or number that a leaf is
Node = tuple[Any, ...]


def _parsed(text: str) -> ast.AST:
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError) as error:  # ValueError for a zero byte, before Python 3.12
        raise FormulaError(f"the formula {text!r} cannot be read: {error}") from None


class Formula:
    """A formula such as "a * exp(-b * t) + c", of parameters and columns of data.

    It may hold numbers, names, pi, + - * / **, brackets and the functions of FUNCTIONS. Nothing else is
    accepted, and the text is never executed. Equal parts are computed once. Raises FormulaError.
    """

    def __init__(self, text: str) -> None:
        if not isinstance(text, str):
            raise TypeError(f"a formula must be text, not {type(text).__name__}")
        self.text = text.strip()
        if len(self.text) > LONGEST:
            raise FormulaError(f"the formula has {len(self.text)} characters; {LONGEST} are the most")
        self._numbers: dict[Node, int] = {}
        try:
            self._root = self._node(_parsed(self.text))
        except (RecursionError, MemoryError):
            raise FormulaError("the formula is nested too deeply") from None
        except OverflowError:
            raise FormulaError(f"the formula {self.text!r} has a number that is too large") from None
        self._nodes = list(self._numbers)
        #: names that are no constants, in order of appearance
        self.names = tuple(node[0] for node in self._nodes if isinstance(node[0], str))

    def __repr__(self) -> str:
        return f"Formula({self.text!r})"

    def _refuse(self, at: ast.AST, reason: str) -> FormulaError:
        return FormulaError(f"{ast.unparse(at)!r} in the formula {reason}")

    def _node(self, at: ast.AST) -> int:
        """The number of the node that this part of the formula is; arguments have lower ones."""
        node = self._understood(at)
        return self._numbers.setdefault(node, len(self._numbers))

    def _understood(self, at: ast.AST) -> Node:
        if isinstance(at, ast.Constant) and type(at.value) in (int, float):
            return (float(at.value),)  # type: ignore[arg-type]
        if isinstance(at, ast.Name):
            return (CONSTANTS.get(at.id, at.id),)
        if isinstance(at, ast.BinOp):
            if isinstance(at.op, ast.BitXor):
                raise self._refuse(at, "is no power: write ** for it")
            if type(at.op) in OPERATORS:
                return OPERATORS[type(at.op)], self._node(at.left), self._node(at.right)
        if isinstance(at, ast.UnaryOp) and isinstance(at.op, ast.UAdd):
            return self._understood(at.operand)
        if isinstance(at, ast.UnaryOp) and type(at.op) in OPERATORS:
            return OPERATORS[type(at.op)], self._node(at.operand)
        if isinstance(at, ast.Call) and isinstance(at.func, ast.Name):
            if at.func.id not in FUNCTIONS:
                known = ", ".join(FUNCTIONS)
                raise self._refuse(at, f"calls {at.func.id}; the functions there are: {known}")
            if len(at.args) != 1 or at.keywords or isinstance(at.args[0], ast.Starred):
                raise self._refuse(at, "must have one argument")
            return FUNCTIONS[at.func.id], self._node(at.args[0])
        raise self._refuse(at, "is not allowed: only numbers, names, + - * / **, brackets and functions are")

    def bind(self, columns: Mapping[str, Array], parameters: Sequence[str], rows: int | None = None) -> Bound:
        """The formula for these columns of data, each [rows], as a function of the parameters.

        Raises FormulaError for a name that is neither, and for a parameter that the formula lacks.
        """
        known = {*columns, *parameters}
        for name in self.names:
            if name not in known:
                raise FormulaError(
                    f"the formula's {name!r} is neither a column nor a parameter with a starting value; "
                    f"parameters: {', '.join(parameters)}; columns: {', '.join(columns) or 'none'}"
                )
        for name in parameters:
            if name not in self.names:
                raise FormulaError(f"the formula has no {name!r}, for which there is a starting value")
        return Bound(self._nodes, self._root, columns, parameters, rows)


class Bound:
    """A formula over given data: its values and their derivatives, by reverse accumulation.

    Rows do not depend on each other, so that one backward pass gives the derivatives of all of them
    (Griewank and Walther 2008, section 3.2). What the data alone decide is computed once.
    """

    derivatives = "exact"

    def __init__(
        self,
        nodes: Sequence[Node],
        root: int,
        columns: Mapping[str, Array],
        parameters: Sequence[str],
        rows: int | None,
    ) -> None:
        self._rows = max((len(column) for column in columns.values()), default=rows or 1)
        self._root = root
        self._values: list[Any] = [0.0] * len(nodes)
        #: the number of each parameter's node
        self._leaves = {name: nodes.index((name,)) for name in parameters}
        self._active: list[tuple[int, Operation, tuple[int, ...]]] = []
        changing = set(self._leaves.values())
        with np.errstate(all="ignore"):
            for i, (what, *arguments) in enumerate(nodes):
                if i in changing:
                    continue
                if isinstance(what, float):
                    self._values[i] = np.float64(what)
                elif isinstance(what, str):
                    self._values[i] = columns[what]
                elif changing.isdisjoint(arguments):
                    self._values[i] = what.function(*(self._values[a] for a in arguments))
                else:
                    changing.add(i)
                    self._active.append((i, what, tuple(arguments)))
        self._changing = changing

    def values(self, parameters: Array) -> Array:
        """The formula's value for each row, [rows]; not finite where it has none."""
        values = self._values
        for i, value in zip(self._leaves.values(), parameters, strict=True):
            values[i] = value
        with np.errstate(all="ignore"):
            for i, operation, arguments in self._active:
                values[i] = operation.function(*[values[a] for a in arguments])
        return self._over_rows(values[self._root])

    def jacobian(self, parameters: Array) -> tuple[Array, Array]:
        """The values [rows] and their derivatives by the parameters [rows, parameters]."""
        result = self.values(parameters)
        values, changing = self._values, self._changing
        slopes: dict[int, Any] = {self._root: 1.0}
        with np.errstate(all="ignore"):
            for i, operation, arguments in reversed(self._active):
                slope = slopes.pop(i, None)
                if slope is None:
                    continue
                inputs = [values[a] for a in arguments]
                for a, derivative in zip(arguments, operation.derivatives, strict=True):
                    if a in changing:
                        part = slope if derivative is None else slope * derivative(values[i], *inputs)
                        slopes[a] = slopes[a] + part if a in slopes else part
        by_parameter = np.empty((len(self._leaves), self._rows))
        for row, i in zip(by_parameter, self._leaves.values(), strict=True):
            row[:] = slopes.get(i, 0.0)
        return result, by_parameter.T

    def _over_rows(self, value: Any) -> Array:
        return np.broadcast_to(np.asarray(value, np.float64), (self._rows,))
