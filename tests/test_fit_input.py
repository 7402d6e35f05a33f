"""Formulas, and what regression refuses: each in words that name the argument, the row or the column."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_fit import FORMULA, START, decay, exponential, line, sorted_into

from fastgd import fit
from fastgd.fit.formula import FUNCTIONS, Formula

X, Y = line()
T, DECAY = decay()


def changed(array, at, value):
    array = np.array(array, copy=True)
    array[at] = value
    return array


# ---- formulas

#: formulas of a and b over t, and the same as functions of complex numbers
SAME = {
    "a + b * t": lambda t, a, b: a + b * t,
    "-a - +b - (t - a)": lambda t, a, b: -a - b - (t - a),
    "a / b / t": lambda t, a, b: a / b / t,
    "a * t ** 2 + b ** 3 - t ** a": lambda t, a, b: a * t**2 + b**3 - t**a,
    "2 ** -a ** 2": lambda t, a, b: 2 ** -(a**2) + 0 * t,
    "(a * t) ** (b * t)": lambda t, a, b: (a * t) ** (b * t),
    "exp(-a * t) * exp(-a * t) + a": lambda t, a, b: np.exp(-2 * a * t) + a,
    "a": lambda t, a, b: a + 0 * t,
    "a * cos(2 * pi * t + b)": lambda t, a, b: a * np.cos(2 * np.pi * t + b),
    "sigmoid(a * (t - b))": lambda t, a, b: 1 / (1 + np.exp(-a * (t - b))),
    "1e2 * a + .5 * b": lambda t, a, b: 100 * a + 0.5 * b + 0 * t,
}


@pytest.mark.parametrize("text", SAME)
def test_formulas_and_their_derivatives(text):
    t = np.linspace(0.2, 1.7, 7)
    formula = Formula(text)
    names = [name for name in "ab" if name in formula.names]
    values, slopes = formula.bind({"t": t}, names).jacobian(np.array([0.7, 1.3])[: len(names)])
    at = {"a": 0.7, "b": 1.3}
    np.testing.assert_allclose(values, SAME[text](t, 0.7, 1.3), rtol=1e-14)
    for name, slope in zip(names, slopes.T, strict=True):
        moved = SAME[text](t, **{**at, name: at[name] + 1e-30j})
        np.testing.assert_allclose(slope, np.imag(moved) / 1e-30, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_derivatives_of_all_functions(name):
    a = np.linspace(0.1, 0.9, 9)
    over = Formula(f"{name}(k * a)").bind({"a": a}, ["k"])
    slope = over.jacobian(np.array([0.8]))[1][:, 0]
    near = (over.values(np.array([0.8 + 1e-6])) - over.values(np.array([0.8 - 1e-6]))) / 2e-6
    np.testing.assert_allclose(slope, near, rtol=1e-7)


def test_powers_of_nothing_have_derivatives():
    slopes = (
        Formula("a * t ** b").bind({"t": np.array([0.0, 1.0])}, ["a", "b"]).jacobian(np.array([2.0, 1.5]))[1]
    )
    np.testing.assert_array_equal(slopes, [[0, 0], [1, 0]])


REFUSED_FORMULAS = {
    "a +": "cannot be read",
    "a; b": "cannot be read",
    "a = 3": "cannot be read",
    "": "cannot be read",
    "a ^ 2": r"'a \^ 2' in the formula is no power: write \*\*",
    "__import__('os').system('true')": "is not allowed",
    "a.real": "'a.real' in the formula is not allowed",
    "t[0]": "is not allowed",
    "lambda: a": "is not allowed",
    "[a for a in t]": "is not allowed",
    "a if b else t": "is not allowed",
    "a < b": "is not allowed",
    "a // b": "is not allowed",
    "a % b": "is not allowed",
    "~a": "is not allowed",
    "a and b": "is not allowed",
    "'a'": "is not allowed",
    "True": "is not allowed",
    "1j * a": "is not allowed",
    "open(a)": r"calls open; the functions there are: abs, acos",
    "exp(a, b)": "must have one argument",
    "exp(*t)": "must have one argument",
    "exp(x=a)": "must have one argument",
    "f'{a}'": "is not allowed",
    "(" * 2000 + "a" + ")" * 2000: "cannot be read|nested too deeply",
    "+".join(["a"] * 3_000): "nested too deeply",
    "+".join(["a"] * 100_000): "has 199999 characters; 10000 are the most",
    "a\0": "cannot be read",
    "a + 1" + "0" * 400: "a number that is too large",
}


@pytest.mark.parametrize("text", REFUSED_FORMULAS, ids=lambda text: text[:20])
def test_formulas_that_are_refused(text):
    with pytest.raises(fit.FormulaError, match=REFUSED_FORMULAS[text]):
        Formula(text)


# ---- refusals

NAN, INFINITE = math.nan, math.inf

#: call, error, message
REFUSED = {
    "nan in x": (lambda: fit.linear(changed(X, (3, 1), NAN), Y), ValueError, r"x\[3\] has nan in column x2"),
    "nan rows": (
        lambda: fit.linear(changed(X, [3, 5], NAN), Y),
        ValueError,
        r"x\[3\] has nan in column x1; leave out the 2 rows",
    ),
    "nan in y": (lambda: fit.linear(X, changed(Y, 7, NAN)), ValueError, r"y\[7\] is nan; leave that row out"),
    "infinite": (lambda: fit.linear(X, changed(Y, 7, INFINITE)), ValueError, r"y\[7\] is inf"),
    "nan by name": (lambda: fit.linear({"u": changed(Y, 2, NAN)}, Y), ValueError, r"u\[2\] is nan"),
    "nan label": (lambda: fit.logistic(X, changed(Y > 5, 2, 0) * NAN), ValueError, r"labels\[0\] is nan"),
    "rows": (lambda: fit.linear(X[:-1], Y), ValueError, "y has 60 rows, and others have 59"),
    "rows of labels": (lambda: fit.logistic(X, Y[:-1]), ValueError, r"labels must have shape \[60\]"),
    "no rows": (lambda: fit.linear(X[:0], Y[:0]), ValueError, "x must be .* not empty"),
    "no columns": (lambda: fit.linear({}, Y), ValueError, "x has no columns"),
    "three dimensions": (lambda: fit.linear(X[:, :, None], Y), ValueError, r"x must be .* \[60, 3, 1\]"),
    "y of two columns": (
        lambda: fit.linear(X, X),
        ValueError,
        r"y must have one dimension, not shape \[60, 3\]",
    ),
    "text": (lambda: fit.linear(np.full((60, 1), "a"), Y), TypeError, "x must be real numbers, not <U1"),
    "complex": (lambda: fit.linear(X, Y * 1j), TypeError, "y must be real numbers, not complex128"),
    "objects": (lambda: fit.logistic(X, np.array([None] * 60)), TypeError, "labels must be numbers"),
    "one row": (lambda: fit.linear([1.0], [1.0]), ValueError, "1 rows are too few for 2 parameters"),
    "few rows": (lambda: fit.linear(X[:4], Y[:4]), ValueError, "4 rows are too few for 4 parameters"),
    "few rows with weights": (
        lambda: fit.linear(X, Y, weights=np.arange(60) < 4),
        ValueError,
        "4 rows are too few for 4 parameters",
    ),
    "few rows of a curve": (
        lambda: fit.curve(FORMULA, T[:3], DECAY[:3], START),
        ValueError,
        "3 rows are too few for 3 parameters",
    ),
    "constant": (
        lambda: fit.linear({"u": X[:, 0], "one": np.full(60, 0.1)}, Y),
        ValueError,
        "column one is constant, which the intercept is already",
    ),
    "zero": (lambda: fit.linear(np.zeros(60), Y, intercept=False), ValueError, "column x1 is 0 everywhere"),
    "dependent": (
        lambda: fit.linear(np.column_stack([X, X @ [1, 1e4, 1e-5] + 7]), Y),
        ValueError,
        "column x4 is a linear combination of those before it and the intercept",
    ),
    "dependent classes": (
        lambda: fit.logistic(X[:, [0, 0]], Y > 5),
        ValueError,
        "column x2 is a linear combination",
    ),
    "name of the intercept": (
        lambda: fit.linear({"intercept": X[:, 0]}, Y),
        ValueError,
        "a column of x is named intercept",
    ),
    "one class": (lambda: fit.logistic(X, np.ones(60)), ValueError, "all labels are 1.0"),
    "class without weight": (
        lambda: fit.logistic(X[:, 0], Y > 5, weights=Y > 5),
        ValueError,
        "weights of all rows with the label False are 0",
    ),
    "negative weight": (
        lambda: fit.linear(X, Y, weights=changed(np.ones(60), 5, -1)),
        ValueError,
        "weights must not be negative",
    ),
    "weights": (
        lambda: fit.linear(X, Y, weights=[1.0]),
        ValueError,
        "weights has 1 rows, and others have 60",
    ),
    "no weight": (lambda: fit.linear(X, Y, weights=np.zeros(60)), ValueError, "and not all 0"),
    "l2": (lambda: fit.linear(X, Y, l2=-1), ValueError, "l2 must be at least 0"),
    "intercept": (lambda: fit.linear(X, Y, intercept=1), TypeError, "intercept must be True or False"),
    "optimizer": (lambda: fit.linear(X, Y, optimizer="sdg"), ValueError, "optimizer must be one of sgd"),
    "options": (
        lambda: fit.linear(X, Y, options={"betas": (0.9, 0.9)}),
        ValueError,
        "options are an optimizer's",
    ),
    "option": (lambda: fit.linear(X, Y, optimizer="sgd", options={"beta": 1}), TypeError, "beta"),
    "lr": (lambda: fit.linear(X, Y, lr=-1), ValueError, "lr must be at least 0"),
    "iterations": (
        lambda: fit.linear(X, Y, max_iterations=0),
        ValueError,
        "max_iterations must be at least 1",
    ),
    "tol": (lambda: fit.linear(X, Y, tol=0), ValueError, "tol must be above 0"),
    "level": (lambda: fit.linear(X, Y).intervals(1.5), ValueError, r"level must be in \[0, 1\)"),
    # curves
    "unknown name": (
        lambda: fit.curve(FORMULA, {"time": T}, DECAY, START),
        fit.FormulaError,
        "the formula's 't' is neither a column nor a parameter .* parameters: a, b, c; columns: none",
    ),
    "two unknown names": (
        lambda: fit.curve(FORMULA, T, DECAY, {"a": 1, "b": 1}),
        fit.FormulaError,
        "one name of the formula must be without a starting value, not t, c",
    ),
    "unused parameter": (
        lambda: fit.curve(FORMULA, T, DECAY, {**START, "d": 1}),
        fit.FormulaError,
        "the formula has no 'd', for which there is a starting value",
    ),
    "both": (
        lambda: fit.curve(FORMULA, {"t": T, "a": T}, DECAY, START),
        ValueError,
        "a is a column of x and has a starting value",
    ),
    "rows of a column": (
        lambda: fit.curve(FORMULA, T[:-1], DECAY, START),
        ValueError,
        "t has 39 rows, and others have 40",
    ),
    "no start": (lambda: fit.curve(FORMULA, T, DECAY, {}), ValueError, "start has no parameters"),
    "list for a formula": (
        lambda: fit.curve(FORMULA, T, DECAY, [1, 1, 0]),
        TypeError,
        "start must be a mapping",
    ),
    "start": (
        lambda: fit.curve(FORMULA, T, DECAY, {**START, "b": NAN}),
        ValueError,
        r"start\['b'\] must be finite, not nan",
    ),
    "not finite": (
        lambda: fit.curve("a * log(t)", T, DECAY, {"a": 1}),
        ValueError,
        "at the starting values the curve is -inf in row 0$",
    ),
    "overflow": (
        lambda: fit.curve("exp(a * t)", T, DECAY, {"a": 1e6}),
        ValueError,
        "the curve is inf in row 1 and not finite in 39 rows",
    ),
    "model": (
        lambda: fit.curve(3, T, DECAY, START),
        TypeError,
        "model must be a formula or a function, not int",
    ),
    "starts": (
        lambda: fit.curve(exponential, T, DECAY, [1, 1]),
        ValueError,
        "has 3 parameters, and start 2 values",
    ),
    "names": (
        lambda: fit.curve(exponential, T, DECAY, {"a": 1, "b": 1, "d": 0}),
        ValueError,
        "the function's parameters are a, b, c; start has a, b, d",
    ),
    "shape": (
        lambda: fit.curve(lambda t, a: a * t[1:], T, DECAY, [1]),
        ValueError,
        r"the function must return shape \[40\], not \[39\]",
    ),
    "complex values": (
        lambda: fit.curve(lambda t, a: a * 1j * t, T, DECAY, [1]),
        TypeError,
        "the function must return real numbers, not complex128",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    call, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        call()


def test_what_a_function_raises_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        fit.curve(lambda t, a: t * (1 // 0), T, DECAY, [1.0])


def test_a_ridge_does_with_few_rows_and_dependent_columns():
    x = np.column_stack([X[:5], X[:5, 0]])
    result = fit.linear(x, Y[:5], l2=1.0)
    assert result.converged
    assert 0 < result.degrees_of_freedom < 4
    assert result.parameters["x1"] == pytest.approx(result.parameters["x4"], rel=1e-6)


def test_inputs_stay_as_they_are_and_results_do_not_follow_them():
    x, labels = sorted_into(2)
    given = x.copy()
    result = fit.logistic(x, labels)
    np.testing.assert_array_equal(x, given)
    assert fit.logistic(x, labels).estimates.tobytes() == result.estimates.tobytes()
    t, y, start = T.copy(), DECAY.copy(), dict(START)
    fit.curve(FORMULA, t, y, start)
    assert (t.tobytes(), y.tobytes(), start) == (T.tobytes(), DECAY.tobytes(), START)


@pytest.mark.parametrize("dtype", [np.float32, np.int16, bool])
def test_other_dtypes_are_computed_in_float64(dtype):
    x = (np.random.default_rng(0).integers(0, 5, size=(30, 2)) % (2 if dtype is bool else 9)).astype(dtype)
    y = np.random.default_rng(1).integers(0, 9, 30).astype(dtype)
    result = fit.linear(x, y)
    same = fit.linear(x.astype(float), y.astype(float))
    assert result.estimates.tobytes() == same.estimates.tobytes()
