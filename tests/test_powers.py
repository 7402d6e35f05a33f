"""Powers and logarithms that do not depend on the machine's own."""

from __future__ import annotations

import math
import random
from decimal import Context, Decimal
from fractions import Fraction

import pytest

from fastgd.rules.powers import logarithm, power, real_power

EXACT = Context(prec=200, traps=[])


def ulps(value, right):
    return abs(Fraction(value) - Fraction(right)) / Fraction(math.ulp(value))


@pytest.mark.parametrize("base", [0.0, 0.5, 0.9, 0.999, 0.99999, 1.0])
def test_whole_powers(base):
    for n in [*range(600), 12_345, 10**6]:
        right = EXACT.power(Decimal(base), n) if base else Decimal(n == 0)
        # the next square doubles a rounding, so errors grow with n; below 1e-300 bits are lost
        assert abs(Decimal(power(base, n)) - right) <= Decimal(2e-16 * (n + 1)) * right + Decimal("1e-300")


def test_real_powers_are_rounded_correctly():
    draw = random.Random(0)
    for _ in range(300):
        base, exponent = 10 ** draw.uniform(-12, 12), draw.uniform(0, 3)
        assert real_power(base, exponent) == float(EXACT.power(Decimal(base), Decimal(exponent)))


@pytest.mark.parametrize("exponent", [0.0, 1.0, 2.0, 3.0, 7.0, 64.0])
def test_whole_real_powers_are_products(exponent):
    for base in (0.0, 1e-3, 0.7, 1.0, 1.3):
        assert ulps(real_power(base, exponent), Fraction(base) ** int(exponent)) <= 1 + exponent


def test_real_powers_at_the_edges():
    assert real_power(0.0, 0.0) == 1.0
    assert real_power(0.0, 0.75) == 0.0
    assert real_power(1.0, 0.75) == 1.0
    assert real_power(4.0, 0.5) == 2.0
    assert real_power(0.96, 1e6) == 0.0
    assert real_power(1.5, 1e6) == math.inf
    assert real_power(1e300, 2.0) == math.inf
    assert real_power(2.0, 65.0) == 2.0**65


def test_logarithms_are_rounded_correctly():
    draw = random.Random(1)
    for value in [1.0, 0.5, 1e-8, 5e-324, *(10 ** draw.uniform(-300, 300) for _ in range(300))]:
        assert logarithm(value) == float(EXACT.ln(Decimal(value)))
