"""Whether a flat place is a saddle: the smallest eigenvalue of the Hessian beside the largest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.curvature import hessian_vector_product
from fastgd.interrupts import uninterrupted
from fastgd.weights import Weights

#: Hessian-vector products, of two gradients each
PRODUCTS = 20


def smallest(model: Any, gradients: Callable[[], Sequence[Any]], written: Sequence[Array]) -> float | None:
    """The smallest eigenvalue found of the Hessian, divided by the largest magnitude found: -1 to 1.

    After so few steps the method of Lanczos has found a value between the smallest eigenvalue and the others,
    so that one below 0 proves that there is a direction in which the loss falls ever faster. 0 where what it
    found is rounding: where it is not found again over twice the distance.

    written: arrays that taking gradients changes beside what the model holds; they are put back. None where
    gradients are not finite, or parameters have 16 bits.
    """
    before = [array.copy() for array in written]
    try:
        return _smallest(model, gradients)
    except (TypeError, ValueError):
        return None
    finally:
        with uninterrupted():
            for array, kept in zip(written, before, strict=True):
                array[...] = kept


def _smallest(model: Any, gradients: Callable[[], Sequence[Any]]) -> float:
    weights = Weights(model)
    # the length of a step of float32's central differences (Nocedal and Wright 2006, section 8.1)
    length = 2.0**-8 * (1 + float(np.linalg.norm(weights.vector())))

    def product(vector: Array, eps: float) -> Array:
        return weights.joined(hessian_vector_product(model, gradients, weights.split(vector), eps), "product")

    values, vector = lanczos(lambda v: product(v, length), weights.size)
    scale = float(np.abs(values).max())
    again = float(vector @ product(vector, 2 * length))
    if scale == 0 or abs(again - values[0]) > 0.5 * abs(values[0]):
        return 0.0
    return float(values[0]) / scale


def lanczos(product: Callable[[Array], Array], size: int, steps: int = PRODUCTS) -> tuple[Array, Array]:
    """Eigenvalues of a symmetric matrix in the space of a few products, ascending, and the first's vector.

    Lanczos 1950, with each vector made orthogonal to all before it; begun with a random one, always the same.
    """
    vector = np.random.default_rng(0).standard_normal(size)
    vector /= np.linalg.norm(vector)
    basis, diagonal, beside = [vector], [], []
    for _ in range(min(steps, size)):
        new = product(basis[-1])
        diagonal.append(float(basis[-1] @ new))
        for _ in range(2):  # twice is enough (Parlett 1980, section 6-9)
            for known in basis:
                new -= (known @ new) * known
        norm = float(np.linalg.norm(new))
        beside.append(norm)
        if norm <= 1e-6 * max(map(abs, diagonal + beside)) or len(basis) == min(steps, size):
            break
        basis.append(new / norm)
    n = len(diagonal)
    matrix = np.diag(diagonal) + np.diag(beside[: n - 1], 1) + np.diag(beside[: n - 1], -1)
    values, vectors = np.linalg.eigh(matrix)
    return values, np.array(basis[:n]).T @ vectors[:, 0]
