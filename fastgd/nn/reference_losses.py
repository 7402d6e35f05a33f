"""The losses in NumPy: the formulas of csrc/ in the same order of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import CHUNK, chunk_sums, in_order, lane_sums
from fastgd.nn.elementary import exp, log
from fastgd.nn.reference_activations import log1p_exp, logistic

OK = 0
ERROR_LABEL = -13


# ---- Losses of single elements ------------------------------------------------------------------------


class ElementLoss(NamedTuple):
    """One loss. a is its parameter, 0 where it has none."""

    #: float64 from (prediction, target, a), a being of their dtype
    loss: Callable[[Array, Array, Any], Array]
    #: its derivative but for the factor
    slope: Callable[[Array, Array, Any], Array]
    factor: int = 1


def _sign(d: Array) -> Array:
    return np.where(d > 0, d.dtype.type(1), np.where(d < 0, d.dtype.type(-1), d))


def _squared(p: Array, t: Array, a: Any) -> Array:
    d = (p - t).astype(np.float64)
    return d * d


def _distance(p: Array, t: Array) -> Array:
    d = p - t
    return np.where(d < 0, -d, d).astype(np.float64)


def _huber(p: Array, t: Array, delta: Any) -> Array:
    d, a = _distance(p, t), np.float64(delta)
    return np.where(d > a, a * (d - 0.5 * a), 0.5 * (d * d))


def _huber_slope(p: Array, t: Array, a: Any) -> Array:
    d = p - t
    return np.where(d > a, a, np.where(d < -a, -a, d))


def _smooth(p: Array, t: Array, beta: Any) -> Array:
    d, a = _distance(p, t), np.float64(beta)
    return np.where(d < a, 0.5 * (d * d) / a, d - 0.5 * a)


def _smooth_slope(p: Array, t: Array, a: Any) -> Array:
    d = p - t
    return np.where(np.where(d < 0, -d, d) < a, d / a, _sign(d))


def _binary(p: Array, t: Array, a: Any) -> Array:
    wide = t.astype(np.float64)
    share = 1 + (np.float64(a) - 1) * wide
    loss: Array = (1 - wide) * p.astype(np.float64) + share * log1p_exp(-p).astype(np.float64)
    return loss


def _binary_slope(p: Array, t: Array, a: Any) -> Array:
    slope: Array = (1 + (a - 1) * t) * logistic(p) - a * t
    return slope


#: name in csrc/losses.def -> its bodies
LOSSES = {
    "squared": ElementLoss(_squared, lambda p, t, a: p - t, 2),
    "absolute": ElementLoss(lambda p, t, a: _distance(p, t), lambda p, t, a: _sign(p - t)),
    "huber": ElementLoss(_huber, _huber_slope),
    "smooth_absolute": ElementLoss(_smooth, _smooth_slope),
    "binary_cross_entropy": ElementLoss(_binary, _binary_slope),
}


def loss_of(name: str, a: float = 0.0, divisor: float = 1.0) -> tuple[ElementLoss, float, float]:
    """What fgd_loss is in C."""
    return LOSSES[name], a, divisor


def loss_scratch(n: int) -> int:
    return -(-n // CHUNK)


def loss_and_grad(
    dtype: Any,
    of: tuple[ElementLoss, float, float],
    n: int,
    prediction: Array,
    target: Array,
    grad: Array | None,
    scratch: Array,
    loss: Array,
) -> int:
    body, divisor, real = of[0], of[2], prediction.dtype.type
    with np.errstate(all="ignore"):
        p, t, a = prediction.ravel(), target.ravel(), real(of[1])
        scratch[...] = chunk_sums(body.loss(p, t, a))
        if grad is not None:
            by = real(np.float64(body.factor) / np.float64(divisor))
            grad[...] = (body.slope(p, t, a) * by).reshape(grad.shape)
        loss[0] = in_order(scratch) / np.float64(divisor)
    return OK


# ---- Softmax and negative log-likelihood -------------------------------------------------------------


class Labels(NamedTuple):
    """What fgd_labels is in C."""

    weights: Array | None = None
    label_smoothing: float = 0.0
    divisor: float = 0.0
    ignored: int = -1


def row_loss_of(
    sums: Array, below: Array, weight: Array, smoothing: Any, spread: tuple[Any, Any, Array] | None
) -> Array:
    """A row's loss, float64, from the sum of what softmax makes of its logits, and its label's logit below
    the largest and weight.

    spread: with label smoothing each class's part, the sum of the weights, and that of weighted logits below
    the largest.
    """
    loss: Array = ((1 - smoothing) * weight) * (log(sums) - below)
    if spread is not None:
        each, total, weighted = spread
        loss = loss + each * (log(sums) * total - weighted)
    return loss


def own_of(weight: Array, smoothing: Any, each: Any, total: Any) -> Array:
    """What the classes together count in a row whose label has this weight."""
    own: Array = (1 - smoothing) * weight + each * total
    return own


def label_slope(
    e: Array, sums: Array, weight: Array, divisor: Any, smoothing: Any, each: Any, total: Any
) -> Array:
    """The derivative with respect to the label's logit, float64. e: what softmax makes of it."""
    own = own_of(weight, smoothing, each, total)
    above = e.astype(np.float64) * own - sums * ((1 - smoothing) * weight + each * weight)
    slope: Array = above / (sums * divisor)
    return slope


