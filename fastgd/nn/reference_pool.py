"""Pooling in NumPy: the formulas of csrc/pool_kernels.c in the same order."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.reference_norms import lane_sums

OK = 0

Pair = tuple[int, int]


class Pool(NamedTuple):
    """What fgd_pool is in C."""

    kernel: Pair
    stride: Pair
    padding: Pair
    count_include_pad: bool


def _begins(of: Pool, axis: int, outputs: int) -> Array:
    begins: Array = np.arange(outputs) * of.stride[axis] - of.padding[axis]
    return begins


def _places(of: Pool, sizes: tuple[int, ...]) -> tuple[Array, Array]:
    """Of each output's window the elements' places in the plane, and whether they lie in it.

    Both are [out_height, out_width, kernel height, kernel width]; those outside have the place 0.
    """
    _, height, width, *outputs = sizes
    rows, cols = (_begins(of, i, outputs[i])[:, None] + np.arange(of.kernel[i]) for i in (0, 1))
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((cols >= 0) & (cols < width))[:, None, :]
    return np.where(inside, rows[:, None, :, None] * width + cols[:, None, :], 0), inside


def _shares(of: Pool, sizes: tuple[int, ...]) -> Array:
    counts = []
    for axis, (size, outputs) in enumerate(zip(sizes[1:3], sizes[3:], strict=True)):
        begin = _begins(of, axis, outputs)
        end = begin + of.kernel[axis]
        if of.count_include_pad:
            counts.append(np.minimum(end, size + of.padding[axis]) - begin)
        else:
            counts.append(np.minimum(end, size) - np.maximum(begin, 0))
    shares: Array = 1 / np.multiply.outer(*counts).astype(np.float64)
    return shares


def max_forward(dtype: Any, of: Pool, *given: Any) -> int:
    """The sizes, then x, index and y."""
    sizes, (x, index, y) = given[:5], given[5:]
    places, inside = _places(of, sizes)
    flat = (-1, *places.shape[:2], of.kernel[0] * of.kernel[1])
    x = x.reshape(sizes[0], -1)
    elements = np.where(inside, x[:, places], -np.inf).reshape(flat)
    is_nan = np.isnan(elements)
    last_nan = flat[-1] - 1 - np.argmax(is_nan[..., ::-1], axis=-1)
    # where everything is -infinity, the first that lies inside
    first = np.argmax(np.broadcast_to(inside, (len(x), *inside.shape)).reshape(flat), axis=-1)
    largest = np.argmax(elements, axis=-1)
    at = np.where(is_nan.any(-1), last_nan, np.where(elements.max(-1) == -np.inf, first, largest))
    chosen = np.take_along_axis(
        np.broadcast_to(places.reshape(1, *flat[1:]), elements.shape), at[..., None], -1
    )
    if index is not None:
        index[...] = chosen.reshape(index.shape)
    y[...] = np.take_along_axis(x, chosen.reshape(len(x), -1), 1).reshape(y.shape)
    return OK


def max_backward(dtype: Any, of: Pool, *given: Any) -> int:
    """The sizes, then index, dy and dx."""
    planes = given[0]
    index, dy, dx = (array.reshape(planes, -1) for array in given[5:])
    with np.errstate(all="ignore"):
        dx[...] = 0
        for place, gradient in zip(index.T, dy.T, strict=True):
            dx[np.arange(planes), place] += gradient
    return OK


def average_forward(dtype: Any, of: Pool, *given: Any) -> int:
    """The sizes, then x and y."""
    sizes, (x, y) = given[:5], given[5:]
    places, inside = _places(of, sizes)
    elements = np.where(inside, x.reshape(sizes[0], -1)[:, places], 0).astype(np.float64)
    windows = elements.reshape(-1, of.kernel[0] * of.kernel[1])
    with np.errstate(all="ignore"):
        y[...] = (lane_sums(windows).reshape(-1, *sizes[3:]) * _shares(of, sizes)).reshape(y.shape)
    return OK


def average_backward(dtype: Any, of: Pool, *given: Any) -> int:
    """The sizes, then dy and dx."""
    sizes, (dy, dx) = given[:5], given[5:]
    places, inside = _places(of, sizes)
    with np.errstate(all="ignore"):
        each = (dy.reshape(-1, *sizes[3:]) * _shares(of, sizes)).astype(dy.dtype)
        planes = dx.reshape(sizes[0], -1)
        planes[...] = 0
        for i in np.ndindex(sizes[3:]):
            planes[:, places[i][inside[i]]] += each[(slice(None), *i)][:, None]
    return OK


ENTRIES = {
    "max_pool_forward": max_forward,
    "max_pool_backward": max_backward,
    "average_pool_forward": average_forward,
    "average_pool_backward": average_backward,
}
DESCRIPTIONS = {"pool": Pool}
