"""What is no rule is refused when it is defined, with the user's file and the line that is at fault."""

from __future__ import annotations

import inspect
import math
import re

import numpy as np
import pytest

import fastgd
from fastgd.own.body import MOST_OPERATIONS


def of_exp(p, g, *, lr=1e-3):
    g = g * 2
    return p - lr * np.exp(g)  # here


def of_an_element(p, g):
    return p - g[0]  # here


def of_tanh(p, g):
    return p - math.tanh(g)  # here


def of_sin(p, g, *, lr=1e-3):
    return p - math.sin(lr) * g  # here


def of_a_sum(p, g):
    return p - np.cumsum(g)  # here


def of_an_array(p, g):
    return p - g * np.ones(3)  # here


def of_a_name(p, g):
    return p - missing * g  # noqa: F821  here


def of_whole_numbers(p, g):
    return p - int(g)  # here


def of_a_remainder(p, g):
    return p - g % 2  # here


def of_a_power(p, g, *, lr=1e-3):
    return p - g**lr  # here


def of_an_exponent(p, g):
    return p - 2.0**g  # here


def of_text(p, g, *, lr=1e-3):
    return p - f"{lr}" * g  # here


def of_an_open_loop(p, g):
    while g > 1:  # here
        g = g / 2
    return p - g


def of_an_unknown_count(p, g, *, n=3):
    for _ in range(n):  # here
        p = p - g
    return p


def of_a_long_loop(p, g):
    for k in range(MOST_OPERATIONS + 10):
        p = p - k * g  # here
    return p


def doubled(x):
    return np.tan(x)  # here


def of_a_helper(p, g):
    return p - doubled(g)


BODIES = [
    (of_exp, "np.exp has no operation of one element with the same bits everywhere"),
    (of_an_element, "a symbol is one number, which has no elements"),
    (of_tanh, "math.tanh has not the same bits everywhere"),
    (of_sin, "math.sin has not the same bits everywhere"),
    (of_a_sum, "np.cumsum has no operation of one element"),
    (of_an_array, "an array of shape (3,) has no place beside one element"),
    (of_a_name, "NameError: name 'missing' is not defined"),
    (of_whole_numbers, "the value of a symbol is not known yet: it depends on the element"),
    (of_a_remainder, "np.remainder has no operation of one element"),
    (of_a_power, "only known whole powers up to 64 and 0.5 have the same bits everywhere"),
    (of_an_exponent, "a power has the same bits everywhere only where its exponent is known"),
    (of_text, ""),
    (of_an_open_loop, "there are more than 64 branches on one way: does a loop's end depend on them?"),
    (of_an_unknown_count, "the value of a hyperparameter is not known yet: it can be changed at any time"),
    (of_a_long_loop, f"there are more than {MOST_OPERATIONS} operations: is a loop very long?"),
    (of_a_helper, "np.tan has no operation of one element"),
]


@pytest.mark.parametrize(("function", "reason"), BODIES, ids=lambda v: getattr(v, "__name__", ""))
def test_a_body_is_refused_with_its_line(function, reason):
    with pytest.raises(TypeError) as refusal:
        fastgd.jit(function)
    at_fault = doubled if function is of_a_helper else function
    lines, first = inspect.getsourcelines(at_fault)
    number, text = next((first + i, line.strip()) for i, line in enumerate(lines) if "here" in line)
    message = str(refusal.value)
    assert message.startswith(f"rule {function.__name__!r}, {__file__}, line {number}: {reason}")
    assert message.endswith(f"\n    {text}")


def two_for_three(p, g, m, v):
    return p, m


def two_for_one(p, g):
    return p, g


def nothing(p, g, m):
    p = p - g


def uneven(p, g, m):
    return (p, m) if g > 0 else p


RETURNS = [
    (two_for_three, "it returns 2 values, not the parameter and 2 slots"),
    (two_for_one, "it returns 2 values, not the parameter"),
    (nothing, "it returns nothing, not the parameter and 1 slot"),
    (uneven, "it returns 1 value, not the parameter and 1 slot"),
]


