"""What a step may change, as bytes: to assert that all of it changed alike, or none of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import fastgd

BACKENDS = ("native", "reference")


def contents(opt: fastgd.Optimizer) -> tuple[Any, ...]:
    """Parameters, state, step counts and hyperparameters, comparable with ``==``."""
    saved = opt.state_dict()
    params = [np.asarray(p).tobytes() for group in opt.param_groups for p in group["params"]]
    state = {
        number: {k: v if k == "step" else v.tobytes() for k, v in entry.items()}
        for number, entry in saved["state"].items()
    }
    return params, state, saved["param_groups"]


@contextmanager
def unchanged(opt: fastgd.Optimizer) -> Iterator[None]:
    """Asserts that the block changed nothing of the optimizer."""
    before = contents(opt)
    yield
    assert contents(opt) == before


def random(shape: Any, seed: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
