"""Formulas of rules and schedules, written down as programs that run where there is no Python.

A function of numbers is called with symbols in place of those that will be known only later: the step count
under jax.jit, the hyperparameters of a program in C as well. What it does with them is noted, instruction by
instruction; where it branches on one, both ways are. csrc/formula.c runs the programs in float64. So a
formula stands in fastgd/rules alone, and its scalars have the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from fastgd.rules.powers import Unknown

#: instructions (name, to, a, b) that compute: register `to` = a <name> b
COMPUTING = ("add", "sub", "mul", "div", "floordiv", "sqrt", "logarithm", "power", "real_power")
#: those that go on if a <name> b, and otherwise with the instruction of number `to`
BRANCHING = ("lt", "le", "eq")
#: all; the last three go on with instruction `to`, give register a as output `to`, and end the program
INSTRUCTIONS = (*COMPUTING, *BRANCHING, "jump", "give", "end")

#: no count of steps under jax.jit is above it
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
        #: (name, a, b) -> the register of what has been computed, or which way a comparison went
        self._known: dict[tuple[str, Any, Any], Any] = {}
        self._taken = 0

    def _operand(self, value: Any) -> Any:
        if isinstance(value, Symbol):
            return value.register
        number = float(value)
        self._constants[number.hex()] = number
        return number.hex()

    def computed(self, name: str, a: Any, b: Any = 0.0) -> Symbol:
        key = name, self._operand(a), self._operand(b)
        if key not in self._known:
            self._known[key] = self._inputs + self.computed_so_far
            self.computed_so_far += 1
            self.code.append((name, self._known[key], *key[1:]))
        return Symbol(self, self._known[key])

    def compared(self, name: str, a: Any, b: Any) -> bool:
        """Which way tracing goes. What has been noted up to a branch is written once for both ways."""
        key = name, self._operand(a), self._operand(b)
        if key in self._known:
            return bool(self._known[key])
        if self._taken == len(self._ways):
            self.code.append((name, 0, *key[1:]))
            raise _Branch
        self._known[key] = way = self._ways[self._taken]
        self._taken += 1
        if self._taken == len(self._ways):
            self.code.clear()
        return way

    def give(self, results: Sequence[Any]) -> None:
        self.code += [("give", i, self._operand(value), 0) for i, value in enumerate(results)]
        self.code.append(("end", 0, 0, 0))


def program_of(
    function: Callable[[Sequence[Any]], Sequence[Any]], inputs: int, last: int = LAST_STEP
) -> Program:
    """The program of a function that takes so many numbers, the first of them a count, and returns some.

    last: the count is not above it. Raises ValueError for one that loops over a symbol; what else it raises
    is the function's own.
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
        symbols = [Symbol(tracer, i, math.inf if i else last) for i in range(inputs)]
        results: Sequence[Any] | None = None
        with suppress(_Branch):
            results = function(symbols)
        if results is not None:
            outputs = max(outputs, len(results))
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


def joined(programs: Sequence[Program], inputs: int) -> Program:
    """One that gives what programs of the same inputs give, one after the other.

    Where functions branch by themselves, it is shorter than the program of a function that calls them all.
    """
    constants = list(dict.fromkeys(value for program in programs for value in program.constants))
    code: list[tuple[int, int, int, int]] = []
    outputs = 0
    for program in programs:
        computed = inputs + len(program.constants)
        start, behind = len(code), len(code) + len(program.code)

        def register(old: int, own: Program = program, computed: int = computed) -> int:
            if old < inputs:
                return old
            if old < computed:
                return inputs + constants.index(own.constants[old - inputs])
            return old - len(own.constants) + len(constants)

        for number, to, a, b in program.code:
            name = INSTRUCTIONS[number]
            if name == "end" and program is not programs[-1]:
                number, to = INSTRUCTIONS.index("jump"), behind
            elif name in COMPUTING:
                to = register(to)
            elif name in BRANCHING:
                to += start
            elif name == "give":
                to += outputs
            code.append((number, to, register(a), register(b)))
        outputs += program.outputs
    scratch = max(program.registers - len(program.constants) for program in programs)
    return Program(tuple(constants), tuple(code), scratch + len(constants), outputs)
