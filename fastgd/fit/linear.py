"""Linear regression by gradient descent: least squares, weighted or with a ridge penalty."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.checks import flag, named
from fastgd.fit.descent import descend
from fastgd.fit.inputs import (
    INTERCEPT,
    column,
    design,
    penalty,
    refuse_dependent,
    refuse_few,
    search_of,
    weights_of,
)
from fastgd.fit.matrices import inverse_gram
from fastgd.fit.result import ConvergenceWarning, Result

__all__ = ["linear"]


@dataclass(frozen=True)
class SquaredError:
    """|x theta - y|^2 / 2 + l2 |theta|^2 / 2, for x [rows, parameters] and y [rows]."""

    x: Array
    y: Array
    l2: float
    degrees_of_freedom: float

    @property
    def rounding(self) -> float:
        return 16 * float(np.finfo(float).eps * np.linalg.norm(self.y))

    def gradient(self, theta: Array) -> tuple[float, Array]:
        residuals = self.x @ theta - self.y
        loss = float(residuals @ residuals + self.l2 * (theta @ theta)) / 2
        return loss, self.x.T @ residuals + self.l2 * theta

    def curvature(self, theta: Array) -> Array:
        return self.x.T @ self.x + self.l2 * np.eye(len(theta))

    def size(self, loss: float) -> float:
        return math.sqrt(2 * loss)

    def unit(self, loss: float) -> float:
        return math.sqrt(2 * loss * self.x.shape[1] / self.degrees_of_freedom)


@dataclass(frozen=True)
class Line:
    """The linear function of columns that had these names."""

    names: tuple[str, ...]
    intercept: bool

    def predict(self, estimates: Array, x: Any) -> Array:
        return self.linearised(estimates, x)[0]

    def linearised(self, estimates: Array, x: Any) -> tuple[Array, Array]:
        columns = design(x, self.names)[1]
        if self.intercept:
            columns = np.column_stack([np.ones(len(columns)), columns])
        return columns @ estimates, columns

    def axis(self, x: Any) -> tuple[str, Array] | None:
        return (self.names[0], design(x, self.names)[1][:, 0]) if len(self.names) == 1 else None

    def outcome(self, values: Array) -> Array:
        return values


def linear(
    x: Any,
    y: Any,
    *,
    intercept: bool = True,
    l2: float = 0.0,
    weights: Any = None,
    optimizer: str | None = None,
    lr: Any = None,
    options: Mapping[str, Any] | None = None,
    max_iterations: int = 100_000,
    tol: float = 1e-9,
) -> Result:
    """Least squares: the b that minimises sum w (y - x b)^2 + l2 |b|^2, and its standard errors.

    x: [rows], [rows, columns], a mapping from names to columns, or a data frame. y: [rows].
    intercept: adds a constant, which has no part in the penalty. Default True.
    l2: the penalty of ridge regression (Hoerl and Kennard 1970), on coefficients as they are, in units of y^2
        over units of b^2. Default 0.
    weights: of the rows, in proportion to the inverse variances of their errors. Default: all 1.
    optimizer, lr, options: a rule of fastgd's by name ("adam"), its learning rate, a number or a schedule,
        and its other hyperparameters. Default: SGD with Nesterov's momentum, rate and momentum from the
        extreme eigenvalues of the curvature. Coordinates are scaled in both cases: see fastgd.fit.descent.
    max_iterations: passes over the rows, at most. tol: how near the minimum has to be, in standard errors.

    Everything is computed in float64. Covariance: s^2 (x'wx)^-1 with s^2 = sum w residual^2 / (rows -
    parameters). With l2, s^2 A^-1 x'wx A^-1 with A = x'wx + l2, and parameters are counted by the trace of
    x A^-1 x'w (Hastie et al. 2009, section 3.4.1); estimates are then biased, and intervals around them, too.
    R² is about the mean, without an intercept about 0.

    Warns with ConvergenceWarning, and says so in the result, when max_iterations are not enough. Raises
    TypeError or ValueError, naming the argument, for what is no number or not finite, for a column that is
    constant or depends on others, and for fewer rows than parameters.
    """
    search = search_of(optimizer, lr, options, max_iterations, tol)
    names, columns = design(x)
    y = column("y", y, len(columns))
    w = weights_of(weights, len(y))
    l2, intercept = penalty(l2), named("intercept", flag, intercept)
    if intercept and INTERCEPT in names:
        raise ValueError(f"a column of x is named {INTERCEPT}, as the constant that is added")
    rows, count = int(np.count_nonzero(w)), len(names) + intercept
    means = w @ columns / w.sum() if intercept else np.zeros(len(names))
    mean_y = float(w @ y / w.sum()) if intercept else 0.0
    root = np.sqrt(w)
    scaled, target = root[:, np.newaxis] * (columns - means), root * (y - mean_y)
    if not l2:
        refuse_few(rows, count)
        refuse_dependent(names, scaled, np.linalg.norm(root[:, np.newaxis] * columns, axis=0), intercept)
    gram = scaled.T @ scaled
    ridge = math.sqrt(l2) * np.eye(len(names))
    inverse = inverse_gram(np.concatenate([scaled, ridge]) if l2 else scaled)
    free = rows - intercept - float(np.trace(inverse @ gram)) if l2 else float(rows - count)
    objective = SquaredError(scaled, target, l2, free)
    found = descend(objective, np.zeros(len(names)), search)
    residuals = scaled @ found.theta - target
    squares, total = float(residuals @ residuals), float(target @ target)
    variance = squares / free
    covariance = variance * (inverse @ gram @ inverse if l2 else inverse)
    estimates = found.theta
    if intercept:
        names = (INTERCEPT, *names)
        estimates = np.concatenate([[mean_y - means @ estimates], estimates])
        shift = np.concatenate([-means[np.newaxis], np.eye(len(means))])
        covariance = shift @ covariance @ shift.T
        covariance[0, 0] += variance / w.sum()
    if not found.converged:
        warnings.warn(found.message, ConvergenceWarning, stacklevel=2)
    return Result(
        title="linear regression" + (f" with l2 = {l2:g}" if l2 else ""),
        names=names,
        estimates=estimates,
        covariance=covariance,
        loss=2 * found.loss,
        r2=1 - squares / total if total else math.nan,
        rows=rows,
        degrees_of_freedom=free,
        residual_standard_error=math.sqrt(variance),
        iterations=found.iterations,
        converged=found.converged,
        message=found.message,
        gradient_norm=found.distance,
        classes=(),
        derivatives="exact",
        x=x,
        y=y,
        _model=Line(names[intercept:], intercept),
    )
