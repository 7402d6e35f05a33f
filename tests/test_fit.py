"""Regression by gradient descent: as many digits as certified values have, and refusals in words."""

from __future__ import annotations

import math

import nist
import numpy as np
import pytest

from fastgd import fit, optim

EXACT = 1e-12


def line(n=60, seed=0, noise=0.5):
    """x [n, 3] in very different units, and y = 5 + x b + noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3)) * [1.0, 1e-4, 1e5] + [0.0, 3e-4, 2e5]
    return x, 5 + x @ [1.0, 2e4, -3e-5] + noise * rng.normal(size=n)


def sorted_into(classes, n=300, seed=1):
    """x [n, 2] and labels 0 to classes - 1 that depend on it, with overlap."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 2)) * [1.0, 20.0] + [0.0, 100.0]
    scores = np.outer(x[:, 0], np.arange(classes)) + 0.05 * np.outer(x[:, 1] - 100, np.arange(classes) % 2)
    return x, np.argmax(scores + rng.gumbel(size=(n, classes)), axis=1)


def decay(n=40, noise=0.05):
    rng = np.random.default_rng(2)
    t = np.linspace(0, 4, n)
    return t, 2 * np.exp(-1.3 * t) + 0.5 + noise * rng.normal(size=n)


START = {"a": 1.0, "b": 1.0, "c": 0.0}
FORMULA = "a * exp(-b * t) + c"


def exponential(t, a, b, c):
    return a * np.exp(-b * t) + c


def direct(x, y, w=None, l2=0.0):
    """Least squares with an intercept from the normal equations in extended precision, and its covariance."""
    w = np.ones(len(y)) if w is None else w
    x = np.column_stack([np.ones(len(x)), x])
    scale = np.abs(x).max(axis=0)
    x = x / scale
    gram = (w[:, np.newaxis] * x).T @ x
    penalty = np.diag(np.concatenate([[0.0], np.full(x.shape[1] - 1, l2)]) / scale**2)
    inverse = np.linalg.inv(gram + penalty)
    b = inverse @ (x.T @ (w * y))
    free = np.count_nonzero(w) - np.trace(inverse @ gram)
    s2 = w @ (y - x @ b) ** 2 / free
    return b / scale, s2 * inverse @ gram @ inverse / np.outer(scale, scale), s2


# ---- certified values


def test_longley_has_the_certified_digits():
    data = nist.LONGLEY
    result = fit.linear(data[:, 1:], data[:, 0])
    np.testing.assert_allclose(result.estimates, nist.LONGLEY_CERTIFIED, rtol=1e-7)
    np.testing.assert_allclose(list(result.standard_errors.values()), nist.LONGLEY_ERRORS, rtol=1e-12)
    assert result.residual_standard_error == pytest.approx(nist.LONGLEY_RESIDUAL, rel=1e-12)
    assert result.r2 == pytest.approx(nist.LONGLEY_R2, rel=1e-13)
    assert result.loss == pytest.approx(nist.LONGLEY_SQUARES, rel=1e-12)
    assert result.converged
    assert result.names == ("intercept", "x1", "x2", "x3", "x4", "x5", "x6")


#: problem, which of its starts, and a fifth more iterations than it takes
ITERATIONS = [("misra1a", 0, 2500), ("misra1a", 1, 2000), ("mgh09", 0, 7500), ("mgh09", 1, 900)]
ITERATIONS += [("thurber", 1, 21_000)]


@pytest.mark.parametrize(("name", "which", "most"), ITERATIONS)
def test_nonlinear_problems_have_the_certified_digits(name, which, most):
    """NIST certifies 11 digits."""
    problem = nist.PROBLEMS[name]
    start = {f"b{i + 1}": value for i, value in enumerate(problem.starts[which])}
    result = fit.curve(problem.formula, problem.x, problem.y, start, max_iterations=most)
    assert result.converged
    np.testing.assert_allclose(result.estimates, problem.certified, rtol=1e-8)
    np.testing.assert_allclose(list(result.standard_errors.values()), problem.errors, rtol=1e-8)
    assert result.loss == pytest.approx(problem.squares, rel=1e-10)
    assert result.derivatives == "exact"


# ---- linear


@pytest.mark.parametrize("l2", [0.0, 0.7])
@pytest.mark.parametrize("weighted", [False, True])
def test_linear_is_what_linear_algebra_gives(l2, weighted):
    x, y = line()
    w = np.random.default_rng(5).uniform(0.2, 3, len(y)) if weighted else None
    if weighted:
        w[:3] = 0.0
    estimates, covariance, s2 = direct(x, y, w, l2)
    result = fit.linear(x, y, l2=l2, weights=w)
    errors = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(result.estimates / errors, estimates / errors, rtol=0, atol=1e-7)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-6, atol=0)
    assert result.residual_standard_error**2 == pytest.approx(s2, rel=1e-9)
    assert result.rows == len(y) - 3 * weighted


