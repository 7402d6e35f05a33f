"""What a step may change, as bytes: to assert that all of it changed alike, or none of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import fastgd
from fastgd import backends
from fastgd.rules import RULES

#: those that work on arrays of NumPy's and have every rule; what the others have is in tests of their own
BACKENDS = tuple(
    name
    for name in backends.MODULES
    if name != backends.AUTO["cuda"]
    and all(backends.get(name).supports(rule, "float32") for rule in RULES.values())
)


def contents(opt: fastgd.Optimizer) -> tuple[Any, ...]:
    """Parameters, their copies, state, step counts and settings, comparable with `==`."""
    saved = opt.state_dict()
    members = [p for group in opt.param_groups for p in group.members]
    params = [a.tobytes() for p in members for a in (p.array, p.copy) if a is not None]
    state = {
        number: {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in entry.items()}
        for number, entry in saved["state"].items()
    }
    return params, state, (saved["param_groups"], saved["seed"], saved.get("training"))


@contextmanager
def unchanged(opt: fastgd.Optimizer) -> Iterator[None]:
    """Asserts that the block changed nothing of the optimizer."""
    before = contents(opt)
    yield
    assert contents(opt) == before


def random(shape: Any, seed: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def fitted(rule, shape):
    """The shape, or one of as many elements in the number of dimensions that the rule is for."""
    rule = RULES[rule] if isinstance(rule, str) else rule
    if rule.ndim in (None, len(shape)):
        return shape
    assert rule.ndim == 2
    size = math.prod(shape)
    rows = max((d for d in range(1, math.isqrt(size) + 1) if size % d == 0), default=0)
    return rows, size // rows if rows else 3


def rebuilt(opt):
    """An optimizer with nothing prepared, over copies of the parameters, as far along as this one."""
    groups = [{**group, "params": [np.array(p) for p in group["params"]]} for group in opt.param_groups]
    copies = [None if p.copy is None else p.copy.copy() for g in opt.param_groups for p in g.members]
    other = type(opt)(groups, backend=opt.backend.name, copies=copies)
    other.load_state_dict(opt.state_dict())
    return other


def check_step(opt, grads, **options):
    """Makes a step and asserts that one without a past plan does the very same."""
    other = rebuilt(opt)
    expected = other.step([None if g is None else np.array(g) for g in grads], **options)
    assert opt.step(grads, **options) == expected
    assert contents(opt) == contents(other)


def stepped(opt, params):
    """The number of steps that parameters and state agree to have been made, with gradients of one.

    With lr 1 and momentum 1, the buffer is t after t steps and the parameter -t (t + 1) / 2.
    """
    state = opt.state_dict()["state"]
    if not state:
        assert all(not p.any() for p in params)
        return 0
    counts = {entry["step"] for entry in state.values()}
    assert len(state) == len(params)
    assert len(counts) == 1
    t = counts.pop()
    for i, p in enumerate(params):
        assert np.all(state[i]["momentum_buffer"] == t)
        assert np.all(p == -t * (t + 1) / 2)
    return t
