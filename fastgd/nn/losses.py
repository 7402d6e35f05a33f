"""The losses, each with its gradient in the same pass."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import finite
from fastgd.nn.base import Loss, LossPass, Shape
from fastgd.nn.kernels import Kernels

INT64 = np.dtype(np.int64)


#: reduction -> what the sum over n elements or rows is divided by
_DIVISORS: dict[str, Callable[[int], float]] = {"mean": float, "sum": lambda n: 1.0}


def _reduction(value: Any) -> str:
    if value not in _DIVISORS:
        raise ValueError(f"reduction must be {' or '.join(map(repr, _DIVISORS))}, not {value!r}")
    chosen: str = value
    return chosen


class CrossEntropyPass(LossPass):
    def __init__(self, of: CrossEntropyLoss, kernels: Kernels, shape: Shape, dtype: np.dtype[Any]) -> None:
        self._batch, self._classes = shape
        self._kernels = kernels
        self._loss = np.empty(1)
        self.dy = kernels.handle(np.empty(shape, dtype))
        self._out = kernels.handle(np.empty(self._batch)), kernels.handle(self._loss)
        self._ignored = of.ignore_index
        # 0: the weights of the labels, which are known at each step only
        divisor = 0.0 if of.reduction == "mean" else _DIVISORS[of.reduction](self._batch)
        weights = None if of.weight is None else of.weight.astype(dtype)
        labels = kernels.labels(weights, of.label_smoothing, divisor, of.ignore_index)
        self._kernel = partial(kernels.softmax_cross_entropy, kernels.dtype(dtype), labels, *shape)
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
        if labels.dtype.kind == "u" and labels.size and labels.max() > np.iinfo(INT64).max:
            raise self._out_of_range(labels)
        return labels.astype(INT64)

    def _out_of_range(self, labels: Array) -> ValueError:
        outside = (labels < 0) | (labels >= self._classes)
        row = int(np.argmax(outside & (labels != self._ignored)))
        return ValueError(f"y[{row}] is {labels[row]}, but labels are 0 .. {self._classes - 1}")

    def loss(self, prediction: Any, target: Any, with_grad: bool) -> float:
        code = self._kernel(prediction, target, self.dy if with_grad else self._kernels.null, *self._out)
        if code:
            if code == self._kernels.error_label and self._labels is not None:
                raise self._out_of_range(self._labels)
            self._kernels.check(code)
        return float(self._loss[0])


class CrossEntropyLoss(Loss):
    """Softmax and negative log-likelihood (Bridle 1990, section 3) of logits [batch, classes].

    y: integers 0 .. classes - 1, shape [batch].
    weight: what each class counts, [classes], 0 or above and finite. Default None: 1 each.
    ignore_index: rows with this label have neither loss nor gradient. Default -100.
    label_smoothing: what part of the target is spread evenly over all classes, 0 to 1 (Szegedy et al. 2016,
        section 7). Default 0.
    reduction: "mean" (default), over the weights of the labels that are not ignored, NaN where they are 0; or
        "sum".

    Logits may be of any size. Raises TypeError or ValueError for arguments that are none.
    """

    def __init__(
        self,
        weight: Any = None,
        *,
        ignore_index: int = -100,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
    ) -> None:
        self.weight = None if weight is None else np.array(weight, np.float64)
        if self.weight is not None:
            if self.weight.ndim != 1:
                raise ValueError(f"weight must have shape [classes], not {list(self.weight.shape)}")
            if not (np.isfinite(self.weight) & (self.weight >= 0)).all():
                raise ValueError("weight must be finite and 0 or above")
        self.ignore_index = operator.index(ignore_index)
        self.label_smoothing = finite("label_smoothing", label_smoothing, 0)
        if self.label_smoothing > 1:
            raise ValueError(f"label_smoothing must be at most 1, not {label_smoothing}")
        self.reduction = _reduction(reduction)

    def __repr__(self) -> str:
        weight = None if self.weight is None else self.weight.tolist()
        given = {
            "weight": (weight, None),
            "ignore_index": (self.ignore_index, -100),
            "label_smoothing": (self.label_smoothing, 0.0),
            "reduction": (self.reduction, "mean"),
        }
        shown = ", ".join(f"{name}={value!r}" for name, (value, usual) in given.items() if value != usual)
        return f"CrossEntropyLoss({shown})"

    def bind(self, kernels: Kernels, shape: Shape, dtype: np.dtype[Any]) -> LossPass:
        if len(shape) != 2:
            raise ValueError(f"{self} takes logits [batch, classes], but the model gives {list(shape)}")
        if self.weight is not None and self.weight.size != shape[1]:
            raise ValueError(f"{self} has {self.weight.size} weights, but the model gives {shape[1]} classes")
        return CrossEntropyPass(self, kernels, shape, dtype)


class ElementLossPass(LossPass):
    def __init__(self, of: ElementLoss, kernels: Kernels, shape: Shape, dtype: np.dtype[Any]) -> None:
        n = math.prod(shape)
        self._shape, self._dtype = shape, dtype
        self._kernels = kernels
        self._loss = np.empty(1)
        self.dy = kernels.handle(np.empty(shape, dtype))
        scratch = np.empty(kernels.loss_scratch(n))
        self._out = kernels.handle(scratch), kernels.handle(self._loss)
        does = kernels.loss(of.kind, *of.values)
        self._kernel = partial(
            kernels.loss_and_grad, kernels.dtype(dtype), does, n, _DIVISORS[of.reduction](n)
        )

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


class ElementLoss(Loss):
    """A loss of each element by itself; y has the prediction's shape and dtype.

    reduction: "mean" over all elements (default), or "sum".
    """

    #: the name in csrc/losses.def
    kind: str
    #: the parameter that csrc/losses.def has for it
    values: tuple[float, ...] = ()

    def __init__(self, *, reduction: str = "mean") -> None:
        self.reduction = _reduction(reduction)

    def __repr__(self) -> str:
        shown = [*map(repr, self.values), *([f"reduction={self.reduction!r}"] * (self.reduction != "mean"))]
        return f"{type(self).__name__}({', '.join(shown)})"

    def bind(self, kernels: Kernels, shape: Shape, dtype: np.dtype[Any]) -> LossPass:
        return ElementLossPass(self, kernels, shape, dtype)


class MSELoss(ElementLoss):
    """The squared error, (prediction - y)^2.

    reduction: "mean" over all elements (default), or "sum".
    """

    kind = "squared"


class L1Loss(ElementLoss):
    """The absolute error, |prediction - y|; its derivative at 0 is 0.

    reduction: "mean" over all elements (default), or "sum".
    """

    kind = "absolute"


class HuberLoss(ElementLoss):
    """d^2 / 2, or delta (d - delta / 2) where d = |prediction - y| is above delta (Huber 1964, section 4).

    delta: above 0, finite. Default 1. reduction: "mean" over all elements (default), or "sum".
    """

    kind = "huber"

    def __init__(self, delta: float = 1.0, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.values = (finite("delta", delta, 0, above=True),)


class SmoothL1Loss(ElementLoss):
    """d^2 / (2 beta), or d - beta / 2 where d = |prediction - y| is beta or more (Girshick 2015, equation 3).

    beta: 0 or above, finite; 0 is L1Loss. Default 1. reduction: "mean" over all elements (default), or "sum".
    """

    kind = "smooth_absolute"

    def __init__(self, beta: float = 1.0, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.values = (finite("beta", beta, 0),)


class BCEWithLogitsLoss(ElementLoss):
    """Binary cross-entropy of logits of any size: -pos_weight y log p - (1 - y) log(1 - p), p their sigmoid.

    y: probabilities of the positive class, 0 to 1.
    pos_weight: what the positive class counts, 0 or above and finite. Default 1. reduction: "mean" over all
        elements (default), or "sum".
    """

    kind = "binary_cross_entropy"

    def __init__(self, pos_weight: float = 1.0, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.values = (finite("pos_weight", pos_weight, 0),)
