"""What a fit found: estimates, how sure they are, and predictions, with a table of them as text."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastgd.arrays import Array
from fastgd.checks import named, number

__all__ = ["ConvergenceWarning", "Result", "missing_scipy"]


class ConvergenceWarning(UserWarning):
    """A fit ended before it had reached a minimum."""


class Model(Protocol):
    """The function that was fitted, for new data."""

    def predict(self, estimates: Array, x: Any) -> Array:
        """Its values [rows], or probabilities [rows, classes]."""

    def linearised(self, estimates: Array, x: Any) -> tuple[Array, Array]:
        """Values or log odds [rows] and derivatives by the parameters; TypeError where there are several."""

    def axis(self, x: Any) -> tuple[str, Array] | None:
        """The name and values [rows] of the one column that matters, which x may then be; or None."""

    def outcome(self, values: Array) -> Array:
        """Values as they are, probabilities from log odds."""


def missing_scipy() -> str | None:
    """Why there are no distributions, or None."""
    try:
        import scipy.special  # noqa: F401  (only whether it is there)
    except ModuleNotFoundError:
        return 'p values and intervals need SciPy, which is missing: pip install "fastgd[demo]"'
    return None


@dataclass(frozen=True, eq=False)
class Result:
    """Estimates with their uncertainty, and how the descent ended.

    str(result) is a table. All errors are asymptotic unless the model is linear and its errors are normal.
    """

    #: what was fitted, in words
    title: str
    names: tuple[str, ...]
    #: one for each name
    estimates: Array
    #: of the estimates, [parameters, parameters]; NaN where the data do not determine them
    covariance: Array
    #: the minimum: the sum of squared residuals, or minus the log likelihood; plus the penalty, if any
    loss: float
    #: share of the variance that is explained; of a logistic regression McFadden's, 1 - loss / loss without x
    r2: float
    rows: int
    #: rows less parameters; infinite where errors are compared with a normal distribution
    degrees_of_freedom: float
    #: standard deviation of the residuals, of weight 1; NaN for a logistic regression
    residual_standard_error: float
    iterations: int
    converged: bool
    #: "converged", or why not, how far it is and what may help
    message: str
    #: sqrt(g' H^-1 g) of gradient g and curvature H: the distance of the minimum in standard errors
    gradient_norm: float
    #: of a logistic regression the labels in the order of the probabilities, the base first; else empty
    classes: tuple[Any, ...]
    #: where derivatives came from: "exact", "complex step" or "central differences"
    derivatives: str
    #: the data as they were given; of labels the numbers of their classes
    x: Any
    y: Array
    _model: Model

    @property
    def parameters(self) -> dict[str, float]:
        """Name -> estimate."""
        return self._by_name(self.estimates)

    @property
    def standard_errors(self) -> dict[str, float]:
        """Name -> standard error of the estimate."""
        return self._by_name(self._errors)

    @property
    def statistic(self) -> str:
        """ "t" or "z": the distribution of an estimate over its standard error when the parameter is 0."""
        return "t" if math.isfinite(self.degrees_of_freedom) else "z"

    @property
    def statistics(self) -> dict[str, float]:
        """Name -> estimate over standard error."""
        return self._by_name(self._ratios)

    @property
    def p_values(self) -> dict[str, float]:
        """Name -> probability of a statistic at least as far from 0 if the parameter were 0; needs SciPy."""
        from scipy.special import ndtr, stdtr

        below = -np.abs(self._ratios)
        tail = ndtr(below) if self.statistic == "z" else stdtr(self.degrees_of_freedom, below)
        return self._by_name(2 * tail)

    def intervals(self, level: float = 0.95) -> dict[str, tuple[float, float]]:
        """Name -> confidence interval of that level, in (0, 1), by the statistic; needs SciPy."""
        half = self._quantile(level) * self._errors
        low, high = (self.estimates - half).tolist(), (self.estimates + half).tolist()
        return dict(zip(self.names, zip(low, high, strict=True), strict=True))

    def predict(self, x: Any) -> Array:
        """The fitted values for new x as it was given to the fit, [rows]; probabilities [rows, classes]."""
        return self._model.predict(self.estimates, x)

    def band(self, x: Any, level: float = 0.95) -> tuple[Array, Array]:
        """Lower and upper end of the confidence interval of the fitted value at each row of x; needs SciPy.

        Of two classes, of the probability of the second. By the delta method, exact for linear models (Seber
        and Wild 1989, section 5.1); for probabilities by way of the log odds. It holds for each row by itself
        and for the mean of y there, not for a new observation. TypeError for more than two classes.
        """
        values, slopes = self._model.linearised(self.estimates, x)
        variance = np.einsum("ij,jk,ik->i", slopes, self.covariance, slopes)
        half = self._quantile(level) * np.sqrt(np.maximum(variance, 0))
        return self._model.outcome(values - half), self._model.outcome(values + half)

    def plot(self, path: str | os.PathLike[str], *, x: str = "", y: str = "") -> None:
        """Saves a picture of data, fit and 95 % confidence band over the residuals, 1000 pixels wide.

        Over the column of x where there is one, else over the fitted values, or the log odds of two classes.
        path: its suffix chooses the format (.png, .svg, .pdf). x, y: names and units for the axes. Raises
        ModuleNotFoundError without matplotlib and SciPy, ValueError for an unknown suffix and for more than
        two classes, and OSError where the file cannot be written.
        """
        from fastgd.fit.plots import save_fit

        save_fit(path, self, x, y)

    @property
    def _errors(self) -> Array:
        result: Array = np.sqrt(np.diag(self.covariance))
        return result

    @property
    def _ratios(self) -> Array:
        with np.errstate(all="ignore"):
            return self.estimates / self._errors

    def _by_name(self, values: Array) -> dict[str, float]:
        return dict(zip(self.names, values.tolist(), strict=True))

    def _quantile(self, level: float) -> float:
        from scipy.special import ndtri, stdtrit

        level = named("level", number(0, 1), level)
        p = (1 + level) / 2
        return float(ndtri(p) if self.statistic == "z" else stdtrit(self.degrees_of_freedom, p))

    # ---- as text ----

    def table(self) -> tuple[list[str], list[list[str]]]:
        """The heads of the columns and the cells of a table of the estimates, a row for each."""
        heads = ["", "estimate", "std. error", f"{self.statistic} value"]
        columns = [
            [f"{value:.7g}" for value in self.estimates],
            [f"{value:.5g}" for value in self._errors],
            [f"{value:.4g}" for value in self._ratios],
        ]
        if missing_scipy() is None:
            heads += ["p value", "2.5 %", "97.5 %"]
            columns.append([f"{value:.3g}" for value in self.p_values.values()])
            columns += [
                [f"{end:.5g}" for end in ends] for ends in zip(*self.intervals().values(), strict=True)
            ]
        return heads, [list(row) for row in zip(self.names, *columns, strict=True)]

    def facts(self) -> Mapping[str, str]:
        """What a table says beside the estimates: name -> value."""
        facts = {"rows": str(self.rows)}
        if self.statistic == "t":
            facts["degrees of freedom"] = f"{self.degrees_of_freedom:.6g}"
            facts["residual standard error"] = f"{self.residual_standard_error:.6g}"
            facts["R²"] = f"{self.r2:.6g}"
        else:
            facts["minus log likelihood"] = f"{self.loss:.8g}"
            facts["McFadden's R²"] = f"{self.r2:.6g}"
        facts["iterations"] = str(self.iterations)
        facts["gradient norm"] = f"{self.gradient_norm:.1e} standard errors"
        return facts

    def __str__(self) -> str:
        heads, rows = self.table()
        widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
        lines = [self.title]
        for name, *cells in (heads, *rows):
            right = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *right]))
        lines.append(", ".join(f"{name} {value}" for name, value in self.facts().items()))
        lines += [line for line in (missing_scipy(), None if self.converged else self.message) if line]
        return "\n".join(lines)
