"""Checks single values that a user passes: numbers, pairs of them, and flags.

A check returns the value in its canonical type, or raises TypeError or ValueError with a text that goes on
after the value's name: "must be at least 0, not -1.0".
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

#: what float() takes though it is not meant as a number, or drops a part of
_NOT_REAL = (bool, np.bool_, str, bytes, bytearray, complex, np.complexfloating)


def real(value: Any) -> float:
    """Any real number: Python's, NumPy's, or an array or tensor without dimensions."""
    if isinstance(value, _NOT_REAL) or getattr(value, "ndim", 0) != 0:
        raise TypeError(f"must be a number, not {_described(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError("must be finite, and is too large for a float") from None
    except (TypeError, ValueError):
        raise TypeError(f"must be a number, not {_described(value)}") from None


def _described(value: Any) -> str:
    return repr(value) if isinstance(value, (str, bytes, bool, complex)) else type(value).__name__


def finite(value: Any) -> float:
    """A real number that is neither infinite nor NaN."""
    result = real(value)
    if not math.isfinite(result):
        raise ValueError(f"must be finite, not {result!r}")
    return result


def number(low: float, below: float = math.inf) -> Callable[[Any], float]:
    """A check for a number of at least `low` and less than `below`."""

    def check(value: Any) -> float:
        result = real(value)
        if not low <= result < below:
            limit = f"at least {low:g} and finite" if below == math.inf else f"in [{low:g}, {below:g})"
            raise ValueError(f"must be {limit}, not {result!r}")
        return result

    return check


def limit(value: Any) -> float:
    """A number of at least 0, infinity included."""
    result = real(value)
    if not result >= 0:
        raise ValueError(f"must be at least 0, not {result!r}")
    return result


def each(*items: Callable[[Any], float]) -> Callable[[Any], tuple[float, ...]]:
    """A check for as many values as there are checks, one for each."""

    def check(value: Any) -> tuple[float, ...]:
        try:
            values = tuple(value)
        except TypeError:
            values = ()
        if len(values) != len(items):
            raise TypeError(f"must be {len(items)} numbers, not {value!r}")
        return tuple([item(v) for item, v in zip(items, values, strict=True)])

    return check


def count(value: Any) -> int:
    """A whole number of at least 0."""
    try:
        result = -1 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        raise TypeError(f"must be a whole number, not {_described(value)}") from None
    if result < 0:
        raise ValueError(f"must be a whole number of at least 0, not {value!r}")
    return result


def flag(value: Any) -> bool:
    """True or False, Python's or NumPy's."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"must be True or False, not {value!r}")


def named(name: str, check: Callable[[Any], T], value: Any) -> T:
    """`check(value)`; an error begins with the name."""
    try:
        return check(value)
    except TypeError as error:
        raise TypeError(f"{name} {error}") from None
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
