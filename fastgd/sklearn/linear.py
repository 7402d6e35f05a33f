"""SGDClassifier and SGDRegressor: scikit-learn's, whose rows fastgd goes through."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
import sklearn.linear_model
from sklearn.linear_model._base import SPARSE_INTERCEPT_DECAY
from sklearn.linear_model._stochastic_gradient import BaseSGD
from sklearn.utils import check_random_state
from sklearn.utils.parallel import Parallel, delayed

from fastgd.arrays import Array
from fastgd.online.native import GOES_ON, LOSSES, NOT_FINITE, Descent
from fastgd.online.problem import Rows, Settings

#: above every seed that scikit-learn draws
SEEDS = np.iinfo(np.int32).max

#: about so many numbers are gone through in one native call, between which Ctrl-C is noticed
NUMBERS_OF_A_CALL = 2**26

#: of a penalty: the shares of alpha that are l2 and l1, from l1_ratio
PENALTIES: dict[str | None, Callable[[float], tuple[float, float]]] = {
    None: lambda ratio: (0.0, 0.0),
    "l2": lambda ratio: (1.0, 0.0),
    "l1": lambda ratio: (0.0, 1.0),
    "elasticnet": lambda ratio: (1.0 - ratio, ratio),
}

#: (weights, intercept) -> a score, of rows that are held out
Score = Callable[[Array, float], float]


class Line(NamedTuple):
    """One linear function of the features: where a fit begins, and where it ended."""

    #: [features], which are written to
    weights: Array
    intercept: float
    #: [features], which are written to, or None
    averages: Array | None = None
    average_intercept: float = 0.0
    epochs: int = 0


def rows_of(x: Any, targets: Array, weights: Array, dtype: np.dtype[Any], held_out: Array) -> Rows:
    """Rows of this dtype, dense or sparse."""
    targets, weights = (part.astype(dtype, copy=False) for part in (targets, weights))
    held = held_out if held_out.any() else None
    if not scipy.sparse.issparse(x):
        return Rows(np.require(x, dtype, ["C", "A"]), targets, weights, held)
    columns, starts = x.indices.astype(np.int32, copy=False), x.indptr.astype(np.int64)
    return Rows(x.data.astype(dtype, copy=False), targets, weights, held, columns, starts)


def _report(course: Descent, weights: Array, score: float | None) -> None:
    state = course.state
    norm = state.scale * float(np.linalg.norm(weights))
    judged = "" if score is None else f", Validation score: {score:f}"
    print(
        f"Norm: {norm:.2f}, NNZs: {np.count_nonzero(weights)}, Bias: {state.intercept:.6f}, "
        f"T: {state.rows}, Avg. loss: {state.loss:f}, Objective: {state.objective:f}{judged}"
    )


def run(
    course: Descent, weights: Array, epochs: int, numbers: int, score: Score | None, verbose: bool
) -> None:
    """So many epochs, or fewer; what is printed is what scikit-learn prints.

    numbers: how many an epoch goes through. score: what epochs are judged by, in place of the objective.
    Raises ValueError when a weight or the intercept overflows.
    """
    state, began = course.state, time.perf_counter()
    at_once = 1 if verbose or score is not None else max(1, NUMBERS_OF_A_CALL // max(1, numbers))
    while state.ended == GOES_ON and state.epochs < epochs:
        if verbose:
            print(f"-- Epoch {state.epochs + 1}")
        course.run(min(at_once, epochs - state.epochs))
        if state.ended == NOT_FINITE:
            raise ValueError(
                f"Floating-point under-/overflow occurred at epoch #{state.epochs}. Scaling input data with "
                "StandardScaler or MinMaxScaler might help."
            )
        # of weights without their scale, as scikit-learn's
        found = None if score is None else score(weights, state.intercept)
        if verbose:
            _report(course, weights, found)
            print(f"Total training time: {time.perf_counter() - began:.2f} seconds.")
        if found is not None:
            course.judge(-found)
    if verbose and state.ended != GOES_ON:
        print(f"Convergence after {state.epochs} epochs took {time.perf_counter() - began:.2f} seconds")


class FittedHere(BaseSGD):  # type: ignore[misc]  # scikit-learn brings no types
    """What replaces the loop over rows in scikit-learn's linear models."""

    def _settings(self, is_sparse: bool, seed: int, positive: float, negative: float) -> Settings:
        l2, l1 = PENALTIES[self.penalty](self.l1_ratio or 0.0)
        parameter = LOSSES[self.loss].parameter
        return Settings(
            loss=self.loss,
            rate=self.learning_rate,
            eta0=self.eta0,
            power_t=self.power_t,
            alpha=self.alpha,
            a=getattr(self, parameter) if parameter else 0.0,
            l2=l2 * self.alpha,
            l1=l1 * self.alpha,
            intercept_factor=self.fit_intercept * (SPARSE_INTERCEPT_DECAY if is_sparse else 1.0),
            positive=positive,
            negative=negative,
            average=float(self.average),
            tol=-np.inf if self.tol is None else self.tol,
            patience=self.n_iter_no_change,
            shuffled=bool(self.shuffle),
            measured=bool(self.verbose or not self.early_stopping),
            judged=not self.early_stopping,
            seed=seed,
        )

    def _train(
        self,
        rows: Rows,
        line: Line,
        epochs: int,
        rng: np.random.RandomState,
        score: Score | None,
        positive: float = 1.0,
        negative: float = 1.0,
    ) -> Line:
        """Fits the line; positive and negative: what rows count whose targets are above 0, and others."""
        settings = self._settings(rows.columns is not None, rng.randint(SEEDS), positive, negative)
        course = Descent(
            settings,
            rows,
            line.weights,
            line.intercept,
            t=self.t_,
            averages=line.averages,
            average_intercept=line.average_intercept,
        )
        run(course, line.weights, epochs, rows.x.size, score, bool(self.verbose))
        course.finish()
        state = course.state
        return line._replace(
            intercept=state.intercept, average_intercept=state.average_intercept, epochs=state.epochs
        )

    def _make_writable(self) -> None:
        """Weights become dense arrays that a fit can write to, whatever was done to the estimator."""
        if scipy.sparse.issparse(self.coef_):
            self.densify()
        for name in ("coef_", "intercept_", "_standard_coef", "_average_coef", "_average_intercept"):
            if isinstance(getattr(self, name, None), np.ndarray):
                setattr(self, name, np.require(getattr(self, name), requirements=["C", "A", "W"]))

    def _line(self, place: int = 0) -> Line:
        """Where the fit of a class, or of the only function, begins."""
        if not self.average:
            return Line(np.atleast_2d(self.coef_)[place], float(self.intercept_[place]))
        return Line(
            np.atleast_2d(self._standard_coef)[place],
            float(self._standard_intercept[place]),
            np.atleast_2d(self._average_coef)[place],
            float(self._average_intercept[place]),
        )

    def _end(self, epochs: int, rows: int) -> bool:
        """Counts them; returns whether there were rows enough for averages to be what predicts."""
        self.n_iter_ = epochs
        self.t_ += epochs * rows
        return bool(0 < self.average <= self.t_ - 1)


