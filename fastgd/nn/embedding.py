"""Embedding: a row of a table for each index."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import Activation
from fastgd.nn.base import Backward, Layer
from fastgd.nn.layers import checked_dtype, checked_size
from fastgd.nn.program import Builder, Shape, Value

INT64 = np.dtype(np.int64)


def checked_padding(padding_idx: Any, rows: int) -> int | None:
    """padding_idx as 0 .. rows - 1, from -rows on counted from the end; None for None."""
    if padding_idx is None:
        return None
    if isinstance(padding_idx, bool) or not hasattr(padding_idx, "__index__"):
        raise TypeError(f"padding_idx must be an integer or None, not {type(padding_idx).__name__}")
    index = operator.index(padding_idx)
    if not -rows <= index < rows:
        raise ValueError(f"padding_idx must be {-rows} .. {rows - 1}, not {index}")
    return index % rows


def out_of_range(indices: Array, rows: int) -> ValueError:
    """What is wrong with indices of which some are not 0 .. rows - 1: names the first of them."""
    at = np.unravel_index(int(np.argmax((indices < 0) | (indices >= rows))), indices.shape)
    where = f"[{', '.join(map(str, at))}]"
    return ValueError(f"x{where} is {indices[at]}, but indices are 0 .. {rows - 1}")


class Embedding(Layer):
    """y [batch, ..., embedding_dim] = the rows of a table that the indices x [batch, ...] say.

    num_embeddings, embedding_dim: sizes of the table, 1 or more.
    padding_idx: an index whose row starts as 0 and has no gradient; negative ones count from the end. Default
        None: there is none.
    dtype: of the table, float32 (default) or float64.
    seed: an integer or a numpy Generator the table is drawn with. Default None: differently each time.

    x is int64. weight [num_embeddings, embedding_dim] is a fixed array, to be changed in place; it starts
    normally distributed with deviation 1, as torch.nn.Embedding's does. Its gradient is an array of the same
    shape; of an index that comes more than once the gradients are added in order. Raises TypeError or
    ValueError for arguments that are none; a pass raises ValueError for an index out of range, and names it.
    """

    input_dtype: ClassVar[np.dtype[Any] | None] = INT64

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        dtype: Any = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.num_embeddings = checked_size("num_embeddings", num_embeddings)
        self.embedding_dim = checked_size("embedding_dim", embedding_dim)
        self.padding_idx = checked_padding(padding_idx, self.num_embeddings)
        self._weight = np.empty((self.num_embeddings, self.embedding_dim), checked_dtype(dtype))
        self.reset_parameters(np.random.default_rng(seed))

    @property
    def weight(self) -> Array:
        return self._weight

    def __repr__(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"Embedding({self.num_embeddings}, {self.embedding_dim}{padding})"

    def parameters(self) -> dict[str, Array]:
        return {"weight": self._weight}

    def reset_parameters(self, rng: np.random.Generator) -> None:
        self._weight[...] = rng.standard_normal(self._weight.shape)
        if self.padding_idx is not None:
            self._weight[self.padding_idx] = 0

    def output_shape(self, shape: Shape) -> Shape:
        return (*shape, self.embedding_dim)

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        if x.dtype != INT64:
            raise TypeError(f"{self} takes indices of int64, not {x.dtype}: it must be the first layer")
        of = to.kernels.describe("embedding", -1 if self.padding_idx is None else self.padding_idx)
        sizes = (x.size, self.num_embeddings, self.embedding_dim)
        y = to.value(self.output_shape(x.shape))
        error = to.kernels.error_label

        def refusal(code: int, arguments: Sequence[Array | None]) -> Exception | None:
            indices = arguments[0]
            return out_of_range(indices, sizes[1]) if code == error and indices is not None else None

        to.emit("embedding_forward", of, sizes, (x, self._weight, y), refusal)

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            to.emit("embedding_backward", of, sizes, (x, dy, to.gradient(self._weight)))
            return None

        return y, backward
