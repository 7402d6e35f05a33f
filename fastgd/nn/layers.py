"""Linear: y = x W' + b, with the activation behind it in the same pass."""

from __future__ import annotations

import math
import operator
from functools import partial
from typing import Any

import numpy as np

from fastgd.arrays import DTYPES, Array
from fastgd.nn.activations import Activation, bound
from fastgd.nn.base import Layer, Pass, Shape
from fastgd.nn.kernels import Kernels


def checked_size(name: str, value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    size = operator.index(value)
    if size < 1:
        raise ValueError(f"{name} must be 1 or more, not {size}")
    return size


def checked_dtype(dtype: Any) -> np.dtype[Any]:
    checked: np.dtype[Any] = np.dtype(dtype)
    if checked not in DTYPES:
        raise TypeError(f"dtype must be float32 or float64, not {checked}")
    return checked


class LinearPass(Pass):
    def __init__(
        self,
        layer: Linear,
        kernels: Kernels,
        batch: int,
        gradients: dict[str, Array],
        needs_dx: bool,
        activation: Activation | None,
    ) -> None:
        k, dtype = kernels, layer.dtype
        does, saves_input = bound(k, activation)
        sizes = (k.dtype(dtype), does, batch, layer.in_features, layer.out_features)
        self.output = np.empty((batch, layer.out_features), dtype)
        self._y = k.handle(self.output)
        self._z = k.handle(np.empty_like(self.output)) if saves_input else k.null
        self._saved = self._z if saves_input else self._y
        self._dx = k.handle(np.empty((batch, layer.in_features), dtype)) if needs_dx else None
        self._weight = k.handle(layer.weight)
        self._bias = k.null if layer.bias is None else k.handle(layer.bias)
        self._dx_or_null = k.null if self._dx is None else self._dx
        self._dweight = k.handle(gradients["weight"])
        self._dbias = k.null if layer.bias is None else k.handle(gradients["bias"])
        self._forward = partial(k.linear_forward, *sizes)
        self._backward = partial(k.linear_backward, *sizes)
        self._check = k.check
        self._x: Any = None

    def forward(self, x: Any, training: bool) -> Any:
        self._x = x
        code = self._forward(x, self._weight, self._bias, self._z, self._y)
        if code:
            self._check(code)
        return self._y

    def backward(self, dy: Any) -> Any:
        code = self._backward(
            self._x, self._weight, self._saved, dy, self._dx_or_null, self._dweight, self._dbias
        )
        if code:
            self._check(code)
        return self._dx


class Linear(Layer):
    """y = x W' + b, for x [batch, in_features].

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
        if len(shape) != 2 or shape[1] != self.in_features:
            raise ValueError(f"{self} takes [batch, {self.in_features}], not {list(shape)}")
        return (shape[0], self.out_features)

    def bind(
        self,
        kernels: Kernels,
        shape: Shape,
        dtype: np.dtype[Any],
        gradients: dict[str, Array],
        needs_dx: bool,
        activation: Activation | None,
    ) -> Pass:
        return LinearPass(self, kernels, shape[0], gradients, needs_dx, activation)
