"""Flatten and Unflatten: several dimensions become one, or one several, at no cost."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

from fastgd.nn.activations import Activation
from fastgd.nn.base import Backward, Layer
from fastgd.nn.layers import checked_size
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
        return reshaped(x, self.output_shape(x.shape))


class Unflatten(Layer):
    """x's dimension dim becomes several. Nothing is copied.

    dim: number of the dimension, from the last one when negative.
    unflattened_size: the sizes it becomes, 1 or more each, whose product it must have.

    Raises TypeError for what is no integer, and ValueError for dimension 0, the batch's own, and for sizes
    below 1.
    """

    def __init__(self, dim: int, unflattened_size: Iterable[int]) -> None:
        self.dim = _checked_dim("dim", dim)
        self.unflattened_size = tuple(checked_size("unflattened_size", size) for size in unflattened_size)
        if not self.unflattened_size:
            raise ValueError("unflattened_size must have at least one size")

    def __repr__(self) -> str:
        return f"Unflatten({self.dim}, {self.unflattened_size})"

    def output_shape(self, shape: Shape) -> Shape:
        dim = self.dim + len(shape) if self.dim < 0 else self.dim
        if not 1 <= dim < len(shape) or shape[dim] != math.prod(self.unflattened_size):
            size = math.prod(self.unflattened_size)
            raise ValueError(f"{self} takes shapes whose dimension {self.dim} is {size}, not {list(shape)}")
        return (*shape[:dim], *self.unflattened_size, *shape[dim + 1 :])

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        return reshaped(x, self.output_shape(x.shape))


def reshaped(x: Value, shape: Shape) -> tuple[Value, Backward]:
    """x in another shape, and the way back."""

    def backward(dy: Value, needs_dx: bool) -> Value | None:
        return dy.reshaped(x.shape) if needs_dx else None

    return x.reshaped(shape), backward
