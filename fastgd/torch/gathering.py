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
    """Of one plan."""

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
        #: numbers of those whose gradient is more than its memory
        self._indirect = [i for i, g in enumerate(grads) if g is not None and not is_direct(g)]
        self._at = np.zeros(len(self._tensors), np.int64)[: sum(g is not None for g in grads)]
        pairs = list(zip(tensors, grads, strict=True))
        self._fixed = (
            tuple(part for dict_, key, value in watched for part in (dict_, key, value, _memory(value))),
            tuple(None if g is None else _lies(local(p)) for p, g in pairs),
            # one that does not lend its memory is like no other
            tuple(None if g is None else _lies(grad_beside(p)) or b"" for p, g in pairs),
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
        here: list[Any] | None = None
        grads: list[Any] | None = None
        if self._indirect:
            count = len(self._tensors)
            here, grads = [None] * count, [None] * count
            for i in self._indirect:
                here[i], grads[i] = local(self._tensors[i]), grad_beside(self._tensors[i])
                self._lent.append(grads[i])
        if not collect(INTERFACE, lists, self._tensors, here, grads, *self._fixed):
            return False
        return self._run is None or self._run.move_grads(self._at)


def _lies(tensor: torch.Tensor | None) -> bytes | None:
    found: bytes | None = described(INTERFACE, tensor)
    return found


def _memory(value: torch.Tensor) -> bytes | None:
    """What tells where a tensor of the state lies; None for a view of what `Counts` shows."""
    return None if value.ndim == 0 and value._is_view() else _lies(value)


def _spans(arrays: Iterable[Array]) -> bytes:
    """As `collect` takes them."""
    spans = np.array(sorted(bounds(a) for a in arrays if a.size) or np.empty((0, 2)), np.int64)
    return np.concatenate([spans[:, 0], np.maximum.accumulate(spans[:, 1])]).tobytes()
