"""Powers that every machine computes with the same bits, which its own pow does not promise; and roots."""

from __future__ import annotations

import functools
import math
from typing import Any


class Unknown:
    """A number that will be known later: what is done with it is noted, and done then.

    It takes part in arithmetic and comparisons, and in the functions here, which every step asks whether a
    number is one: an abstract class would take several times as long to answer.
    """

    def noted(self, name: str, *operands: Any) -> Any:
        """The result of a function of that name, as it will be."""
        raise NotImplementedError


def sqrt(value: float) -> float:
    """The square root."""
    if isinstance(value, Unknown):
        symbol: float = value.noted("sqrt", value)
        return symbol
    return math.sqrt(value)


def _power(base: float, n: int) -> float:
    result = 1.0
    while n:
        if n & 1:
            result *= base
        base *= base
        n >>= 1
    return result


@functools.lru_cache(maxsize=64)
def _powers(base: float, block: int) -> tuple[float, ...]:
    if block == 0:
        return tuple([_power(base, n) for n in range(256)])
    start = _power(base, block << 8)
    return tuple([start * low for low in _powers(base, 0)])


def power(base: float, n: int) -> float:
    """base**n for a whole n of at least 0, from multiplications alone.

    256 neighbouring powers are computed together, which makes it cheap for a counter.
    """
    if isinstance(n, Unknown):
        symbol: float = n.noted("power", base, n)
        return symbol
    return _powers(base, n >> 8)[n & 0xFF]


def real_power(base: float, exponent: float) -> float:
    """base**exponent for a base of at least 0 and any exponent of at least 0; infinite beyond float64.

    From multiplications for small whole exponents, else from 40 decimal digits, which takes some 20
    microseconds for a base that is new.
    """
    for operand in (base, exponent):
        if isinstance(operand, Unknown):
            symbol: float = operand.noted("real_power", base, exponent)
            return symbol
    return _real_power(base, exponent)


@functools.lru_cache(maxsize=256)
def _real_power(base: float, exponent: float) -> float:
    if exponent == int(exponent) <= 64:
        return _power(base, int(exponent))
    from decimal import Decimal

    return float(_digits().power(Decimal(base), Decimal(exponent)))


def logarithm(value: float) -> float:
    """The natural logarithm of a number above 0."""
    if isinstance(value, Unknown):
        symbol: float = value.noted("logarithm", value)
        return symbol
    return _logarithm(value)


@functools.lru_cache(maxsize=256)
def _logarithm(value: float) -> float:
    from decimal import Decimal

    return float(_digits().ln(Decimal(value)))


@functools.lru_cache(maxsize=256)
def exponential(value: float) -> float:
    """e to the power of a finite number; infinite beyond float64."""
    from decimal import Decimal

    return float(_digits().exp(Decimal(value)))


@functools.cache
def _digits() -> Any:
    """The arithmetic in which irrational results are computed before they are rounded to float64."""
    from decimal import MAX_EMAX, MIN_EMIN, Context

    return Context(prec=40, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
