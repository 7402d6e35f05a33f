"""How gradients are judged on a device: measured, and what comes of it for the step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.base import Measured, Options
from fastgd.cuda.driver import Driver
from fastgd.cuda.finish import Judging, finish_rescaled_text, finish_text
from fastgd.cuda.launches import Launch, Stage
from fastgd.cuda.layout import (
    CONTROL,
    LANES,
    LAYOUT_WORDS,
    REPORT_BYTES,
    REPORTS,
    SCOPE_BYTES,
    SUM_BYTES,
    control,
)
from fastgd.cuda.passes import WIDE
from fastgd.cuda.sums import sums_text
from fastgd.cuda.tables import COLUMN, Chunks, Held
from fastgd.cuda.writer import Text

#: the first words of the numbers, which the host says; kernels write the others
SAID = CONTROL.index("made")


class Kind(NamedTuple):
    """What a kernel that measures gradients must know of one."""

    grad: str
    #: what it is computed in
    real: str
    #: of element.LAYOUTS
    layout: str = "gapless"


class Judge:
    """Measures gradients on a device and says what comes of it: norm, coefficients, whether to skip."""

    def __init__(
        self,
        device: Driver,
        rows: Array,
        kinds: Sequence[tuple[str, str]],
        groups: Sequence[int],
        layouts: Sequence[Array | None],
    ) -> None:
        """rows: of the tensors. kinds: (dtype of the gradient, what it is computed in) of each; groups: its
        number of each, those of one following each other; layouts: as layouts.layout_of gives them."""
        self.device, self.groups = device, groups
        self.kinds = [Kind(*kind) for kind in kinds]
        self.sizes = rows[:, COLUMN["size"]].tolist()
        self.tensors = Held(device, rows)
        self.layouts = Held(device, np.zeros((len(rows), LAYOUT_WORDS), np.int64))
        rows[:, COLUMN["layout"]] = self.layouts.pointer + 8 * LAYOUT_WORDS * np.arange(len(rows))
        #: tables that are sent with the tensors
        self.beside: list[Held] = []
        self._laid = False
        self.lay(range(len(rows)), layouts)
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
        self._kept: list[Any] = []
        self._tables: list[Held] = []
        self.say_word("reports", self.reports.pointer)

    def lay(self, items: Sequence[int], layouts: Sequence[Array | None]) -> bool:
        """These items lie in memory like this from now on; whether other kernels are needed for it."""
        other = False
        for i, layout in zip(items, layouts, strict=True):
            if layout is not None:
                self.layouts.host[i], self._laid = layout, True
            name = "gapless" if layout is None else "strided"
            if self.kinds[i].layout != name:
                self.kinds[i], other = self.kinds[i]._replace(layout=name), True
        self.dirty = True
        return other

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

    def recount(self, **counts: int) -> None:
        """The device counts on from these numbers, which kernels write otherwise."""
        for name, value in counts.items():
            self.say_word(name, value)
        self._first = True

    def kept(self) -> list[Any]:
        """All that launches read, to be held as long as they may be launched."""
        return [
            *self._kept,
            self.segments,
            self.scopes,
            self.chunk_rows,
            self.tensors,
            self.layouts,
            self.numbers,
        ]

    # ---- options ----

    def ask(self, options: Options, *, counts: bool) -> None:
        """The options are these from now on."""
        self._kept, self._tables = [], []
        clamped, told = not math.isinf(options.clip_value), options.total_norm is not None
        largest = math.isinf(options.norm)
        measured, clips = options.needs_measure, not math.isinf(options.clip_norm)
        scoped = clips and options.scope != "all" and not told
        self.judging = Judging(
            measured=measured,
            clips=clips,
            normalize=options.normalize,
            scoped=scoped,
            clamped=clamped,
            largest=largest,
            skip_nonfinite=options.skip_nonfinite,
            told=told,
            rescales=not largest and any(kind.real == "float64" for kind in self.kinds),
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
        for kind in dict.fromkeys(self.kinds):
            chosen = [k for k, other in enumerate(self.kinds) if other == kind]
            chunks = Held(self.device, self.chunks.of_tensors(chosen))
            clamped = self.judging.clamped
            text = sums_text(*kind[:2], clamped=clamped, scaled=scaled, layout=kind.layout, threads=WIDE)
            count = len(chunks.host)
            given = (self.tensors.pointer, chunks.pointer, count, self.sums.pointer)
            blocks = -(-count * LANES // WIDE)
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
        self.keep(*tables)
        return Launch(self.device.kernel(text), blocks, arguments)

    def keep(self, *things: Any) -> None:
        """Keeps what launches need until others are asked for, and sends the tables among it."""
        self._kept += things
        self._tables += [thing for thing in things if isinstance(thing, Held)]

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
            for held in (self.tensors, *self.beside, *([self.layouts] if self._laid else [])):
                held.send(stream)
            self.dirty = self._laid = False
        for table in self._tables:
            table.send(stream)
        self._tables = []

    @property
    def launches(self) -> list[Stage]:
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


def measured_by(judge: Judge, options: Options, stream: int) -> Measured:
    """What a judge finds in its gradients, at once."""
    judge.ask(options, counts=False)
    judge.send(stream)
    for launch in judge.launches:
        launch(stream)
    return judge.report(0, 1, stream)
