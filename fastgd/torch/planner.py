"""From torch's groups, gradients and state to a plan of the backend's, and when the last one will do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from fastgd import backends
from fastgd.arrays import Array, Spans, addresses, first_overlap, overlaps_itself
from fastgd.backends.base import Item, Measured, Options, Work
from fastgd.kept import Active, Kept, check_rounding, element_order
from fastgd.memory import check_together as check_one_memory
from fastgd.memory import memory_of
from fastgd.report import NonFinite
from fastgd.rules import Rule
from fastgd.torch._gather import ANEW, AS_BEFORE, OTHER_GROUPS, are_as_seen
from fastgd.torch.again import STATE, Again, again
from fastgd.torch.counts import Counts
from fastgd.torch.gathering import Gathered
from fastgd.torch.members import Group, Member, members_of
from fastgd.torch.prepared import Planned, Prepared, cut, written
from fastgd.torch.sharded_state import check_cut, is_piece, piece_number
from fastgd.torch.sparse import rows_of
from fastgd.torch.state import conform, is_complete, kept_arrays, names_in
from fastgd.torch.tensors import array_of, grad_beside, is_wrapper, local
from fastgd.torch.values import PARAMS, Change, Values
from fastgd.torch.watch import Named, Seen, Watch


class Ready(NamedTuple):
    """A parameter with its gradient, found to be right."""

    member: Member
    param: Array
    #: the parameter itself where there is no gradient now
    grad: Array
    #: the rows that the gradient is of; None: all
    rows: Array | None = None


class Planner:
    """The plan for the next step of parameters, all of an optimizer's or one."""

    def __init__(self, rule: Rule, backend: str, seed: int, only: Member | None = None) -> None:
        """only: whose plans alone are made; None: those of all parameters of all groups."""
        self.rule, self._backend, self._seed, self._only = rule, backend, seed, only
        self.values = Values(rule, None if only is None else only.group)
        #: of all parameters of the optimizer
        self.counts = Counts(rule, 0)
        self._counted: list[torch.Tensor] = []
        self._plan: Prepared | None = None
        #: parameters of the last plan, by number
        self._known: dict[int, torch.Tensor] = {}
        self.watch = Watch()
        #: the plan of the steps since states were brought up to date
        self._behind: Prepared | None = None
        #: why no step can be made for now
        self.barred: str | None = None
        #: None: the next step has to be prepared
        self.again: Again | None = None

    def prepare(
        self, groups: Sequence[Group], owner: Mapping[str, Any], options: Options, found: int | None = None
    ) -> Prepared:
        """A plan for the gradients that the parameters of these groups have now.

        owner: has the state, under STATE. found: what has been found where the plan was looked at since
        `as_seen`. Unless all is found to be right, nothing is changed but that state may have been made.
        """
        self.again = None
        if self.watch.is_on:
            self._catch_up()  # a step may have been interrupted after it was made
        plan, self._plan = self._plan, None
        if plan is None or not self._will_do(plan, groups, owner, options, found):
            plan = self._new_plan(groups, owner[STATE], options)
        if not plan.is_for_once:
            self._plan = plan
        return plan

    def as_seen(self, groups: Sequence[Group]) -> Prepared | None:
        """The last plan, if it is one for the next step unless parameters and gradients lie otherwise now."""
        plan, seen = self._plan, self.values.seen
        if plan is None or self.watch.is_on or seen is None or not are_as_seen(groups, seen):
            return None
        return plan

    def repeat(self, own: Mapping[str, Any], plan: Prepared, make: Callable[[], Measured | None]) -> None:
        """A step of this plan, which `as_seen` gave, was made so; the next may be made again.

        own: the optimizer's __dict__.
        """
        if self.values.seen is not None and self.rule.average is None and not self.watch.is_on:
            self.again = again(own, self.values.seen, plan, make)

    def _will_do(
        self,
        plan: Prepared,
        groups: Sequence[Group],
        owner: Mapping[str, Any],
        options: Options,
        found: int | None,
    ) -> bool:
        """Whether the plan, once it is brought up to date, is one for this step."""
        change = Change.NONE
        if found is None and not self.watch.is_on:
            found = plan.gathered.look(groups, self.values.seen)
            if found == AS_BEFORE:
                return True
        if found is None or found == OTHER_GROUPS:
            change = self.values.renew(groups)
            if change is Change.ALL or (self.watch.is_on and not self._state_stays(plan, owner)):
                return False
            found = plan.gathered.look()
        if found == ANEW:
            return False
        as_before = found == AS_BEFORE and change is Change.NONE
        return as_before or (self._arranged(plan, options) and plan.point())

    def _arranged(self, plan: Prepared, options: Options) -> bool:
        """Whether the plan could be made one of those that have gradients now, as these lie now."""
        if plan.run is None:
            return False
        numbers = plan.otherwise()
        others = [plan.planned[k] for k in numbers]
        ready = [self._ready(p.member, p.param, options) for p in others]
        copies = self._copies(ready, plan.spans)
        exchanged = {
            k: p.item._replace(grad=copies.get(i, r.grad), rows=r.rows)
            for i, (k, p, r) in enumerate(zip(numbers, others, ready, strict=True))
        }
        chosen, copied = plan.chosen(), [numbers[i] for i in copies]
        return plan.arrange(chosen, cut(chosen, self.rule, self.values, self.counts), exchanged, copied)

    def _state_stays(self, plan: Prepared, owner: Mapping[str, Any]) -> bool:
        """Whether nobody has taken state away, put other tensors in its place, moved or counted it."""
        if self._only is not None:
            number = self._only.number
            numbers, only = slice(number, number + 1), self._only.tensor
        else:
            numbers, only = slice(len(self._counted)), None
        stay = plan.seen.stays(owner[STATE], only) and self.counts.stand() and self.counts.agree(numbers)
        if stay and self._only is None:
            self.watch.looked(lambda: plan.seen.is_held(owner, STATE))
        return stay

    def forget(self) -> None:
        """The next step begins with what the state says."""
        self.alarm()
        self._plan = None

    def alarm(self) -> None:
        """Somebody has asked for the state."""
        self.again = None
        self.watch.alarm()
        self._catch_up()

    def _catch_up(self) -> None:
        if self._behind is not None:
            self.counts.show(self._behind.shares, None if self._only is None else self._only.number)
            self._behind = None

    def step_begins(self, plan: Prepared) -> None:
        """To be called before; so whatever interrupts the step, its count is not lost."""
        self._behind = plan

    def step_made(self) -> None:
        """Brings what states show up to date, where somebody may see it."""
        if self.watch.is_on or self.counts.tells:
            self._catch_up()

    # ---- plans ----

    def _new_plan(self, groups: Sequence[Group], state: Any, options: Options) -> Prepared:
        self._catch_up()
        if self._only:
            self.values.check(groups)
            members = [self._only]
        else:
            self.counts_of(groups, state)
            members = members_of(groups)
        active = [m for m in members if m.tensor.grad is not None]
        params = {m.number: array_of(local(m.tensor), str(m)) for m in active}
        for m in active:
            self._check_param(m, params[m.number])
        backend = backends.for_all(self._backend, [memory_of(p) for p in params.values()], rule=self.rule)
        for m in active:
            if not backend.supports(self.rule, params[m.number].dtype):
                name = params[m.number].dtype
                raise TypeError(f"{m}: the {backend.name} backend has no {self.rule.title} in {name}")
        lists = None if self._only else [group[PARAMS] for group in groups]
        idle = self._idle(members, state) if active and backend.rearranges else {}
        plan = None
        if idle:
            try:
                plan = self._plan_of(members, params | idle, state, options, backend, lists)
            except (TypeError, ValueError, RuntimeError):
                plan = None  # what has no gradient is no reason to refuse a step
        if plan is None:
            plan = self._plan_of(members, params, state, options, backend, lists)
        self._known = {p.member.number: p.member.tensor for p in plan.planned}
        return plan

    def _idle(self, members: Sequence[Member], state: Any) -> dict[int, Array]:
        """Parameters that had a gradient in a plan before and have none now, by number."""
        found = {}
        for m in members:
            if m.tensor.grad is not None or self._known.get(m.number) is not m.tensor:
                continue
            try:
                param = array_of(local(m.tensor), str(m))
                self._check_param(m, param)
            except (TypeError, ValueError, RuntimeError):
                continue
            entry, values = state.get(m.tensor, {}), self.values.of[m.group]
            counted = all(name in entry for name in self.counts.names(values))
            if counted and is_complete(entry, self._active(m, param), values, param):
                found[m.number] = param
        return found

    def _plan_of(
        self,
        members: Sequence[Member],
        params: Mapping[int, Array],
        state: Any,
        options: Options,
        backend: Any,
        lists: Sequence[list[torch.Tensor]] | None,
    ) -> Prepared:
        ready = [self._ready(m, params[m.number], options) for m in members if m.number in params]
        slots: list[Named] = []
        numbers: list[Named] = []
        items = [self._item(r, state, options, slots, numbers) for r in ready]
        arrays = [array for item in items for array in written(item)]
        self._refuse_overlaps(ready, items)
        spans = Spans(arrays)
        copies = self._copies(ready, spans)
        items = [item._replace(grad=copies.get(k, item.grad)) for k, item in enumerate(items)]
        # gradients are the step's alone: the plan must not keep them in memory
        planned = [
            Planned(r.member, r.param, item._replace(grad=r.param), self._traits(r.param))
            for r, item in zip(ready, items, strict=True)
        ]
        parts = cut(planned, self.rule, self.values, self.counts)
        placed = [item._replace(block=block) for item, block in zip(items, parts.of, strict=True)]
        run = backend.plan(Work(parts.blocks, placed, self.counts.made, self._seed)) if items else None
        places = {m.number: k for k, m in enumerate(r.member for r in ready)}
        gathered = Gathered(lists, members, places, arrays, copies)
        entries = state if self._only is None else {self._only.tensor: state.get(self._only.tensor)}
        plan = Prepared(run, gathered, planned, spans, Seen(entries, slots, numbers))
        plan.is_sharded = any(is_wrapper(m.tensor) for m in members)
        plan.has_pieces = any(is_piece(m.tensor) for m in members)
        plan.lent = [item.grad for item in items]
        chosen = plan.chosen()
        if len(chosen) == len(planned):
            plan.compose(chosen, parts)
        else:
            plan.arrange(chosen, cut(chosen, self.rule, self.values, self.counts), {}, ())
        plan.begin()
        return plan

    def counts_of(self, groups: Sequence[Group], state: Any) -> Counts:
        """The counts of all parameters, as their states tell them."""
        self.values.check(groups)
        members = members_of(groups)
        known = self._counted
        same = len(known) == len(members) and all(p is m.tensor for p, m in zip(known, members, strict=True))
        if not same or not self.counts.stand():
            self.counts = Counts(self.rule, len(members))
            self._counted = [m.tensor for m in members]
        for m in members:
            # those with a gradient follow, with all of their state
            if m.tensor.grad is None and state.get(m.tensor):
                self.counts.adopt(m.number, state[m.tensor], self.values.of[m.group])
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
        check_cut(rule, self.values.of[member.group], member.tensor, str(member))
        check_rounding(self.values.of[member.group], param, str(member))
        if overlaps_itself(param):
            raise ValueError(f"{member} overlaps itself: several of its elements share memory")

    @staticmethod
    def _copies(ready: Sequence[Ready], spans: Spans) -> dict[int, Array]:
        """Copies of gradients that the step would overwrite before it has read them, by place."""
        grads = {k: r.grad for k, r in enumerate(ready) if r.grad is not r.param}
        together = list(grads.values())
        if spans.find(together, addresses(together)) is None:
            return {}
        return {k: g.copy() for k, g in grads.items() if spans.find([g], addresses([g]))}

    def _ready(self, m: Member, param: Array, options: Options) -> Ready:
        grad, what = m.tensor.grad, f"gradient of {m}"
        if grad is None:
            return Ready(m, param, param)
        rows = None
        if grad.layout != torch.strided:
            values = self.values.of[m.group]
            rows, array = rows_of(local(grad), param, self.rule, values, options, what)
        else:
            beside = grad_beside(m.tensor)
            assert beside is not None
            array = array_of(beside, what)
        wanted = param.shape if rows is None else (rows.size, *param.shape[1:])
        if array.shape != wanted:
            raise ValueError(f"{what} has shape {array.shape}, the parameter {param.shape}")
        check_one_memory(what, array, "the parameter", param)
        return Ready(m, param, array, rows)

    def make_state(self, groups: Sequence[Group], state: Any) -> None:
        """Makes what the next step would, of all parameters, with gradients or not."""
        self.values.check(groups)
        for m in [self._only] if self._only else members_of(groups):
            param = array_of(local(m.tensor), str(m))
            self._check_param(m, param)
            self._kept(m, param, state)

    def _traits(self, param: Array) -> tuple[Any, ...]:
        traits = self.rule.traits
        return tuple(traits(param.shape, param.dtype.name).values()) if traits else ()

    def _active(self, m: Member, param: Array) -> Active:
        """The slots that a parameter uses."""
        values = self.values.of[m.group]
        return self.rule.active_slots(self.rule.seen(values, param.shape, param.dtype.name))

    def _kept(self, m: Member, param: Array, state: Any) -> tuple[Kept, Active, Any]:
        """A parameter's state, made or brought to what the settings ask for, the slots in use, and its entry.

        As in torch, there is no entry where nothing is kept."""
        values, what = self.values.of[m.group], f"state of {m}"
        entry, active = state.get(m.tensor, {}), self._active(m, param)
        self.counts.adopt(m.number, entry, values)
        conform(entry, active, values, local(m.tensor), param, what)
        if entry:
            state[m.tensor] = entry
        return kept_arrays(entry, active, values, what), active, entry

    def _item(
        self, ready: Ready, state: Any, options: Options, slots: list[Named], numbers: list[Named]
    ) -> Item:
        m, param, grad, rows = ready
        kept, active, entry = self._kept(m, param, state)
        slots += [(entry, name) for name in names_in(entry, active)]
        numbers += [(entry, name) for name in self.counts.names(self.values.of[m.group])]
        # gradients of rows are of parameters in C order
        by_number = options.clips_units or self.rule.in_matrices(active)
        order = element_order(self.values.of[m.group], param, kept, by_number)
        beside = (kept.residual, kept.average, None, rows, piece_number(m.tensor))
        return Item(param, grad, kept.slots, 0, m.number, order, m.group, *beside)

    @staticmethod
    def _refuse_overlaps(ready: Sequence[Ready], items: Sequence[Item]) -> None:
        arrays = [
            (str(r.member), array) for r, item in zip(ready, items, strict=True) for array in written(item)
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
