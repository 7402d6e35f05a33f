"""Packed: a pytree's arrays in one array for each dtype, so that compiled functions are given few of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastgd.arrays import CODES, code_of


class Layout(NamedTuple):
    """Where arrays are: the structure of the tree, and of each leaf its shape and the name of its dtype."""

    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @property
    def held(self) -> list[str]:
        """The dtypes in the order of their arrays."""
        return list(dict.fromkeys(self.dtypes))

    def sizes(self, dtype: str) -> list[int]:
        """Of the leaves of that dtype, in their order."""
        return [math.prod(shape) for shape, own in zip(self.shapes, self.dtypes, strict=True) if own == dtype]


@jax.tree_util.register_pytree_with_keys_class
class Packed:
    """A pytree that `pack` has put together; itself a pytree of one array [elements] for each dtype.

    Most of what a step of many small parameters takes under jit is JAX's handling of each array.

        packed = fgd.pack(params)
        state = opt.init(packed)
        step = jax.jit(opt.step, donate_argnums=(0, 2))
        gradient = jax.jit(jax.grad(lambda packed: loss(packed.tree())))
        packed, state = step(packed, gradient(packed), state)
        params = packed.tree()

    Its elements get what they would get apart, but for the last bits of the norm of all gradients, and for
    the blocks of state_dtype="8bit" and random bits, which reach across parameters. Rules that look at each
    parameter (Muon, LAMB, LARS, Adafactor) refuse it.
    """

    def __init__(self, arrays: Sequence[Any], layout: Layout) -> None:
        self.arrays, self.layout = tuple(arrays), layout

    def tree(self) -> Any:
        """The pytree that was packed, of parts of these arrays."""
        parts = {
            dtype: iter(jax.lax.split(array, self.layout.sizes(dtype)))
            for dtype, array in zip(self.layout.held, self.arrays, strict=True)
        }
        shaped = zip(self.layout.dtypes, self.layout.shapes, strict=True)
        return self.layout.tree.unflatten([next(parts[dtype]).reshape(shape) for dtype, shape in shaped])

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Layout]:
        """For JAX: the arrays under the names of their dtypes."""
        named = zip(self.layout.held, self.arrays, strict=True)
        return [(jax.tree_util.DictKey(name), array) for name, array in named], self.layout

    @classmethod
    def tree_unflatten(cls, layout: Layout, arrays: Sequence[Any]) -> Packed:
        """For JAX."""
        return cls(arrays, layout)

    def __repr__(self) -> str:
        return f"Packed({len(self.layout.shapes)} arrays, in {' and '.join(self.layout.held)})"


def pack(params: Any) -> Packed:
    """A pytree of arrays as Packed; None in it is no array.

    Raises TypeError for arrays of other dtypes than fastgd's, naming them, and ValueError where there is no
    array.
    """
    pairs, tree = jax.tree_util.tree_flatten_with_path(params)
    if not pairs:
        raise ValueError("params has no arrays")
    by_dtype: dict[str, list[Any]] = {}
    for path, leaf in pairs:
        if not hasattr(leaf, "dtype") or code_of(np.dtype(leaf.dtype)) is None:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            name = jax.tree_util.keystr(path)
            raise TypeError(f"params{name} is {kind}; fastgd works on {', '.join(CODES)}")
        by_dtype.setdefault(np.dtype(leaf.dtype).name, []).append(jnp.ravel(leaf))
    leaves = [leaf for _, leaf in pairs]
    layout = Layout(
        tree, tuple(leaf.shape for leaf in leaves), tuple(np.dtype(leaf.dtype).name for leaf in leaves)
    )
    return Packed([jnp.concatenate(parts) for parts in by_dtype.values()], layout)