def test_without_an_intercept_r2_is_about_zero():
    x, y = np.arange(1.0, 11.0), 3 * np.arange(1.0, 11.0) + np.tile([1.0, -1.0], 5)
    result = fit.linear(x, y, intercept=False)
    assert result.names == ("x1",)
    assert result.parameters["x1"] == pytest.approx(x @ y / (x @ x), rel=EXACT)
    assert result.r2 == pytest.approx(1 - ((y - x * result.estimates[0]) ** 2).sum() / (y @ y), rel=EXACT)
    assert result.degrees_of_freedom == 9


def test_p_values_and_intervals_are_student_s():
    stats = pytest.importorskip("scipy.stats", reason="p values need SciPy")
    x, y = line(n=12, noise=5.0)
    result = fit.linear(x, y)
    for name, t in result.statistics.items():
        assert result.p_values[name] == pytest.approx(2 * stats.t.sf(abs(t), 8), rel=1e-9)
        low, high = stats.t.interval(0.9, 8, result.parameters[name], result.standard_errors[name])
        assert result.intervals(0.9)[name] == pytest.approx((low, high), rel=1e-9)


def test_a_band_holds_the_mean_as_often_as_it_says():
    pytest.importorskip("scipy", reason="bands need SciPy")
    hits, at = [], np.array([0.5, 2.0])
    for seed in range(200):
        rng = np.random.default_rng(seed)
        x = rng.uniform(0, 1, 10)
        low, high = fit.linear(x, 1 + 2 * x + rng.normal(size=10)).band(at, 0.8)
        hits.append((low <= 1 + 2 * at) & (1 + 2 * at <= high))
    # 0.8 +- 3 standard deviations of a share of 200
    assert np.all(np.abs(np.mean(hits, axis=0) - 0.8) < 0.085)


def test_columns_by_name_in_any_order():
    x, y = line()
    named = {"c": x[:, 2], "a": x[:, 0], "b": x[:, 1]}
    result = fit.linear(named, y)
    assert result.names == ("intercept", "c", "a", "b")
    again = {"a": x[:, 0], "unused": np.zeros(60), "b": x[:, 1], "c": x[:, 2]}
    np.testing.assert_array_equal(result.predict(again), result.predict(named))
    np.testing.assert_allclose(result.predict(x[:, [2, 0, 1]]), result.predict(named), rtol=EXACT)
    with pytest.raises(ValueError, match="x has no column 'b'"):
        result.predict({"a": x[:, 0], "c": x[:, 2]})
    with pytest.raises(ValueError, match="x has 2 columns, and 3 are needed"):
        result.predict(x[:, :2])


def test_exact_data_converge_too():
    x = np.arange(20.0)
    result = fit.linear(x, 4 - 2 * x)
    assert result.converged
    np.testing.assert_allclose(result.estimates, [4, -2], rtol=1e-12)
    t = np.linspace(0, 4, 30)
    result = fit.curve(FORMULA, t, exponential(t, 2.3, 0.9, -0.7), START)
    assert result.converged
    np.testing.assert_allclose(result.estimates, [2.3, 0.9, -0.7], rtol=1e-12)
    result = fit.linear(x, np.zeros(20))
    assert result.converged and result.iterations == 0
    assert math.isnan(result.r2)


# ---- logistic


