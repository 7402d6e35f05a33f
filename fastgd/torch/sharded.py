"""Norms of gradients that lie in parts on several machines, as torch.distributed's DTensors.

Every rank measures the parts that it has, in float64. One all-reduce of a float64 for each rank, for all
gradients of a mesh (one for each of its dimensions that they are sharded over), then brings the norms of the
parts to all ranks, which combine them in the order of the ranks. So the result has the same bits on every
rank, whatever algorithm reduces, and no square overflows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from fastgd.torch.tensors import is_wrapper, local


class Placing(NamedTuple):
    """Where the elements of gradients are: alike for those that are measured together."""

    mesh: Any
    #: for each dimension of the mesh: whether ranks along it have different elements; else all have the same
    sharded: tuple[bool, ...]


class LocalPart(NamedTuple):
    """What a rank has of a gradient."""

    #: what is to be measured
    values: torch.Tensor
    #: what is to be multiplied; is `values` unless ranks hold terms of a sum
    own: torch.Tensor
    #: None: the gradient is not distributed, and lies here
    placing: Placing | None


def is_sum(tensor: Any) -> bool:
    """Whether a DTensor is the sum, or the like, of what the ranks of some dimension hold."""
    return any(placement.is_partial() for placement in tensor.placements)


def local_part(gradient: torch.Tensor) -> LocalPart:
    """What this rank has of it. Of one that is a sum of terms the whole is gathered to be measured."""
    if not is_wrapper(gradient):
        return LocalPart(gradient, gradient, None)
    from torch.distributed.tensor import Replicate

    grad: Any = gradient
    whole = grad
    if is_sum(grad):
        whole = grad.redistribute(placements=[Replicate() if p.is_partial() else p for p in grad.placements])
    sharded = tuple([not isinstance(p, Replicate) for p in whole.placements])
    return LocalPart(local(whole), local(grad), Placing(grad.device_mesh, sharded))


def combined(norms: Iterable[float], norm_type: float) -> float:
    """The norm of vectors put together, by the norm of each; 0.0 for none. norm_type 0 counts elements."""
    values = np.array(list(norms), np.float64)
    if values.size == 0:
        return 0.0
    if math.isnan(norm_type) or np.isnan(values).any():
        return math.nan
    if norm_type == 0:
        return float(values.sum())
    most = values.max() if norm_type > 0 else values.min()
    if math.isinf(norm_type) or most == 0 or np.isinf(most) or values.size == 1:
        return float(most)
    return float(most * np.sum((values / most) ** norm_type) ** (1 / norm_type))


def nothing(norm_type: float) -> float:
    """The norm that counts for nothing when it is combined with another."""
    return math.inf if norm_type < 0 else 0.0


def total_norm(norms: Mapping[Placing | None, float], norm_type: float = 2.0) -> float:
    """The norm of all gradients on all ranks, by the norms of what this rank has of those of each placing.

    Every rank of every mesh must call it, with the same placings in the same order; a rank that has no
    elements of some gives 0.0 for these. Gradients that are not distributed (None) count once: they are taken
    to be the same everywhere. NaN when one is NaN.
    """
    meshes: dict[Any, list[Placing]] = {}
    for placing in norms:
        if placing is not None:
            meshes.setdefault(placing.mesh, []).append(placing)
    whole = [_over_mesh(mesh, {p: norms[p] for p in of}, norm_type) for mesh, of in meshes.items()]
    return combined([*([norms[None]] if None in norms else []), *whole], norm_type)


def _over_mesh(mesh: Any, norms: Mapping[Placing, float], norm_type: float) -> float:
    """The norm of gradients of one mesh, on all its ranks."""
    place: Sequence[int] | None = mesh.get_coordinate()
    if place is None:  # this rank is not in the mesh, and learns nothing of it
        return nothing(norm_type)
    sharded = [any(placing.sharded[d] for placing in norms) for d in range(mesh.ndim)]
    # of ranks that have the same elements, the first counts
    counted = [
        norm
        for placing, norm in norms.items()
        if not any(sharded[d] and not placing.sharded[d] and place[d] > 0 for d in range(mesh.ndim))
    ]
    norm = combined(counted, norm_type) if counted else nothing(norm_type)
    for d in range(mesh.ndim):
        if sharded[d] and mesh.size(d) > 1:
            norm = combined(_gathered(norm, place[d], mesh.size(d), mesh, d), norm_type)
    return norm


def _gathered(norm: float, place: int, ranks: int, mesh: Any, dimension: int) -> list[float]:
    """The norms of all ranks along a dimension: a sum in which each has a place of its own is exact."""
    norms = torch.zeros(ranks, dtype=torch.float64, device=mesh.device_type)
    norms[place] = norm
    torch.distributed.all_reduce(norms, group=mesh.get_group(dimension))
    values: list[float] = norms.tolist()
    return values
