"""The same fits by methods that are no gradient descent, from NumPy and SciPy, to compare with."""

from __future__ import annotations

import math
import warnings
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.fit.inputs import design
from fastgd.fit.linear import Line
from fastgd.fit.logistic import Classes
from fastgd.fit.models import FormulaModel, FunctionModel
from fastgd.fit.result import Result

__all__ = ["Other", "beside"]

#: relative changes at which SciPy's methods stop
TIGHT = 1e-14


class Other(NamedTuple):
    """What another method found; NaN, and the problem in words, where it found nothing."""

    method: str
    estimates: Array
    errors: Array
    problem: str = ""


def beside(result: Result, *, l2: float = 0.0, weights: Any = None) -> Other:
    """The fit again, from the same data, by the method one would take without gradient descent.

    Linear: numpy.linalg.lstsq. Logistic: scipy.optimize.minimize, a trust region with second derivatives.
    Curves: scipy.optimize.curve_fit from the same start, with the derivatives that the fit had. l2, weights:
    as in the fit. Raises ModuleNotFoundError where SciPy is needed and missing.
    """
    model = result._model
    w = np.ones(len(result.y)) if weights is None else np.asarray(weights, np.float64)
    if isinstance(model, (FormulaModel, FunctionModel)):
        return _curve_fit(model, result, w)
    assert isinstance(model, (Line, Classes))
    columns = design(result.x, model.names)[1]
    penalties = np.full(len(model.names), l2)
    if model.intercept:
        columns = np.column_stack([np.ones(len(columns)), columns])
        penalties = np.concatenate([[0.0], penalties])
    other = _minimize if isinstance(model, Classes) else _lstsq
    return other(result, columns, penalties, w)


def _lstsq(result: Result, columns: Array, penalties: Array, w: Array) -> Other:
    """A penalty is as many more rows."""
    root = np.sqrt(w)
    x, y = root[:, np.newaxis] * columns, root * result.y
    rows = np.concatenate([x, np.diag(np.sqrt(penalties))])
    scales = np.linalg.norm(rows, axis=0)
    target = np.concatenate([y, np.zeros(len(penalties))])
    estimates = np.linalg.lstsq(rows / scales, target)[0] / scales
    inverse = np.linalg.pinv(rows / scales)
    spread = inverse @ inverse.T / np.outer(scales, scales)
    gram = x.T @ x
    residuals = y - x @ estimates
    free = np.count_nonzero(w) - np.trace(spread @ gram)
    covariance = residuals @ residuals / free * spread @ gram @ spread
    return Other("numpy.linalg.lstsq", estimates, np.sqrt(np.diag(covariance)))


def _minimize(result: Result, columns: Array, penalties: Array, w: Array) -> Other:
    from scipy.optimize import minimize
    from scipy.special import log_softmax

    scales = np.sqrt(w @ columns**2 / w.sum())
    x, others = columns / scales, len(result.classes) - 1
    hot = np.eye(others + 1)[result.y]
    penalty = np.tile(penalties / scales**2, others)

    def log_p(theta: Array) -> Array:
        logits = np.column_stack([np.zeros(len(x)), x @ theta.reshape(others, -1).T])
        found: Array = log_softmax(logits, axis=1)
        return found

    def loss(theta: Array) -> float:
        return float(-np.sum(w[:, np.newaxis] * hot * log_p(theta)) + penalty @ theta**2 / 2)

    def gradient(theta: Array) -> Array:
        errors = (w[:, np.newaxis] * (np.exp(log_p(theta)) - hot))[:, 1:]
        found: Array = (errors.T @ x).ravel() + penalty * theta
        return found

    def information(theta: Array) -> Array:
        p = np.exp(log_p(theta))[:, 1:]
        each = p[:, :, np.newaxis] * (np.eye(others) - p[:, np.newaxis])
        found: Array = np.einsum("n,nkl,ni,nj->kilj", w, each, x, x, optimize=True)
        return np.reshape(found, (len(theta), len(theta)))

    found = minimize(
        loss,
        np.zeros(len(penalty)),
        jac=gradient,
        hess=lambda theta: information(theta) + np.diag(penalty),
        method="trust-exact",
        options={"gtol": 1e-10 * math.sqrt(w.sum())},
    )
    fisher = information(found.x)
    spread = np.linalg.pinv(fisher + np.diag(penalty), hermitian=True)
    lengths = np.tile(scales, others)
    errors = np.sqrt(np.diag(spread @ fisher @ spread)) / lengths
    return Other("scipy.optimize.minimize", found.x / lengths, errors)


def _curve_fit(model: FormulaModel | FunctionModel, result: Result, w: Array) -> Other:
    from scipy.optimize import OptimizeWarning, curve_fit

    name = "scipy.optimize.curve_fit"
    counted = w > 0
    over = model.over(result.x, len(result.y))
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", OptimizeWarning)  # infinite errors say the same
            estimates, covariance = curve_fit(
                lambda x, *theta: over.values(np.array(theta))[counted],
                np.arange(np.count_nonzero(counted)),
                result.y[counted],
                p0=np.array(list(model.start.values()), np.float64),
                sigma=1 / np.sqrt(w[counted]),
                jac=lambda x, *theta: over.jacobian(np.array(theta))[1][counted],
                ftol=TIGHT,
                xtol=TIGHT,
                gtol=TIGHT,
            )
    except (RuntimeError, ValueError) as error:
        nothing = np.full(len(result.names), math.nan)
        return Other(name, nothing, nothing, str(error))
    return Other(name, estimates, np.sqrt(np.diag(covariance)))
