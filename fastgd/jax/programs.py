"""Formulas of rules and schedules, written down as programs that run where the step count is known.

A function of numbers is called with symbols in place of those that a compiled step will know only later.
What it does with them is noted, instruction by instruction; where it branches on one, both ways are. The
programs run in float64 in the handler of the step, fastgd/jax/_handler.c, which has the same table of
instructions. So a formula stands in fastgd/rules alone, and its scalars have the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from fastgd.rules.powers import Unknown

#: instructions (name, to, a, b) that compute: register `to` = a <name> b
COMPUTING = ("add", "sub", "mul", "div", "floordiv", "sqrt", "power", "real_power")
#: those that go on if a <name> b, and otherwise with the instruction of number `to`
BRANCHING = ("lt", "le", "eq")
#: all; the last two give register a as output `to`, and end the program
INSTRUCTIONS = (*COMPUTING, *BRANCHING, "give", "end")

#: no count of steps is above it
LAST_STEP = 2**31 - 1

#: branches on the way to a result; a function that has more loops over a symbol
MOST_BRANCHES = 100


class Program(NamedTuple):
    """Registers hold the inputs, then the constants, then what instructions compute."""

    constants: tuple[float, ...]
    #: (index into INSTRUCTIONS, to, a, b)
    code: tuple[tuple[int, int, int, int], ...]
    registers: int
    outputs: int


class _Branch(Exception):
    """Tracing has come to a comparison of which it has not been said how it ends."""


class Symbol(Unknown):
    """A number that will be in a register."""

    __hash__ = None  # type: ignore[assignment]  # equality is a question for later

    def __init__(self, tracer: _Tracer, register: int, most: float = math.inf) -> None:
        """most: it is not above this."""
        self._tracer, self.register, self.most = tracer, register, most

    def noted(self, name: str, *operands: Any) -> Symbol:
        return self._tracer.computed(name, *operands)

    def __add__(self, other: Any) -> Symbol:
        return self.noted("add", self, other)

    def __radd__(self, other: Any) -> Symbol:
        return self.noted("add", other, self)

    def __sub__(self, other: Any) -> Symbol:
        result = self.noted("sub", self, other)
        if not isinstance(other, Symbol):
            result.most = self.most - other
        return result

    def __rsub__(self, other: Any) -> Symbol:
        return self.noted("sub", other, self)

    def __mul__(self, other: Any) -> Symbol:
        return self.noted("mul", self, other)

    def __rmul__(self, other: Any) -> Symbol:
        return self.noted("mul", other, self)

    def __truediv__(self, other: Any) -> Symbol:
        return self.noted("div", self, other)

    def __rtruediv__(self, other: Any) -> Symbol:
        return self.noted("div", other, self)

    def __floordiv__(self, other: Any) -> Symbol:
        return self.noted("floordiv", self, other)

    def __mod__(self, other: Any) -> Symbol:
        result: Symbol = self - self // other * other
        if not isinstance(other, Symbol):
            result.most = other - 1
        return result

    def __divmod__(self, other: Any) -> tuple[Symbol, Symbol]:
        return self // other, self % other

    def __rpow__(self, base: Any) -> Symbol:
        return self.noted("power", base, self)

    def __neg__(self) -> Symbol:
        return self * -1.0

    def __lt__(self, other: Any) -> Any:
        return self._tracer.compared("lt", self, other)

    def __le__(self, other: Any) -> Any:
        return False if self.most < _known(other) else self._tracer.compared("le", self, other)

    def __gt__(self, other: Any) -> Any:
        return False if self.most <= _known(other) else self._tracer.compared("lt", other, self)

    def __ge__(self, other: Any) -> Any:
        return False if self.most < _known(other) else self._tracer.compared("le", other, self)

    def __eq__(self, other: Any) -> Any:
        return self._tracer.compared("eq", self, other)

    def __ne__(self, other: Any) -> Any:
        return not self._tracer.compared("eq", self, other)

    def __bool__(self) -> bool:
        return not self._tracer.compared("eq", self, 0.0)


def _known(value: Any) -> float:
    return -math.inf if isinstance(value, Symbol) else float(value)


class _Tracer:
    """One call of the function, on one way through its branches."""

    def __init__(self, inputs: int, constants: dict[str, float], ways: Sequence[bool]) -> None:
        self._inputs, self._constants, self._ways = inputs, constants, ways
        #: (name, to, a, b): registers of inputs and results count from 0, those of constants are their texts
        self.code: list[tuple[str, int, Any, Any]] = []
        self.computed_so_far = 0
        self._taken = 0

    def _operand(self, value: Any) -> Any:
        if isinstance(value, Symbol):
            return value.register
        number = float(value)
        self._constants[number.hex()] = number
        return number.hex()

    def computed(self, name: str, a: Any, b: Any = 0.0) -> Symbol:
        register = self._inputs + self.computed_so_far
        self.computed_so_far += 1
        self.code.append((name, register, self._operand(a), self._operand(b)))
        return Symbol(self, register)

    def compared(self, name: str, a: Any, b: Any) -> bool:
        """Which way tracing goes. What has been noted up to a branch is written once for both ways."""
        if self._taken == len(self._ways):
            self.code.append((name, 0, self._operand(a), self._operand(b)))
            raise _Branch
        way = self._ways[self._taken]
        self._taken += 1
        if self._taken == len(self._ways):
            self.code.clear()
        return way

    def give(self, results: Sequence[Any]) -> None:
        self.code += [("give", i, self._operand(value), 0) for i, value in enumerate(results)]
        self.code.append(("end", 0, 0, 0))


def program_of(function: Callable[[Sequence[Any]], Sequence[Any]], inputs: int) -> Program:
    """The program of a function that takes so many numbers, the first of them a count, and returns some.

    Raises ValueError for one that loops over a symbol; what else it raises is the function's own.
    """
    constants: dict[str, float] = {}
    code: list[tuple[str, int, Any, Any]] = []
    sizes: list[int] = []
    outputs = 0

    def follow(ways: tuple[bool, ...]) -> None:
        nonlocal outputs
        if len(ways) > MOST_BRANCHES:
            raise ValueError(f"{function} branches more than {MOST_BRANCHES} times")
        tracer = _Tracer(inputs, constants, ways)
        symbols = [Symbol(tracer, i, math.inf if i else LAST_STEP) for i in range(inputs)]
        results: Sequence[Any] | None = None
        with suppress(_Branch):
            results = function(symbols)
        if results is not None:
            outputs = len(results)
            tracer.give(results)
        branch = len(code) + len(tracer.code) - 1
        code.extend(tracer.code)
        sizes.append(tracer.computed_so_far)
        if results is None:
            follow((*ways, True))
            name, _, a, b = code[branch]
            code[branch] = name, len(code), a, b
            follow((*ways, False))

    follow(())
    places = {text: inputs + i for i, text in enumerate(constants)}

    def register(operand: Any) -> int:
        """Constants lie between inputs and results."""
        if isinstance(operand, str):
            return places[operand]
        return int(operand) if operand < inputs else int(operand) + len(places)

    rows = []
    for name, to, a, b in code:
        target = register(to) if name in COMPUTING else to
        rows.append((INSTRUCTIONS.index(name), target, register(a), register(b)))
    total = inputs + len(places) + max(sizes)
    return Program(tuple(constants.values()), tuple(rows), total, outputs)
