"""Random directions of which every filter is as long as the weights' own, so that landscapes compare.

Without it, a model whose weights are all larger looks flatter, though it may compute the same: Li et al.
2018, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.checks import flag, named, one_of, optional, whole
from fastgd.weights import Weights

__all__ = ["NORMALIZATIONS", "filter_normalized", "random_direction"]


class Normalization(NamedTuple):
    """How long the parts of a random direction are."""

    #: (direction, weights) of one parameter, shaped as it -> its direction
    scaled: Callable[[Array, Array], Array]
    #: what a coordinate along the direction counts in
    unit: str


def _by_rows(direction: Array, weights: Array, rows: int) -> Array:
    """The direction, each of as many equal parts as long as the part of the weights; 0 where this is 0."""
    if not direction.size:
        return direction
    parts, own = direction.reshape(rows, -1), weights.reshape(rows, -1)
    length = np.linalg.norm(parts, axis=1, keepdims=True)
    wanted = np.linalg.norm(own, axis=1, keepdims=True)
    scale = np.divide(wanted, length, out=np.zeros_like(length), where=length > 0)
    scaled: Array = (parts * scale).reshape(direction.shape)
    return scaled


def _by_filters(direction: Array, weights: Array) -> Array:
    """A filter is what makes one output: a row of a matrix, and what the first dimension of more counts."""
    return _by_rows(direction, weights, weights.shape[0] if weights.ndim > 1 else 1)


#: name -> what it is; "none" leaves standard normal numbers as they are
NORMALIZATIONS = {
    "filter": Normalization(_by_filters, "share of the norm of each filter"),
    "tensor": Normalization(lambda d, w: _by_rows(d, w, 1), "share of the norm of each tensor"),
    "none": Normalization(lambda d, w: d, "times standard normal numbers"),
}


def random_direction(
    params: Any, seed: Any = 0, normalize: str = "filter", biases: bool | None = None
) -> list[Array]:
    """A random direction for the weights as they are now, as a list of float64 arrays shaped as params.

    params: arrays, tensors, nn.Sequential or a torch module.
    seed: a whole number, or a numpy Generator to draw from. Default 0.
    normalize: "filter" (default): each filter of standard normal numbers gets the norm of the weights' filter
        (Li et al. 2018, section 4); "tensor": each parameter as a whole does; "none".
        A filter is what makes one output: a row of a matrix, and of a convolution all that has one index in
        the first dimension.
    biases: whether parameters with one dimension or none (biases, weights of norm layers) move too, as one
        filter each. Default None: only where there are no others, as in the authors' code.

    Raises ValueError for weights that are not finite, or so many zeros that the direction is zero.
    """
    weights = Weights(params)
    rng = np.random.default_rng(named("seed", _seed, seed))
    return weights.split(random_vector(weights, rng, normalize, biases))


def filter_normalized(params: Any, direction: Any) -> list[Array]:
    """A direction with each filter as long as the weights' own, as `random_direction` scales one."""
    weights = Weights(params)
    return weights.split(_normalized(weights, weights.joined(direction, "direction"), "filter", True))


def random_vector(weights: Weights, rng: np.random.Generator, normalize: str, biases: bool | None) -> Array:
    """`random_direction` as a vector of float64."""
    normalize = named("normalize", one_of(*NORMALIZATIONS), normalize)
    biases = named("biases", optional(flag), biases)
    if biases is None:
        biases = all(array.ndim < 2 for array in weights.arrays)
    direction = _normalized(weights, rng.standard_normal(weights.size), normalize, biases)
    if not direction.any():
        raise ValueError("every weight that may move is 0, and so is the direction: use normalize='none'")
    return direction


def _normalized(weights: Weights, direction: Array, normalize: str, biases: bool) -> Array:
    at = weights.split(weights.finite_vector())
    scaled = NORMALIZATIONS[normalize].scaled
    parts = [
        scaled(part, own) if biases or own.ndim > 1 else np.zeros_like(part)
        for part, own in zip(weights.split(direction), at, strict=True)
    ]
    return np.concatenate([part.reshape(-1) for part in parts])


def _seed(value: Any) -> Any:
    return value if isinstance(value, np.random.Generator) else whole(0)(value)
