"""The losses, each with its gradient in the same pass."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np

from fastgd.arrays import Array
from fastgd.memory import DeviceArray
from fastgd.nn.activations import finite
from fastgd.nn.base import Loss, LossPass
from fastgd.nn.program import Builder, Shape, Value

INT64 = np.dtype(np.int64)


#: reduction -> what the sum over n elements or rows is divided by
_DIVISORS: dict[str, Callable[[int], float]] = {"mean": float, "sum": lambda n: 1.0}


def _reduction(value: Any) -> str:
    if value not in _DIVISORS:
        raise ValueError(f"reduction must be {' or '.join(map(repr, _DIVISORS))}, not {value!r}")
    chosen: str = value
    return chosen


def _checked_on_device(y: DeviceArray, shape: Shape, dtype: np.dtype[Any]) -> Array:
    if y.dtype != dtype:
        raise TypeError(f"y must be {dtype} on {y.memory.name}, not {y.dtype}")
    if y.shape != shape:
        raise ValueError(f"y must have shape {list(shape)}, not {list(y.shape)}")
    own = y if y.packed else y.copy()
    return cast(Array, own)


class CrossEntropyPass(LossPass):
    def __init__(self, of: CrossEntropyLoss, to: Builder, logits: Value) -> None:
        self._shape, self._classes = logits.shape[:-1], logits.shape[-1]
        self._ignored = of.ignore_index
        self._sums, self._weights = of.reduction == "sum", of.weight
        self._error_label = to.kernels.error_label
        self.value = to.result()
        self.dy = to.value(logits.shape) if to.with_gradients else None
        rows = math.prod(self._shape)
        # 0: the weights of the labels, which are known at each step only
        divisor = 0.0 if of.reduction == "mean" else _DIVISORS[of.reduction](rows)
        weights = None if of.weight is None else of.weight.astype(to.dtype)
        labels = to.kernels.describe("labels", weights, of.label_smoothing, divisor, of.ignore_index)
        target = to.input("target", self._shape, INT64)
        to.emit_first("labels_check", labels, (rows, self._classes), (target,), self._refusal)
        arguments = (logits, target, self.dy)
        row_loss = to.value((rows,), np.float64)
        to.emit("softmax_cross_entropy", labels, (rows, self._classes), (*arguments, row_loss, self.value))

    def target(self, y: Any) -> Array:
        if isinstance(y, DeviceArray):
            # what labels there are is known to the device only, whose kernels pass over wrong ones
            return _checked_on_device(y, self._shape, INT64)
        labels = np.asarray(y)
        if labels.dtype != INT64:
            if labels.dtype.kind not in "iu":
                raise TypeError(f"y must hold class labels as integers, not {labels.dtype}")
            labels = self._as_int64(labels)
        if labels.shape != self._shape:
            wanted, given = list(self._shape), list(labels.shape)
            raise ValueError(f"y must have shape {wanted}, a label for each row, not {given}")
        return labels if labels.flags.carray else np.require(labels, requirements=("C", "A"))

    def _as_int64(self, labels: Array) -> Array:
        """Unsigned labels past int64 would wrap to negative ones; the message should show what was given."""
        if labels.dtype.kind == "u" and labels.size and labels.max() > np.iinfo(INT64).max:
            raise self._out_of_range(labels)
        return labels.astype(INT64)

    def _out_of_range(self, labels: Array) -> ValueError:
        outside = (labels < 0) | (labels >= self._classes)
        row = np.unravel_index(int(np.argmax(outside & (labels != self._ignored))), labels.shape)
        which = ", ".join(map(str, row))
        return ValueError(f"y[{which}] is {labels[row]}, but labels are 0 .. {self._classes - 1}")

    def weight(self, target: Array) -> float | None:
        if self._sums:
            return None
        labels = target[target != self._ignored]
        return float(labels.size if self._weights is None else self._weights[labels].sum())

    def hits(self, prediction: Array, target: Array) -> tuple[int, int]:
        counted = target != self._ignored
        return int((prediction.argmax(axis=-1)[counted] == target[counted]).sum()), int(counted.sum())

    def _refusal(self, code: int, arguments: Sequence[Array | None]) -> Exception | None:
        labels = arguments[0]
        return self._out_of_range(labels) if code == self._error_label and labels is not None else None


class CrossEntropyLoss(Loss):
    """Softmax and negative log-likelihood (Bridle 1990, section 3) of logits [batch, ..., classes].

    y: integers 0 .. classes - 1, shape [batch, ...]: a label for each row of classes.
    weight: what each class counts, [classes], 0 or above and finite. Default None: 1 each.
    ignore_index: rows with this label have neither loss nor gradient. Default -100.
    label_smoothing: what part of the target is spread evenly over all classes, 0 to 1 (Szegedy et al. 2016,
        section 7). Default 0.
    reduction: "mean" (default), over the weights of the labels that are not ignored, NaN where they are 0; or
        "sum".

    Logits may be of any size. Raises TypeError or ValueError for arguments that are none.
    """

    link = "softmax"

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

    @property
    def adds_up(self) -> bool:
        return self.reduction == "sum"

    def bind(self, to: Builder, prediction: Value) -> LossPass:
        shape = prediction.shape
        if len(shape) < 2:
            raise ValueError(f"{self} takes logits [batch, ..., classes], but the model gives {list(shape)}")
        if self.weight is not None and self.weight.size != shape[-1]:
            raise ValueError(
                f"{self} has {self.weight.size} weights, but the model gives {shape[-1]} classes"
            )
        return CrossEntropyPass(self, to, prediction)


class ElementLossPass(LossPass):
    def __init__(self, of: ElementLoss, to: Builder, prediction: Value) -> None:
        self._shape, self._dtype = prediction.shape, prediction.dtype
        n = prediction.size
        self._sums = of.reduction == "sum"
        self.value = to.result()
        self.dy = to.value(prediction.shape) if to.with_gradients else None
        does = to.kernels.loss(of.kind, *(of.values or (0.0,)), _DIVISORS[of.reduction](n))
        scratch = to.value((to.kernels.loss_scratch(n),), np.float64)
        target = to.input("target", prediction.shape, prediction.dtype)
        to.emit("loss_and_grad", does, (n,), (prediction, target, self.dy, scratch, self.value))

    def target(self, y: Any) -> Array:
        if isinstance(y, DeviceArray):
            return _checked_on_device(y, self._shape, self._dtype)
        target = np.asarray(y)
        if target.dtype != self._dtype:
            raise TypeError(
                f"y is {target.dtype} but the model computes in {self._dtype}: y.astype('{self._dtype}')"
            )
        if target.shape != self._shape:
            given = list(target.shape)
            raise ValueError(f"y must have the prediction's shape {list(self._shape)}, not {given}")
        return target if target.flags.carray else np.require(target, requirements=("C", "A"))

    def weight(self, target: Array) -> float | None:
        return None if self._sums else float(target.size)


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

    @property
    def adds_up(self) -> bool:
        return self.reduction == "sum"

    def bind(self, to: Builder, prediction: Value) -> LossPass:
        return ElementLossPass(self, to, prediction)


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

    link = "sigmoid"

    def __init__(self, pos_weight: float = 1.0, *, reduction: str = "mean") -> None:
        super().__init__(reduction=reduction)
        self.values = (finite("pos_weight", pos_weight, 0),)
