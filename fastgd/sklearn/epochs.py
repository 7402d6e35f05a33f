"""Epochs of mini-batches over a network, with scikit-learn's order of rows, stopping and reports."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.model_selection import train_test_split
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron

from fastgd.arrays import Array
from fastgd.sklearn.network import Network
from fastgd.sklearn.solvers import Descent

#: scikit-learn has sample weights in its perceptrons from 1.7 on
HAS_WEIGHTS = (
    "sample_weight" in inspect.signature(BaseMultilayerPerceptron._update_no_improvement_count).parameters
)


class Rows(NamedTuple):
    """Rows of data: x [rows, features] dense or sparse, y [rows, outputs], and their weights or None."""

    x: Any
    y: Any
    weights: Array | None


class Batches:
    """Rows in batches, in arrays that every batch is written to: a sparse x is dense one batch at a time."""

    def __init__(self, rows: Rows, size: int) -> None:
        self._is_sparse = not isinstance(rows.x, np.ndarray)
        self._of = rows._replace(x=rows.x.tocsr()) if self._is_sparse else rows
        self._x = np.empty((size, rows.x.shape[1]), rows.x.dtype)
        self._y = np.empty((size, *rows.y.shape[1:]), rows.y.dtype)

    def take(self, rows: Array) -> Rows:
        """These rows, until the next call."""
        x, y, weights = self._x[: len(rows)], self._y[: len(rows)], self._of.weights
        if self._is_sparse:
            self._of.x[rows].toarray(out=x)
        else:
            # The rows are valid: "clip" spares take the copy that its default mode makes of `out`.
            self._of.x.take(rows, axis=0, out=x, mode="clip")
        self._of.y.take(rows, axis=0, out=y, mode="clip")
        return Rows(x, y, None if weights is None else weights[rows])


def hold_out(estimator: Any, rows: Rows) -> tuple[Rows, Rows | None]:
    """Rows to train with and, with early_stopping, rows to judge by; there y is what `score` takes.

    Raises ValueError when fewer than two rows would be held out.
    """
    if not estimator.early_stopping:
        return rows, None
    is_labels = is_classifier(estimator) and estimator.n_outputs_ == 1
    given = [part for part in rows if part is not None]
    parts = train_test_split(
        *given,
        random_state=estimator._random_state,
        test_size=estimator.validation_fraction,
        stratify=rows.y if is_labels else None,
    )
    train, held = ([*parts[first::2], None][:3] for first in (0, 1))
    if held[0].shape[0] < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
        )
    if is_classifier(estimator):
        held[1] = estimator._label_binarizer.inverse_transform(held[1])
    return Rows(*train), Rows(*held)


def batch_size(estimator: Any, rows: int) -> int:
    """How many rows a batch has; warns when that is more than there are."""
    if estimator.batch_size == "auto":
        return min(200, rows)
    if estimator.batch_size > rows:
        warnings.warn(
            "Got `batch_size` less than 1 or larger than sample size. It is going to be clipped", stacklevel=2
        )
    return int(min(estimator.batch_size, rows))


@contextlib.contextmanager
def to_be_judged(descent: Descent) -> Iterator[None]:
    """Within it the weights are the average that the rule may keep."""
    descent.optimizer.eval()
    try:
        yield
    finally:
        descent.optimizer.train()


def run_epoch(
    estimator: Any, network: Network, descent: Descent, batches: Batches, order: Array, size: int
) -> float:
    """Updates from all rows in this order; returns the mean loss, each batch's before its update.

    Batches whose weights are all 0 are passed over.
    """
    total = 0.0
    for first in range(0, len(order), size):
        x, y, weights = batches.take(order[first : first + size])
        weight = len(x) if weights is None else float(weights.sum())
        if not weight:
            continue
        decay = estimator.alpha / weight
        descent.penalise(decay)
        penalty = 0.5 * decay * network.squares() if decay else 0.0
        total += (network.step(x, y, weights, descent) + penalty) * len(x)
    return total / len(order)


def improves(estimator: Any, descent: Descent, held: Rows | None) -> bool:
    """Notes how good the last epoch was; False when training is to end, for want of improvement."""
    judged = held or Rows(None, None, None)
    weights = [judged.weights] if HAS_WEIGHTS else []
    with to_be_judged(descent) if held else contextlib.nullcontext():
        estimator._update_no_improvement_count(held is not None, judged.x, judged.y, *weights)
    descent.end_epoch(estimator, estimator.t_)
    if estimator._no_improvement_count <= estimator.n_iter_no_change:
        return True
    what = "Training loss" if held is None else "Validation score"
    message = (
        f"{what} did not improve more than tol={estimator.tol:f} for {estimator.n_iter_no_change} "
        "consecutive epochs."
    )
    if descent.stops(estimator, message):
        return False
    estimator._no_improvement_count = 0
    return True


def train(estimator: Any, rows: Rows, network: Network, descent: Descent, epochs: int) -> bool:
    """So many epochs, or fewer when the loss or score no longer improves; keeps scikit-learn's attributes.

    After early stopping the estimator has the best coefs_ there were. Ctrl-C ends training with a warning.
    Returns whether training ended before the epochs did.
    """
    rows, held = hold_out(estimator, rows)
    count = rows.x.shape[0]
    size = batch_size(estimator, count)
    batches = Batches(rows._replace(y=network.targets(rows.y, rows.weights is not None)), size)
    order = np.arange(count)
    estimator.n_iter_ = 0
    ended = False
    try:
        while not ended and estimator.n_iter_ < epochs:
            if estimator.shuffle:
                # the order that scikit-learn takes the rows in
                order = order[estimator._random_state.permutation(count)]
            estimator.loss_ = run_epoch(estimator, network, descent, batches, order, size)
            estimator.n_iter_ += 1
            estimator.t_ += count
            estimator.loss_curve_.append(estimator.loss_)
            if estimator.verbose:
                print(f"Iteration {estimator.n_iter_}, loss = {estimator.loss_:.8f}")
            ended = not improves(estimator, descent, held)
    except KeyboardInterrupt:
        warnings.warn("Training interrupted by user.", stacklevel=2)
        ended = True
    descent.optimizer.eval()
    if held is not None:
        estimator.coefs_, estimator.intercepts_ = estimator._best_coefs, estimator._best_intercepts
    return ended
