"""The losses: mean squared error and softmax cross-entropy, each with its gradient in the same pass."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.base import Loss, LossPass, Shape
from fastgd.nn.kernels import Kernels

INT64 = np.dtype(np.int64)


class CrossEntropyPass(LossPass):
    def __init__(self, kernels: Kernels, shape: Shape, dtype: np.dtype[Any]) -> None:
        self._batch, self._classes = shape
        self._kernels = kernels
        self._loss = np.empty(1)
        self.dy = kernels.handle(np.empty(shape, dtype))
        self._out = kernels.handle(np.empty(self._batch)), kernels.handle(self._loss)
        self._kernel = partial(kernels.softmax_cross_entropy, kernels.dtype(dtype), *shape)
        self._labels: Array | None = None

    def target(self, y: Any) -> Any:
        labels = np.asarray(y)
        if labels.dtype != INT64:
            if labels.dtype.kind not in "iu":
                raise TypeError(f"y must hold class labels as integers, not {labels.dtype}")
            labels = self._as_int64(labels)
        if labels.shape != (self._batch,):
            given = list(labels.shape)
            raise ValueError(f"y must have shape [{self._batch}], a label for each row, not {given}")
        if not labels.flags.carray:
            labels = np.require(labels, requirements=("C", "A"))
        self._labels = labels
        return self._kernels.handle(labels)

    def _as_int64(self, labels: Array) -> Array:
        """Unsigned labels past int64 would wrap to negative ones; the message should show what was given."""
        if labels.dtype.kind == "u" and labels.size and labels.max() >= self._classes:
            raise self._out_of_range(labels)
        return labels.astype(INT64)

    def _out_of_range(self, labels: Array) -> ValueError:
        row = int(np.argmax((labels < 0) | (labels >= self._classes)))
        return ValueError(f"y[{row}] is {labels[row]}, but labels are 0 .. {self._classes - 1}")

    def loss(self, prediction: Any, target: Any, with_grad: bool) -> float:
        code = self._kernel(prediction, target, self.dy if with_grad else self._kernels.null, *self._out)
        if code:
            if code == self._kernels.error_label and self._labels is not None:
                raise self._out_of_range(self._labels)
            self._kernels.check(code)
        return float(self._loss[0])


class CrossEntropyLoss(Loss):
    """Softmax and negative log-likelihood (Bridle 1990, section 3), averaged over the batch.

    Predictions are logits [batch, classes]; y holds integers 0 .. classes - 1, shape [batch].
    """

    def __repr__(self) -> str:
        return "CrossEntropyLoss()"

    def bind(self, kernels: Kernels, shape: Shape, dtype: np.dtype[Any]) -> LossPass:
        if len(shape) != 2:
            raise ValueError(f"{self} takes logits [batch, classes], but the model gives {list(shape)}")
        return CrossEntropyPass(kernels, shape, dtype)


class MSEPass(LossPass):
    def __init__(self, kernels: Kernels, shape: Shape, dtype: np.dtype[Any]) -> None:
        n = math.prod(shape)
        self._shape, self._dtype = shape, dtype
        self._kernels = kernels
        self._loss = np.empty(1)
        self.dy = kernels.handle(np.empty(shape, dtype))
        scratch = np.empty(kernels.mean_squared_error_scratch(n))
        self._out = kernels.handle(scratch), kernels.handle(self._loss)
        self._kernel = partial(kernels.mean_squared_error, kernels.dtype(dtype), n)

    def target(self, y: Any) -> Any:
        target = np.asarray(y)
        if target.dtype != self._dtype:
            raise TypeError(
                f"y is {target.dtype} but the model computes in {self._dtype}: y.astype('{self._dtype}')"
            )
        if target.shape != self._shape:
            given = list(target.shape)
            raise ValueError(f"y must have the prediction's shape {list(self._shape)}, not {given}")
        if not target.flags.carray:
            target = np.require(target, requirements=("C", "A"))
        return self._kernels.handle(target)

    def loss(self, prediction: Any, target: Any, with_grad: bool) -> float:
        code = self._kernel(prediction, target, self.dy if with_grad else self._kernels.null, *self._out)
        if code:
            self._kernels.check(code)
        return float(self._loss[0])


class MSELoss(Loss):
    """The mean over all elements of (prediction - y)^2; y has the prediction's shape and dtype."""

    def __repr__(self) -> str:
        return "MSELoss()"

    def bind(self, kernels: Kernels, shape: Shape, dtype: np.dtype[Any]) -> LossPass:
        return MSEPass(kernels, shape, dtype)
