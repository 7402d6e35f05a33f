"""Trees of arrays as a step sees them: leaves, also those of packed trees, and where in memory each lies."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastgd.jax.packed import Packed, check_dtype, packed


class Part(NamedTuple):
    """An array, or a part of one."""

    #: which of the arrays it lies in
    array: int
    #: bytes from there to where it begins
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def among(self, others: int) -> Part:
        """Of the arrays behind so many others."""
        return self._replace(array=self.array + others)


class Leaves:
    """The leaves of a pytree of parameters.

    Raises TypeError, naming the leaf, for one of a dtype that fastgd does not work on.
    """

    def __init__(self, params: Any) -> None:
        flattened: Any = jax.tree_util.tree_flatten_with_path(params, is_leaf=_is_packed)
        pairs, self._structure = flattened
        self._nodes = [node for _, node in pairs]
        #: all arrays
        self.arrays: list[Any] = []
        self.parts: list[Part] = []
        #: of each leaf, as Python would write it
        self.paths: list[str] = []
        trees = []
        for path, node in pairs:
            name = jax.tree_util.keystr(path)
            if not _is_packed(node):
                check_dtype(f"params{name}", node)
            tree, parts = parts_of(node, f"params{name}")
            inner, _ = jax.tree_util.tree_flatten_with_path(tree)
            self.paths += [name + jax.tree_util.keystr(rest) for rest, _ in inner]
            self.parts += [part.among(len(self.arrays)) for part in parts]
            self.arrays += _arrays_of(node)
            trees.append(tree)
        #: the structure of the tree, with packed ones as the trees they are
        self.tree: Any = jax.tree.structure(self._structure.unflatten(trees))

    def gradients(self, grads: Any) -> tuple[list[Any], list[Part | None]]:
        """(arrays, where among them the gradient of each leaf is; None: it has none).

        Raises TypeError or ValueError, naming the gradient, for what is none.
        """
        arrays: list[Any] = []
        found: list[Part | None] = []
        leaf = 0
        for node, grad in zip(self._nodes, beside(self._structure, "grads", grads), strict=True):
            count = len(node.layout.shapes) if _is_packed(node) else 1
            paths, own = self.paths[leaf : leaf + count], self.parts[leaf : leaf + count]
            leaf += count
            if grad is None:
                found += [None] * count
                continue
            if _is_packed(node) and not (_is_packed(grad) and grad.layout == node.layout):
                kind = type(grad).__name__
                raise ValueError(f"grads has another structure than params: grads{paths[0]} is a {kind}")
            for array in _arrays_of(grad):
                check_dtype(f"grads{paths[0]}", array)
            _, parts = parts_of(grad, f"grads{paths[0]}")
            for path, part, mine in zip(paths, parts, own, strict=True):
                if part.shape != mine.shape:
                    raise ValueError(f"grads{path} has shape {part.shape}, the parameter {mine.shape}")
            found += [part.among(len(arrays)) for part in parts]
            arrays += _arrays_of(grad)
        return arrays, found

    def values(self) -> list[Any]:
        """The array of each leaf."""
        return [leaf for node in self._nodes for leaf in jax.tree.leaves(_unpacked(node))]

    def of_arrays(self, arrays: Sequence[Any]) -> Any:
        """The tree of others in place of `arrays`."""
        rest, nodes = iter(arrays), []
        for node in self._nodes:
            mine = [next(rest) for _ in _arrays_of(node)]
            nodes.append(Packed(mine, node.layout) if _is_packed(node) else mine[0])
        return self._structure.unflatten(nodes)

    def of_values(self, values: Sequence[Any]) -> Any:
        """The tree of others in place of `values()`, packed where these are."""
        rest, nodes = iter(values), []
        for node in self._nodes:
            if not _is_packed(node):
                nodes.append(next(rest))
                continue
            mine = node.layout.tree.unflatten([next(rest) for _ in node.layout.shapes])
            nodes.append(packed(mine, node.layout.joined))
        return self._structure.unflatten(nodes)


def parts_of(node: Any, name: str) -> tuple[Any, list[Part]]:
    """(the tree of a packed one, with numbers for arrays; its parts), and of an array alike.

    Raises ValueError, with this name, for arrays together that are longer or shorter than their parts.
    """
    if not _is_packed(node):
        return 0, [Part(0, 0, tuple(node.shape), _dtype_of(node))]
    parts, lengths = [], [0] * len(node.layout.held)
    leaves = zip(node.layout.shapes, node.layout.joined, node.layout.places(), strict=True)
    for shape, joined, (number, begin) in leaves:
        array = node.arrays[number]
        if joined:
            lengths[number] += math.prod(shape)
        dtype = _dtype_of(array)
        parts.append(Part(number, begin * dtype.itemsize, shape if joined else tuple(array.shape), dtype))
    for array, length in zip(node.arrays, lengths, strict=False):
        if tuple(array.shape) != (length,):
            raise ValueError(
                f"{name} has an array of shape {tuple(array.shape)} for small arrays of {length} elements "
                "together: vmap goes over all of its arrays, and within shard_map it is made there"
            )
    return node.layout.tree.unflatten(range(len(parts))), parts


def beside(tree: Any, name: str, other: Any) -> list[Any]:
    """What another tree has in place of each leaf; ValueError, with this name for it, where it has none."""
    try:
        return list(tree.flatten_up_to(other))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has another structure than params: {error}") from None


def stand_in(part: Part) -> np.ndarray[Any, Any]:
    """An array of this shape and dtype, which takes no memory."""
    return np.broadcast_to(np.zeros((), part.dtype), part.shape)


def _is_packed(node: Any) -> bool:
    return isinstance(node, Packed)


def _unpacked(node: Any) -> Any:
    return node.tree() if _is_packed(node) else node


def _dtype_of(array: Any) -> np.dtype[Any]:
    """What XLA is given for it: for an array of NumPy's in float64, float32, unless jax_enable_x64 is on."""
    return np.dtype(jax.dtypes.canonicalize_dtype(array.dtype))


def _arrays_of(node: Any) -> list[Any]:
    """Its arrays, as JAX takes them."""
    arrays = node.arrays if _is_packed(node) else [node]
    return [jnp.asarray(array) if isinstance(array, np.ndarray) else array for array in arrays]
