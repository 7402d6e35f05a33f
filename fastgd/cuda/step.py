"""One step on a device: measured, judged and updated on one stream, without a word to the host in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.base import UNMEASURED, Block, Item, Measured, Options, Work
from fastgd.cuda.cache import compiling
from fastgd.cuda.driver import DEFAULT_STREAM, Driver
from fastgd.cuda.element import Variant
from fastgd.cuda.judge import Judge, measured_by
from fastgd.cuda.launches import Stage
from fastgd.cuda.layout import RATIO_BYTES, TRIED_BYTES
from fastgd.cuda.layouts import arrays_of, layout_of
from fastgd.cuda.scalars import MOST, Scalars
from fastgd.cuda.stages import Stages
from fastgd.cuda.tables import COLUMN, Held, tensor_rows
from fastgd.cuda.variants import real_name, variant_of
from fastgd.interrupts import uninterrupted
from fastgd.lenders import torch_captures

#: steps that may have been skipped or not, at most, before the host waits to know
UNSETTLED = 32


class Report:
    """What a step found, read when it is asked for: backends.base.Pending."""

    def __init__(self, plan: StepPlan, number: int) -> None:
        self._plan, self._number = plan, number

    def read(self) -> Measured:
        return self._plan.report(self._number)


class StepPlan:
    """backends.base.Plan on a device."""

    def __init__(self, device: Driver, work: Work, stream: Callable[[], int]) -> None:
        self.device, self._work, self._stream = device, work, stream
        # all but the gradients, which are the caller's to keep, must outlive the pointers to it
        self._items = [item._replace(grad=item.param) for item in work.items]
        rows = tensor_rows(work.items, work.seed)
        kinds = [(item.grad.dtype.name, real_name(item.param.dtype.name)) for item in work.items]
        grads: list[Any] = [item.grad for item in work.items]
        #: whether all but the gradient is in C order
        self._plain = [self._in_c_order(item) for item in self._items]
        layouts = [self._layout(i, grad) for i, grad in enumerate(grads)]
        rows[:, COLUMN["grad"]] = [grad.pointer for grad in grads]
        self.judge = Judge(device, rows, kinds, [item.group for item in work.items], layouts)
        self.scalars = Scalars(device, work)
        for i, item in enumerate(work.items):
            if item.rows is not None:
                chosen = Held(device, np.ascontiguousarray(item.rows))
                rows[i, COLUMN["rows"]] = chosen.pointer
                self.judge.beside.append(chosen)
        self._ratios = device.allocate(len(work.items) * RATIO_BYTES)
        rows[:, COLUMN["ratios"]] = self._ratios.pointer + np.arange(len(work.items)) * RATIO_BYTES
        self._tried = device.allocate(len(self.judge.chunks.rows) * TRIED_BYTES)
        self._counters = np.array([item.counter for item in work.items], np.intp)
        self._base = work.steps[self._counters]
        #: the stream of the last step, and whether it broke off
        self._last: int | None = None
        self._broken = False
        #: the options of the step that was captured in a graph, and what the graph refers to
        self._captured: tuple[Options, list[Any]] | None = None
        #: steps made since the plan was made, as far as the host knows, and steps that may have been made
        self._made, self._may = 0, 0
        #: reports so far, and steps that turned out to be skipped
        self._issued, self._skips = 0, 0
        self._set: Options | None = None
        self._updating: list[Stage] = []

    # ---- the plan ----

    def set_grads(self, items: Sequence[int], grads: Sequence[Any], at: Array) -> None:
        rows = self.judge.tensors.host
        for i, grad in zip(items, grads, strict=True):
            rows[i, COLUMN["grad"]] = grad.pointer
        if self.judge.lay(items, [self._layout(i, grad) for i, grad in zip(items, grads, strict=True)]):
            self._set = None

    def grad_addresses(self) -> Array | None:
        column: Array = self.judge.tensors.host[:, COLUMN["grad"]]
        return column

    def arrange(
        self, chosen: Array, blocks: Sequence[Block], of: Sequence[int], exchanged: Mapping[int, Item]
    ) -> bool:
        return False

    def _layout(self, i: int, grad: Any) -> Array | None:
        item = self._items[i]
        if item.rows is not None or (self._plain[i] and grad.flags.c_contiguous):
            return None
        arrays = arrays_of(item, grad, self._work.blocks[item.block].rule)
        return layout_of(arrays, item.order, f"parameter {item.counter} or what belongs to it")

    def _in_c_order(self, item: Item) -> bool:
        arrays = arrays_of(item, item.param, self._work.blocks[item.block].rule)
        return all(array.flags.c_contiguous for array in arrays.values())

    def measure(self, options: Options) -> Measured:
        stream = self._stream()
        with self.device.current():
            return self._measured(options, stream)

    def _measured(self, options: Options, stream: int) -> Measured:
        own = self.judge
        kinds = [(kind.grad, real_name(kind.grad)) for kind in own.kinds]
        layouts = [
            words if kind.layout == "strided" else None
            for kind, words in zip(own.kinds, own.layouts.host, strict=True)
        ]
        judge = Judge(self.device, own.tensors.host.copy(), kinds, [0] * len(kinds), layouts)
        return measured_by(judge, options, stream)

    def step(self, options: Options, program: Any = None) -> Any:
        if program:
            program.run()
        stream = self._stream()
        capturing = self.device.stream_state(stream).capturing
        if not capturing and stream == DEFAULT_STREAM and torch_captures():
            raise RuntimeError(
                "torch captures a CUDA graph on a stream of its own, and the parameters are not torch's: "
                "their step would be made now and not be part of the graph"
            )
        with self.device.current():
            if capturing:
                self._capture(options)
            else:
                self._send(options, 1, stream)
            with uninterrupted():
                try:
                    for launch in (*self.judge.launches, *self._updating):
                        launch(stream)
                except BaseException:
                    self._broken = not capturing
                    raise
                # what is only recorded has nothing to tell
                return UNMEASURED if capturing else self._issue(options, 1)

    def _send(self, options: Options, steps: int, stream: int) -> None:
        """Sees to it that the device has all that it needs for so many steps."""
        if self._broken:
            # how far the device came is not known; it counts as the host does from here on
            self.device.wait()
            self.judge.recount(made=self._made, issued=self._issued)
            self._may, self._broken = self._made, False
        if self._last not in (None, stream):
            # what was sent and begun on another stream must be there
            self.device.wait()
        self._last = stream
        if options is not self._set:
            with compiling.shown():
                self._ask(options)
        most = 0 if self.scalars.carries else min(UNSETTLED - 1, MOST - steps)
        if self._may - self._made > most:
            self._skips = self.settle()
        judge = self.judge
        if self.scalars.cover(self._made, self._may + steps - 1, stream):
            for name, value in self.scalars.words().items():
                judge.say_word(name, value)
        judge.send(stream)

    def _issue(self, options: Options, steps: int) -> Any:
        """Counts steps that are on their way. A Report of the last of them."""
        self._issued += steps
        self._may += steps
        if not options.skip_nonfinite and self._made + steps == self._may:
            for made in range(self._made, self._may):
                self.scalars.carry(made)
            self._made = self._may
            self._set_steps()
        if not (options.gives_norm or options.clips_units):
            return UNMEASURED
        return Report(self, self._issued - 1)

    # ---- graphs ----

    def _capture(self, options: Options) -> None:
        """Keeps what the graph refers to; RuntimeError unless the step can be recorded as it is."""
        # nothing may be sent meanwhile
        if options is not self._set or self.judge.unsent or not self._issued:
            raise RuntimeError(
                "a step can be captured in a CUDA graph once one has been made with the same gradients "
                "and options: call step() first"
            )
        self._captured = options, self.judge.kept()

    def before_replay(self, steps: int) -> Any:
        """Sends what the next steps of a captured graph need, and counts them. As `step`."""
        options = self._set
        if options is None or self._captured is None or self._captured[0] is not options:
            raise RuntimeError(
                "no step like the last has been captured in a CUDA graph: capture one after a call of step()"
            )
        stream = self._stream()
        with self.device.current():
            self._send(options, steps, stream)
        return self._issue(options, steps)

    def _set_steps(self) -> None:
        self._work.steps[self._counters] = self._base + self._made

    def fetching(self, options: Options, fetch: tuple[int, int]) -> None:
        return None

    def settle(self) -> int:
        """Waits for the device, and counts the steps that were made."""
        if self._made != self._may:
            before = self._made
            with self.device.current():
                self._made = self.judge.word("made", self._settled_stream())
            for made in range(before, self._made):
                self.scalars.carry(made)
            self._skips += self._may - self._made
            self._may = self._made
            self._set_steps()
        skips, self._skips = self._skips, 0
        return skips

    def report(self, number: int) -> Measured:
        with self.device.current():
            return self.judge.report(number, self._issued, self._settled_stream())

    def _settled_stream(self) -> int:
        """A stream on which what the last step found can be read: that step's, unless it may be gone."""
        stream = self._stream()
        if self._last in (None, stream):
            return stream
        self.device.wait()
        return DEFAULT_STREAM

    # ---- launches ----

    def _ask(self, options: Options) -> None:
        # nothing holds until all of it does: memory may run out
        self._set, self._updating = None, []
        self.judge.ask(options, counts=True)
        members: dict[Variant, list[int]] = {}
        blocks = self._work.blocks
        for k, (item, kind) in enumerate(zip(self._items, self.judge.kinds, strict=True)):
            variant = variant_of(item, kind.grad, kind.layout, blocks[item.block], options)
            members.setdefault(variant, []).append(k)
        self._updating = Stages(self.judge, self._items, blocks, members, self._tried.pointer).launches
        self._set = options