class SGDClassifier(FittedHere, sklearn.linear_model.SGDClassifier):  # type: ignore[misc]
    """scikit-learn's SGDClassifier, fitted by fastgd: the same course in less time.

    Parameters, defaults, attributes, methods and errors are those of sklearn.linear_model.SGDClassifier.
    Rows come in scikit-learn's order for the same random_state, dense or sparse, in float32 or float64, and
    classes one against all others, n_jobs of them at a time. Results differ by rounding.
    """

    def _fit_one(
        self,
        place: int,
        X: Any,
        y: Array,
        sample_weight: Array,
        max_iter: int,
        class_weights: tuple[float, float],
        random_state: Any,
        held_out: Array | None = None,
    ) -> Line:
        """Fits a class, whose rows count by the first of class_weights, against all others."""
        at = place if len(self.classes_) > 2 else 0
        line = self._line(at)
        dtype = line.weights.dtype
        targets = np.where(y == self.classes_[place], 1, LOSSES[self.loss].negative).astype(dtype)
        rng = check_random_state(random_state)
        rng.randint(1, SEEDS)  # drawn by scikit-learn, too, for what SGD does not use
        if held_out is None:
            held_out = self._make_validation_split(targets, sample_mask=sample_weight > 0)
        # scikit-learn has these labels for all losses: with log_loss, whose targets are 0 and 1, too
        labels = np.array([-1, 1], dtype)
        score = self._make_validation_score_cb(held_out, X, targets, sample_weight, classes=labels)
        line = self._train(
            rows_of(X, targets, sample_weight, dtype, held_out), line, max_iter, rng, score, *class_weights
        )
        if self.average:
            self._average_intercept[at] = line.average_intercept
        return line

    def _fit_binary(self, X: Any, y: Array, *, sample_weight: Array, max_iter: int, **_: Any) -> None:
        self._make_writable()
        negative, positive = self._expanded_class_weight
        weights = (positive, negative)
        line = self._fit_one(1, X, y, sample_weight, max_iter, weights, self.random_state)
        if self._end(line.epochs, X.shape[0]):
            self.coef_ = self._average_coef.reshape(1, -1)
            self.intercept_ = self._average_intercept
            return
        self.coef_ = line.weights.reshape(1, -1)
        self.intercept_ = np.atleast_1d(line.intercept)
        if self.average:
            self._standard_intercept = self.intercept_

    def _fit_multiclass(self, X: Any, y: Array, *, sample_weight: Array, max_iter: int, **_: Any) -> None:
        self._make_writable()
        held_out = self._make_validation_split(y, sample_mask=sample_weight > 0)
        seeds = check_random_state(self.random_state).randint(SEEDS, size=len(self.classes_))
        lines = Parallel(n_jobs=self.n_jobs, verbose=self.verbose, require="sharedmem")(
            delayed(self._fit_one)(place, X, y, sample_weight, max_iter, (weight, 1.0), seed, held_out)
            for place, (weight, seed) in enumerate(zip(self._expanded_class_weight, seeds, strict=True))
        )
        self.intercept_[:] = [line.intercept for line in lines]
        if self._end(max(line.epochs for line in lines), X.shape[0]):
            self.coef_, self.intercept_ = self._average_coef, self._average_intercept
        elif self.average:
            self.coef_, self._standard_intercept = self._standard_coef, self.intercept_


class SGDRegressor(FittedHere, sklearn.linear_model.SGDRegressor):  # type: ignore[misc]
    """scikit-learn's SGDRegressor, fitted by fastgd, as SGDClassifier is."""

    def _fit_regressor(self, X: Any, y: Array, *given: Any) -> None:
        *_, sample_weight, max_iter = given
        self._make_writable()
        self.t_ = getattr(self, "t_", 1.0)
        line = self._line()
        held_out = self._make_validation_split(y, sample_mask=sample_weight > 0)
        score = self._make_validation_score_cb(held_out, X, y, sample_weight)
        rows = rows_of(X, y, sample_weight, line.weights.dtype, held_out)
        rng = check_random_state(self.random_state)
        line = self._train(rows, line, max_iter, rng, score)
        rng.randint(1, SEEDS)  # drawn by scikit-learn, too, for what SGD does not use
        counts_average = self._end(line.epochs, X.shape[0])
        self.coef_, self.intercept_ = line.weights, np.atleast_1d(line.intercept)
        if self.average:
            self._standard_intercept = self.intercept_
            self._average_intercept = np.atleast_1d(line.average_intercept)
        if counts_average:
            self.coef_, self.intercept_ = self._average_coef, self._average_intercept
