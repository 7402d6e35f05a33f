"""Whether tensors lie as they did when a plan was made, and where its gradients are: asked at every step."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.autograd.graph import increment_version

from fastgd.arrays import Array, address, bounds
from fastgd.torch._gather import (
    NOT_PLANNED,
    PLANNED,
    PLANNED_ASKING,
    WITH,
    WITHOUT,
    collect,
    described,
    fetched,
    fetching,
    looking_at,
)
from fastgd.torch.members import Member
from fastgd.torch.tensors import (
    INTERFACE,
    finds_grad_itself,
    grad_beside,
    is_direct,
    is_wrapper,
    local,
    may_be_negated,
)

#: a row of no tensor: its device is none
_NOWHERE = np.array([0, -1, 0, 0], np.int64).tobytes()

#: how a member's rows begin
_BEGIN = {kind: np.array([kind], np.int64).tobytes() for kind in (NOT_PLANNED, PLANNED, PLANNED_ASKING)}


class Gathered:
    """The gradients of one plan."""

    def __init__(
        self,
        lists: Sequence[list[torch.Tensor]] | None,
        members: Sequence[Member],
        planned: Mapping[int, int],
        written: Iterable[Array],
        copied: Collection[int],
    ) -> None:
        """lists: that hold all members in their order; None: no matter. written: what the plan writes.
        planned: number -> number in the plan, in its order. copied: as `expect`, which it
        does with all of them."""
        self._lists = None if lists is None else tuple(lists)
        self._tensors = tuple(m.tensor for m in members)
        #: number in the plan -> place among the members
        self._places = [i for i, m in enumerate(members) if m.number in planned]
        #: gradients that nobody else may hold
        self._lent: list[torch.Tensor | None] = []
        #: places of those whose gradient is more than its memory
        self._indirect: set[int] = set()
        count = len(self._places)
        #: of each in the plan what `collect` has noted, and where its gradient is
        self.present, self._at = np.zeros(count, np.uint8), np.zeros(count, np.int64)
        self._near = np.zeros((len(members), 3), np.uintp)
        self._spans = _spans(written)
        self._rows = [_BEGIN[NOT_PLANNED]] * len(members)
        self.expect(range(count), copied)

    def expect(self, numbers: Iterable[int], copied: Collection[int]) -> None:
        """The gradients of these numbers in the plan are to lie as they do now, from here on.

        copied: those that the step has as copies, which lie otherwise; and so will all that follow.
        `write_to` is to be called afterwards."""
        for k in numbers:
            self._expect(k, k in copied)

    def write_to(self, addresses: Array | None, tensors: list[torch.Tensor]) -> tuple[int, int] | None:
        """`look` is to write the addresses of the gradients that there are here, where none comes or goes.

        Returns what Plan.fetching is to fetch them with, which counts up the versions of these tensors;
        None where `look` is needed."""
        rows = b"".join(self._rows)
        where = address(self.present), address(self._at), address(self._near)
        to = (0, 0) if addresses is None else (address(addresses), addresses.strides[0])
        what = self._lists, self._tensors, "grad", rows, self._spans
        # the capsule needs them
        self._looked_at = INTERFACE, *what, *where, *to, increment_version, tensors
        self._looking = looking_at(*self._looked_at)
        return None if self._indirect or not any(to) else fetching(self._looking)

    def _expect(self, k: int, is_copied: bool) -> None:
        place = self._places[k]
        p = self._tensors[place]
        row = described(INTERFACE, local(p)) or _NOWHERE
        asks = p.grad is not None and may_be_negated(p.grad)
        self._rows[place] = _BEGIN[PLANNED_ASKING if asks else PLANNED] + row + _grad_row(p, is_copied)
        is_own = is_wrapper(p) or finds_grad_itself(p)
        is_indirect = is_own or (p.grad is not None and not is_direct(p.grad))
        (self._indirect.add if is_indirect else self._indirect.discard)(place)
        self.present[k] = WITHOUT if p.grad is None else WITH

    def release(self) -> None:
        """Lets go of gradients, once the step has been made."""
        self._lent.clear()

    def look(self, groups: Any = None, seen: Any = None) -> int:
        """What `collect` says. `present` and `at` are right then, but for ANEW and OTHER_GROUPS."""
        here: list[Any] | None = None
        grads: list[Any] | None = None
        if self._indirect:
            count = len(self._tensors)
            here, grads = [None] * count, [None] * count
            for i in self._indirect:
                here[i], grads[i] = local(self._tensors[i]), grad_beside(self._tensors[i])
                self._lent.append(grads[i])
        found: int = collect(self._looking, groups, seen, here, grads)
        return found

    def fetched(self) -> int | None:
        """What fetching has found since it was asked last, as `look`; None: there was none."""
        found: int | None = fetched(self._looking)
        return found

    def active(self) -> Array:
        """Numbers in the plan of those that have a gradient."""
        return np.flatnonzero(self.present)

    def at(self, active: Array) -> Array:
        """Addresses of these gradients."""
        return self._at if len(active) == len(self._at) else self._at[active]

    def put(self, k: int, grad: Array) -> None:
        """In the coming step the gradient of number k in the plan is this array, whatever `collect` found."""
        self._at[k] = address(grad)


def _grad_row(p: torch.Tensor, is_copied: bool) -> bytes:
    """A gradient's row; one that is copied or does not lend its memory is like no other."""
    grad = None if is_copied else grad_beside(p)
    found: bytes | None = None if grad is None else described(INTERFACE, grad)
    return found or _NOWHERE


def _spans(arrays: Iterable[Array]) -> bytes:
    """As `collect` takes them."""
    spans = np.array(sorted(bounds(a) for a in arrays if a.size) or np.empty((0, 2)), np.int64)
    return np.concatenate([spans[:, 0], np.maximum.accumulate(spans[:, 1])]).tobytes()
