"""Softmax and LogSoftmax: numbers of the last dimension become probabilities, or their logarithms."""

from __future__ import annotations

import math
import operator

from fastgd.nn.activations import Activation
from fastgd.nn.base import Backward, Layer
from fastgd.nn.program import Builder, Shape, Value


class RowSoftmax(Layer):
    """What both have in common.

    dim: the dimension whose numbers add up to 1; only the last one, -1 (default), is supported. ValueError
        for others.
    """

    #: whether logarithms are wanted
    log: bool

    def __init__(self, dim: int = -1) -> None:
        self.dim = operator.index(dim)
        if self.dim != -1:
            raise ValueError(f"dim must be -1, the last dimension, not {dim}: move the dimension to the end")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim=-1)"

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) < 2:
            raise ValueError(f"{self} takes [batch, ..., classes], not {list(shape)}")
        return shape

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        of = to.kernels.describe("softmax", self.log)
        sizes = (math.prod(x.shape[:-1]), x.shape[-1])
        y = to.value(x.shape)
        to.emit("softmax_forward", of, sizes, (x, y))

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            if not needs_dx:
                return None
            to.emit("softmax_backward", of, sizes, (y, dy, dy))
            return dy

        return y, backward


class Softmax(RowSoftmax):
    """exp(x_i) / sum_j exp(x_j) over the last dimension of x [batch, ..., classes], of any size.

    Bridle 1990, section 3. Sums are taken in float64. Before CrossEntropyLoss it is not wanted: that takes
    the logits themselves.

    dim: only -1, the last dimension (default). ValueError for others.
    """

    log = False


class LogSoftmax(RowSoftmax):
    """x_i - log sum_j exp(x_j) over the last dimension of x [batch, ..., classes], of any size.

    The logarithm of Softmax (Bridle 1990, section 3), exact where that is 0. Sums are taken in float64.

    dim: only -1, the last dimension (default). ValueError for others.
    """

    log = True
