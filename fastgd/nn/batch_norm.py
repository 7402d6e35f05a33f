"""BatchNorm1d and BatchNorm2d: each channel is brought to one size over the batch."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import Activation, finite
from fastgd.nn.base import Backward, Layer
from fastgd.nn.layers import checked_dtype, checked_size
from fastgd.nn.program import Builder, Shape, Value


class BatchNorm(Layer):
    """y = weight (x - mean) / sqrt(variance + eps) + bias, for each channel: what both have in common."""

    #: the shapes it takes behind [batch, num_features
    rests: ClassVar[tuple[tuple[str, ...], ...]]

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        *,
        dtype: Any = np.float32,
    ) -> None:
        self.num_features = checked_size("num_features", num_features)
        self.eps = finite("eps", eps, 0)
        self.momentum = None if momentum is None else finite("momentum", momentum, 0)
        if self.momentum is not None and self.momentum > 1:
            raise ValueError(f"momentum must be at most 1, not {momentum}")
        self.dtype = checked_dtype(dtype)
        made = {name: np.empty(self.num_features, self.dtype) for name in ("weight", "bias")}
        self._parameters: dict[str, Array] = made if affine else {}
        self._buffers: dict[str, Array] = {}
        if track_running_stats:
            self._buffers = {
                name: np.empty(self.num_features, self.dtype) for name in ("running_mean", "running_var")
            }
            self._buffers["num_batches_tracked"] = np.zeros((), np.int64)
        self.reset_parameters(np.random.default_rng(0))

    @property
    def weight(self) -> Array | None:
        return self._parameters.get("weight")

    @property
    def bias(self) -> Array | None:
        return self._parameters.get("bias")

    def __repr__(self) -> str:
        rest = f"eps={self.eps}, momentum={self.momentum}, affine={bool(self._parameters)}"
        tracked = bool(self._buffers)
        return f"{type(self).__name__}({self.num_features}, {rest}, track_running_stats={tracked})"

    @property
    def mixes_rows(self) -> bool:
        return True

    def parameters(self) -> dict[str, Array]:
        return dict(self._parameters)

    def buffers(self) -> dict[str, Array]:
        return dict(self._buffers)

    def reset_parameters(self, rng: np.random.Generator) -> None:
        for name, array in {**self._parameters, **self._buffers}.items():
            array[...] = name in ("weight", "running_var")

    def output_shape(self, shape: Shape) -> Shape:
        lengths = {2 + len(rest) for rest in self.rests}
        if len(shape) not in lengths or shape[1] != self.num_features:
            shapes = [", ".join(("batch", str(self.num_features), *rest)) for rest in self.rests]
            takes = " or ".join(f"[{one}]" for one in shapes)
            raise ValueError(f"{self} takes {takes}, not {list(shape)}")
        return shape

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        if (self._parameters or self._buffers) and to.dtype != self.dtype:
            raise TypeError(f"{self} is {self.dtype}, but the model computes in {to.dtype}")
        sizes = (x.shape[0], self.num_features, math.prod(x.shape[2:]))
        if to.training and sizes[0] * sizes[2] < 2:
            got = f"got input size {list(x.shape)}"
            raise ValueError(f"{self}: expected more than 1 value per channel when training, {got}")
        mean, var, count = self._buffers.values() if self._buffers else (None, None, None)
        running = mean is not None and not to.training
        momentum = -1.0 if self.momentum is None else self.momentum
        of = to.kernels.describe("batch_norm", running, self.eps, momentum)
        y, stats = to.value(x.shape), to.value((self.num_features, 2), np.float64)
        before = (x, self.weight, self.bias)
        moved = (mean, var, None if count is None else count.reshape(1))
        if running or to.training:
            to.emit("batch_norm_forward", of, sizes, (*before, *moved, stats, y))
        else:
            to.emit("batch_norm_forward", of, sizes, (*before, None, None, None, stats, y))

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            gradients = to.gradient(self.weight), to.gradient(self.bias)
            dx = dy if needs_dx else None
            to.emit("batch_norm_backward", of, sizes, (x, self.weight, stats, dy, dx, *gradients))
            return dx

        return y, backward


class BatchNorm1d(BatchNorm):
    """Batch normalisation of x [batch, num_features] or [batch, num_features, length].

    y = weight (x - mean) / sqrt(variance + eps) + bias for each feature: Ioffe and Szegedy 2015, algorithm 1.
    While training, mean and variance are those of the batch (and length); otherwise the running ones, unless
    there are none. Sums are taken in float64.

    num_features: 1 or more. eps: 0 or above. Default 1e-5.
    momentum: what part of running_mean and running_var a batch's mean and unbiased variance are, 0 to 1.
        Default 0.1. None: they are averages over all batches.
    affine: whether there are weight and bias, [num_features], which start as 1 and 0. Default True.
    track_running_stats: whether there are the buffers running_mean and running_var, [num_features], which
        start as 0 and 1, and num_batches_tracked, int64. Default True.
    dtype: of weight, bias and running statistics, float32 (default) or float64; without any, x may be both.

    Raises TypeError or ValueError for arguments that are none. A pass raises ValueError when it is to train
    on one value per channel.
    """

    rests = ((), ("length",))


class BatchNorm2d(BatchNorm):
    """Batch normalisation of x [batch, num_features, height, width].

    y = weight (x - mean) / sqrt(variance + eps) + bias for each channel: Ioffe and Szegedy 2015, section 3.2.
    While training, mean and variance are those over batch, height and width; otherwise the running ones,
    unless there are none. Sums are taken in float64.

    Arguments, buffers and errors are BatchNorm1d's.
    """

    rests = (("height", "width"),)