def test_two_classes_are_scikit_learn_s():
    linear_model = pytest.importorskip("sklearn.linear_model", reason="compares with scikit-learn")
    x, labels = sorted_into(2)
    for l2 in (0.0, 0.5):
        result = fit.logistic(x, labels, l2=l2)
        scaled = x - x.mean(axis=0)
        peer = linear_model.LogisticRegression(
            C=1 / l2 if l2 else 1e15, solver="newton-cholesky", tol=1e-14, max_iter=1000
        ).fit(scaled, labels)
        np.testing.assert_allclose(result.estimates[1:], peer.coef_[0], rtol=1e-7)
        np.testing.assert_allclose(result.predict(x), peer.predict_proba(scaled), rtol=1e-7)


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("weighted", [False, True])
def test_logistic_is_where_the_likelihood_has_its_maximum(classes, weighted):
    """The score is 0, and the covariance is the inverse of minus the Hessian, by differences of the score."""
    x, labels = sorted_into(classes)
    w = np.random.default_rng(3).integers(0, 4, len(x)) if weighted else np.ones(len(x))
    result = fit.logistic(x, labels, weights=w if weighted else None)
    columns = np.column_stack([np.ones(len(x)), x])

    def score(theta):
        logits = np.column_stack([np.zeros(len(x)), columns @ theta.reshape(classes - 1, 3).T])
        p = np.exp(logits - logits.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        return (((np.eye(classes)[labels] - p) * w[:, np.newaxis])[:, 1:].T @ columns).ravel()

    theta, errors = result.estimates, np.sqrt(np.diag(result.covariance))
    assert np.abs(score(theta) * errors).max() < 1e-7
    hessian = np.stack([(score(theta + h) - score(theta - h)) / 2e-4 for h in np.diag(errors) * 1e-4])
    information = -hessian * np.outer(errors, 1) / np.outer(errors, 1) / errors[:, np.newaxis]
    np.testing.assert_allclose(information @ result.covariance, np.eye(len(theta)), atol=1e-5)
    assert result.statistic == "z"


def test_whole_weights_are_repeated_rows():
    x, labels = sorted_into(3, n=120)
    w = np.random.default_rng(0).integers(0, 4, 120)
    weighted = fit.logistic(x, labels, weights=w)
    repeated = fit.logistic(np.repeat(x, w, axis=0), np.repeat(labels, w))
    np.testing.assert_allclose(weighted.estimates, repeated.estimates, rtol=1e-7)
    np.testing.assert_allclose(weighted.covariance, repeated.covariance, rtol=1e-7)
    assert weighted.loss == pytest.approx(repeated.loss, rel=EXACT)
    assert weighted.r2 == pytest.approx(repeated.r2, rel=1e-9)


def test_classes_have_their_names():
    x, labels = sorted_into(3)
    result = fit.logistic({"age": x[:, 0], "dose": x[:, 1]}, np.array(["cat", "dog", "eel"])[labels])
    assert result.classes == ("cat", "dog", "eel")
    assert result.names[:4] == ("dog:intercept", "dog:age", "dog:dose", "eel:intercept")
    assert fit.logistic(x[:, 0], labels > 0).names == ("intercept", "x1")
    p = result.predict({"age": x[:, 0], "dose": x[:, 1]})
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=EXACT)
    np.testing.assert_allclose(p.mean(axis=0), np.bincount(labels) / 300, rtol=1e-7)
    with pytest.raises(TypeError, match="there are 3 classes: a band needs two"):
        result.band({"age": x[:, 0], "dose": x[:, 1]})


@pytest.mark.parametrize(
    ("x", "labels", "which"),
    [
        ([1, 2, 3, 4, 5, 6], [0, 0, 0, 1, 1, 1], "all rows"),
        ([1, 2, 3, 3, 4, 5], [0, 0, 0, 1, 1, 1], "some rows"),
        ([1, 2, 3, 4, 5, 6, 11, 12], [0, 1, 0, 1, 0, 1, 2, 2], "some rows"),
    ],
    ids=["complete", "touching", "one class of three"],
)
def test_separated_classes_are_refused(x, labels, which):
    pytest.importorskip("scipy", reason="separation of some rows is found by SciPy's linear programs")
    with pytest.raises(fit.SeparationError, match=f"labels of {which} apart"):
        fit.logistic(x, labels)
    result = fit.logistic(x, labels, l2=0.1)
    assert result.converged


def test_a_constant_of_a_label_is_a_separation():
    """A column of 0 and 1 whose ones all have the same label."""
    pytest.importorskip("scipy", reason="separation of some rows is found by SciPy's linear programs")
    x, labels = sorted_into(2)
    flag = np.zeros(300)
    flag[np.flatnonzero(labels)[:5]] = 1
    with pytest.raises(fit.SeparationError, match="some rows"):
        fit.logistic(np.column_stack([x, flag]), labels)


# ---- curves


def test_curves_are_curve_fit_s():
    optimize = pytest.importorskip("scipy.optimize", reason="compares with SciPy")
    t, y = decay()
    w = np.random.default_rng(0).uniform(0.5, 2, len(t))
    w[:25:2] = 0
    result = fit.curve(FORMULA, t, y, START, weights=w)
    t, y, sigma = t[w > 0], y[w > 0], 1 / np.sqrt(w[w > 0])
    estimates, covariance = optimize.curve_fit(
        exponential, t, y, [1, 1, 0], sigma=sigma, xtol=1e-15, ftol=1e-15, gtol=1e-15
    )
    assert result.gradient_norm < 1e-9
    assert result.rows == len(t)
    np.testing.assert_allclose(result.estimates, estimates, rtol=1e-6)
    np.testing.assert_allclose(result.covariance, covariance, rtol=1e-5)


