"""Arrays in several memories at once: one call to a backend for each memory, and one norm of them all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.base import UNMEASURED, Backend, Block, Item, Measured, Options, Plan, Program, Work
from fastgd.backends.reference_norms import clip_coef, smallest
from fastgd.interrupts import uninterrupted
from fastgd.memory import HOST, Memory, memory_of
from fastgd.rules import Rule
from fastgd.storage import arithmetic


def _whole(norms: Sequence[float], options: Options) -> float:
    """The norm of parts together: the root of their squares' sum, in their order; or the largest."""
    if any(map(math.isnan, norms)):
        return math.nan
    largest = max(norms, default=0.0)
    if math.isinf(options.norm) or largest == 0 or math.isinf(largest):
        return largest
    # powers of two, which round nothing, keep squares from overflowing
    exponent = math.frexp(largest)[1]
    total = 0.0
    for norm in norms:
        share = math.ldexp(norm, -exponent)
        total += share * share
    try:
        return math.ldexp(math.sqrt(total), exponent)
    except OverflowError:
        return math.inf


def _together(parts: Sequence[tuple[Sequence[int], Measured]], options: Options) -> Measured:
    """What parts have found, each with the numbers of its tensors, as one; only measured, not clipped."""
    norm = _whole([found.norm for _, found in parts], options)
    bad = [numbers[found.nonfinite] for numbers, found in parts if found.nonfinite is not None]
    skipped = options.skip_nonfinite and (bool(bad) or not math.isfinite(norm))
    coef = 1.0 if math.isinf(options.clip_norm) else clip_coef(norm, options)
    return Measured(norm, coef, min(bad, default=None), skipped)


def _told(options: Options, norm: float) -> Options:
    """The options once all is measured and found good: to be clipped by this norm."""
    told = options._replace(measure=False, skip_nonfinite=False)
    return told._replace(total_norm=norm) if options.scope == "all" else told


class _Part(NamedTuple):
    plan: Plan
    #: its items, by their numbers in the whole work
    numbers: list[int]
    memory: Memory
    #: whether all gradients are float64 and their parameters are not
    narrows: bool
    #: numbers of its parameter groups
    groups: frozenset[int]

    def __str__(self) -> str:
        return f"{self.memory.name}{' with float64 gradients of narrower parameters' if self.narrows else ''}"


def _narrows(item: Item) -> bool:
    return item.grad.dtype.name == "float64" and arithmetic(item.param.dtype) is np.float32


def _part(backend: Backend, work: Work, numbers: list[int]) -> _Part:
    items = [work.items[i] for i in numbers]
    used = sorted({item.block for item in items})
    # the step number is read off the counter of one of the block's own: others may have been stepped before
    counters = {item.block: item.counter for item in reversed(items)}
    blocks = [work.blocks[b]._replace(counter=counters[b]) for b in used]
    own = [item._replace(block=used.index(item.block)) for item in items]
    plan = backend.plan(work._replace(blocks=blocks, items=own))
    groups = frozenset(item.group for item in items)
    return _Part(plan, numbers, memory_of(items[0].param), _narrows(items[0]), groups)


