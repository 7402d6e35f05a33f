"""Logistic regression by gradient descent, of two classes or several."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.checks import flag, named
from fastgd.fit.descent import Descent, Search, descend
from fastgd.fit.inputs import (
    INTERCEPT,
    design,
    penalty,
    refuse_dependent,
    refuse_few,
    search_of,
    weights_of,
)
from fastgd.fit.matrices import inverse
from fastgd.fit.result import ConvergenceWarning, Result
from fastgd.nn import functional as F

__all__ = ["SeparationError", "logistic"]

#: a label this probable may be the work of a separation
SUSPICIOUS = 1 - 1e-6


class SeparationError(ValueError):
    """Labels that a combination of columns tells apart without error, so that no estimates are the best."""


class LogLikelihood:
    """Minus the log likelihood of labels 0 to classes - 1, plus l2 |theta|^2 / 2 without the intercepts.

    theta: [classes - 1, columns] in C order, the logits of class 0 being 0. x: [rows, columns].
    """

    def __init__(self, x: Array, labels: Array, weights: Array, l2: Array) -> None:
        self.x, self.labels, self.weights, self.l2 = x, labels, weights, l2
        self.others = int(labels.max())
        self._hot = np.zeros((len(x), self.others + 1))
        self._hot[np.arange(len(x)), labels] = 1.0
        self._counted = weights > 0
        self._checked = bool(l2.any())

    @property
    def rounding(self) -> float:
        return 16 * float(np.finfo(float).eps) * math.sqrt(self.weights.sum())

    def log_probabilities(self, theta: Array) -> Array:
        logits = np.zeros((len(self.x), self.others + 1))
        logits[:, 1:] = self.x @ theta.reshape(self.others, -1).T
        result: Array = F.log_softmax(logits)[0]
        return result

    def gradient(self, theta: Array) -> tuple[float, Array]:
        if not np.isfinite(theta).all():
            return math.inf, np.full_like(theta, math.nan)
        log_p = self.log_probabilities(theta)
        loss = -float(self.weights @ log_p[np.arange(len(log_p)), self.labels])
        errors = (self.weights[:, np.newaxis] * (np.exp(log_p) - self._hot))[:, 1:]
        if not self.l2.any() and self._separated(log_p):
            raise SeparationError("they tell the labels of all rows apart without error")
        return loss + float(self.l2 @ theta**2) / 2, (errors.T @ self.x).ravel() + self.l2 * theta

    def _separated(self, log_p: Array) -> bool:
        """Whether every label is the most probable: then longer theta are ever better."""
        own = (log_p * self._hot).sum(axis=1)
        others = np.where(self._hot > 0, -np.inf, log_p).max(axis=1)
        return bool((own > others)[self._counted].all())

    def fisher(self, theta: Array) -> Array:
        """The information of the labels, [parameters, parameters]."""
        p = np.exp(self.log_probabilities(theta))[:, 1:]
        count = self.x.shape[1]
        result = np.empty((self.others * count, self.others * count))
        for k in range(self.others):
            for j in range(k + 1):
                weight = self.weights * p[:, k] * ((j == k) - p[:, j])
                block = self.x.T @ (weight[:, np.newaxis] * self.x)
                result[k * count : (k + 1) * count, j * count : (j + 1) * count] = block
                result[j * count : (j + 1) * count, k * count : (k + 1) * count] = block.T
        return result

    def curvature(self, theta: Array) -> Array:
        """Raises SeparationError, once a label has become so probable that one is likely, if there is one."""
        if not self._checked:
            log_p = self.log_probabilities(theta)[self._counted, self.labels[self._counted]]
            if log_p.max() > math.log(SUSPICIOUS):
                self._checked = True
                _refuse_separation(self.x[self._counted], self.labels[self._counted])
        result: Array = self.fisher(theta) + np.diag(self.l2)
        return result

    def size(self, loss: float) -> float:
        return math.sqrt(self.weights.sum())

    def unit(self, loss: float) -> float:
        return math.sqrt(len(self.l2))


@dataclass(frozen=True)
class Classes:
    """Probabilities of classes from columns that had these names."""

    names: tuple[str, ...]
    intercept: bool
    others: int

    def _columns(self, x: Any) -> Array:
        columns = design(x, self.names)[1]
        return np.column_stack([np.ones(len(columns)), columns]) if self.intercept else columns

    def predict(self, estimates: Array, x: Any) -> Array:
        columns = self._columns(x)
        logits = np.zeros((len(columns), self.others + 1))
        logits[:, 1:] = columns @ estimates.reshape(self.others, -1).T
        result: Array = F.softmax(logits)[0]
        return result

    def linearised(self, estimates: Array, x: Any) -> tuple[Array, Array]:
        if self.others > 1:
            raise TypeError(f"there are {self.others + 1} classes: a band needs two")
        columns = self._columns(x)
        return columns @ estimates, columns

    def axis(self, x: Any) -> tuple[str, Array] | None:
        return (self.names[0], design(x, self.names)[1][:, 0]) if len(self.names) == 1 else None

    def outcome(self, values: Array) -> Array:
        result: Array = F.sigmoid(values)[0]
        return result


def labels_of(labels: Any, rows: int) -> tuple[Array, Array]:
    """The classes, sorted, and the number of each row's, [rows]."""
    given = np.asarray(labels)
    if given.shape != (rows,):
        raise ValueError(f"labels must have shape [{rows}], one for each row of x, not {list(given.shape)}")
    if given.dtype.kind == "f" and not np.isfinite(given).all():
        row = int(np.argmax(~np.isfinite(given)))
        raise ValueError(f"labels[{row}] is {given[row]}; leave such rows out")
    if given.dtype.kind not in "biufU":
        raise TypeError(f"labels must be numbers, truth values or text, not {given.dtype}")
    classes, numbers = np.unique(given, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"all labels are {classes[0]!s}: there is nothing to tell apart")
    return classes, numbers.ravel()


