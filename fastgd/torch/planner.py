"""From torch's groups, gradients and state to a plan of the backend's, and when the last one will do."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fastgd import backends
from fastgd.arrays import Array, Spans, addresses, first_overlap, overlaps_itself
from fastgd.backends.base import Block, Carriers, Codes, Item, Options, Plan, Work
from fastgd.kept import Active, Kept, check_rounding, element_order
from fastgd.memory import check_together as check_one_memory
from fastgd.memory import memory_of
from fastgd.report import NonFinite
from fastgd.rules import Rule
from fastgd.torch._gather import has_values
from fastgd.torch.counts import Counts
from fastgd.torch.gathering import Gathered, Watched
from fastgd.torch.settings import LR, alike, checked, checked_lr, holds_tensors
from fastgd.torch.sharded_state import check_cut
from fastgd.torch.sparse import rows_of
from fastgd.torch.state import conform, kept_arrays, names_in
from fastgd.torch.tensors import array_of, grad_beside, is_wrapper, local

Group = dict[str, Any]

#: by number
Groups = Mapping[int, Group]


class Member(NamedTuple):
    """One parameter of the optimizer."""

    tensor: torch.Tensor
    group: int
    #: its number in its group
    place: int
    #: through all groups
    number: int
    name: str | None

    def __str__(self) -> str:
        place = f"parameter {self.place} of group {self.group}"
        return f"parameter {self.name!r} ({place})" if self.name is not None else place


class Ready(NamedTuple):
    """A parameter with its gradient, found to be right."""

    member: Member
    param: Array
    grad: Array
    #: the rows that the gradient is of; None: all
    rows: Array | None = None


class Prepared(NamedTuple):
    """A plan of the backend's and what it was made for."""

    #: None: no parameter has a gradient
    run: Plan | None
    gathered: Gathered
    #: those with a gradient, in the plan's order, and their tensors
    members: list[Member]
    tensors: list[torch.Tensor]
    #: values of parameters that are alike, and their numbers
    blocks: list[tuple[Any, list[int]]]
    #: whether a gradient is sparse, which may be of others at the next step
    is_for_once: bool
    #: whether parameters lie in parts on several machines
    is_sharded: bool
    #: gradients that nobody else may hold, until the step has been made
    lent: list[Array]
    #: the states of the planner's parameters, in the order of the dict
    entries: tuple[Any, ...]

    def release(self) -> None:
        """Lets go of gradients, once the step has been made."""
        self.lent.clear()
        self.gathered.release()


