"""PositionalEmbedding: a row of a table, learned, is added to each step of a sequence."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import Activation
from fastgd.nn.base import Backward, Layer
from fastgd.nn.layers import checked_dtype, checked_size
from fastgd.nn.program import Builder, Shape, Value


class PositionalEmbedding(Layer):
    """y = x + weight[:time] for x [batch, time, embedding_dim]: tells attention one step from another.

    The learned positions of Gehring et al. 2017, section 3.1. torch has no layer of this name; an Embedding
    of the steps' numbers is the same.

    max_time: the most steps of a sequence, 1 or more.
    embedding_dim: numbers of a step, 1 or more.
    dtype: of the table, float32 (default) or float64.
    seed: an integer or a numpy Generator the table is drawn with. Default None: differently each time.

    weight [max_time, embedding_dim] is a fixed array, to be changed in place; it starts normally distributed
    with deviation 0.02 (Radford et al. 2018, section 4.1). Its gradient is summed over the batch in float64,
    and is 0 for steps that a batch does not have. Raises TypeError or ValueError for arguments that are none.
    """

    def __init__(
        self,
        max_time: int,
        embedding_dim: int,
        *,
        dtype: Any = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.max_time = checked_size("max_time", max_time)
        self.embedding_dim = checked_size("embedding_dim", embedding_dim)
        self._weight = np.empty((self.max_time, self.embedding_dim), checked_dtype(dtype))
        self.reset_parameters(np.random.default_rng(seed))

    @property
    def weight(self) -> Array:
        return self._weight

    def __repr__(self) -> str:
        return f"PositionalEmbedding({self.max_time}, {self.embedding_dim})"

    def parameters(self) -> dict[str, Array]:
        return {"weight": self._weight}

    def reset_parameters(self, rng: np.random.Generator) -> None:
        self._weight[...] = rng.normal(0, 0.02, self._weight.shape)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3 or not 1 <= shape[1] <= self.max_time or shape[2] != self.embedding_dim:
            takes = f"[batch, 1 to {self.max_time}, {self.embedding_dim}]"
            raise ValueError(f"{self} takes {takes}, not {list(shape)}")
        return shape

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        of = to.kernels.describe("positions", self.max_time)
        y = to.value(x.shape)
        to.emit("positions_forward", of, x.shape, (x, self._weight, y))

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            to.emit("positions_backward", of, x.shape, (dy, to.gradient(self._weight)))
            return dy if needs_dx else None

        return y, backward
