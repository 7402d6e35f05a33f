"""Convolution in NumPy: the formulas of csrc/conv.c and csrc/conv_kernels.c in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import lane_sums
from fastgd.nn.reference import Bound

OK = 0

#: as in csrc/conv.c: they fix what is summed together
BAND = 1 << 18
MAX_BLOCKS = 32
PARTIALS = 1 << 22
FEW = 16

Pair = tuple[int, int]


class Conv(NamedTuple):
    """What fgd_conv is in C."""

    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    groups: int
    activation: Bound


class Plan:
    """The shapes of one call."""

    def __init__(self, of: Conv, batch: int, inside: int, out: int, size: Pair, kernel: Pair) -> None:
        self.of, self.kernel, self.size, self.groups = of, kernel, size, of.groups
        self.x_shape = (batch, inside, *size)
        self.out_size = tuple(
            (size[i] + sum(of.padding[i]) - of.dilation[i] * (kernel[i] - 1) - 1) // of.stride[i] + 1
            for i in (0, 1)
        )
        self.y_shape = (batch, out, *self.out_size)
        self.group_in, self.group_out = inside // of.groups, out // of.groups
        self.depth = self.group_in * kernel[0] * kernel[1]
        self.tall = self.depth < min(FEW, self.group_out)
        height, width = self.out_size
        self.band = min(max(BAND // self.depth // width, 1), height)
        most = min(batch, MAX_BLOCKS, PARTIALS // (out * self.depth))
        self.block = -(-batch // max(most, 1))
        self.pointwise = kernel == (1, 1) and of.stride == (1, 1) and not any(map(any, of.padding))

    def pieces(self) -> Iterator[tuple[slice, int]]:
        """Rows of outputs, and a group of channels, that are computed together."""
        for first in range(0, self.out_size[0], self.band):
            for group in range(self.groups):
                yield slice(first, min(first + self.band, self.out_size[0])), group

    def of_group(self, array: Array, group: int, channels: int) -> Array:
        """The channels of a group, those of an image or of all kernels."""
        return array[group * channels : (group + 1) * channels]

    def _inside(self, axis: int, offset: int, first: int, end: int) -> tuple[slice, slice]:
        """Which of the outputs from first to end, counted from first, look inside the image, and where."""
        of = self.of
        shift = offset * of.dilation[axis] - of.padding[axis][0]
        stride = of.stride[axis]
        begin = max(-(shift // stride), first) if shift < 0 else first
        stop = max(min(-((shift - self.size[axis]) // stride), end), begin)
        at = begin * stride + shift
        return slice(begin - first, stop - first), slice(at, at + (stop - begin - 1) * stride + 1, stride)

    def parts(self, rows: slice) -> Iterator[tuple[int, int, tuple[slice, slice], tuple[slice, slice]]]:
        """For each kernel element the outputs that look inside the image, and the image's elements."""
        for h in range(self.kernel[0]):
            for w in range(self.kernel[1]):
                i, r = self._inside(0, h, rows.start, rows.stop)
                j, c = self._inside(1, w, 0, self.out_size[1])
                if i.stop > i.start and j.stop > j.start:
                    yield h, w, (i, j), (r, c)

    def gather(self, x: Array, rows: slice) -> Array:
        """The columns [depth, rows, out_width] of channels x [channels, height, width]."""
        columns = np.zeros((len(x), *self.kernel, rows.stop - rows.start, self.out_size[1]), x.dtype)
        for h, w, outputs, image in self.parts(rows):
            columns[(slice(None), h, w, *outputs)] = x[(slice(None), *image)]
        return columns.reshape(self.depth, -1)

    def scatter(self, columns: Array, x: Array, rows: slice) -> None:
        """Adds the columns to the elements of x they are of."""
        columns = columns.reshape(len(x), *self.kernel, rows.stop - rows.start, self.out_size[1])
        for h, w, outputs, image in self.parts(rows):
            x[(slice(None), *image)] += columns[(slice(None), h, w, *outputs)]


def _plan(
    of: Conv, batch: int, inside: int, out: int, height: int, width: int, kernel_h: int, kernel_w: int
) -> Plan:
    return Plan(of, batch, inside, out, (height, width), (kernel_h, kernel_w))


def scratch(dtype: Any, of: Conv, *sizes: int) -> int:
    return 0


def forward(dtype: Any, of: Conv, *given: Any) -> int:
    """The sizes, then x, weight, bias, z, y and scratch."""
    plan = _plan(of, *given[:7])
    x, weight, bias, z, y, _ = given[7:]
    with np.errstate(all="ignore"):
        x = x.reshape(plan.x_shape)
        weight = weight.reshape(-1, plan.depth)
        product = np.empty(plan.y_shape, y.dtype)
        for image, into in zip(x, product, strict=True):
            for rows, group in plan.pieces():
                own = plan.of_group(into, group, plan.group_out)[:, rows]
                columns = plan.gather(plan.of_group(image, group, plan.group_in), rows)
                own[...] = np.matmul(plan.of_group(weight, group, plan.group_out), columns).reshape(own.shape)
        if bias is not None:
            product += bias.reshape(1, -1, 1, 1)
        if z is not None and of.activation.function.saves_input:
            z[...] = product.reshape(z.shape)
        y[...] = of.activation.forward(product).reshape(y.shape)
    return OK


def backward(dtype: Any, of: Conv, *given: Any) -> int:
    """The sizes, then x, weight, saved, dy, dx, dweight, dbias and scratch."""
    plan = _plan(of, *given[:7])
    x, weight, saved, dy, dx, dweight, dbias, _ = given[7:]
    with np.errstate(all="ignore"):
        dy[...] = of.activation.backward(dy if saved is None else saved, dy)
        x, dz = x.reshape(plan.x_shape), dy.reshape(plan.y_shape)
        weight = weight.reshape(-1, plan.depth)
        total, bias_total = np.zeros(weight.shape), np.zeros(len(weight))
        if dx is not None:
            dx[...] = 0
        for first in range(0, len(x), plan.block):
            block = slice(first, first + plan.block)
            images = None if dx is None else dx.reshape(plan.x_shape)[block]
            partial, sums = _backward_of_block(plan, x[block], weight, dz[block], images)
            total += partial
            bias_total += sums
        dweight[...] = total.reshape(dweight.shape)
        if dbias is not None:
            dbias[...] = bias_total
    return OK


def _backward_of_block(
    plan: Plan, x: Array, weight: Array, dz: Array, dx: Array | None
) -> tuple[Array, Array]:
    """The block's dweight, and its dbias in float64; its dx is added."""
    partial, sums = np.zeros_like(weight), np.zeros(len(weight))
    for i, (image, of_image) in enumerate(zip(x, dz, strict=True)):
        sums += lane_sums(of_image.reshape(len(weight), -1).astype(np.float64))
        for rows, group in plan.pieces():
            own = plan.of_group(of_image, group, plan.group_out)[:, rows].reshape(plan.group_out, -1)
            columns = plan.gather(plan.of_group(image, group, plan.group_in), rows)
            into = plan.of_group(partial, group, plan.group_out)
            product = np.matmul(columns, own.T).T if plan.tall else np.matmul(own, columns.T)
            into[...] = product + into if i or rows.start else product
            if dx is not None:
                columns = np.matmul(plan.of_group(weight, group, plan.group_out).T, own)
                plan.scatter(columns, plan.of_group(dx[i], group, plan.group_in), rows)
    return partial, sums


ENTRIES = {"conv_forward": forward, "conv_backward": backward, "conv_scratch": scratch}
DESCRIPTIONS = {"conv": Conv}
