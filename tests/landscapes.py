"""Weights and a loss whose landscape is known."""

from __future__ import annotations

import ml_dtypes
import numpy as np

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]


def normal(*shape, seed=0, dtype=np.float64):
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def bowl(params):
    """A function of the squared distance from 1 of all elements."""
    return lambda: sum(float(((p.astype(np.float64) - 1) ** 2).sum()) for p in params)
