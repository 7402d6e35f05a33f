"""Dropout: elements that are set to 0 at random while training."""

from __future__ import annotations

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import Activation, finite
from fastgd.nn.base import Backward, Layer
from fastgd.nn.program import Builder, Shape, Value


def checked_probability(name: str, p: float) -> float:
    checked = finite(name, p, 0)
    if checked > 1:
        raise ValueError(f"{name} must be at most 1, not {p}")
    return checked


class Dropout(Layer):
    """While training, each element becomes 0 with probability p, and is else multiplied by 1 / (1 - p).

    Srivastava et al. 2014, section 10 (scaled while training). Otherwise x stays as it is.

    p: 0 to 1. Default 0.5. TypeError or ValueError for others.
    seed: an integer or a numpy Generator the random bits come of. Default 0. A model's seed draws them anew.

    The mask is a function of the seed, of which of the model's dropout layers this is, of the element's
    index, and of the buffer "counter", uint64 [1], which says how many masks have been drawn: nothing else is
    kept, the backward pass finds the same mask, and all backends, instruction sets and numbers of threads do.
    """

    def __init__(self, p: float = 0.5, *, seed: int | np.random.Generator = 0) -> None:
        self.p = checked_probability("p", p)
        self._stream = np.zeros(1, np.uint64)
        self._counter = np.zeros(1, np.uint64)
        self.reset_parameters(np.random.default_rng(seed))

    def __repr__(self) -> str:
        return f"Dropout(p={self.p})"

    def buffers(self) -> dict[str, Array]:
        return {"counter": self._counter}

    def torch_buffers(self) -> dict[str, Array]:
        return {}

    def reset_parameters(self, rng: np.random.Generator) -> None:
        self._stream[0] = rng.integers(2**64, dtype=np.uint64)
        self._counter[0] = 0

    def branch(self, number: int) -> None:
        """Draws other masks from now on than copies with another number: replicas that see different rows.

        number: from 0, which leaves the masks as they are, to 2^32 - 1.
        """
        self._stream[0] ^= np.uint64(number << 32)

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        place = to.next_place()
        if not to.training:
            return x, lambda dy, needs_dx: dy if needs_dx else None
        of = to.kernels.describe("dropout", self.p, place)
        y = to.value(x.shape)
        to.emit("dropout_forward", of, (x.size,), (x, self._stream, self._counter, y))

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            if not needs_dx:
                return None
            to.emit("dropout_backward", of, (x.size,), (dy, self._stream, self._counter, dy))
            return dy

        return y, backward