def test_a_function_is_fitted_as_its_formula_is():
    t, y = decay()
    formula = fit.curve(FORMULA, {"t": t, "unused": y}, y, START)

    def real_only(t, a, b, c):
        return np.array([a * math.exp(-b * value) + c for value in t])

    for function, derivatives, digits in (
        (exponential, "complex step", 1e-9),
        (real_only, "central differences", 1e-7),
        (lambda t, a, b, c: abs(a) * np.exp(-b * t) + c, "central differences", 1e-7),
    ):
        result = fit.curve(function, t, y, [1, 1, 0])
        assert result.derivatives == derivatives
        assert result.names == ("a", "b", "c")
        np.testing.assert_allclose(result.estimates, formula.estimates, rtol=digits)
        np.testing.assert_allclose(result.covariance, formula.covariance, rtol=digits)
    assert fit.curve(lambda t, *p: exponential(t, *p), t, y, [1, 1, 0]).names == ("p1", "p2", "p3")
    assert fit.curve(exponential, t, y, {"c": 0, "a": 1, "b": 1}).names == ("a", "b", "c")


def test_a_linear_formula_is_linear_regression():
    x, y = line()
    columns = {"u": x[:, 0], "v": x[:, 1], "w": x[:, 2]}
    start = dict.fromkeys("abcd", 0.0)
    curve = fit.curve("a + b * u + c * v + d * w", columns, y, start)
    linear = fit.linear(columns, y)
    np.testing.assert_allclose(curve.estimates, linear.estimates, rtol=1e-6)
    np.testing.assert_allclose(curve.covariance, linear.covariance, rtol=1e-6)
    assert curve.r2 == pytest.approx(linear.r2, rel=1e-9)


# ---- the search


@pytest.mark.parametrize("optimizer", ["adam", "sgd", "lion", "nadam"])
def test_other_optimizers_get_there_too(optimizer):
    x, y = line(n=40)
    y_best = fit.linear(x, y)
    result = fit.linear(x, y, optimizer=optimizer, tol=1e-6)
    assert result.converged
    np.testing.assert_allclose(result.estimates, y_best.estimates, rtol=1e-5)


def test_a_rate_or_a_schedule_is_taken_as_it_is():
    t, y = decay()
    asked = []

    def falling(step):
        asked.append(step)
        return 0.3 * 0.99**step

    result = fit.curve(
        FORMULA, t, y, START, optimizer="adam", lr=falling, options={"betas": (0.8, 0.99)}, tol=1e-5
    )
    assert result.converged and asked
    with pytest.warns(fit.ConvergenceWarning, match="no longer finite; lower lr"):
        fit.linear(*line(), lr=1e3)


def test_of_averaging_rules_the_average_is_what_is_learned(monkeypatch):
    made, create = [], optim.create
    monkeypatch.setattr(optim, "create", lambda *a, **options: made.append(create(*a, **options)) or made[-1])
    t, y = decay()
    with pytest.warns(fit.ConvergenceWarning, match="max_iterations"):
        result = fit.linear(t, y, optimizer="sgd_schedule_free", lr=0.2, max_iterations=100)
    (opt,) = made
    opt.eval()
    unit = np.linalg.norm(y - y.mean()) / np.linalg.norm(t - t.mean())
    assert result.parameters["x1"] == pytest.approx(opt.parameters()[0][0] * unit, rel=1e-12)


def test_what_has_not_converged_says_so():
    t, y = decay()
    with pytest.warns(fit.ConvergenceWarning, match="not converged after 100 iterations") as told:
        result = fit.curve(FORMULA, t, y, START, max_iterations=100)
    assert not result.converged
    assert result.iterations == 100
    assert str(told[0].message) == result.message
    assert result.message in str(result)
    # how far it said it was is how far it was
    best = fit.curve(FORMULA, t, y, START)
    step = result.estimates - best.estimates
    away = step @ np.linalg.solve(best.covariance, step)
    assert result.gradient_norm == pytest.approx(math.sqrt(away / 3), rel=0.2)


def test_parameters_that_cannot_be_told_apart_are_named_as_such():
    t, y = decay()
    with pytest.warns(fit.ConvergenceWarning, match="not all parameters have an influence"):
        result = fit.curve("a * b * exp(-t)", t, y, {"a": 1, "b": 1})
    assert not result.converged


def test_no_minimum_is_no_convergence():
    """The best b is minus infinity."""
    with pytest.warns(fit.ConvergenceWarning):
        result = fit.curve("exp(b * t)", [1.0, 2.0, 3.0, 4.0], [-1.0, -1.0, -1.0, -1.0], {"b": 0.1})
    assert not result.converged


# ---- as text


def test_the_table():
    pytest.importorskip("scipy", reason="p values need SciPy")
    t, y = decay()
    text = str(fit.curve(FORMULA, t, y, START))
    lines = text.splitlines()
    assert lines[0] == f"curve {FORMULA}"
    assert lines[1].split("  ")[0] == "" and "std. error" in lines[1] and "97.5 %" in lines[1]
    assert [row.split()[0] for row in lines[2:5]] == ["a", "b", "c"]
    assert "degrees of freedom 37" in lines[5]
    assert len({len(row) for row in lines[1:5]}) == 1
