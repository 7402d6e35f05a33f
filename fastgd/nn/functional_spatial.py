"""Functions of nn.functional for images and signals: convolutions and pooling."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from fastgd.nn import pool
from fastgd.nn.activations import Activation, activation_of
from fastgd.nn.calls import Pair, backward_of, checked, presented
from fastgd.nn.conv import DIMENSIONS, Conv1d, Conv2d
from fastgd.nn.eager import passes, undrawn

__all__ = [
    "adaptive_avg_pool1d",
    "adaptive_avg_pool1d_backward",
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool1d",
    "adaptive_max_pool1d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "avg_pool1d",
    "avg_pool1d_backward",
    "avg_pool2d",
    "avg_pool2d_backward",
    "conv1d",
    "conv1d_backward",
    "conv2d",
    "conv2d_backward",
    "max_pool1d",
    "max_pool1d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]

Sizes = int | Iterable[int]

# ---- Convolutions ------------------------------------------------------------------------------------


def _conv(
    name: str,
    cls: type[Conv1d | Conv2d],
    x: Any,
    weight: Any,
    bias: Any,
    stride: Sizes,
    padding: Sizes | str,
    dilation: Sizes,
    groups: int,
    activation: str | Activation | None,
    out: Any,
    backend: str,
) -> Pair:
    sizes = DIMENSIONS[cls.dims].split(", ")
    x = checked("x", x, shape=("batch", "channels", *sizes))
    weight = checked("weight", weight, x.dtype, ("out", "channels / groups", *sizes), ("x", x))
    kernel, rest = weight.shape[2:], (stride, padding, dilation, groups, bias is not None)
    layer = undrawn(cls)(x.shape[1], weight.shape[0], kernel, *rest, dtype=x.dtype)
    given = {"weight": weight, "bias": bias}
    return passes(name, layer, x, given, out, backend, activation=activation_of(activation))


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    activation: str | Activation | None = None,
    out: Any = None,
    backend: str = "auto",
) -> Pair:
    """As nn.Conv1d with an activation behind it: x [batch, channels, length], bias [out].

    weight: [out, channels / groups, kernel's length]. activation: as linear's.
    """
    given = x, weight, bias, stride, padding, dilation, groups
    return _conv("conv1d", Conv1d, *given, activation, out, backend)


def conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    *,
    activation: str | Activation | None = None,
    out: Any = None,
    backend: str = "auto",
) -> Pair:
    """As nn.Conv2d with an activation behind it: x [batch, channels, height, width], bias [out].

    weight: [out, channels / groups, kernel's height, kernel's width]. activation: as linear's.
    """
    given = x, weight, bias, stride, padding, dilation, groups
    return _conv("conv2d", Conv2d, *given, activation, out, backend)


conv1d_backward = backward_of("conv1d", "(dx, dweight, dbias)")
conv2d_backward = backward_of("conv2d", "(dx, dweight, dbias)")

# ---- Pooling -----------------------------------------------------------------------------------------


def _pool(name: str, cls: type[pool.Windows]) -> tuple[Callable[..., Pair], Callable[..., Any]]:
    def forward(x: Any, *parameters: Any, out: Any = None, backend: str = "auto", **named: Any) -> Pair:
        return passes(name, cls(*parameters, **named), checked("x", x), {}, out, backend)

    return presented(forward, name, cls), backward_of(name, "dx")


max_pool1d, max_pool1d_backward = _pool("max_pool1d", pool.MaxPool1d)
max_pool2d, max_pool2d_backward = _pool("max_pool2d", pool.MaxPool2d)
avg_pool1d, avg_pool1d_backward = _pool("avg_pool1d", pool.AvgPool1d)
avg_pool2d, avg_pool2d_backward = _pool("avg_pool2d", pool.AvgPool2d)
adaptive_max_pool1d, adaptive_max_pool1d_backward = _pool("adaptive_max_pool1d", pool.AdaptiveMaxPool1d)
adaptive_max_pool2d, adaptive_max_pool2d_backward = _pool("adaptive_max_pool2d", pool.AdaptiveMaxPool2d)
adaptive_avg_pool1d, adaptive_avg_pool1d_backward = _pool("adaptive_avg_pool1d", pool.AdaptiveAvgPool1d)
adaptive_avg_pool2d, adaptive_avg_pool2d_backward = _pool("adaptive_avg_pool2d", pool.AdaptiveAvgPool2d)
