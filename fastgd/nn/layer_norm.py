"""LayerNorm and RMSNorm: each example's last dimensions are brought to one size."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import Activation, finite
from fastgd.nn.base import Backward, Layer
from fastgd.nn.layers import checked_dtype, checked_size
from fastgd.nn.program import Builder, Shape, Value


class RowNorm(Layer):
    """What both have in common."""

    #: whether the mean is taken away
    centered: bool

    def __init__(
        self, normalized_shape: int | Iterable[int], eps: float | None, names: tuple[str, ...], dtype: Any
    ) -> None:
        sizes = normalized_shape if isinstance(normalized_shape, Iterable) else [normalized_shape]
        self.normalized_shape = tuple(checked_size("normalized_shape", size) for size in sizes)
        if not self.normalized_shape:
            raise ValueError("normalized_shape must have at least one dimension")
        #: None: that of the input's dtype
        self.eps = None if eps is None else finite("eps", eps, 0)
        of = checked_dtype(dtype)
        self._parameters = {name: np.empty(self.normalized_shape, of) for name in names}
        self.reset_parameters(np.random.default_rng(0))

    @property
    def weight(self) -> Array | None:
        return self._parameters.get("weight")

    @property
    def bias(self) -> Array | None:
        return self._parameters.get("bias")

    def parameters(self) -> dict[str, Array]:
        return dict(self._parameters)

    def reset_parameters(self, rng: np.random.Generator) -> None:
        for name, array in self._parameters.items():
            array[...] = name == "weight"

    def output_shape(self, shape: Shape) -> Shape:
        wanted = self.normalized_shape
        if len(shape) <= len(wanted) or shape[-len(wanted) :] != wanted:
            raise ValueError(f"{self} takes [batch, ..., {str(list(wanted))[1:-1]}], not {list(shape)}")
        return shape

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        eps = float(np.finfo(to.dtype).eps) if self.eps is None else self.eps
        of = to.kernels.describe("layer_norm", self.centered, eps)
        cols = math.prod(self.normalized_shape)
        rows = x.size // cols
        y, stats = to.value(x.shape), to.value((rows, 2), np.float64)
        to.emit("layer_norm_forward", of, (rows, cols), (x, self.weight, self.bias, stats, y))

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            dx = to.value(x.shape) if needs_dx else None
            scratch = None
            if self._parameters:
                scratch = to.value((to.kernels.layer_norm_scratch(rows, cols),), np.float64)
            after = (dx, to.gradient(self.weight), to.gradient(self.bias), scratch)
            to.emit("layer_norm_backward", of, (rows, cols), (x, self.weight, stats, dy, *after))
            return dx

        return y, backward


class LayerNorm(RowNorm):
    """y = weight (x - mean) / sqrt(variance + eps) + bias over the last dimensions of x.

    Ba, Kiros and Hinton 2016, equation 3; the variance is that of the numbers themselves, divided by their
    count. Sums are taken in float64.

    normalized_shape: the sizes of these dimensions, 1 or more each; an integer for the last one.
    eps: 0 or above. Default 1e-5.
    elementwise_affine: whether there are weight and bias, of normalized_shape, which start as 1 and 0.
        Default True. bias: False for a weight alone.
    dtype: of weight and bias, float32 (default) or float64; without them any input will do.

    Raises TypeError or ValueError for arguments that are none.
    """

    centered = True

    def __init__(
        self,
        normalized_shape: int | Iterable[int],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        names = ("weight", "bias") if bias else ("weight",)
        super().__init__(normalized_shape, eps, names if elementwise_affine else (), dtype)

    def __repr__(self) -> str:
        affine = bool(self._parameters)
        rest = f"eps={self.eps}, elementwise_affine={affine}, bias={self.bias is not None}"
        return f"LayerNorm({self.normalized_shape}, {rest})"


class RMSNorm(RowNorm):
    """y = weight x / sqrt(mean of x^2 + eps) over the last dimensions of x.

    Zhang and Sennrich 2019, equation 4. Sums are taken in float64.

    normalized_shape: the sizes of these dimensions, 1 or more each; an integer for the last one.
    eps: 0 or above. Default None: the distance from 1 to the next number of the dtype, as in torch.
    elementwise_affine: whether there is a weight of normalized_shape, which starts as 1. Default True.
    dtype: of the weight, float32 (default) or float64; without one any input will do.

    Raises TypeError or ValueError for arguments that are none.
    """

    centered = False

    def __init__(
        self,
        normalized_shape: int | Iterable[int],
        eps: float | None = None,
        elementwise_affine: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        super().__init__(normalized_shape, eps, ("weight",) if elementwise_affine else (), dtype)

    def __repr__(self) -> str:
        return (
            f"RMSNorm({self.normalized_shape}, eps={self.eps}, elementwise_affine={bool(self._parameters)})"
        )
