"""One step on a device: measured, judged and updated on one stream, without a word to the host in between."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.base import UNMEASURED, Block, Codes, Item, Measured, Options, Work
from fastgd.cuda.driver import Driver, Kernel
from fastgd.cuda.element import Variant
from fastgd.cuda.finish import Judging, finish_rescaled_text, finish_text, ratios_text
from fastgd.cuda.layout import (
    CONTROL,
    RATIO_BYTES,
    REPORT_BYTES,
    REPORTS,
    SCOPE_BYTES,
    SUM_BYTES,
    TRIED_BYTES,
    control,
)
from fastgd.cuda.passes import THREADS
from fastgd.cuda.rows import Rows
from fastgd.cuda.simulation import SIMULATED
from fastgd.cuda.sums import sums_text, trial_text
from fastgd.cuda.tables import COLUMN, Chunks, Held, tensor_rows, tiles_of
from fastgd.cuda.update import update_text
from fastgd.cuda.writer import Text
from fastgd.rules import label_of
from fastgd.settings import CODED, state_rounding
from fastgd.storage import arithmetic

#: threads of a block: few where each of them is one of Python's
WIDE = 32 if SIMULATED else THREADS

#: steps that may have been skipped or not, at most, before the host waits to know
UNSETTLED = 32

#: the first words of the numbers, which the host says; kernels write the others
SAID = CONTROL.index("made")


class Launch(NamedTuple):
    """A kernel with all that it is given."""

    kernel: Kernel
    blocks: int
    arguments: tuple[int, ...]

    def __call__(self, stream: int) -> None:
        self.kernel(self.blocks, stream, *self.arguments)


class Report:
    """What a step found, read when it is asked for: backends.base.Pending."""

    def __init__(self, plan: StepPlan, number: int) -> None:
        self._plan, self._number = plan, number

    def read(self) -> Measured:
        return self._plan.report(self._number)


class Judge:
    """Measures gradients on a device and says what comes of it: norm, coefficients, whether to skip."""

    def __init__(
        self, device: Driver, rows: Array, kinds: Sequence[tuple[str, str]], groups: Sequence[int]
    ) -> None:
        """rows: of the tensors. kinds: (dtype of the gradient, what it is computed in) of each; groups: its
        number of each, those of one following each other."""
        self.device, self.kinds, self.groups = device, kinds, groups
        self.sizes = rows[:, COLUMN["size"]].tolist()
        self.tensors = Held(device, rows)
        self.chunks = Chunks.of(self.sizes)
        self.chunk_rows = Held(device, self.chunks.rows)
        self.sums = device.allocate(len(self.chunks.rows) * SUM_BYTES)
        self.numbers = Held(device, np.zeros(len(CONTROL), np.int64))
        self.reports = device.allocate(REPORTS * REPORT_BYTES)
        self._options: Options | None = None
        self._measuring: list[Launch] = []
        self._finishing: list[Launch] = []
        self.judging = Judging()
        #: whether tensors, and numbers, have changed since they were sent, and whether these never were
        self.dirty, self._said, self._first = True, True, True
        #: tables of launches, and which of them have not been sent
        self._kept: list[Held] = []
        self._tables: list[Held] = []
        self.say_word("reports", self.reports.pointer)

    # ---- numbers ----

    def say(self, name: str, value: float, *, both: bool = False) -> None:
        """Sets a float64 among the numbers, and with `both` the same in float32."""
        words, self._said = self.numbers.host, True
        words[CONTROL.index(name)] = np.float64(value).view(np.int64)
        if both:
            with np.errstate(all="ignore"):
                words.view(np.float32)[2 * CONTROL.index(f"{name}32")] = np.float32(value)

    def say_word(self, name: str, value: int) -> None:
        self.numbers.host[CONTROL.index(name)], self._said = value, True

    # ---- options ----

    def ask(self, options: Options, *, counts: bool) -> None:
        """The options are these from now on."""
        self._kept, self._tables = [], []
        clamped, told = not math.isinf(options.clip_value), options.total_norm is not None
        measured, clips = options.needs_measure, not math.isinf(options.clip_norm)
        scoped = clips and options.scope != "all" and not told
        self.judging = Judging(
            measured=measured,
            clips=clips,
            normalize=options.normalize,
            scoped=scoped,
            clamped=clamped,
            largest=math.isinf(options.norm),
            skip_nonfinite=options.skip_nonfinite,
            told=told,
            rescales=any(real == "float64" for _, real in self.kinds),
            counts=counts,
        )
        self.say("unscale", 1 / options.grad_scale, both=True)
        self.say("bound", options.clip_value, both=True)
        self.say("clip_norm", options.clip_norm)
        self.say("total_norm", math.nan if options.total_norm is None else options.total_norm)
        self.say("clip_unit", options.clip_unit)
        self.say("unit_eps", options.unit_eps)
        self._scope(options.scope if scoped else "all")
        self._measuring = self._sums(scaled=False) if measured else []
        self._finishing = self._finish()
        self._options = options

    def _scope(self, scope: str) -> None:
        """Gives each tensor its scope, and each scope its chunks."""
        count = len(self.sizes)
        own = {
            "all": np.zeros(count, np.int64),
            "group": 1 + np.cumsum(np.diff(self.groups, prepend=self.groups[:1]) != 0),
            "tensor": 1 + np.arange(count),
        }[scope]
        first = self.chunks.first
        segments = [(0, first[-1])]
        for number in range(1, int(own.max(initial=0)) + 1):
            members = np.nonzero(own == number)[0]
            segments.append((first[members[0]], first[members[-1] + 1]))
        self.segments = Held(self.device, np.array(segments, np.int64))
        self.scopes = Held(self.device, np.zeros((len(segments), SCOPE_BYTES // 8)))
        rows = self.tensors.host
        rows[:, COLUMN["scope"]] = self.scopes.pointer + own * SCOPE_BYTES
        self._tables += [self.segments, self.scopes, self.chunk_rows]
        self.dirty = True

    def _sums(self, *, scaled: bool) -> list[Launch]:
        launches = []
        for grad, real in dict.fromkeys(self.kinds):
            chosen = [k for k, kind in enumerate(self.kinds) if kind == (grad, real)]
            chunks = Held(self.device, self.chunks.of_tensors(chosen))
            text = sums_text(grad, real, clamped=self.judging.clamped, scaled=scaled, threads=WIDE)
            count = len(chunks.host)
            given = (self.tensors.pointer, chunks.pointer, count, self.sums.pointer)
            blocks = -(-count * 16 // WIDE)
            numbers = (self.numbers.pointer, self.scopes.pointer)
            launches.append(self.launch(text, blocks, (*given, *numbers), chunks))
        return launches

    def _finish(self) -> list[Launch]:
        arguments = (
            self.numbers.pointer,
            self.scopes.pointer,
            self.segments.pointer,
            len(self.segments.host),
            self.chunk_rows.pointer,
            self.sums.pointer,
        )
        launches = [self.launch(finish_text(self.judging, WIDE), 1, arguments)]
        if self.judging.measured and self.judging.rescales:
            launches += self._sums(scaled=True)
            launches.append(self.launch(finish_rescaled_text(self.judging, WIDE), 1, arguments))
        return launches

    def launch(self, text: Text, blocks: int, arguments: tuple[int, ...], *tables: Held) -> Launch:
        """A launch; tables: what it reads and nobody else keeps."""
        self._kept += tables
        self._tables += tables
        return Launch(self.device.kernel(text), blocks, arguments)

    # ---- on the device ----

    @property
    def unsent(self) -> bool:
        """Whether there is something that the device does not have yet."""
        return bool(self._tables) or self._said or self.dirty

    def send(self, stream: int) -> None:
        """Sends what has changed."""
        if self._said:
            # at first all of the numbers, zeros for what kernels count
            words = self.numbers.host[: len(CONTROL) if self._first else SAID]
            self.device.upload(self.numbers.pointer, words, stream)
            self._said = self._first = False
        if self.dirty:
            self.tensors.send(stream)
            self.dirty = False
        for table in self._tables:
            table.send(stream)
        self._tables = []

    @property
    def launches(self) -> list[Launch]:
        """What measures, if there is need, and judges."""
        return [*self._measuring, *self._finishing]

    def report(self, number: int, issued: int, stream: int) -> Measured:
        """The report with this number, when all before it is done."""
        if issued - number > REPORTS:
            raise RuntimeError(f"the report of a step is kept for {REPORTS} steps: read it before")
        words = np.empty(REPORT_BYTES // 8, np.int64)
        self.device.download(self.reports.pointer + number % REPORTS * REPORT_BYTES, words, stream)
        norm, coef = words[:2].view(np.float64).tolist()
        nonfinite, skipped = words[2:].tolist()
        return Measured(norm, coef, None if nonfinite < 0 else nonfinite, bool(skipped))

    def word(self, name: str, stream: int) -> int:
        """One of the numbers, when all before it is done."""
        word = np.empty(1, np.int64)
        self.device.download(self.numbers.pointer + control(name), word, stream)
        return int(word[0])


class StepPlan:
    """backends.base.Plan on a device."""

    def __init__(self, device: Driver, work: Work, stream: Callable[[], int]) -> None:
        self.device, self._work, self._stream = device, work, stream
        # all but the gradients, which are the caller's to keep, must outlive the pointers to it
        self._items = [item._replace(grad=item.param) for item in work.items]
        rows = tensor_rows(work.items, work.seed)
        kinds = [(item.grad.dtype.name, _real(item)) for item in work.items]
        self.judge = Judge(device, rows, kinds, [item.group for item in work.items])
        self.rows = Rows(device, work)
        self._grads = [item.grad.dtype.name for item in work.items]
        self.set_grads(range(len(work.items)), [item.grad for item in work.items], np.empty(0))
        self._ratios = device.allocate(len(work.items) * RATIO_BYTES)
        rows[:, COLUMN["ratios"]] = self._ratios.pointer + np.arange(len(work.items)) * RATIO_BYTES
        self._tried = device.allocate(len(self.judge.chunks.rows) * TRIED_BYTES)
        self._base = [int(work.steps[item.counter]) for item in work.items]
        #: steps made since the plan was made, as far as the host knows, and steps that may have been made
        self._made, self._may = 0, 0
        #: reports so far, and steps that turned out to be skipped
        self._issued, self._skips = 0, 0
        self._set: Options | None = None
        self._updating: list[Launch] = []

    # ---- the plan ----

    def set_grads(self, items: Sequence[int], grads: Sequence[Any], at: Array) -> None:
        rows = self.judge.tensors.host
        for i, grad in zip(items, grads, strict=True):
            rows[i, COLUMN["grad"]] = grad.pointer
        self.judge.dirty = True

    def measure(self, options: Options) -> Measured:
        stream = self._stream()
        with self.device.current():
            return self._measured(options, stream)

    def _measured(self, options: Options, stream: int) -> Measured:
        kinds = [(grad, arithmetic_name(grad)) for grad in self._grads]
        judge = Judge(self.device, self.judge.tensors.host.copy(), kinds, [0] * len(kinds))
        return measured_by(judge, options, stream)

    def step(self, options: Options, program: Any = None) -> Any:
        if program:
            program.run()
        stream = self._stream()
        capturing = self.device.stream_state(stream).capturing
        with self.device.current():
            if capturing:
                self._check_capture(options)
            else:
                self._send(options, 1, stream)
            for launch in (*self.judge.launches, *self._updating):
                launch(stream)
        # what is only recorded has nothing to tell
        return UNMEASURED if capturing else self._issue(options, 1)

    def _send(self, options: Options, steps: int, stream: int) -> None:
        """Sees to it that the device has all that it needs for so many steps."""
        if options is not self._set:
            self._ask(options)
        if self._may - self._made >= UNSETTLED or (self.rows.carries and self._may != self._made):
            self._skips = self.settle()
        judge = self.judge
        if self.rows.cover(self._made, self._may + steps - 1, stream):
            for name, value in self.rows.words().items():
                judge.say_word(name, value)
        judge.send(stream)

    def _issue(self, options: Options, steps: int) -> Any:
        """Counts steps that are on their way. A Report of the last of them."""
        self._issued += steps
        self._may += steps
        if not options.skip_nonfinite and self._made + steps == self._may:
            for made in range(self._made, self._may):
                self.rows.carry(made)
            self._made = self._may
            self._set_steps()
        if not (options.gives_norm or options.clips_units):
            return UNMEASURED
        return Report(self, self._issued - 1)

    # ---- graphs ----

    def _check_capture(self, options: Options) -> None:
        """RuntimeError unless the step can be recorded: nothing may be sent meanwhile."""
        if options is not self._set or self.judge.unsent or not self._issued:
            raise RuntimeError(
                "a step can be captured in a CUDA graph once one has been made with the same gradients "
                "and options: call step() first"
            )

    def before_replay(self, steps: int) -> Any:
        """Sends what the next steps of a captured graph need, and counts them. As `step`."""
        options = self._set
        if options is None or not self._issued:
            raise RuntimeError("no step has been made yet, so none can have been captured")
        stream = self._stream()
        with self.device.current():
            self._send(options, steps, stream)
        return self._issue(options, steps)

    def _set_steps(self) -> None:
        steps = self._work.steps
        for item, base in zip(self._items, self._base, strict=True):
            steps[item.counter] = base + self._made

    def settle(self) -> int:
        """Waits for the device, and counts the steps that were made."""
        if self._made != self._may:
            before, stream = self._made, self._stream()
            with self.device.current():
                self._made = self.judge.word("made", stream)
            for made in range(before, self._made):
                self.rows.carry(made)
            self._skips += self._may - self._made
            self._may = self._made
            self._set_steps()
        skips, self._skips = self._skips, 0
        return skips

    def report(self, number: int) -> Measured:
        stream = self._stream()
        with self.device.current():
            return self.judge.report(number, self._issued, stream)

    # ---- launches ----

    def _ask(self, options: Options) -> None:
        # nothing holds until all of it does: memory may run out
        self._set, self._updating = None, []
        self.judge.ask(options, counts=True)
        variants: dict[Variant, list[int]] = {}
        for k, item in enumerate(self._items):
            variant = variant_of(item, self._grads[k], self._work.blocks[item.block], options)
            variants.setdefault(variant, []).append(k)
        for variant, members in variants.items():
            if variant.cautious or variant.of.trust is not None:
                self._updating += self._trial(variant, members)
        for variant, members in variants.items():
            tiles = Held(self.device, tiles_of(self.judge.sizes, members))
            arguments = (self.judge.tensors.pointer, tiles.pointer, self.judge.numbers.pointer)
            text = update_text(variant, WIDE)
            self._updating.append(self.judge.launch(text, len(tiles.host), arguments, tiles))
        self._set = options

    def _trial(self, variant: Variant, members: Sequence[int]) -> list[Launch]:
        judge, first = self.judge, self.judge.chunks.first
        chunks = Held(self.device, judge.chunks.of_tensors(members))
        spans = Held(self.device, np.array([(k, first[k], first[k + 1]) for k in members], np.int64))
        count = len(chunks.host)
        tables = (judge.tensors.pointer, chunks.pointer, count)
        trial = judge.launch(
            trial_text(variant, WIDE),
            -(-count * 16 // WIDE),
            (*tables, self._tried.pointer, judge.numbers.pointer),
            chunks,
        )
        given = (judge.tensors.pointer, spans.pointer, len(members), self._tried.pointer)
        ratios = judge.launch(
            ratios_text(variant, WIDE), -(-len(members) // WIDE), (*given, judge.numbers.pointer), spans
        )
        return [trial, ratios]


def measured_by(judge: Judge, options: Options, stream: int) -> Measured:
    """What a judge finds in its gradients, at once."""
    judge.ask(options, counts=False)
    judge.send(stream)
    for launch in judge.launches:
        launch(stream)
    return judge.report(0, 1, stream)


def arithmetic_name(dtype: str) -> str:
    return "float64" if dtype == "float64" else "float32"


def _real(item: Item) -> str:
    return str(np.dtype(arithmetic(item.param.dtype)).name)


def _stored(state: Any) -> str | None:
    if state is None:
        return None
    return CODED if isinstance(state, Codes) else str(state.dtype.name)


def variant_of(item: Item, grad: str, block: Block, options: Options) -> Variant:
    """What its step does with an element."""
    values = block.values
    return Variant(
        rule=label_of(block.rule),
        on=tuple(block.rule.active(values).values()),
        param=item.param.dtype.name,
        grad=grad,
        state=tuple(_stored(state) for state in item.state),
        rounding=values["rounding"],
        state_rounding=state_rounding(values),
        maximize=values["maximize"],
        bounded=not math.isinf(options.clip_value),
        cautious=values["cautious"],
        average=item.average is not None,
        copy=item.copy.dtype.name if item.copy is not None else None,
        units=options.clips_units,
    )