@pytest.mark.parametrize(("function", "reason"), RETURNS, ids=lambda v: getattr(v, "__name__", ""))
def test_what_is_returned_is_counted(function, reason):
    line = inspect.getsourcelines(function)[1]
    message = f"rule {function.__name__!r}, {__file__}, line {line}: {reason}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        fastgd.jit(function)


def test_a_text_is_no_parameter():
    with pytest.raises(TypeError, match="str is no number"):
        fastgd.jit(lambda p, g: "p")


SIGNATURES = [
    (lambda p: p, {}, TypeError, "the first two arguments are the parameter and its gradient"),
    (lambda p, g, *slots: p, {}, TypeError, "slots names no slots and no hyperparameters"),
    (lambda p, g, **others: p, {}, TypeError, "others names no slots and no hyperparameters"),
    (lambda p, g, lr=1: p, {}, TypeError, "'lr' has a default: hyperparameters come after a bare"),
    (lambda p, g, *, lr: p, {}, TypeError, "hyperparameter 'lr' has no default"),
    (lambda p, g, *, step=1: p, {}, TypeError, "'step' is the number of the step, which has no default"),
    (lambda p, g, *, lr=None: p, {}, TypeError, "the default of 'lr' must be a number, not NoneType"),
    (lambda p, g, *, lr="1": p, {}, TypeError, "the default of 'lr' must be a number, not '1'"),
    (lambda p, g, *, b=(1, "x"): p, {}, TypeError, "the default of 'b' must be a number, not 'x'"),
    (lambda p, g, *, lr=-1: p, {}, ValueError, "the default of 'lr' must be at least 0 and finite"),
    (lambda p, g, *, mu=math.nan: p, {}, ValueError, "the default of 'mu' must be finite"),
    (lambda p, g, *, rounding=1: p, {}, ValueError, "every optimizer has 'rounding'"),
    (lambda p, g, *, maximize=True: p, {}, ValueError, "every optimizer has 'maximize'"),
    (lambda p, g, *, seed=1: p, {}, ValueError, "every optimizer has 'seed'"),
    (lambda p, g, average: (p, g), {}, ValueError, "no slot can be called 'average'"),
    (lambda p, g, step: (p, g), {}, ValueError, "no slot can be called 'step'"),
    (lambda p, g, m, m_scales: (p, g, g), {}, ValueError, "no slot can be called 'm_scales'"),
    (lambda p, g, m: (p, g), {"unsigned": ["v"]}, ValueError, "unsigned names 'v', which is no slot"),
    (lambda p, g, m: (p, g), {"precise": ["v"]}, ValueError, "precise names 'v', which is no slot"),
    (lambda p, g, m: (p, g), {"initial": {"v": "lr"}}, ValueError, "initial names 'v', which is no slot"),
    (lambda p, g, m: (p, g), {"initial": {"m": "lr"}}, ValueError, "the first value of 'm' is 'lr'"),
    (
        lambda p, g, a, b, c, d, e, f, h, i, j: p,
        {},
        ValueError,
        "has 9 slots, and there is room for 8",
    ),
]


@pytest.mark.parametrize(("function", "options", "kind", "reason"), SIGNATURES)
def test_a_signature_is_refused(function, options, kind, reason):
    with pytest.raises(kind, match=f"rule '<lambda>'.*{re.escape(reason)}"):
        fastgd.jit(**options)(function)


def test_more_scalars_than_there_is_room_for():
    def many(p, g, *, lr=1e-3):
        for k in range(17):
            p = p - (lr + k) * g
        return p

    with pytest.raises(ValueError, match=r"'many': 17 numbers that follow .* there is room for 16"):
        fastgd.jit(many)


def test_what_is_no_function():
    with pytest.raises(TypeError, match=r"fastgd.jit is for a function written in Python, not builtin"):
        fastgd.jit(math.sqrt)
