"""The cosine of shares of pi, with the same bits on every machine, which its own cos does not promise."""

from __future__ import annotations

import math

__all__ = ["cos_pi"]

#: coefficients of z^n in cos(sqrt(z)) and sin(sqrt(z)) / sqrt(z); what is left out is below 2^-60 at pi / 4
_COS = tuple([(-1) ** n / math.factorial(2 * n) for n in range(9)])
_SIN = tuple([(-1) ** n / math.factorial(2 * n + 1) for n in range(9)])


def _polynomial(coefficients: tuple[float, ...], z: float) -> float:
    value = 0.0
    for coefficient in reversed(coefficients):
        value = value * z + coefficient
    return value


def cos_pi(x: float) -> float:
    """cos(pi x) for x in [0, 1], to 4e-16; exact at 0, 1/2 and 1. From products and sums alone."""
    if x > 0.5:
        return -_first_half(1.0 - x)
    return _first_half(x)


def _first_half(x: float) -> float:
    if x <= 0.25:
        angle = math.pi * x
        return _polynomial(_COS, angle * angle)
    angle = math.pi * (0.5 - x)
    return angle * _polynomial(_SIN, angle * angle)