class Planner:
    """The plan for the next step of parameters, all of an optimizer's or one."""

    def __init__(self, rule: Rule, backend: str, seed: int, only: Member | None = None) -> None:
        """only: whose plans alone are made; None: those of all parameters of all groups."""
        self.rule, self._backend, self._seed, self._only = rule, backend, seed, only
        #: of all parameters of the optimizer
        self.counts = Counts(rule, 0)
        self._counted: list[torch.Tensor] = []
        self._plan: Prepared | None = None
        #: why no step can be made for now
        self.barred: str | None = None
        #: the groups by number, as they were when their values were checked, and these
        self._seen: dict[int, Group] = {}
        self._values: dict[int, dict[str, Any]] = {}
        #: the first group with the values that a group has, so that groups that are alike are one to kernels
        self._leaders: dict[int, int] = {}
        self._with_tensors: list[int] = []

    def prepare(self, groups: Groups, state: Any, options: Options) -> Prepared:
        """A plan for the gradients that the parameters of these groups have now.

        Unless all is found to be right, nothing is changed but that state may have been made.
        """
        plan = self._plan
        if (
            plan is not None
            and self._values_hold(groups)
            and self._entries_stay(plan, state)
            and self.counts.stand()
            and plan.gathered.holds(groups)
        ):
            return plan
        self._plan = None
        plan = self._made(groups, state, options)
        if not plan.is_for_once:
            self._plan = plan
        return plan

    def _entries_stay(self, plan: Prepared, state: Any) -> bool:
        """Whether nobody has taken a parameter's state away or put another in its place."""
        if self._only is not None:
            return state.get(self._only.tensor) is plan.entries[0]
        stay: bool = has_values(state, plan.entries)
        return stay

    def forget(self) -> None:
        """The next step begins with what the state says."""
        self._plan = None

    # ---- hyperparameters ----

    def _values_hold(self, groups: Groups) -> bool:
        """Whether the plan's values will do for these groups, once they are brought up to date."""
        seen = self._seen
        if groups.keys() != seen.keys():
            return False
        changed = list(self._with_tensors)
        for number, group in groups.items():
            if not _equal(group, seen[number]):
                changed.append(number)
        if not changed:
            return True
        return all(self._renew(n, groups[n]) for n in changed) and _leaders(self._values) == self._leaders

    def _renew(self, number: int, group: Group) -> bool:
        """Whether a plan for the last values will do for a group's new ones, which are taken over."""
        seen, old = self._seen[number], self._values[number]
        if number not in self._with_tensors and holds_tensors(group, self.rule):
            self._with_tensors.append(number)
        if group.keys() == seen.keys() and number not in self._with_tensors:
            different = [name for name, value in group.items() if value is not seen[name] and name in old]
            if different == [LR]:  # by a scheduler, at every step
                old[LR] = checked_lr(group[LR], number)
                self._seen[number] = dict(group)
                return True
        new = checked(self.rule, group, number)
        if not alike(self.rule, old, new):
            return False
        old.update(new)
        self._seen[number] = dict(group)
        return True

    def _check_values(self, groups: Groups) -> None:
        self._values = {number: checked(self.rule, group, number) for number, group in groups.items()}
        self._leaders = _leaders(self._values)
        self._seen = {number: dict(group) for number, group in groups.items()}
        self._with_tensors = [i for i, group in groups.items() if holds_tensors(group, self.rule)]

    # ---- plans ----

    def _made(self, groups: Groups, state: Any, options: Options) -> Prepared:
        members = [self._only] if self._only else members_of(groups)
        if self._only:
            self._check_values(groups)
        else:
            self.counts_of(groups, state)
        active = [m for m in members if m.tensor.grad is not None]
        params = [array_of(local(m.tensor), str(m)) for m in active]
        for m, param in zip(active, params, strict=True):
            self._check_param(m, param)
        written = Spans(params)
        ready = [self._ready(m, param, written, options) for m, param in zip(active, params, strict=True)]
        backend = backends.for_all(self._backend, [memory_of(p) for p in params], rule=self.rule)
        for m, param in zip(active, params, strict=True):
            if not backend.supports(self.rule, param.dtype):
                raise TypeError(f"{m}: the {backend.name} backend has no {self.rule.title} in {param.dtype}")
        watched: list[Watched] = []
        items = [self._item(r, state, options, watched) for r in ready]
        arrays = [array for item in items for array in _written(item)]
        self._refuse_overlaps(ready, items)
        work, blocks = self._work(ready, items)
        run = backend.plan(work) if items else None
        grads = [m.tensor.grad for m in members]
        tensors = [m.tensor for m in members]
        first = members[0].number if members else 0
        found = Gathered(run, tensors, grads, arrays, watched, self.counts.span(first, len(members)))
        return Prepared(
            run,
            found,
            active,
            [m.tensor for m in active],
            blocks,
            is_for_once=any(g is not None and g.layout != torch.strided for g in grads),
            is_sharded=any(is_wrapper(tensor) for tensor in tensors),
            lent=[r.grad for r in ready],
            entries=tuple(state.values()) if self._only is None else (state.get(self._only.tensor),),
        )

    def counts_of(self, groups: Groups, state: Any) -> Counts:
        """The counts of all parameters, as their states tell them."""
        self._check_values(groups)
        members = members_of(groups)
        known = self._counted
        same = len(known) == len(members) and all(p is m.tensor for p, m in zip(known, members, strict=True))
        if not same or not self.counts.stand():
            self.counts = Counts(self.rule, len(members))
            self._counted = [m.tensor for m in members]
        for m in members:
            # those with a gradient follow, with all of their state
            if m.tensor.grad is None and state.get(m.tensor):
                self.counts.adopt(m.number, state[m.tensor], self._values[m.group])
        return self.counts

    def _check_param(self, member: Member, param: Array) -> None:
        rule = self.rule
        if member.tensor.is_complex() and not (rule.elementwise and rule.factored is None):
            raise RuntimeError(f"{rule.title} does not support complex parameters")
        if rule.ndim not in (None, param.ndim):
            raise ValueError(
                f"{member} has shape {param.shape}: {rule.title} is for parameters of {rule.ndim} "
                "dimensions; give others to another optimizer"
            )
        check_cut(rule, self._values[member.group], member.tensor, str(member))
        check_rounding(self._values[member.group], param, str(member))
        if overlaps_itself(param):
            raise ValueError(f"{member} overlaps itself: several of its elements share memory")

    def _ready(self, m: Member, param: Array, written: Spans, options: Options) -> Ready:
        grad, what = m.tensor.grad, f"gradient of {m}"
        assert grad is not None
        rows = None
        if grad.layout != torch.strided:
            values = self._values[m.group]
            rows, array = rows_of(local(grad), param, self.rule, values, options, what)
        else:
            beside = grad_beside(m.tensor)
            assert beside is not None
            array = array_of(beside, what)
        wanted = param.shape if rows is None else (rows.size, *param.shape[1:])
        if array.shape != wanted:
            raise ValueError(f"{what} has shape {array.shape}, the parameter {param.shape}")
        check_one_memory(what, array, "the parameter", param)
        if written.find([array], addresses([array])):
            array = array.copy()  # of what the step is to read, though it overwrites it
        return Ready(m, param, array, rows)

    def make_state(self, groups: Groups, state: Any) -> None:
        """Makes what the next step would, of all parameters, with gradients or not."""
        self._check_values(groups)
        for m in [self._only] if self._only else members_of(groups):
            param = array_of(local(m.tensor), str(m))
            self._check_param(m, param)
            self._kept(m, param, state)

    def _kept(self, m: Member, param: Array, state: Any) -> tuple[Kept, Active, Any]:
        """A parameter's state, made or brought to what the settings ask for, the slots in use, and its entry.

        As in torch, there is no entry where nothing is kept."""
        values, what = self._values[m.group], f"state of {m}"
        entry = state.get(m.tensor, {})
        active = self.rule.active_slots(self.rule.seen(values, param.shape, param.dtype.name))
        self.counts.adopt(m.number, entry, values)
        conform(entry, active, values, local(m.tensor), param, what)
        if entry:
            state[m.tensor] = entry
        return kept_arrays(entry, active, values, what), active, entry

    def _item(self, ready: Ready, state: Any, options: Options, watched: list[Watched]) -> Item:
        m, param, grad, rows = ready
        values = self._values[m.group]
        kept, active, entry = self._kept(m, param, state)
        watched += [(entry, name, entry[name]) for name in names_in(entry, active)]
        watched += [(entry, name, entry[name]) for name in self.counts.names(values)]
        by_number = options.clips_units or self.rule.in_matrices(active) or rows is not None
        order = element_order(values, param, kept, by_number)
        return Item(
            param, grad, kept.slots, 0, m.number, order, m.group, kept.residual, kept.average, None, rows
        )

    def _work(self, ready: Sequence[Ready], items: list[Item]) -> tuple[Work, list[tuple[Any, list[int]]]]:
        """The work with its blocks, and which values are whose."""
        numbers: dict[tuple[Any, ...], int] = {}
        blocks: list[Block] = []
        alike_: list[list[int]] = []
        placed: list[Item] = []
        counts = self.counts
        for r, item in zip(ready, items, strict=True):
            m, param = r.member, r.param
            made = int(counts.made[m.number])
            carried = tuple(counts.carried[m.number, made % 2].tolist())
            traits = self.rule.traits
            own = tuple(traits(param.shape, param.dtype.name).values()) if traits else ()
            leader = self._leaders[m.group]
            key = (leader, made, carried, *own)
            if key not in numbers:
                numbers[key] = len(blocks)
                alike_.append([])
                values = self.rule.seen(self._values[leader], param.shape, param.dtype.name)
                carriers = Carriers(counts.carried, alike_[-1]) if self.rule.carried else ()
                blocks.append(Block(self.rule, values, m.number, carriers))
            block = numbers[key]
            alike_[block].append(m.number)
            placed.append(item._replace(block=block))
        work = Work(blocks, placed, counts.made, self._seed)
        return work, [(block.values, own) for block, own in zip(blocks, alike_, strict=True)]

    @staticmethod
    def _refuse_overlaps(ready: Sequence[Ready], items: Sequence[Item]) -> None:
        arrays = [
            (str(r.member), array) for r, item in zip(ready, items, strict=True) for array in _written(item)
        ]
        pair = first_overlap([array for _, array in arrays])
        if pair:
            first, second = (arrays[k][0] for k in pair)
            raise ValueError(f"{first} and {second}, or their state, share memory")

    def locate(self, plan: Prepared, tensor: int) -> NonFinite:
        """The first element that is not finite of this tensor in the plan."""
        m = plan.members[tensor]
        found = grad_beside(m.tensor)
        if found is None:  # when a report is read late
            return NonFinite(m.group, m.place, m.name, None, float("nan"))
        values = found.coalesce().to_dense() if found.layout != torch.strided else found
        flat = torch.view_as_real(values) if values.is_complex() else values
        narrow = flat.to(torch.float64 if flat.dtype == torch.float64 else torch.float32)
        bad = torch.nonzero(~torch.isfinite(narrow))
        element = tuple(int(i) for i in bad[0]) if len(bad) else None
        value = float(flat[element]) if element is not None else float("nan")
        return NonFinite(m.group, m.place, m.name, element, value)


def members_of(groups: Groups) -> list[Member]:
    """All parameters, through all groups of an optimizer."""
    numbers = itertools.count()
    found = []
    for number, group in groups.items():
        names = group.get("param_names", [None] * len(group["params"]))
        for index, (p, name) in enumerate(zip(group["params"], names, strict=True)):
            found.append(Member(p, number, index, next(numbers), name))
    return found


def _leaders(values: Mapping[int, Mapping[str, Any]]) -> dict[int, int]:
    first: dict[tuple[Any, ...], int] = {}
    return {number: first.setdefault(tuple(own.values()), number) for number, own in values.items()}


def _equal(group: Group, seen: Group) -> bool:
    """Whether a group is as it was; its list of parameters apart."""
    try:
        return bool(group == seen)
    except (RuntimeError, ValueError):  # of tensors and arrays with several elements
        return False


def _written(item: Item) -> list[Array]:
    """All that a step writes."""
    arrays: list[Array | None] = [item.param, item.residual, item.average]
    for state in item.state:
        arrays += [*state] if isinstance(state, Codes) else [state]
    return [array for array in arrays if array is not None]
