"""From gradients to a plan of the backend's: their checks, and when the last plan will do again."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array, Spans, addresses, as_array
from fastgd.backends.base import Backend, Block, Carriers, Item, Options, Pending, Plan, Work
from fastgd.groups import Parameter, ParamGroup, written_by
from fastgd.kept import Active, Kept, element_order, in_use, kept_for
from fastgd.lenders import mark
from fastgd.memory import HOST, DeviceArray, check_together, memory_of, on_host
from fastgd.report import NonFinite, PendingReport, StepReport
from fastgd.rows import Rows, check_rows_allowed, checked_rows, summed
from fastgd.rules import Rule
from fastgd.storage import arithmetic, load


class Prepared(NamedTuple):
    """A plan of the backend's, and which gradient arrays it points to."""

    run: Plan
    #: id of the gradient of each parameter, valid while none of the watched arrays is gone; 0 for one that
    #: is no NumPy array and may come with other memory every time
    grad_ids: list[int]
    #: tensor number in the plan -> parameter number
    numbers: list[int]
    #: tensor number in the plan -> its gradient
    watch: dict[int, weakref.ref[Array]]
    #: tensor number in the plan -> the `mark` of its gradient on a device
    marks: dict[int, Any]
    #: parameter number -> memory lent by a gradient that is no NumPy array; kept until the step is made,
    #: because it may be a copy that nobody else holds
    lent: dict[int, Array]
    #: parameter number -> the rows that its gradient is of, where it is not of all
    rows: dict[int, Array]


class Checked(NamedTuple):
    """Gradients of some parameters, found to be right."""

    arrays: list[Array]
    #: int64, the addresses of the arrays
    at: Array
    #: as in Prepared
    rows: dict[int, Array]
    #: whether they are whole and in the dtypes that the last plan was made for
    as_planned: bool


