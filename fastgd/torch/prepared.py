"""A plan of the backend's for parameters of torch's, and which of them its next step is of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fastgd.arrays import Array, Spans
from fastgd.backends.base import Block, Carriers, Codes, Item, Plan
from fastgd.rules import Rule
from fastgd.torch._gather import OTHERWISE
from fastgd.torch.counts import Counts
from fastgd.torch.gathering import Gathered
from fastgd.torch.members import Member
from fastgd.torch.values import Values
from fastgd.torch.watch import Seen


class Planned(NamedTuple):
    """A parameter of a plan."""

    member: Member
    param: Array
    #: without its gradient
    item: Item
    #: the traits that its rule asks for
    traits: tuple[Any, ...]


class Cut(NamedTuple):
    """Parameters cut into blocks: of the same values, counts of steps and so on."""

    blocks: list[Block]
    #: the block of each parameter
    of: list[int]
    #: for each block its values and the numbers of its parameters
    shares: list[tuple[Mapping[str, Any], list[int]]]


def cut(planned: Sequence[Planned], rule: Rule, values: Values, counts: Counts) -> Cut:
    """Blocks for a step of these parameters."""
    numbers = [p.member.number for p in planned]
    made = counts.made[numbers].tolist()
    carried = counts.carried[numbers, counts.made[numbers] % 2].tolist() if rule.carried else [()] * len(made)
    found: dict[tuple[Any, ...], int] = {}
    blocks: list[Block] = []
    shares: list[tuple[Mapping[str, Any], list[int]]] = []
    of = []
    for p, number, steps, told in zip(planned, numbers, made, carried, strict=True):
        leader = values.leaders[p.member.group]
        key = (leader, steps, *told, *p.traits)
        block = found.get(key)
        if block is None:
            block = found[key] = len(blocks)
            seen = rule.seen(values.of[leader], p.param.shape, p.param.dtype.name)
            own: list[int] = []
            blocks.append(Block(rule, seen, number, Carriers(counts.carried, own) if rule.carried else ()))
            shares.append((seen, own))
        shares[block][1].append(number)
        of.append(block)
    return Cut(blocks, of, shares)


class Prepared:
    """See the module."""

    def __init__(
        self,
        run: Plan | None,
        gathered: Gathered,
        planned: Sequence[Planned],
        spans: Spans,
        seen: Seen,
    ) -> None:
        """run: None where no parameter has a gradient. spans: memory that it writes."""
        self.run, self.gathered, self.planned = run, gathered, planned
        self.spans, self.seen = spans, seen
        #: whether parameters lie in parts on several machines, as DTensors and as pieces that do not tell
        self.is_sharded = self.has_pieces = False
        #: gradients that nobody else may hold, until the step has been made
        self.lent: list[Array] = []
        #: those that the next step is of, in the run's order, their tensors, and who are alike
        self.members: list[Member] = []
        self.tensors: list[torch.Tensor] = []
        self.shares: list[tuple[Mapping[str, Any], list[int]]] = []
        self._active: Array = gathered.active()
        #: whether it will do for these very gradients alone
        self.is_for_once = False
        #: as Plan.fetching takes it; None where gradients have to be looked at first
        self.fetch: tuple[int, int] | None = None

    def begin(self) -> None:
        """To be called once, when all is arranged for the first step."""
        addresses = self.run.grad_addresses() if self.run and self.members else None
        self.is_for_once = bool(self.members) and addresses is None
        self._write_to(addresses)

    def otherwise(self) -> list[int]:
        """Numbers in the plan of those whose gradient lies otherwise than expected."""
        found: list[int] = (self.gathered.present == OTHERWISE).nonzero()[0].tolist()
        return found

    def chosen(self) -> list[Planned]:
        """Those that have a gradient now."""
        self._active = self.gathered.active()
        return [self.planned[k] for k in self._active.tolist()]

    def compose(self, chosen: Sequence[Planned], parts: Cut) -> None:
        """The next step is of these, cut so."""
        self.members = [p.member for p in chosen]
        self.tensors = [m.tensor for m in self.members]
        self.shares = parts.shares

    def arrange(
        self, chosen: Sequence[Planned], parts: Cut, exchanged: Mapping[int, Item], copied: Collection[int]
    ) -> bool:
        """As `compose`, with the gradients of `exchanged`; False where another plan is needed for it.

        copied: those of `exchanged` of whose gradient the step has a copy. `point` is to follow.
        """
        if chosen and not (self.run and self.run.arrange(self._active, parts.blocks, parts.of, exchanged)):
            return False
        self.compose(chosen, parts)
        self.gathered.expect(exchanged, copied)
        for k, item in exchanged.items():
            self.gathered.put(k, item.grad)
            self.lent.append(item.grad)
        return True

    def point(self) -> bool:
        """Points the run to the gradients that there are now, and has `look` do so in later steps.

        False where another plan is needed for it."""
        if self.run is None or not self.members:
            self._write_to(None)
            return True
        addresses = self.run.grad_addresses()
        if addresses is None:
            return False
        addresses[:] = self.gathered.at(self._active)
        self._write_to(addresses)
        return True

    def _write_to(self, addresses: Array | None) -> None:
        fetch = self.gathered.write_to(addresses, self.tensors if self.members else [])
        self.fetch = None if self.is_sharded or self.has_pieces or not self.members else fetch

    def release(self) -> None:
        """Lets go of gradients, once the step has been made."""
        self.lent.clear()
        self.gathered.release()


def written(item: Item) -> list[Array]:
    """All that a step writes."""
    arrays: list[Array | None] = [item.param, item.residual, item.average]
    for state in item.state:
        arrays += [*state] if isinstance(state, Codes) else [state]
    return [array for array in arrays if array is not None]