def other_slope(e: Array, own: Array, sums: Array, divisor: Any, each: Any, weights: Array | None) -> Array:
    """That with respect to another logit. weights: of its class, with label smoothing."""
    slope: Array = e * (own / (sums * divisor)).astype(e.dtype)
    if weights is not None:
        slope = slope - (each / divisor).astype(e.dtype) * weights
    return slope


def labels_check(dtype: Any, of: Labels, batch: int, classes: int, labels: Array) -> int:
    counted = labels[labels != of.ignored]
    return ERROR_LABEL if ((counted < 0) | (counted >= classes)).any() else OK


def softmax_cross_entropy(
    dtype: Any,
    of: Labels,
    batch: int,
    classes: int,
    logits: Array,
    labels: Array,
    grad: Array | None,
    row_loss: Array,
    loss: Array,
) -> int:
    logits, labels = logits.reshape(batch, classes), labels.reshape(batch)
    if labels_check(dtype, of, batch, classes, labels):
        return ERROR_LABEL
    counted = labels != of.ignored
    rows, label = np.arange(batch), np.where(counted, labels, 0)
    weights = np.ones(classes) if of.weights is None else of.weights.astype(np.float64)
    total = in_order(weights.tolist())
    divisor = np.float64(of.divisor or in_order(weights[labels[counted]].tolist()))
    with np.errstate(all="ignore"):
        each = np.float64(of.label_smoothing) / np.float64(classes)
        largest = np.fmax.reduce(logits, axis=1, initial=-np.inf)
        e = exp(logits - largest[:, None])
        sums = lane_sums(e.astype(np.float64))
        below = logits.astype(np.float64) - largest.astype(np.float64)[:, None]
        weight, smoothing = weights[label], np.float64(of.label_smoothing)
        spread = (each, total, lane_sums(weights * below)) if each > 0 else None
        losses = row_loss_of(sums, below[rows, label], weight, smoothing, spread)
        row_loss[...] = np.where(counted, losses, 0)
        if grad is not None:
            own = own_of(weight, smoothing, each, total)[:, None]
            of_class = weights.astype(e.dtype) if each > 0 else None
            g = other_slope(e, own, sums[:, None], divisor, each, of_class)
            g[rows, label] = label_slope(e[rows, label], sums, weight, divisor, smoothing, each, total)
            g[~counted] = 0
            grad[...] = g.reshape(grad.shape)
        loss[0] = in_order(row_loss) / divisor
    return OK


ENTRIES = {
    "loss_and_grad": loss_and_grad,
    "loss_scratch": loss_scratch,
    "labels_check": labels_check,
    "softmax_cross_entropy": softmax_cross_entropy,
}
DESCRIPTIONS = {"labels": Labels}
