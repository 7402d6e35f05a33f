"""Pooling: each plane is made smaller, an output being the largest element or the mean of a window."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from fastgd.nn.activations import Activation
from fastgd.nn.base import Backward, Layer
from fastgd.nn.conv import DIMENSIONS, both_axes, checked_sizes
from fastgd.nn.program import Builder, Shape, Value


class Windows(Layer):
    """What all layers that pool have in common: where their windows lie."""

    dims: ClassVar[int]
    #: whether an output is the largest element, or else the mean
    largest: ClassVar[bool]
    count_include_pad = False

    @abstractmethod
    def windows(self, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        """kernel, stride and padding for an input of this shape."""

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != self.dims + 2 or 0 in shape:
            raise ValueError(f"{self} takes [batch, channels, {DIMENSIONS[self.dims]}], not {list(shape)}")
        return (*shape[:2], *self.output_size(shape))

    @abstractmethod
    def output_size(self, shape: Shape) -> tuple[int, ...]:
        """The output's sizes behind the channels, for an input of this shape."""

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        y = to.value(self.output_shape(x.shape))
        kernel, stride, padding = self.windows(x.shape)
        axes = both_axes(kernel, 1), both_axes(stride, 1), both_axes(padding, 0)
        of = to.kernels.describe("pool", *axes, self.count_include_pad)
        planes = x.shape[0] * x.shape[1]
        sizes = (planes, *both_axes(x.shape[2:], 1), *both_axes(y.shape[2:], 1))
        kind, kept = "average", tuple[Value, ...]()
        if self.largest:
            kind = "max"
            index = to.value(y.shape, np.int32) if to.training else None
            kept = () if index is None else (index,)
            to.emit("max_pool_forward", of, sizes, (x, index, y))
        else:
            to.emit("average_pool_forward", of, sizes, (x, y))

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            if not needs_dx:
                return None
            dx = to.value(x.shape)
            to.emit(f"{kind}_pool_backward", of, sizes, (*kept, dy, dx))
            return dx

        return y, backward


class Sliding(Windows):
    """Pooling with windows of one size."""

    def __init__(
        self,
        kernel_size: int | Iterable[int],
        stride: int | Iterable[int] | None,
        padding: int | Iterable[int],
        ceil_mode: bool,
    ) -> None:
        self.kernel_size = checked_sizes("kernel_size", kernel_size, self.dims)
        self.stride = self.kernel_size if stride is None else checked_sizes("stride", stride, self.dims)
        self.padding = checked_sizes("padding", padding, self.dims, 0)
        for kernel, zeros in zip(self.kernel_size, self.padding, strict=True):
            if zeros > kernel // 2:
                raise ValueError(f"padding must be at most half of kernel_size, {kernel}, not {zeros}")
        self.ceil_mode = bool(ceil_mode)

    def __repr__(self) -> str:
        given = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        return f"{type(self).__name__}({given}, ceil_mode={self.ceil_mode})"

    def windows(self, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        return self.kernel_size, self.stride, self.padding

    def output_size(self, shape: Shape) -> tuple[int, ...]:
        sizes = []
        given = zip(shape[2:], self.kernel_size, self.stride, self.padding, strict=True)
        for size, kernel, stride, padding in given:
            room = size + 2 * padding - kernel
            if room < 0:
                raise ValueError(f"{self} has windows of {kernel}, which {list(shape)} has no room for")
            outputs = (room + (stride - 1 if self.ceil_mode else 0)) // stride + 1
            # a window that begins in the padding behind the last element is left out
            sizes.append(outputs - ((outputs - 1) * stride >= size + padding))
        return tuple(sizes)


class MaxPoolNd(Sliding):
    """What max pooling of one and two dimensions have in common."""

    largest = True

    def __init__(
        self,
        kernel_size: int | Iterable[int],
        stride: int | Iterable[int] | None = None,
        padding: int | Iterable[int] = 0,
        *,
        ceil_mode: bool = False,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)


class MaxPool2d(MaxPoolNd):
    """The largest element of each window of x [batch, channels, height, width].

    Ranzato et al. 2007, section 3.

    kernel_size: of the windows, an integer for both dimensions or one for each, 1 or more.
    stride: elements from window to window. Default None: kernel_size.
    padding: how far windows reach beyond x, at most kernel_size / 2; what lies there is never the largest.
        Default 0.
    ceil_mode: whether a window that x's last elements do not fill is kept. Default False.

    y is [batch, channels, height', width'] with height' = (height + 2 padding - kernel_size) // stride + 1.
    NaN is larger than anything. The gradient goes to the first of several largest elements. Raises TypeError
    or ValueError for arguments that are none.
    """

    dims = 2


class MaxPool1d(MaxPoolNd):
    """The largest element of each window of x [batch, channels, length]. Arguments are MaxPool2d's."""

    dims = 1


class AvgPoolNd(Sliding):
    """What average pooling of one and two dimensions have in common."""

    largest = False

    def __init__(
        self,
        kernel_size: int | Iterable[int],
        stride: int | Iterable[int] | None = None,
        padding: int | Iterable[int] = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        super().__init__(kernel_size, stride, padding, ceil_mode)
        self.count_include_pad = bool(count_include_pad)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, count_include_pad={self.count_include_pad})"


class AvgPool2d(AvgPoolNd):
    """The mean of each window of x [batch, channels, height, width] (LeCun et al. 1998, section II B).

    count_include_pad: whether the padding counts, as elements of 0. Default True.
    Other arguments, y's shape and errors are MaxPool2d's. Sums are taken in float64.
    """

    dims = 2


class AvgPool1d(AvgPoolNd):
    """The mean of each window of x [batch, channels, length]. Arguments are AvgPool2d's."""

    dims = 1


class Adaptive(Windows):
    """Pooling with windows that follow from the output's size."""

    def __init__(self, output_size: int | Iterable[int] = 1) -> None:
        self.wanted = checked_sizes("output_size", output_size, self.dims)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.wanted})"

    def output_size(self, shape: Shape) -> tuple[int, ...]:
        for size, outputs in zip(shape[2:], self.wanted, strict=True):
            if size % outputs:
                raise ValueError(
                    f"{self} takes sizes that are multiples of its output's, not {list(shape)}: windows of "
                    "different sizes are not there"
                )
        return self.wanted

    def windows(self, shape: Shape) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
        kernel = tuple(size // outputs for size, outputs in zip(shape[2:], self.wanted, strict=True))
        return kernel, kernel, (0,) * self.dims


class AdaptiveAvgPool2d(Adaptive):
    """The means of x [batch, channels, height, width] cut into as many windows as the output has elements.

    output_size: of y, an integer for both dimensions or one for each, which divides x's size. 1, the default,
        is the mean over each whole plane (global average pooling, Lin et al. 2014, section 3.2).

    Raises TypeError or ValueError for sizes that are none.
    """

    dims, largest = 2, False


class AdaptiveAvgPool1d(Adaptive):
    """AdaptiveAvgPool2d for x [batch, channels, length]."""

    dims, largest = 1, False


class AdaptiveMaxPool2d(Adaptive):
    """The largest elements of the windows that AdaptiveAvgPool2d has. Arguments and errors as there."""

    dims, largest = 2, True


class AdaptiveMaxPool1d(Adaptive):
    """AdaptiveMaxPool2d for x [batch, channels, length]."""

    dims, largest = 1, True
