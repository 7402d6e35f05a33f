"""Flatten: several dimensions become one, at no cost."""

from __future__ import annotations

import math
import operator
from typing import Any

from fastgd.nn.activations import Activation
from fastgd.nn.base import Backward, Layer
from fastgd.nn.program import Builder, Shape, Value


def _checked_dim(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    dim = operator.index(value)
    if dim == 0:
        raise ValueError(f"{name} must not be 0, the batch's dimension")
    return dim


class Flatten(Layer):
    """x's dimensions from start_dim to end_dim become one. Nothing is copied.

    start_dim, end_dim: numbers of dimensions, from the last one when negative. Default 1 and -1: all but the
        batch's. Raises TypeError for what is no integer and ValueError for 0, the batch's own.
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        self.start_dim = _checked_dim("start_dim", start_dim)
        self.end_dim = _checked_dim("end_dim", end_dim)

    def __repr__(self) -> str:
        return f"Flatten(start_dim={self.start_dim}, end_dim={self.end_dim})"

    def output_shape(self, shape: Shape) -> Shape:
        first, last = (dim + len(shape) if dim < 0 else dim for dim in (self.start_dim, self.end_dim))
        if not 1 <= first <= last < len(shape):
            raise ValueError(
                f"{self} takes shapes that have these dimensions, in this order, not {list(shape)}"
            )
        return (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        shape = x.shape

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            return dy.reshaped(shape) if needs_dx else None

        return x.reshaped(self.output_shape(shape)), backward