class Planner:
    """The parameters of an optimizer with all that is kept of them, and the plan for their next step.

    It is not safe to be used by several threads at once; the optimizer's lock is held meanwhile.
    """

    def __init__(self, rule: Rule, backend: Backend, groups: Sequence[ParamGroup], seed: int) -> None:
        self.rule, self.backend, self.groups, self.seed = rule, backend, groups, seed
        self.parameters: list[Parameter] = [p for group in groups for p in group.members]
        count = len(self.parameters)
        self.kept: list[Kept | None] = [None] * count
        #: made by each parameter
        self.steps = np.zeros(max(count, 1), np.int64)
        #: as Carriers.numbers
        self.carried = np.empty((count, 2, len(rule.carried)))
        self.carried[:] = rule.carried_at_first
        self.plan: Prepared | None = None
        #: what has made the last steps; some of them may turn out to be skipped
        self.running: Plan | None = None
        #: how many steps were skipped
        self.skipped = 0
        #: watched gradient arrays that are gone
        self.gone: list[weakref.ref[Array]] = []
        #: why no step can be made for now
        self.barred: str | None = None
        #: the dtype of each parameter's gradient in the last plan
        self._dtypes = [p.array.dtype for p in self.parameters]
        on_host = all(memory_of(p.array) is HOST for p in self.parameters)
        #: the type of gradients that need no conversion; None: where they are has to be seen first
        self._plain = np.ndarray if on_host else None
        written = written_by(self.parameters)
        self._written = [what for what, _ in written]
        self._spans = Spans([array for _, array in written])

    def steps_by_group(self) -> list[int]:
        """How many steps each group has made: the most of any of its parameters."""
        ends = np.cumsum([len(group.members) for group in self.groups])
        return [int(steps.max(initial=0)) for steps in np.split(self.steps[: ends[-1]], ends[:-1])]

    def values_of(self, i: int) -> Mapping[str, Any]:
        """The hyperparameters and settings of a parameter, and the traits that its rule asks for."""
        p = self.parameters[i]
        values = self.groups[p.group].values_in_place
        return self.rule.seen(values, p.array.shape, p.array.dtype.name)

    def prepare(self, grads: Sequence[Any], options: Options, changed: list[int]) -> Prepared:
        """A plan for these gradients: the one there is with other pointers, or a new one.

        changed: numbers of groups that have announced a change; emptied.
        """
        old, self.plan = self.plan, None
        if self.barred:
            raise RuntimeError(self.barred)
        # only what has been announced so far: what another thread sets from here on is for the next step
        announced = len(changed)
        if announced:
            del changed[:announced]
            old = None
        if len(grads) != len(self.parameters):
            raise ValueError(f"got {len(grads)} gradients for {len(self.parameters)} parameters")
        numbers = [i for i, g in enumerate(grads) if g is not None]
        if old is not None and old.numbers == numbers:
            watch = old.watch
            fresh = [k for k, i in enumerate(numbers) if k not in watch or watch[k]() is not grads[i]]
            if old.marks:
                fresh = [k for k in fresh if k not in old.marks or old.marks[k] != mark(grads[numbers[k]])]
            checked = self._check([numbers[k] for k in fresh], grads, options)
            if checked.as_planned:
                plan = old._replace(grad_ids=_ids(grads), lent={})
                if fresh:
                    plan.run.set_grads(fresh, checked.arrays, checked.at)
                return self._watching(plan, fresh, checked.arrays, grads)
        for number, group in enumerate(self.groups):
            group.check_together(number)
        checked = self._check(numbers, grads, options)
        self.settle()
        run = self.running = self.backend.plan(self._work(numbers, checked, options))
        for i, array in zip(numbers, checked.arrays, strict=True):
            self._dtypes[i] = array.dtype
        plan = Prepared(run, _ids(grads), numbers, {}, {}, {}, checked.rows)
        return self._watching(plan, range(len(numbers)), checked.arrays, grads)

    def _watching(
        self, plan: Prepared, fresh: Sequence[int], arrays: Sequence[Array], grads: Sequence[Any]
    ) -> Prepared:
        """The plan, kept for the next step if it can be, with its fresh gradients watched or held."""
        for k, array in zip(fresh, arrays, strict=True):
            number = plan.numbers[k]
            if plan.marks:
                plan.marks.pop(k, None)
            if array is grads[number]:
                plan.watch[k] = weakref.ref(array, self.gone.append)
            else:
                plan.watch.pop(k, None)
                plan.lent[number] = array
                found = mark(grads[number]) if isinstance(array, DeviceArray) else None
                if found is not None:
                    plan.marks[k] = found
        self.gone.clear()
        if not plan.rows:  # other rows come with every step
            self.plan = plan
        return plan

    def _check(self, numbers: Sequence[int], grads: Sequence[Any], options: Options) -> Checked:
        """These parameters' gradients as arrays, and their addresses, once all are found to be right."""
        arrays: list[Array] = []
        rows: dict[int, Array] = {}
        dtypes, plain, as_planned = self._dtypes, self._plain, True
        for i in numbers:
            g = grads[i]
            if type(g) is not plain or g.dtype != dtypes[i] or g.shape != self.parameters[i].array.shape:
                g = self._check_rows(i, g, options, rows) if type(g) is Rows else self._check_whole(i, g)
                as_planned = as_planned and g.dtype == dtypes[i]
            arrays.append(g)
        at = addresses(arrays)
        alias = self._spans.find(arrays, at)
        if alias:
            grad = self.parameters[numbers[alias[0]]]
            raise ValueError(f"gradient of {grad} shares memory with {self._written[alias[1]]}")
        return Checked(arrays, at, rows, as_planned and not rows)

    def _check_whole(self, i: int, grad: Any) -> Array:
        p = self.parameters[i]
        array = as_array(grad, f"gradient of {p}", beside=p.array)
        if array.shape != p.array.shape:
            raise ValueError(f"gradient of {p} has shape {array.shape}, the parameter {p.array.shape}")
        check_together(f"gradient of {p}", array, "the parameter", p.array)
        return array

    def _check_rows(self, i: int, grad: Rows, options: Options, rows: dict[int, Array]) -> Array:
        p = self.parameters[i]
        check_rows_allowed(p, self.rule, self.values_of(i), options)
        indices, values = checked_rows(grad, p.array, f"gradient of {p}")
        rows[i], values = summed(indices, values, p.array)
        return values

    def _work(self, numbers: list[int], grads: Checked, options: Options) -> Work:
        blocks: dict[tuple[Any, ...], int] = {}
        rows: list[Block] = []
        alike: list[list[int]] = []
        items: list[Item] = []
        #: the slots in use and whether an element's number matters to them, of each block
        active: list[Active] = []
        numbered: list[bool] = []
        for i, grad in zip(numbers, grads.arrays, strict=True):
            p, values = self.parameters[i], self.values_of(i)
            key = (p.group, int(self.steps[i]), self.carried_by(i), *self._traits_of(p))
            if key not in blocks:
                blocks[key] = len(rows)
                alike.append([])
                carriers = Carriers(self.carried, alike[-1]) if self.rule.carried else ()
                rows.append(Block(self.rule, values, i, carriers))
                active.append(self.rule.active_slots(values))
                numbered.append(options.clips_units or self.rule.in_matrices(active[-1]))
            block = blocks[key]
            alike[block].append(i)
            kept = in_use(active[block], values, self.keep(i, active[block]))
            order = element_order(values, p.array, kept, numbered[block])
            beside = (kept.residual, kept.average, p.copy)
            items.append(
                Item(p.array, grad, kept.slots, block, i, order, p.group, *beside, grads.rows.get(i))
            )
        return Work(rows, items, self.steps, self.seed)

    def _traits_of(self, p: Parameter) -> tuple[Any, ...]:
        traits = self.rule.traits
        return tuple(traits(p.array.shape, p.array.dtype.name).values()) if traits else ()

    def keep(self, i: int, active: Active | None = None) -> Kept:
        """What is kept of a parameter: made when first needed, and kept when it is no longer asked for.

        active: its slots in use, when they are known.
        """
        values = self.values_of(i)
        active = active or self.rule.active_slots(values)
        kept = kept_for(active, values, self.parameters[i].array, self.kept[i], bool(self.steps[i]))
        self.kept[i] = kept
        return kept

    def carried_by(self, i: int) -> tuple[float, ...]:
        """What a parameter carries out of its last step."""
        return tuple(self.carried[i, self.steps[i] % 2].tolist())

    def settle(self) -> None:
        """Makes the counts of steps right; needed before they are read."""
        if self.running is not None:
            self.skipped += self.running.settle()

    def averages(self) -> list[Array | None]:
        """The running average of each parameter that has one now."""
        self.settle()
        result: list[Array | None] = []
        for i, p in enumerate(self.parameters):
            if self.groups[p.group].values_in_place["ema_decay"] is None:
                result.append(None)
                continue
            kept = self.kept[i]
            if kept is None or kept.average is None or not self.steps[i]:
                kept, self.plan = self.keep(i), None
            result.append(kept.average)
        return result

    def report_later(
        self, plan: Prepared, pending: Pending, gives_norm: bool, grads: Sequence[Any]
    ) -> PendingReport:
        """A report that is made when it is read; it does not keep the gradients."""
        held = [_reference(g) for g in grads]

        def fetch() -> StepReport:
            norm, clip_coef, tensor, skipped = pending.read()
            nonfinite = None if tensor is None else self.locate(plan, tensor, [of() for of in held])
            return StepReport(norm if gives_norm else None, clip_coef, skipped, nonfinite)

        return PendingReport.of(fetch)

    def locate(self, plan: Prepared, tensor: int, grads: Sequence[Any]) -> NonFinite:
        """The first element that is not finite of this tensor in the plan."""
        number = plan.numbers[tensor]
        p = self.parameters[number]
        grad = plan.lent.get(number, grads[number])
        if type(grad) is Rows:  # when a report is read late
            grad = self._check_rows(number, grad, Options(), {})
        array = None if grad is None else on_host(as_array(grad, f"gradient of {p}"))
        index = None if array is None else _first_not_finite(array, arithmetic(p.array.dtype))
        if array is None or index is None:  # when a report is read late
            return NonFinite(p.group, p.index, p.name, None, math.nan)
        value = float(array[index])
        if number in plan.rows:
            index = (int(plan.rows[number][index[0]]), *index[1:])
        return NonFinite(p.group, p.index, p.name, index, value)


def _reference(grad: Any) -> Callable[[], Any]:
    """Gives the gradient while others keep it; None for one that cannot be watched."""
    try:
        return weakref.ref(grad)
    except TypeError:
        return lambda: None


def _first_not_finite(array: Array, real: Any) -> tuple[int, ...] | None:
    """The index of the first element, in C order, that is not finite in the precision of the step.

    float64 beyond float32's range is not. The search takes little memory, however large the array.
    """
    flat: Any = array.reshape(-1) if array.flags.c_contiguous else array.flat
    piece = 1 << 20
    for first in range(0, array.size, piece):
        bad = np.flatnonzero(~np.isfinite(load(flat[first : first + piece], real)))
        if bad.size:
            return tuple(int(i) for i in np.unravel_index(first + bad[0], array.shape))
    return None


def _ids(grads: Sequence[Any]) -> list[int]:
    array, device = np.ndarray, DeviceArray
    return [id(g) if g is None or type(g) is array or type(g) is device else 0 for g in grads]