class _Plan:
    """Parts in the order of the memories' first items; those of the host come last.

    So a device that fails does so before anything on the host is changed.
    """

    def __init__(self, backends: Mapping[Memory, Backend], work: Work) -> None:
        numbers: dict[tuple[Memory, bool], list[int]] = {}
        for i, item in enumerate(work.items):
            numbers.setdefault((memory_of(item.param), _narrows(item)), []).append(i)
        order = sorted(numbers, key=lambda key: key[0] is HOST)
        self._parts = [_part(backends[key[0]], work, numbers[key]) for key in order]
        self._place = {i: (k, own) for k, p in enumerate(self._parts) for own, i in enumerate(p.numbers)}
        #: the gradients' addresses, where somebody has asked for them
        self._at: Array | None = None
        self._straddling: tuple[int, str, str] | None = None
        seen: dict[int, _Part] = {}
        for part in self._parts:
            for group in sorted(part.groups):
                other = seen.setdefault(group, part)
                if other is not part and self._straddling is None:
                    self._straddling = group, str(other), str(part)

    def set_grads(self, items: Sequence[int], grads: Sequence[Array], at: Array) -> None:
        chosen: dict[int, list[int]] = {}
        for k, i in enumerate(items):
            chosen.setdefault(self._place[i][0], []).append(k)
        for part, which in chosen.items():
            own = [self._place[items[k]][1] for k in which]
            self._parts[part].plan.set_grads(own, [grads[k] for k in which], at[which])
        self._at = None

    def grad_addresses(self) -> Array | None:
        own = [part.plan.grad_addresses() for part in self._parts]
        if any(addresses is None for addresses in own):
            return None
        self._at = np.empty(len(self._place), np.int64)
        for part, addresses in zip(self._parts, own, strict=True):
            self._at[part.numbers] = addresses
        return self._at

    def _move_grads(self) -> None:
        """Tells the parts of the addresses that have been written."""
        for part in self._parts:
            addresses = part.plan.grad_addresses()
            assert self._at is not None and addresses is not None
            addresses[:] = self._at[part.numbers]

    def arrange(
        self, chosen: Array, blocks: Sequence[Block], of: Sequence[int], exchanged: Mapping[int, Item]
    ) -> bool:
        return False

    def measure(self, options: Options) -> Measured:
        if self._at is not None:
            self._move_grads()
        return _together([(part.numbers, part.plan.measure(options)) for part in self._parts], options)

    def step(self, options: Options, program: Program | None = None) -> Measured:
        """As Plan.step; where a norm is needed, all parts are measured and waited for before any is changed.

        ValueError for the scope "group" where parameters of one group are in several memories.
        """
        clips = not math.isinf(options.clip_norm)
        if clips and options.scope == "group" and self._straddling:
            group, *parts = self._straddling
            raise ValueError(
                f"clip_scope 'group' measures each group in one place, and group {group} is on "
                f"{' and on '.join(parts)}: make a group for each"
            )
        if self._at is not None:
            self._move_grads()
        if program:
            program.run()
        measured = UNMEASURED
        if options.needs_measure:
            measured = self._measured(options)
            if measured.skipped:
                return measured
            options = _told(options, measured.norm)
        with uninterrupted():
            made = [part.plan.step(options) for part in self._parts]
        found = [m if isinstance(m, Measured) else m.read() for m in made if m is not UNMEASURED]
        if not found:
            return measured
        norm = measured.norm if measured is not UNMEASURED else found[0].norm
        return Measured(norm, smallest([m.clip_coef for m in found]), measured.nonfinite, False)

    def _measured(self, options: Options) -> Measured:
        """What `step` measures, which takes gradients in the precision of their parameters."""
        found = []
        asked = Options(grad_scale=options.grad_scale, clip_value=options.clip_value, measure=True)
        for part in self._parts:
            own = part.plan.measure(asked)
            if part.narrows and math.isfinite(own.norm):
                largest = part.plan.measure(Options(norm=math.inf, measure=True)).norm
                with np.errstate(over="ignore"):
                    if np.isinf(np.float32(largest)):  # as its part's norm would be
                        own = own._replace(norm=math.inf)
            found.append((part.numbers, own))
        measured = _together(found, options)
        return measured if options.total_norm is None else _given(measured, options, options.total_norm)

    def fetching(self, options: Options, fetch: tuple[int, int]) -> None:
        return None

    def settle(self) -> int:
        """0: parts are only stepped once it is known that they are not skipped."""
        for part in self._parts:
            part.plan.settle()
        return 0


def _given(measured: Measured, options: Options, norm: float) -> Measured:
    """What was measured, with a norm that others have measured."""
    skipped = measured.skipped or (options.skip_nonfinite and not math.isfinite(norm))
    coef = 1.0 if math.isinf(options.clip_norm) else clip_coef(norm, options)
    return measured._replace(norm=norm, clip_coef=coef, skipped=skipped)


class Several:
    """A backend for each of several memories."""

    memory = "several"
    rearranges = False

    def __init__(self, name: str, backends: Mapping[Memory, Backend]) -> None:
        #: what they were asked for by
        self.name = name
        self._backends = backends

    def supports(self, rule: Rule, dtype: Any) -> bool:
        return all(backend.supports(rule, dtype) for backend in self._backends.values())

    def plan(self, work: Work) -> Plan:
        memories = {memory_of(item.param) for item in work.items}
        if len(memories) == 1:
            return self._backends[memories.pop()].plan(work)
        return _Plan(self._backends, work)

    def measure(self, arrays: Sequence[Array], options: Options) -> Measured:
        parts = self._split(arrays)
        return _together(
            [(numbers, backend.measure(own, options)) for numbers, own, backend in parts], options
        )

    def norms(self, arrays: Sequence[Array], options: Options) -> list[float]:
        result = [0.0] * len(arrays)
        for numbers, own, backend in self._split(arrays):
            for i, norm in zip(numbers, backend.norms(own, options), strict=True):
                result[i] = norm
        return result

    def clip(self, arrays: Sequence[Array], options: Options) -> Measured:
        measured = UNMEASURED
        if options.needs_measure:
            measured = self.measure(arrays, options)
            if measured.skipped:
                return measured
            options = _told(options, measured.norm)
        for _, own, backend in self._split(arrays):
            backend.clip(own, options)
        return measured

    def _split(self, arrays: Sequence[Array]) -> Iterable[tuple[list[int], list[Array], Backend]]:
        numbers: dict[Memory, list[int]] = {}
        for i, array in enumerate(arrays):
            numbers.setdefault(memory_of(array), []).append(i)
        for memory in sorted(numbers, key=lambda memory: memory is HOST):
            own = numbers[memory]
            yield own, [arrays[i] for i in own], self._backends[memory]
