"""Packed: a pytree's arrays in one array for each dtype, so that compiled functions are given few of them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastgd.arrays import CODES, code_of


class Layout(NamedTuple):
    """Where arrays are: the structure of the tree, and of each leaf what follows."""

    tree: Any
    shapes: tuple[tuple[int, ...], ...]
    #: names of dtypes
    dtypes: tuple[str, ...]
    #: whether it lies with others of its dtype; the other leaves are arrays of their own
    joined: tuple[bool, ...]

    @property
    def held(self) -> list[str]:
        """The dtypes of leaves that lie together, in the order of their arrays, which come first."""
        return list(dict.fromkeys(itertools.compress(self.dtypes, self.joined)))

    def places(self) -> list[tuple[int, int]]:
        """Of each leaf: the number of its array, and the element where it begins there."""
        ends = dict.fromkeys(self.held, 0)
        arrays, alone = {dtype: i for i, dtype in enumerate(ends)}, itertools.count(len(ends))
        found = []
        for shape, dtype, joined in zip(self.shapes, self.dtypes, self.joined, strict=True):
            if joined:
                found.append((arrays[dtype], ends[dtype]))
                ends[dtype] += math.prod(shape)
            else:
                found.append((next(alone), 0))
        return found


@jax.tree_util.register_pytree_with_keys_class
class Packed:
    """A pytree of arrays, of which those that lie together are one array [elements] for each dtype.

    Most of what a step of many small parameters takes under jit is JAX's handling of each array. `pack` puts
    all arrays of a tree together, an optimizer the small ones of its state. It is a pytree of its arrays.

        packed = fgd.pack(params)
        state = opt.init(packed)
        step = jax.jit(opt.step, donate_argnums=(0, 2))
        gradient = jax.jit(jax.grad(lambda packed: loss(packed.tree())))
        packed, state = step(packed, gradient(packed), state)
        params = packed.tree()

    A step of fastgd.jax sees the tree's arrays in it, with the bits of a step of the tree.
    """

    def __init__(self, arrays: Sequence[Any], layout: Layout) -> None:
        self.arrays, self.layout = tuple(arrays), layout

    def tree(self) -> Any:
        """The pytree that was packed, of parts of these arrays."""
        tree, shapes, dtypes, joined = self.layout
        held = self.layout.held
        sizes: dict[str, list[int]] = {dtype: [] for dtype in held}
        for shape, dtype in itertools.compress(zip(shapes, dtypes, strict=True), joined):
            sizes[dtype].append(math.prod(shape))
        parts = {
            dtype: iter(jax.lax.split(array, sizes[dtype]))
            for dtype, array in zip(held, self.arrays, strict=False)
        }
        alone = iter(self.arrays[len(held) :])
        leaves = [
            next(parts[dtype]).reshape(shape) if together else next(alone)
            for shape, dtype, together in zip(shapes, dtypes, joined, strict=True)
        ]
        return tree.unflatten(leaves)

    def tree_flatten(self) -> tuple[tuple[Any, ...], Layout]:
        """For JAX."""
        return self.arrays, self.layout

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Layout]:
        """For JAX: arrays under the names of their dtypes, and those of single leaves under their paths."""
        tree, _, dtypes, joined = self.layout
        paths, _ = jax.tree_util.tree_flatten_with_path(tree.unflatten(range(len(dtypes))))
        alone = [
            jax.tree_util.keystr(path)
            for (path, _), with_others in zip(paths, joined, strict=True)
            if not with_others
        ]
        names = map(jax.tree_util.DictKey, [*self.layout.held, *alone])
        return list(zip(names, self.arrays, strict=True)), self.layout

    @classmethod
    def tree_unflatten(cls, layout: Layout, arrays: Sequence[Any]) -> Packed:
        """For JAX."""
        return cls(arrays, layout)

    def __repr__(self) -> str:
        alone = self.layout.joined.count(False)
        together = f"{len(self.layout.shapes) - alone} arrays in {' and '.join(self.layout.held) or 'none'}"
        return f"Packed({together}{f', {alone} as they are' if alone else ''})"


def pack(params: Any) -> Packed:
    """A pytree of arrays as Packed, all of one dtype together; None in it is no array.

    Raises TypeError for arrays of other dtypes than fastgd's, naming them, and ValueError where there is no
    array.
    """
    pairs, _ = jax.tree_util.tree_flatten_with_path(params)
    if not pairs:
        raise ValueError("params has no arrays")
    for path, leaf in pairs:
        check_dtype(f"params{jax.tree_util.keystr(path)}", leaf)
    return packed(params, [True] * len(pairs))


def packed(tree: Any, joined: Sequence[bool]) -> Packed:
    """joined: of each leaf, whether it lies with others of its dtype."""
    leaves, structure = jax.tree.flatten(tree)
    dtypes = tuple(np.dtype(leaf.dtype).name for leaf in leaves)
    layout = Layout(structure, tuple(leaf.shape for leaf in leaves), dtypes, tuple(joined))
    parts: dict[str, list[Any]] = {dtype: [] for dtype in layout.held}
    for leaf, dtype in itertools.compress(zip(leaves, dtypes, strict=True), joined):
        parts[dtype].append(jnp.ravel(leaf))
    alone = [leaf for leaf, with_others in zip(leaves, joined, strict=True) if not with_others]
    return Packed([*map(jnp.concatenate, parts.values()), *alone], layout)


def check_dtype(name: str, leaf: Any) -> None:
    """TypeError, naming it, for what is no array of a dtype that parameters and gradients have."""
    if not hasattr(leaf, "dtype") or code_of(np.dtype(leaf.dtype)) is None:
        kind = getattr(leaf, "dtype", type(leaf).__name__)
        raise TypeError(f"{name} is {kind}; fastgd works on {', '.join(CODES)}")
