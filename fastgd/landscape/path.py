"""The path of a training through the space of weights, and the plane in which most of it lies."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.checks import named, whole
from fastgd.memory import to_host
from fastgd.storage import load
from fastgd.weights import Weights

__all__ = ["Path"]

#: a share of the variance that is rounding of the other direction's
NONE = 1e-13


class Path:
    """Weights at some moments of a training, for the axes of a plane and to be drawn on it.

        path = fastgd.landscape.Path(model)
        ...                                   # after each epoch
        path.record()
        plane = fastgd.landscape.plane(model, loss, directions=path)

    params: arrays, tensors, nn.Sequential or a torch module. Each record takes as many bytes as they do.
    """

    def __init__(self, params: Any) -> None:
        self._weights = Weights(params)
        self._records: list[list[Array]] = []

    def __len__(self) -> int:
        """How many records there are."""
        return len(self._records)

    def __repr__(self) -> str:
        return f"Path({len(self)} records of {self._weights.size} elements)"

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Those of the parameters."""
        return self._weights.shapes

    def record(self, weights: Any = None) -> None:
        """Adds the weights as they are now, or others of these shapes: a model's, an average's.

        Raises ValueError, naming the parameter, for weights that are not finite.
        """
        own = self._weights
        if weights is None:
            own.finite_vector()
            self._records.append([to_host(array) for array in own.arrays])
        else:
            vector = own.joined(weights, "weight")
            if not np.isfinite(vector).all():
                raise ValueError("weights hold NaN or infinity")
            self._records.append(own.split(vector))

    def principal_directions(self, seed: int = 0) -> tuple[Array, tuple[float, float]]:
        """The two directions in which the records vary most, and their shares of the variance.

        Returns vectors of length 1 at right angles, float64 [2, size], all parameters behind one another,
        and shares from 0 to 1. They are principal components of the records (Li et al. 2018, section 7.2,
        whose matrix w_t - w_end has the same ones), and the path begins on the left and below. A path on a
        line has no second direction: one at right angles is drawn with the seed, and is zero where there is
        only one parameter.

        Raises ValueError for fewer than two records and for records that are all alike.
        """
        seed = named("seed", whole(0), seed)
        if len(self) < 2:
            raise ValueError(f"a path has at least 2 records, and this one {len(self)}")
        tensors = range(len(self.shapes))
        products = np.zeros((len(self), len(self)))
        for k in tensors:
            centred = self._centred(k)
            products += centred @ centred.T
        values, vectors = np.linalg.eigh(products)
        total = float(values.sum())
        if total <= 0:
            raise ValueError("the records of the path are all alike")
        shares = float(values[-1]) / total, float(values[-2]) / total
        parts = [vectors[:, :-3:-1].T @ self._centred(k) for k in tensors]
        first, second = np.concatenate(parts, axis=1)
        first /= np.linalg.norm(first)
        if shares[1] <= NONE:
            shares = shares[0], 0.0
            second = np.random.default_rng(seed).standard_normal(len(first))
        # twice, for what rounding has left of the first
        for _ in range(2):
            second -= first * (first @ second)
        length = np.linalg.norm(second)
        directions = np.array([first, second / length if len(first) > 1 else 0 * second])
        begins, ends = self.coordinates(np.zeros(len(first)), directions)[[0, -1]]
        return directions * np.where(begins > ends, -1, 1)[:, None], shares

    def coordinates(self, at: Array, directions: Array) -> Array:
        """Of each record along each of these vectors, [directions, size], from `at` on, [size].

        Returns float64 [records, directions]; the vectors have length 1 and are at right angles.
        """
        found = []
        for record in self._records:
            vector = np.concatenate([load(array, np.float64).reshape(-1) for array in record])
            found.append(directions @ (vector - at))
        return np.array(found)

    def _centred(self, k: int) -> Array:
        """One parameter in all records less its mean, float64 [records, elements]."""
        stacked = np.array([load(record[k], np.float64).reshape(-1) for record in self._records])
        # from the last one on, which is near: sums of differences keep more bits
        stacked -= stacked[-1].copy()
        centred: Array = stacked - stacked.mean(axis=0)
        return centred
