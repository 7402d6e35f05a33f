"""Optimizers of the same parameters on the host and on stand-ins for devices, to be compared."""

from __future__ import annotations

import numpy as np
from snapshots import fitted, random
from standin import reach, upload

from fastgd import optim

F32 = np.float32


def values(shapes, seed, dtype=F32):
    return [random(shape, 10 * seed + i).astype(dtype) for i, shape in enumerate(shapes)]


def where(arrays, places):
    """Each on the host ("h") or on the device with that number."""
    return [a.copy() if p == "h" else upload(a, int(p)) for a, p in zip(arrays, places, strict=True)]


def bits(arrays):
    return [np.ascontiguousarray(reach(a)).tobytes() for a in arrays]


def both(rule, shapes, places="000", dtype=F32, **settings):
    """The same optimizer on the host, by the reference, and with parameters in these places."""
    params = values([fitted(rule, s) for s in shapes], 0, dtype)
    opts = [optim.create(rule, [p.copy() for p in params], backend="reference", **settings)]
    return [*opts, optim.create(rule, where(params, places), **settings)]


def step(opts, places, seed, dtype=F32, **options):
    grads = values([p.shape for p in opts[0].parameters()], seed, dtype)
    return [opt.step(where(grads, at), **options) for opt, at in zip(opts, ["hhh", places], strict=True)]


SHAPES = [(3, 4), (300,), (2, 3)]


def saved(opt):
    return contents_of(opt.state_dict())


def contents_of(state):
    """A state dict that can be compared with `==`; all its arrays are NumPy's."""
    entries = {
        number: {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in entry.items()}
        for number, entry in state["state"].items()
    }
    assert all(type(v) in (int, float, bytes) for entry in entries.values() for v in entry.values())
    return {**state, "state": entries}
