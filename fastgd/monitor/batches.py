"""What batches of inputs and targets are like: the sizes of features, and whether anything varies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastgd.arrays import Array

#: rows of a batch that are measured, and batches
ROWS, BATCHES = 256, 50


class Facts:
    """Running sums over the first batches: no more is kept of the data."""

    def __init__(self) -> None:
        self.batches = 0
        #: examples that were measured, and in the largest batch
        self.examples = self.rows = 0
        self.least, self.most = math.inf, -math.inf
        #: whether the values are integers: indices or labels
        self.integers = False
        self._sums: Array = np.zeros(0)
        self._squares: Array = np.zeros(0)
        self._count = 0

    def add(self, values: Any, ignored: int | None = None) -> None:
        """Measures a batch [batch, ...] unless enough have been. ignored: a label that does not count."""
        if self.batches >= BATCHES:
            return
        array = np.asarray(values)[:ROWS]
        self.integers = array.dtype.kind in "iub"
        if self.integers and ignored is not None:
            array = array[array != ignored]
        if not array.size:
            return
        # features are told apart where a row is a vector; pixels and steps of time are of one kind
        columns = array.reshape(-1, array.shape[-1] if array.ndim == 2 else 1)
        numbers = columns.astype(np.float64)
        if not np.isfinite(numbers).all():
            return
        self.batches += 1
        self.examples += len(array)
        self.rows = max(self.rows, len(array))
        self.least, self.most = min(self.least, numbers.min()), max(self.most, numbers.max())
        if self._sums.shape != numbers.shape[1:]:
            self._sums, self._squares = np.zeros(numbers.shape[1]), np.zeros(numbers.shape[1])
            self._count = 0
        self._sums += numbers.sum(axis=0)
        self._squares += np.square(numbers).sum(axis=0)
        self._count += len(numbers)

    @property
    def rms(self) -> float:
        """The root of the mean square of all values; NaN before there are any."""
        if not self._count:
            return math.nan
        return math.sqrt(float(self._squares.mean()) / self._count)

    @property
    def deviations(self) -> Array:
        """The standard deviation of each feature, of those that vary."""
        if not self._count:
            return np.zeros(0)
        means = self._sums / self._count
        variances = self._squares / self._count - np.square(means)
        # what is left of rounding is no variance
        varies = variances > 1e-12 * np.square(means)
        spread: Array = np.sqrt(variances[varies])
        return spread

    @property
    def constant(self) -> bool:
        """Whether no feature varies over the examples measured, where batches have several."""
        return self.rows > 1 and not len(self.deviations)
