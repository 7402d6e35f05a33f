"""Conv1d and Conv2d: each output is a weighted sum of a patch of its image, with the activation behind it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import Activation, bound
from fastgd.nn.base import Backward, Layer
from fastgd.nn.layers import checked_dtype, checked_size
from fastgd.nn.program import Builder, Shape, Value

#: what they are called by their number
DIMENSIONS = {1: "length", 2: "height, width"}


def checked_sizes(name: str, value: Any, dims: int, least: int = 1) -> tuple[int, ...]:
    """value, an integer or one for each dimension, as a tuple; TypeError or ValueError that names it."""
    values = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else (value,) * dims
    if len(values) != dims:
        raise ValueError(f"{name} must be an integer or {dims} of them, not {value!r}")
    return tuple(checked_size(name, size, least) for size in values)


def both_axes(values: tuple[int, ...], missing: int) -> tuple[int, int]:
    """Those of height and width: in one dimension the height's is `missing`."""
    return (missing, values[0]) if len(values) == 1 else (values[0], values[1])


class ConvNd(Layer):
    """What convolutions of one and two dimensions have in common."""

    fuses_activation = True
    dims: ClassVar[int]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Iterable[int],
        stride: int | Iterable[int] = 1,
        padding: int | Iterable[int] | str = 0,
        dilation: int | Iterable[int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        *,
        dtype: Any = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.in_channels = checked_size("in_channels", in_channels)
        self.out_channels = checked_size("out_channels", out_channels)
        self.kernel_size = checked_sizes("kernel_size", kernel_size, self.dims)
        self.stride = checked_sizes("stride", stride, self.dims)
        self.dilation = checked_sizes("dilation", dilation, self.dims)
        self.groups = checked_size("groups", groups)
        for name, channels in (("in_channels", self.in_channels), ("out_channels", self.out_channels)):
            if channels % self.groups:
                raise ValueError(f"{name} must be a multiple of groups, {self.groups}, not {channels}")
        if padding_mode != "zeros":
            raise ValueError(f"padding_mode must be 'zeros', the only one there is, not {padding_mode!r}")
        self.padding, self._zeros = self._checked_padding(padding)
        self.dtype = checked_dtype(dtype)
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        self._weight = np.empty(shape, self.dtype)
        self._bias = np.empty(self.out_channels, self.dtype) if bias else None
        self.reset_parameters(np.random.default_rng(seed))

    def _checked_padding(self, padding: Any) -> tuple[tuple[int, ...] | str, tuple[tuple[int, int], ...]]:
        """padding as it is given back, and the zeros before and behind the elements of each dimension."""
        if padding == "valid":
            return padding, ((0, 0),) * self.dims
        if padding == "same":
            if any(step > 1 for step in self.stride):
                raise ValueError(f"padding 'same' needs a stride of 1, not {self.stride}")
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return padding, tuple((total // 2, total - total // 2) for total in totals)
        if isinstance(padding, str):
            raise ValueError(f"padding must be 'same', 'valid' or sizes, not {padding!r}")
        sizes = checked_sizes("padding", padding, self.dims, 0)
        return sizes, tuple((size, size) for size in sizes)

    @property
    def weight(self) -> Array:
        return self._weight

    @property
    def bias(self) -> Array | None:
        return self._bias

    def __repr__(self) -> str:
        given = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        given += f", stride={self.stride}, padding={self.padding!r}, dilation={self.dilation}"
        return f"{type(self).__name__}({given}, groups={self.groups}, bias={self._bias is not None})"

    def parameters(self) -> dict[str, Array]:
        weight = {"weight": self._weight}
        return weight if self._bias is None else {**weight, "bias": self._bias}

    def reset_parameters(self, rng: np.random.Generator) -> None:
        bound = 1 / math.sqrt(math.prod(self._weight.shape[1:]))
        for parameter in self.parameters().values():
            parameter[...] = rng.uniform(-bound, bound, parameter.shape)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != self.dims + 2 or shape[1] != self.in_channels:
            raise ValueError(
                f"{self} takes [batch, {self.in_channels}, {DIMENSIONS[self.dims]}], not {list(shape)}"
            )
        sizes = []
        for axis, (size, (before, behind)) in enumerate(zip(shape[2:], self._zeros, strict=True)):
            reach = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            if size < 1 or size + before + behind < reach:
                raise ValueError(
                    f"{self} looks at {reach} elements at once, which {list(shape)} does not have"
                )
            sizes.append((size + before + behind - reach) // self.stride[axis] + 1)
        return (shape[0], self.out_channels, *sizes)

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        does, saves_input = bound(to.kernels, activation)
        one = self.dims == 1
        of = to.kernels.describe(
            "conv",
            both_axes(self.stride, 1),
            ((0, 0), *self._zeros) if one else self._zeros,
            both_axes(self.dilation, 1),
            self.groups,
            does,
        )
        image, kernel = both_axes(x.shape[2:], 1), both_axes(self.kernel_size, 1)
        sizes = (x.shape[0], self.in_channels, self.out_channels, *image, *kernel)

        def scratch(backward: bool) -> Value:
            size = to.kernels.conv_scratch(to.kernels.dtype(to.dtype), of, *sizes, backward)
            return to.value((size,), np.float64)

        y = to.value(self.output_shape(x.shape))
        z = to.value(y.shape) if saves_input else None
        to.emit("conv_forward", of, sizes, (x, self._weight, self._bias, z, y, scratch(False)))
        saved = z or y

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            dx = to.value(x.shape) if needs_dx else None
            gradients = to.gradient(self._weight), to.gradient(self._bias)
            arguments = (x, self._weight, saved, dy, dx, *gradients, scratch(True))
            to.emit("conv_backward", of, sizes, arguments)
            return dx

        return y, backward


class Conv2d(ConvNd):
    """y[o, i, j] = b[o] + sum over c, h, w of W[o, c, h, w] x[c, i s - p + h d, j s - p + w d].

    s, p and d are stride, padding and dilation (LeCun et al. 1998, section II A). x is [batch, in_channels,
    height, width] and y [batch, out_channels, height', width'] with height' = (height + 2 p -
    d (kernel_size - 1) - 1) // s + 1.

    in_channels, out_channels: of x and of y, 1 or more, multiples of groups.
    kernel_size: of the patches, an integer for both dimensions or one for each, 1 or more.
    stride: elements from patch to patch. Default 1.
    padding: zeros around x, or 'valid' for none, or 'same' for as many as keep x's size (with a stride of 1;
        where their number is odd, one more behind). Default 0.
    dilation: elements of x from one element of the kernel to the next. Default 1.
    groups: the channels are cut into so many groups, and those of y see their own group of x's. Default 1.
    bias: whether b is added. Default True.
    padding_mode: 'zeros', the only one there is.
    dtype: of parameters and activations, float32 (default) or float64.
    seed: an integer or a numpy Generator the parameters are drawn with. Default None: differently each time.

    weight [out_channels, in_channels / groups, height, width of the kernel] and bias [out_channels] or None
    are fixed arrays, to be changed in place. Both start uniform in +-1 / sqrt(numbers that a sum is over), as
    torch.nn.Conv2d's do. Raises TypeError or ValueError for arguments that are none.
    """

    dims = 2


class Conv1d(ConvNd):
    """y[o, i] = b[o] + sum over c, w of W[o, c, w] x[c, i stride - padding + w dilation].

    x is [batch, in_channels, length] and y [batch, out_channels, length']. All arguments, attributes and
    errors are Conv2d's, in one dimension; weight is [out_channels, in_channels / groups, kernel_size].
    """

    dims = 1
