"""Checks single values that a user passes: numbers, pairs of them, and flags.

A check returns the value in its canonical type, or raises TypeError or ValueError with a text that goes on
after the value's name: "must be at least 0, not -1.0". Those that are made with limits show them as fields.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

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


@dataclass(frozen=True)
class number:
    """A check for a number of at least `low` and less than `below`."""

    low: float
    below: float = math.inf

    def __call__(self, value: Any) -> float:
        low, below = self.low, self.below
        result = real(value)
        if not low <= result < below:
            limit = f"at least {low:g} and finite" if below == math.inf else f"in [{low:g}, {below:g})"
            raise ValueError(f"must be {limit}, not {result!r}")
        return result


@dataclass(frozen=True)
class at_most:
    """A check for a finite number that is not above `high`."""

    high: float

    def __call__(self, value: Any) -> float:
        result = finite(value)
        if result > self.high:
            raise ValueError(f"must be at most {self.high:g}, not {result!r}")
        return result


def limit(value: Any) -> float:
    """A number of at least 0, infinity included."""
    result = real(value)
    if not result >= 0:
        raise ValueError(f"must be at least 0, not {result!r}")
    return result


class each:
    """A check for as many values as there are checks, one for each."""

    def __init__(self, *items: Callable[[Any], Any]) -> None:
        self.items = items

    def __call__(self, value: Any) -> tuple[Any, ...]:
        try:
            values = tuple(value)
        except TypeError:
            values = ()
        if len(values) != len(self.items):
            raise TypeError(f"must be {len(self.items)} numbers, not {value!r}")
        return tuple([item(v) for item, v in zip(self.items, values, strict=True)])


def flag(value: Any) -> bool:
    """True or False, Python's or NumPy's."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    raise TypeError(f"must be True or False, not {value!r}")


@dataclass(frozen=True)
class whole:
    """A check for a whole number of at least `low` and, where it is given, less than `below`."""

    low: int
    below: int | None = None

    def __call__(self, value: Any) -> int:
        low, below = self.low, self.below
        try:
            result = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
        except TypeError:
            result = None
        if result is None:
            raise TypeError(f"must be a whole number, not {_described(value)}")
        if result < low or (below is not None and result >= below):
            limit = f"at least {low}" if below is None else f"in [{low}, {below})"
            raise ValueError(f"must be {limit}, not {result}")
        return result


class one_of:
    """A check for one of these texts."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def __call__(self, value: Any) -> str:
        if not isinstance(value, str):
            raise TypeError(f"must be one of {', '.join(self.names)}, not {_described(value)}")
        if value not in self.names:
            raise ValueError(f"must be one of {', '.join(self.names)}, not {value!r}")
        return str(value)


def dtype_of(*names: str) -> Callable[[Any], str]:
    """A check for one of these names, or a NumPy dtype or scalar type that bears one; gives the name."""
    known = one_of(*names)

    def check(value: Any) -> str:
        if isinstance(value, np.dtype) or (isinstance(value, type) and issubclass(value, np.generic)):
            dtype = np.dtype(value)
            value = dtype.name if dtype.isnative else dtype.str
        return known(value)

    return check


class optional(Generic[T]):
    """A check for None, or what passes `check`."""

    def __init__(self, check: Callable[[Any], T]) -> None:
        self.check = check

    def __call__(self, value: Any) -> T | None:
        return None if value is None else self.check(value)


def entry(state: Any, name: str) -> Any:
    """What a state dict has under a name; TypeError for what is no dict, ValueError where there is none."""
    if not isinstance(state, Mapping):
        raise TypeError(f"the state is {type(state).__name__}, not a dict")
    if name not in state:
        raise ValueError(f"the state has no {name!r}")
    return state[name]


def named(name: str, check: Callable[[Any], T], value: Any) -> T:
    """`check(value)`; an error begins with the name."""
    try:
        return check(value)
    except TypeError as error:
        raise TypeError(f"{name} {error}") from None
    except ValueError as error:
        raise ValueError(f"{name} {error}") from None
