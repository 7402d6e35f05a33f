"""What follows from hyperparameters and the step alone: its value in float64, and what has none there."""

import math

import numpy as np
import pytest

import fastgd
from fastgd.rules.powers import exponential

INF, NAN = math.inf, math.nan

#: expression of a and b, their values and the step's -> what it gives
CASES = [
    (lambda a, b, step: a + b * 2 - 1, (0.1, 0.2, 1), 0.1 + 0.2 * 2 - 1),
    (lambda a, b, step: 1 / a - b / 3, (0.1, 0.2, 1), 1 / 0.1 - 0.2 / 3),
    (lambda a, b, step: -a + abs(b) + (+a), (0.1, -0.2, 1), 0.2),
    (lambda a, b, step: a**step, (0.9, 0.0, 7), math.prod([0.9] * 7)),
    (lambda a, b, step: a**-2, (0.5, 0.0, 1), 4.0),
    (lambda a, b, step: a**b, (2.0, 0.5, 1), math.sqrt(2)),
    (lambda a, b, step: a**b, (-2.0, 3.0, 1), -8.0),
    (lambda a, b, step: a**b, (-2.0, 0.5, 1), NAN),
    (lambda a, b, step: a**b, (0.0, -1.0, 1), INF),
    (lambda a, b, step: 2.0 ** (a * b), (3.0, 2.0, 1), 64.0),
    (lambda a, b, step: np.power(a, b), (4.0, 1.5, 1), 8.0),
    (lambda a, b, step: math.pow(a, 2), (3.0, 0.0, 1), 9.0),
    (lambda a, b, step: a / b, (1.0, 0.0, 1), INF),
    (lambda a, b, step: a / b, (-1.0, 0.0, 1), -INF),
    (lambda a, b, step: a / b, (0.0, 0.0, 1), NAN),
    (lambda a, b, step: step // 3 + step % 3, (0.0, 0.0, 8), 4.0),
    (lambda a, b, step: step // b + step % b, (0.0, 0.0, 8), NAN),
    (lambda a, b, step: step & 1, (0.0, 0.0, 7), 1.0),
    (lambda a, b, step: ~step, (0.0, 0.0, 7), -8.0),
    (lambda a, b, step: math.sqrt(a) + np.sqrt(b), (4.0, 9.0, 1), 5.0),
    (lambda a, b, step: math.sqrt(a), (-4.0, 0.0, 1), NAN),
    (lambda a, b, step: np.log(a), (0.0, 0.0, 1), -INF),
    (lambda a, b, step: math.log(a), (-1.0, 0.0, 1), NAN),
    (lambda a, b, step: np.exp(a) - math.exp(a), (1.5, 0.0, 1), 0.0),
    (lambda a, b, step: np.exp(a * 1e6), (1.5, 0.0, 1), INF),
    (lambda a, b, step: np.minimum(a, b) + 10 * np.maximum(a, b), (1.0, 2.0, 1), 21.0),
    (lambda a, b, step: np.square(a) + np.fabs(b), (3.0, -1.0, 1), 10.0),
    (lambda a, b, step: np.where(a < b, a, b), (1.0, 2.0, 1), 1.0),
    (lambda a, b, step: np.where(np.logical_not(a < b) | (step == 2), 5, 6), (1.0, 2.0, 2), 5.0),
    (lambda a, b, step: np.where((a <= b) & (a >= b) & (a != b), 5, 6), (1.0, 1.0, 2), 6.0),
    (lambda a, b, step: np.where(np.logical_xor(a > 0, b > 0), 5, 6), (1.0, -1.0, 2), 5.0),
    (lambda a, b, step: np.float64(2) * a * math.pi, (1.0, 0.0, 1), 2 * math.pi),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_scalar_is_computed_once_a_step(number):
    expression, (a, b, step), expected = CASES[number]

    def scaled(p, g, *, a=0.25, b=0.5, step):
        return p - g * expression(a, b, step)

    rule = fastgd.jit(scaled).rule
    assert len(rule.scalars) == 1
    (value,) = rule.fold({"a": a, "b": b}, step, ())
    assert type(value) is float
    # the C library's functions and Numba's may differ in the last bit: 2**-52 = 2.2e-16
    np.testing.assert_allclose(value, expected, rtol=4e-16, atol=2e-16)


def test_exponentials_are_right_to_the_last_bit():
    assert exponential(1.0) == math.e
    assert exponential(-1e9) == 0.0
    assert exponential(1e9) == INF
    assert exponential(0.0) == 1.0


def test_one_scalar_for_what_is_written_twice():
    @fastgd.jit
    def twice(p, g, *, lr=1e-3, beta=0.9):
        return (1 - lr * beta) * p - (1 - lr * beta) * g * beta

    assert len(twice.rule.scalars) == 2


@pytest.mark.parametrize("flag", [False, True])
def test_a_branch_on_a_scalar(flag):
    @fastgd.jit
    def branching(p, g, *, flag=False, late=2.0, step):
        if flag and step > late:
            g = g * 10
        return p - g

    for backend in ("jit", "reference"):
        p = np.zeros(1)
        opt = branching([p], flag=flag, backend=backend)
        for _ in range(3):
            opt.step([np.ones(1)])
        assert p[0] == (-12 if flag else -3)


def test_what_has_no_meaning_for_its_kind_is_refused():
    def wrong(p, g, *, lr=1e-3):
        return p - (lr & 1) * g

    with pytest.raises(TypeError, match="rule 'wrong': its scalars cannot be computed: unsupported operand"):
        fastgd.jit(wrong)


def test_functions_without_the_same_bits_everywhere():
    def wave(p, g, *, lr=1e-3, step):
        return p - np.cos(lr * step) * g

    with pytest.raises(TypeError, match=r"np\.cos of a hyperparameter has not the same bits everywhere"):
        fastgd.jit(wave)
