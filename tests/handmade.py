"""Trainings without an optimizer: work for a backend put together by hand, with all that may stand beside a
parameter.
"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from fastgd import backends
from fastgd.backends.base import Block, Carriers, Codes, Item, Options, Work
from fastgd.kept import kept_for
from fastgd.rules import RULES, resolved
from fastgd.settings import DEFAULTS
from fastgd.storage import arithmetic, load, store

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)
F32, F64 = np.dtype(np.float32), np.dtype(np.float64)
FLOATS = (F32, F64, BF16, F16)


def random(seed, shape, dtype=F64, scale=1.0):
    """Normal random numbers, rounded to nearest."""
    values = np.random.default_rng(seed).standard_normal(shape) * scale
    return store(values.reshape(-1), np.dtype(dtype)).reshape(shape)


def numbers(stored):
    """What an array stands for, in the precision that its parameter would be computed in."""
    return load(stored, arithmetic(stored.dtype))


def norm(values):
    """The 2-norm, summed without rounding."""
    return math.sqrt(math.fsum(float(v) ** 2 for v in values.reshape(-1)))


def close(a, b):
    """Equal but for some roundings of float64."""
    np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


class Training:
    """Parameters with the same hyperparameters and settings, on one backend.

    state_dtype: a dtype, CODED, or None for that of the parameter. copy: dtype of a copy of each parameter.
    groups: the number of each parameter's.
    """

    def __init__(
        self, rule, params, *, state_dtype=None, copy=None, groups=None, seed=0, backend="reference", **values
    ):
        self.rule = rule = RULES[rule] if isinstance(rule, str) else rule
        self.params, self.seed, self.backend = params, seed, backends.get(backend)
        stored_in = getattr(state_dtype, "name", state_dtype)
        self.values = resolved(rule, {**rule.defaults, **DEFAULTS, "state_dtype": stored_in, **values})
        self.groups = groups or [0] * len(params)
        self.seen = [rule.seen(self.values, p.shape, p.dtype.name) for p in params]
        active = [rule.active_slots(seen) for seen in self.seen]
        kept = [kept_for(a, self.values, p, None, False) for a, p in zip(active, params, strict=True)]
        self.state = [k.slots for k in kept]
        self.residuals, self.averages = [k.residual for k in kept], [k.average for k in kept]
        self.copies = [None if copy is None else np.zeros(p.shape, copy) for p in params]
        self.steps = np.zeros(len(params), np.int64)
        self.carried = np.full((len(params), 2, len(rule.carried)), rule.carried_at_first)

    def arrays(self):
        """Everything that a step may change."""
        state = [part for entry in self.state for slot in entry for part in parts(slot)]
        rest = [a for a in [*self.residuals, *self.averages, *self.copies] if a is not None]
        return [self.steps, *self.params, *state, *rest]

    def bytes(self):
        return [a.tobytes() for a in self.arrays()]

    def step(self, grads, *, rows=None, orders=None, **options):
        items = [
            Item(
                param=p,
                grad=grad,
                state=self.state[i],
                block=i,
                counter=i,
                order=tuple(range(p.ndim)) if orders is None else orders[i],
                group=self.groups[i],
                residual=self.residuals[i],
                average=self.averages[i],
                copy=self.copies[i],
                rows=None if rows is None else rows[i],
            )
            for i, (p, grad) in enumerate(zip(self.params, grads, strict=True))
        ]
        work = Work([self._block(i) for i in range(len(items))], items, self.steps, self.seed)
        return self.backend.plan(work).step(Options(**options))

    def _block(self, i):
        """Of one parameter: two need not share what their rule asks of shapes, nor what they carry."""
        carriers = Carriers(self.carried, [i]) if self.rule.carried else ()
        return Block(self.rule, self.seen[i], i, carriers)


def parts(slot):
    return [] if slot is None else list(slot) if isinstance(slot, Codes) else [slot]
