"""The global norm of a step whose parameters lie in parts on several machines."""

from __future__ import annotations

from collections.abc import Sequence

from fastgd import backends
from fastgd.arrays import Array
from fastgd.backends.base import Options
from fastgd.memory import memory_of
from fastgd.torch.members import Member
from fastgd.torch.sharded import Placing, combined, local_part, total_norm
from fastgd.torch.tensors import array_of


def norm_over_ranks(members: Sequence[Member], options: Options, backend: str) -> float:
    """The norm of all gradients on all ranks, after grad_scale and clip_value.

    members: those with a gradient, in the same order on every rank. Every rank must call this.
    """
    found: dict[Placing | None, list[Array]] = {}
    for m in members:
        assert m.tensor.grad is not None
        part = local_part(m.tensor.grad)
        values = part.values.resolve_conj().resolve_neg()
        if values.is_sparse:
            values = values.coalesce().values()
        found.setdefault(part.placing, []).append(array_of(values, f"gradient of {m}"))
    norms = {}
    for placing, arrays in found.items():
        runs = backends.for_all(backend, [memory_of(array) for array in arrays])
        norms[placing] = combined(runs.norms(arrays, options), 2.0)
    return total_norm(norms)
