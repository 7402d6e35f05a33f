"""fastgd for JAX: optax transformations whose whole step is one native call under jit, in place, and models.

import fastgd.jax as fgd

opt = fgd.adamw(3e-4, clip_norm=1.0)
state = opt.init(params)
step = jax.jit(opt.step, donate_argnums=(0, 2))
params, state = step(params, grads, state)
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("jax") is None:
    raise ModuleNotFoundError("fastgd.jax needs JAX: pip install 'fastgd[jax]'", name="jax")

from fastgd.jax.models import function
from fastgd.jax.optimizer import Optimizer
from fastgd.jax.optimizers import FUNCTIONS
from fastgd.jax.packed import Packed, pack
from fastgd.jax.state import State

globals().update(FUNCTIONS)

__all__ = [*FUNCTIONS, "Optimizer", "Packed", "State", "function", "pack"]