def logistic(
    x: Any,
    labels: Any,
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
    """Maximum likelihood for classes whose log odds are linear: two, or several with one as the base.

    log(P(class) / P(base)) = x b. The base is the first class in order: False, 0, or the first by alphabet.
    With two classes, b has the names of the columns; with several, "class:column".

    x, intercept, optimizer, lr, options, max_iterations, tol: as in fastgd.fit.linear.
    labels: [rows], numbers, truth values or text.
    l2: adds l2 |b|^2 / 2 to minus the log likelihood, without intercepts: scikit-learn's 1 / C for two
        classes. With several it is on the differences from the base. Default 0.
    weights: how often each row is counted. Default: once.

    Covariance: the inverse of the Fisher information F; with l2, A^-1 F A^-1 with A = F + l2 (le Cessie and
    van Houwelingen 1992, section 2). Statistics are z values (Wald).

    Raises SeparationError, a ValueError, where a combination of columns tells classes apart without error:
    the likelihood has no maximum then (Albert and Anderson 1984). Separation of all rows is always found,
    that of some needs SciPy. Other errors as in fastgd.fit.linear.
    """
    search = search_of(optimizer, lr, options, max_iterations, tol)
    names, columns = design(x)
    classes, numbers = labels_of(labels, len(columns))
    w = weights_of(weights, len(columns))
    l2, intercept = penalty(l2), named("intercept", flag, intercept)
    if intercept and INTERCEPT in names:
        raise ValueError(f"a column of x is named {INTERCEPT}, as the constant that is added")
    missing = np.bincount(numbers, weights=w) == 0
    if missing.any():
        raise ValueError(f"the weights of all rows with the label {classes[np.argmax(missing)]!s} are 0")
    rows, others = int(np.count_nonzero(w)), len(classes) - 1
    means = w @ columns / w.sum() if intercept else np.zeros(len(names))
    scaled = columns - means
    if not l2:
        refuse_few(rows, (len(names) + intercept) * others)
        root = np.sqrt(w)[:, np.newaxis]
        refuse_dependent(names, root * scaled, np.linalg.norm(root * columns, axis=0), intercept)
    if intercept:
        scaled = np.column_stack([np.ones(len(scaled)), scaled])
    penalties = np.full((others, scaled.shape[1]), l2)
    penalties[:, :intercept] = 0.0
    objective = LogLikelihood(scaled, numbers, w, penalties.ravel())
    found = _unless_separated(objective, search)
    fisher = objective.fisher(found.theta)
    spread = inverse(objective.curvature(found.theta))
    covariance = spread @ fisher @ spread if l2 else spread
    estimates = found.theta.reshape(others, -1).copy()
    if intercept:
        estimates[:, 0] -= estimates[:, 1:] @ means
        uncentred = np.eye(scaled.shape[1])
        uncentred[0, 1:] = -means
        shift = np.kron(np.eye(others), uncentred)
        covariance = shift @ covariance @ shift.T
    if not found.converged:
        warnings.warn(found.message, ConvergenceWarning, stacklevel=2)
    shown = (INTERCEPT, *names) if intercept else names
    if others > 1:
        shown = tuple(f"{label}:{name}" for label in classes[1:] for name in shown)
    return Result(
        title=_title(classes, l2),
        names=shown,
        estimates=estimates.ravel(),
        covariance=covariance,
        loss=found.loss,
        r2=1
        + float(w @ objective.log_probabilities(found.theta)[np.arange(len(w)), numbers])
        / _without_columns(numbers, w, intercept),
        rows=rows,
        degrees_of_freedom=math.inf,
        residual_standard_error=math.nan,
        iterations=found.iterations,
        converged=found.converged,
        message=found.message,
        gradient_norm=found.distance,
        classes=tuple(classes.tolist()),
        derivatives="exact",
        x=x,
        y=numbers,
        _model=Classes(names, intercept, others),
    )


def _title(classes: Array, l2: float) -> str:
    penalty = f" with l2 = {l2:g}" if l2 else ""
    if len(classes) == 2:
        return f"logistic regression{penalty} of {classes[1]!s} over {classes[0]!s}"
    return f"logistic regression{penalty} of {len(classes)} classes over {classes[0]!s}"


def _without_columns(labels: Array, weights: Array, intercept: bool) -> float:
    """Minus the log likelihood without x: of the frequencies of the classes, or without those, of none."""
    counts = np.bincount(labels, weights=weights)
    p = counts / counts.sum() if intercept else np.full(len(counts), 1 / len(counts))
    return -float(counts @ np.log(p))


def _unless_separated(objective: LogLikelihood, search: Search) -> Descent:
    try:
        return descend(objective, np.zeros(len(objective.l2)), search)
    except SeparationError as error:
        raise SeparationError(
            f"the columns separate the classes: {error}, so that larger coefficients are ever better and "
            "there are no best ones; use l2, or leave out what separates them"
        ) from None


def _refuse_separation(x: Array, labels: Array) -> None:
    """SeparationError if a direction makes no label less probable and some more (Konis 2007, section 4.3)."""
    try:
        from scipy.optimize import linprog
    except ModuleNotFoundError:
        return
    x = x / np.abs(x).max(axis=0)
    others = int(labels.max())
    gains = []
    for other in range(others + 1):
        rows = labels != other
        # the logit of each row's label less that of the other class, as a function of theta
        signs = np.eye(others + 1)[labels[rows]] - np.eye(others + 1)[other]
        gains.append((signs[:, 1:, np.newaxis] * x[rows][:, np.newaxis]).reshape(len(signs), -1))
    gain = np.concatenate(gains)
    best = linprog(-gain.sum(axis=0), A_ub=-gain, b_ub=np.zeros(len(gain)), bounds=(-1, 1))
    if best.status == 0 and -best.fun > 1e-6:
        raise SeparationError("they tell the labels of some rows apart without error")
