"""fastgd.jax: steps under jit have the bits of the core optimizer, and are made in place."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd import optim
from fastgd.oracle.settings import SETTINGS
from fastgd.rules import RULES

jax = pytest.importorskip("jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
fgd = pytest.importorskip("fastgd.jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
jnp = jax.numpy
pytestmark = pytest.mark.peer


def shapes_for(rule):
    return (
        [(20, 30), (30, 20), (1, 5)] if RULES[rule].ndim else [(20, 30), (7,), (300,), (), (0, 4), (2, 3, 5)]
    )


def both(rule, settings, *, dtype=np.float32, grad_dtype=None, steps=12, **options):
    """(the core optimizer's parameters, those of fastgd.jax, its state) after some steps."""
    rng = np.random.default_rng(0)
    own = [rng.standard_normal(shape).astype(dtype) for shape in shapes_for(rule)]
    params = {f"p{i}": jnp.array(p) for i, p in enumerate(own)}
    core = optim.create(rule, own, **settings)
    opt = getattr(fgd, rule)(**settings, **options)
    state, step = opt.init(params), jax.jit(opt.step, donate_argnums=(0, 2))
    for _ in range(steps):
        grads = [rng.standard_normal(p.shape).astype(grad_dtype or dtype) for p in own]
        core.step(grads, **options)
        params, state = step(params, {f"p{i}": jnp.array(g) for i, g in enumerate(grads)}, state)
    return own, [np.asarray(params[f"p{i}"]) for i in range(len(own))], state


def same_bits(a, b):
    return all(x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(("rule", "number"), [(r, i) for r in RULES for i in range(len(SETTINGS[r]))])
def test_bits_of_the_core_optimizer(rule, number):
    mine, theirs, state = both(rule, SETTINGS[rule][number])
    assert same_bits(mine, theirs)
    assert state.count == 12
