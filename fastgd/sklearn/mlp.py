"""MLPClassifier and MLPRegressor: scikit-learn's, trained by fastgd."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
import sklearn.neural_network
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import _check_sample_weight

from fastgd.arrays import Array
from fastgd.rules import RULES
from fastgd.sklearn.epochs import Rows, train
from fastgd.sklearn.network import Network
from fastgd.sklearn.solvers import Descent

#: scikit-learn's solver that is no rule
LBFGS = "lbfgs"

#: rules that step through vectors, too
SOLVER = [StrOptions({LBFGS, *(name for name, rule in RULES.items() if rule.ndim is None)})]


class TrainedHere(BaseMultilayerPerceptron):  # type: ignore[misc]  # scikit-learn brings no types
    """What replaces scikit-learn's training in its perceptrons; lbfgs stays scikit-learn's."""

    _network: Network
    _descent: Descent

    def _check_solver(self) -> bool:
        if self.solver == LBFGS:
            raise AttributeError("partial_fit is only available for stochastic optimizers, not for lbfgs.")
        return True

    def _initialize(self, y: Array, layer_units: list[int], dtype: np.dtype[Any]) -> None:
        super()._initialize(y, layer_units, dtype)
        self.loss_curve_: list[float] = []
        self._no_improvement_count = 0
        stops = self.early_stopping
        self.validation_scores_: list[float] | None = [] if stops else None
        self.best_validation_score_ = -np.inf if stops else None
        self.best_loss_ = None if stops else np.inf

    def _fit(self, X: Any, y: Any, sample_weight: Any = None, incremental: bool = False) -> Any:
        if self.solver == LBFGS:
            for name in ("_network", "_descent", "_kept_descent"):  # they do not know its coefs_
                self.__dict__.pop(name, None)
            given = {} if sample_weight is None else {"sample_weight": sample_weight}
            return super()._fit(X, y, incremental=incremental, **given)
        if incremental and self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        sizes = np.atleast_1d(self.hidden_layer_sizes).tolist()
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        is_first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, y = self._validate_input(X, y, incremental, reset=is_first)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
            if (sample_weight < 0).any():
                raise ValueError("Negative values in data passed to `sample_weight`.")
        y = y.reshape(len(y), -1)
        self.n_outputs_ = y.shape[1]
        self._random_state = check_random_state(self.random_state)
        if is_first:
            self._initialize(y, [X.shape[1], *sizes, y.shape[1]], X.dtype)
        X = X.astype(self.coefs_[0].dtype, copy=False)
        self._prepare(goes_on=incremental)
        epochs = 1 if incremental else self.max_iter
        with np.errstate(over="ignore", invalid="ignore"):  # told in words below
            ended = train(self, Rows(X, y, sample_weight), self._network, self._descent, epochs)
        if not (ended or incremental):
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({epochs}) reached and the optimization hasn't "
                "converged yet.",
                ConvergenceWarning,
                stacklevel=3,
            )
        if not all(np.isfinite(array).all() for array in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and "
                "need to be preprocessed."
            )
        return self

    def _prepare(self, goes_on: bool) -> None:
        """A network with the present coefs_, and an optimizer: the one there is if training goes on."""
        kept = self.__dict__.pop("_kept_descent", None)
        if goes_on and hasattr(self, "_network"):
            self._network.take(self)
            self._descent.optimizer.train()
            return
        self._network = Network(self)
        self._descent = Descent(self, self._network.model.parameters())
        if goes_on and kept is not None:
            self._descent.load_state_dict(kept)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: with coefs_, intercepts_ and the optimizer's state training goes on."""
        state = dict(super().__getstate__())
        if state.pop("_network", None) is not None:
            state["_kept_descent"] = state.pop("_descent").state_dict()
        return state


class MLPClassifier(TrainedHere, sklearn.neural_network.MLPClassifier):  # type: ignore[misc]
    """scikit-learn's MLPClassifier, trained by fastgd: the same course of training in less time.

    Parameters, defaults, attributes, methods and errors are those of sklearn.neural_network.MLPClassifier,
    but for:

    solver: "adam" (default), "sgd", "lbfgs", which scikit-learn itself runs, or any other rule of fastgd's
        but those for matrices only. These have fastgd's defaults, with learning_rate_init for lr. Their
        weight_decay, of weights and not of intercepts, is alpha over the number of a batch's rows, or the sum
        of their weights; a rule that has none needs alpha=0. learning_rate counts for all but "adam".
    epsilon: added to the root of the bias-corrected average (Kingma and Ba 2015, algorithm 1). scikit-learn
        adds it to the root of the average itself, where it counts for more in the first steps.

    Rows come in scikit-learn's order for the same random_state. Sparse x is made dense a batch at a time.
    Everything is computed in x's dtype, float32 or float64; in float32 training takes less time.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **sklearn.neural_network.MLPClassifier._parameter_constraints,
        "solver": SOLVER,
    }


class MLPRegressor(TrainedHere, sklearn.neural_network.MLPRegressor):  # type: ignore[misc]
    """scikit-learn's MLPRegressor, trained by fastgd.

    It differs from sklearn.neural_network.MLPRegressor as MLPClassifier does from scikit-learn's.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        **sklearn.neural_network.MLPRegressor._parameter_constraints,
        "solver": SOLVER,
    }
