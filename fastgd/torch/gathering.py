"""Whether tensors lie as they did when a plan was made, and where its gradients are: asked at every step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from fastgd.arrays import Array, address, bounds
from fastgd.backends.base import Plan
from fastgd.torch._gather import collect, described
from fastgd.torch.tensors import INTERFACE, grad_beside, is_direct, local

#: (a parameter's state, a name in it, the tensor that a plan was made for)
Watched = tuple[dict[str, Any], str, Any]


class Gathered:
    """Of one plan.

    What it does not see: a tensor of the state that is given other memory by `tensor.data = ...`.
    """

    def __init__(
        self,
        run: Plan | None,
        tensors: Sequence[torch.Tensor],
        grads: Sequence[torch.Tensor | None],
        written: Iterable[Array],
        watched: Iterable[Watched],
        counts: tuple[Array, Array],
    ) -> None:
        """tensors: all, with their gradients. written: what the plan writes. counts: `Counts.span`."""
        self._run = run
        #: gradients that nobody else may hold
        self._lent: list[torch.Tensor | None] = []
        self._tensors = tuple(tensors)
        #: whether a tensor is more than its memory
        self._indirect = not all(g is None or is_direct(g) for g in grads)
        self._at = np.zeros(len(self._tensors), np.int64)[: sum(g is not None for g in grads)]
        pairs = list(zip(tensors, grads, strict=True))
        self._fixed = (
            tuple(part for entry in watched for part in entry),
            tuple(None if g is None else _lies(local(p)) for p, g in pairs),
            tuple(None if g is None else _lies(grad_beside(p)) for p, g in pairs),
            _spans(written),
            "grad",
            *map(address, counts),
            address(self._at),
        )

    def release(self) -> None:
        """Lets go of gradients, once the step has been made."""
        self._lent.clear()

    def holds(self, groups: Mapping[int, dict[str, Any]]) -> bool:
        """Whether the plan will do for the gradients that are there now; it has been pointed to them then."""
        lists = [group["params"] for group in groups.values()]
        here = grads = None
        if self._indirect:
            here, grads = [local(p) for p in self._tensors], [grad_beside(p) for p in self._tensors]
            self._lent += grads
        if not collect(INTERFACE, lists, self._tensors, here, grads, *self._fixed):
            return False
        return self._run is None or self._run.move_grads(self._at)


def _lies(tensor: torch.Tensor | None) -> bytes | None:
    found: bytes | None = described(INTERFACE, tensor)
    return found


def _spans(arrays: Iterable[Array]) -> bytes:
    """As `collect` takes them."""
    spans = np.array(sorted(bounds(a) for a in arrays if a.size) or np.empty((0, 2)), np.int64)
    return np.concatenate([spans[:, 0], np.maximum.accumulate(spans[:, 1])]).tobytes()
