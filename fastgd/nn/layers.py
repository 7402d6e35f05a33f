"""Linear: y = x W' + b, with the activation behind it in the same pass."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from fastgd.arrays import DTYPES, Array
from fastgd.nn.activations import Activation, bound
from fastgd.nn.base import Backward, Layer
from fastgd.nn.program import Builder, Shape, Value


def checked_size(name: str, value: Any, least: int = 1) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    size = operator.index(value)
    if size < least:
        raise ValueError(f"{name} must be {least} or more, not {size}")
    return size


def checked_dtype(dtype: Any) -> np.dtype[Any]:
    checked: np.dtype[Any] = np.dtype(dtype)
    if checked not in DTYPES:
        raise TypeError(f"dtype must be float32 or float64, not {checked}")
    return checked


class Linear(Layer):
    """y = x W' + b, for x [batch, ..., in_features].

    in_features, out_features: sizes, 1 or more.
    bias: whether b is added. Default True.
    dtype: of parameters and activations, float32 (default) or float64.
    seed: an integer or a numpy Generator the parameters are drawn with. Default None: differently each time.

    weight [out_features, in_features] and bias [out_features] or None are fixed arrays, to be changed in
    place. Both start uniform in +-1 / sqrt(in_features), as torch.nn.Linear's do. Raises TypeError or
    ValueError for sizes and dtypes that are none.
    """

    fuses_activation = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.in_features = checked_size("in_features", in_features)
        self.out_features = checked_size("out_features", out_features)
        self.dtype = checked_dtype(dtype)
        self._weight = np.empty((self.out_features, self.in_features), self.dtype)
        self._bias = np.empty(self.out_features, self.dtype) if bias else None
        self.reset_parameters(np.random.default_rng(seed))

    @property
    def weight(self) -> Array:
        return self._weight

    @property
    def bias(self) -> Array | None:
        return self._bias

    def __repr__(self) -> str:
        return f"Linear({self.in_features}, {self.out_features}, bias={self._bias is not None})"

    def parameters(self) -> dict[str, Array]:
        weight = {"weight": self._weight}
        return weight if self._bias is None else {**weight, "bias": self._bias}

    def reset_parameters(self, rng: np.random.Generator) -> None:
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters().values():
            parameter[...] = rng.uniform(-bound, bound, parameter.shape)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) < 2 or shape[-1] != self.in_features:
            raise ValueError(f"{self} takes [batch, ..., {self.in_features}], not {list(shape)}")
        return (*shape[:-1], self.out_features)

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        does, saves_input = bound(to.kernels, activation)
        sizes = (math.prod(x.shape[:-1]), self.in_features, self.out_features)
        y = to.value(self.output_shape(x.shape))
        z = to.value(y.shape) if saves_input else None
        to.emit("linear_forward", does, sizes, (x, self._weight, self._bias, z, y))
        saved = z or y

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            dx = to.value(x.shape) if needs_dx else None
            gradients = to.gradient(self._weight), to.gradient(self._bias)
            to.emit("linear_backward", does, sizes, (x, self._weight, saved, dy, dx, *gradients))
            return dx

        return y, backward
