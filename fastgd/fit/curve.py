"""Nonlinear least squares by gradient descent: curves given as formulas or as functions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.checks import finite, named
from fastgd.fit.descent import descend
from fastgd.fit.inputs import column, refuse_few, search_of, weights_of
from fastgd.fit.matrices import inverse_gram
from fastgd.fit.models import FormulaModel, FunctionModel, OverRows
from fastgd.fit.result import ConvergenceWarning, Result

__all__ = ["curve"]


class CurveError:
    """sum w (f - y)^2 / 2 over the rows. root: of the weights. share: parameters to degrees of freedom."""

    def __init__(self, model: OverRows, y: Array, root: Array, share: float) -> None:
        self.model, self.y, self.root, self.share = model, y, root, share
        self._at: tuple[Array, Array, Array] | None = None

    @property
    def rounding(self) -> float:
        return 16 * float(np.finfo(float).eps * np.linalg.norm(self.root * self.y))

    def linearised(self, theta: Array) -> tuple[Array, Array]:
        """The residuals and their derivatives, both times the root of the weights."""
        if self._at is None or not np.array_equal(self._at[0], theta):
            values, slopes = self.model.jacobian(theta)
            self._at = theta.copy(), self.root * (values - self.y), self.root[:, np.newaxis] * slopes
        return self._at[1:]

    def gradient(self, theta: Array) -> tuple[float, Array]:
        residuals, slopes = self.linearised(theta)
        return float(residuals @ residuals) / 2, slopes.T @ residuals

    def curvature(self, theta: Array) -> Array:
        slopes = self.linearised(theta)[1]
        return slopes.T @ slopes

    def size(self, loss: float) -> float:
        return math.sqrt(2 * loss)

    def unit(self, loss: float) -> float:
        return math.sqrt(2 * loss * self.share)


def curve(
    model: str | Callable[..., Any],
    x: Any,
    y: Any,
    start: Mapping[str, float] | Sequence[float],
    *,
    weights: Any = None,
    optimizer: str | None = None,
    lr: Any = None,
    options: Mapping[str, Any] | None = None,
    max_iterations: int = 100_000,
    tol: float = 1e-9,
) -> Result:
    """Nonlinear least squares: the parameters that minimise sum w (y - f(x, parameters))^2, and their errors.

    model: a formula such as "a * exp(-b * t) + c" of numbers, names, + - * / **, brackets, pi and the
        functions of fastgd.fit.formula.FUNCTIONS, with exact derivatives; or a function f(x, a, b, ...) ->
        [rows], as SciPy's curve_fit takes it. Its derivatives are taken by complex steps (Squire and Trapp
        1998), which have all digits, where the function computes with complex numbers, else by central
        differences. The result says which.
    x: for a formula a mapping from names to columns [rows], of which it uses those that it names, or one
        column where it has one name without a starting value. For a function whatever it takes.
    y: [rows].
    start: where the search begins: name -> value; for a function also the values in order. A minimum that is
        found is the one downhill from there, which need not be the lowest.
    weights: of the rows, in proportion to the inverse variances of their errors: 1 / sigma^2. Default: 1.
    optimizer, lr, options, max_iterations, tol: as in fastgd.fit.linear.

    Covariance: s^2 (J'wJ)^-1 at the minimum with the derivatives J of f and s^2 = sum w residual^2 / (rows -
    parameters) (Seber and Wild 1989, section 2.1.2). R² is about the mean of y.

    Warns with ConvergenceWarning, and says so in the result, where it does not converge. Raises FormulaError
    for a formula that cannot be used, and TypeError or ValueError, naming the argument, for what is no number
    or not finite, a curve that is not finite at the start, and for fewer rows than parameters.
    """
    search = search_of(optimizer, lr, options, max_iterations, tol)
    y = column("y", y)
    w = weights_of(weights, len(y))
    made: FormulaModel | FunctionModel
    if isinstance(model, str):
        made = FormulaModel.of(model, start, x)
    elif callable(model):
        made = FunctionModel.of(model, start)
    else:
        raise TypeError(f"model must be a formula or a function, not {type(model).__name__}")
    theta = np.array([named(f"start[{name!r}]", finite, value) for name, value in made.start.items()])
    rows, count = int(np.count_nonzero(w)), len(theta)
    refuse_few(rows, count)
    over = made.over(x, len(y))
    _refuse_start(over.values(theta), y)
    objective = CurveError(over, y, np.sqrt(w), count / (rows - count))
    found = descend(objective, theta, search)
    residuals, slopes = objective.linearised(found.theta)
    squares = float(residuals @ residuals)
    variance = squares / (rows - count)
    total = float(w @ (y - w @ y / w.sum()) ** 2)
    if not found.converged:
        warnings.warn(found.message, ConvergenceWarning, stacklevel=2)
    return Result(
        title=f"curve {made.text}",
        names=tuple(made.start),
        estimates=found.theta,
        covariance=variance * inverse_gram(slopes),
        loss=squares,
        r2=1 - squares / total if total else math.nan,
        rows=rows,
        degrees_of_freedom=rows - count,
        residual_standard_error=math.sqrt(variance),
        iterations=found.iterations,
        converged=found.converged,
        message=found.message,
        gradient_norm=found.distance,
        classes=(),
        derivatives=over.derivatives,
        x=x,
        y=y,
        _model=made,
    )


def _refuse_start(values: Array, y: Array) -> None:
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        count = int(np.count_nonzero(wrong))
        raise ValueError(
            f"at the starting values the curve is {values[row]} in row {row}"
            + (f" and not finite in {count} rows" if count > 1 else "")
        )
