"""scikit-learn's perceptron as a model of fastgd.nn: its layers, its losses and one step over a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from sklearn.neural_network._base import ACTIVATIONS, LOSS_FUNCTIONS

from fastgd import nn
from fastgd.arrays import Array
from fastgd.machine import get_num_threads
from fastgd.nn import functional as F
from fastgd.nn.calls import Saved
from fastgd.sklearn.solvers import Descent

#: scikit-learn's name of an activation -> the layer behind a Linear
LAYERS: dict[str, type[nn.Layer] | None] = {
    "identity": None,
    "logistic": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
}


def _as_dtype(y: Array, dtype: np.dtype[Any]) -> Array:
    return y.astype(dtype, copy=False)


class Objective(NamedTuple):
    """A loss that Sequential has, whose sum is `scale` times the sum of scikit-learn's."""

    loss: Callable[[], nn.Loss]
    scale: float
    #: (scikit-learn's targets, dtype) -> those of the loss
    target: Callable[[Array, np.dtype[Any]], Array]
    #: whether the value, but not its gradient, is a mean over outputs: scikit-learn's squared error
    averages: bool = False


#: the estimator's (loss, out_activation_) -> the objective
OBJECTIVES = {
    ("log_loss", "softmax"): Objective(
        lambda: nn.CrossEntropyLoss(reduction="sum"), 1.0, lambda y, dtype: y.argmax(axis=1)
    ),
    ("log_loss", "logistic"): Objective(lambda: nn.BCEWithLogitsLoss(reduction="sum"), 1.0, _as_dtype),
    ("squared_error", "identity"): Objective(
        lambda: nn.MSELoss(reduction="sum"), 2.0, _as_dtype, averages=True
    ),
}

#: a batch is cut into as many parts as there are threads, but not into more: of 200 rows, the
#: usual batch of scikit-learn, each then has 50, with which matrix products are still about as fast
MOST_PARTS = 4

#: the loss that has another name in scikit-learn's table with this activation of the outputs
BINARY = {("log_loss", "logistic"): "binary_log_loss"}


class Network:
    """The layers of an estimator that has its coefs_, with arrays of their own.

    Weights are [fan_out, fan_in] here, and their transposes are scikit-learn's coefs_.
    """

    def __init__(self, estimator: Any) -> None:
        self._loss = estimator.loss, estimator.out_activation_
        between = LAYERS[estimator.activation]
        self._activation = getattr(between, "kind", None)
        self._linears = [nn.Linear(*coef.shape, dtype=coef.dtype) for coef in estimator.coefs_]
        #: views of all weights, as vectors
        self._flat = [linear.weight.ravel() for linear in self._linears]
        layers: list[nn.Layer] = []
        for linear in self._linears:
            layers += [linear] if between is None or not layers else [between(), linear]
        objective = self._objective
        parts = min(get_num_threads(), MOST_PARTS) if objective else 1
        self.model = nn.Sequential(*layers, loss=objective.loss() if objective else None, parts=parts)
        self.take(estimator)

    @property
    def _objective(self) -> Objective | None:
        return OBJECTIVES.get(self._loss)

    def take(self, estimator: Any) -> None:
        """The estimator's coefs_ and intercepts_ go into the network, and become views of its arrays."""
        for linear, coef, intercept in zip(
            self._linears, estimator.coefs_, estimator.intercepts_, strict=True
        ):
            linear.weight[...] = coef.T
            linear.parameters()["bias"][...] = intercept
        estimator.coefs_ = [linear.weight.T for linear in self._linears]
        estimator.intercepts_ = [linear.bias for linear in self._linears]

    def squares(self) -> float:
        """The sum of the squares of all weights."""
        return float(sum([weights @ weights for weights in self._flat]))

    def targets(self, y: Array, is_weighted: bool) -> Array:
        """scikit-learn's targets [rows, outputs] as `step` takes them."""
        dtype, objective = self._linears[0].weight.dtype, self._objective
        target = _as_dtype if is_weighted or objective is None else objective.target
        return np.ascontiguousarray(target(y, dtype))

    def step(self, x: Array, y: Array, weights: Array | None, descent: Descent) -> float:
        """One update from a batch; returns the mean loss before it, without the penalty.

        weights: of the rows, or None for 1 each.
        """
        rows, objective = len(x), self._objective
        if weights is not None or objective is None:
            return self._weighted_step(x, y, weights, descent)
        taken = self.model.train_step(x, y, descent.optimizer, grad_scale=objective.scale * rows)
        outputs = self._linears[-1].out_features if objective.averages else 1
        return taken.loss / (objective.scale * rows * outputs)

    def _weighted_step(self, x: Array, y: Array, weights: Array | None, descent: Descent) -> float:
        """`step` by single passes, for what no loss of fastgd.nn has."""
        passes: list[Saved] = []
        for linear in self._linears[:-1]:
            x, saved = F.linear(x, linear.weight, linear.bias, activation=self._activation)
            passes.append(saved)
        last = self._linears[-1]
        prediction, saved = F.linear(x, last.weight, last.bias)
        passes.append(saved)
        ACTIVATIONS[self._loss[1]](prediction)
        given = {} if weights is None else {"sample_weight": weights}
        loss = float(LOSS_FUNCTIONS[BINARY.get(self._loss, self._loss[0])](y, prediction, **given))
        # the gradient with respect to the activation's input, for each loss with the activation that it has
        delta = prediction - y
        if weights is not None:
            delta *= weights[:, np.newaxis]
        gradients: list[Array] = []
        for place in range(len(passes) - 1, -1, -1):
            delta, *own = F.linear_backward(delta, passes[place], needs_dx=place > 0)
            gradients[:0] = own
        total = len(y) if weights is None else float(weights.sum())
        descent.optimizer.step(gradients, grad_scale=total)
        return loss
