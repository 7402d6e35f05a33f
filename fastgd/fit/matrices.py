"""Inverses of small positive definite matrices, whatever their units; NaN where there are none."""

from __future__ import annotations

import numpy as np

from fastgd.arrays import Array

__all__ = ["inverse", "inverse_gram"]


def inverse_gram(x: Array) -> Array:
    """(x'x)^-1 for x [rows, columns], without computing x'x, which would have half as many digits."""
    columns = x.shape[1]
    lengths = np.linalg.norm(x, axis=0)
    with np.errstate(all="ignore"):
        upper = np.linalg.qr(x / lengths, mode="r")
        try:
            half = np.linalg.solve(upper, np.eye(columns)) / lengths[:, np.newaxis]
        except np.linalg.LinAlgError:
            return np.full((columns, columns), np.nan)
        result: Array = half @ half.T
    return result


def inverse(matrix: Array) -> Array:
    """matrix^-1, by way of a matrix with 1 on its diagonal."""
    lengths = np.sqrt(np.diag(matrix))
    scales = np.outer(lengths, lengths)
    with np.errstate(all="ignore"):
        try:
            result: Array = np.linalg.inv(matrix / scales) / scales
        except np.linalg.LinAlgError:
            return np.full_like(matrix, np.nan)
    return result
