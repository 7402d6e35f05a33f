"""The kernels between measuring and updating: what chunks sum up to becomes a norm and coefficients.

One block of threads; each thread takes every so-manieth segment of the chunks, and adds up in their order. A
segment is that of a scope: all gradients first, then, where clipping has other scopes, each of them.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastgd.backends.reference_norms import clip_coef, largest_norm, loses_bits, root, scale_for
from fastgd.cuda.layout import (
    CHUNK_BYTES,
    REPORT_BYTES,
    REPORTS,
    SCOPE_BYTES,
    SUM_BYTES,
    control,
)
from fastgd.cuda.passes import THREADS
from fastgd.cuda.writer import Text, Writer
from fastgd.tracing import Trace

F64, F32, I64, U64 = (np.dtype(kind) for kind in (np.float64, np.float32, np.int64, np.uint64))

#: sums that a thread loads before it adds them up
AHEAD = 8

#: no chunk has this number
NONE = 1 << 62


class Judging(NamedTuple):
    """All that decides how gradients are judged."""

    #: whether there are sums to judge by
    measured: bool = False
    #: whether clip_norm limits them, and brings them to it
    clips: bool = False
    normalize: bool = False
    #: whether each scope has a coefficient of its own
    scoped: bool = False
    #: whether clip_value clamps them
    clamped: bool = False
    #: whether the norm is the largest magnitude
    largest: bool = False
    skip_nonfinite: bool = False
    #: whether the norm is told, in the number `total_norm`
    told: bool = False
    #: whether squares may overflow or vanish in float64, so that a second pass may be needed
    rescales: bool = False
    #: whether steps are counted: not when gradients are only measured or clipped
    counts: bool = True


ARGUMENTS = ("numbers", "scopes", "segments", "count", "chunks", "sums")


class _Finish:
    def __init__(self, name: str, judging: Judging, threads: int) -> None:
        self.writer = Writer(name, ARGUMENTS, threads)
        self.judging, self.threads = judging, threads

    def trace(self, suffix: str, function: Callable[..., Sequence[Any]], *names: str) -> list[str]:
        """Writes a function of float64 numbers that have these names in the text."""
        trace = Trace()
        symbols = [trace.argument(name, F64) for name in names]
        outputs = trace.follow(lambda: function(*symbols))
        return self.writer.traced(trace, outputs, {name: name for name in names}, suffix)

    def number(self, name: str) -> None:
        self.writer.line(f"{name} = load_f64(numbers + {control(name)})")

    def store(self, name: str, value: str, kind: str = "f64") -> None:
        self.writer.line(f"store_{kind}(numbers + {control(name)}, {value})")

    def constant(self, value: Any, dtype: Any = F64) -> str:
        return self.writer.number(value, dtype)

    # ---- sums ----

    def add_up(self, column: int) -> None:
        """Writes `total`, `largest` and `bad`, the first not finite, of the chunks from `at` to `last`."""
        writer = self.writer
        writer.lines(f"""
total, largest, bad = {self.constant(0.0)}, {self.constant(0.0)}, {NONE}
""")
        trace = Trace()
        symbols = [trace.argument(name, F64) for name in ("total", "largest", "value", "peak")]
        total, largest, value, peak = symbols
        new_total: Any = total + (value if column == 0 else peak)
        new_largest: Any = np.where(peak > largest, peak, largest)
        # squares of finite numbers may overflow
        finite: Any = (value == value) & (peak < np.inf)
        for count in (AHEAD, 1):
            with writer.indented(f"while at + {count} <= last:"):
                for j in range(count):
                    writer.line(f"value{j}, peak{j} = load_f64x2(sums + (at + {j}) * {SUM_BYTES})")
                for j in range(count):
                    given = {"total": "total", "largest": "largest", "value": f"value{j}", "peak": f"peak{j}"}
                    made = writer.traced(trace, [new_total, new_largest, finite], given, f"a{count}{j}")
                    writer.line(f"total, largest = {made[0]}, {made[1]}")
                    with writer.indented(f"if not {made[2]} and at + {j} < bad:"):
                        writer.line(f"bad = at + {j}")
                writer.line(f"at += {count}")

    # ---- stages ----

    def norms(self) -> None:
        """Writes the norm of each segment to its row, and what its squares must be scaled by."""
        writer, judging = self.writer, self.judging
        writer.line("segment = thread()")
        with writer.indented("while segment < count:"):
            writer.line("at, last = load_i64x2(segments + segment * 16)")
            writer.line(f"scope = scopes + segment * {SCOPE_BYTES}")
            self.add_up(0)
            (norm,) = self.trace("n", self._norm, "total", "largest", "unscale", "bound")
            writer.line(f"store_f64(scope + 24, {norm})")
            if judging.rescales:
                scale, needed = self.trace("r", self._scale, "total", "largest", "unscale", "bound")
                writer.line(f"store_f64(scope + 16, {scale})")
                with writer.indented(f"if {needed}:"):
                    self.store("rescaled", "i64(1)", "i64")
            with writer.indented("if segment == 0:"):
                writer.line("found = i64(-1)")
                with writer.indented(f"if bad < {NONE}:"):
                    writer.line(f"found, part = load_i64x2(chunks + bad * {CHUNK_BYTES})")
                self.store("nonfinite", "found", "i64")
            writer.line(f"segment += {self.threads}")

    def _norm(self, total: Any, largest: Any, unscale: Any, bound: Any) -> list[Any]:
        """But for squares that have lost bits."""
        if self.judging.largest:
            return [largest_norm(largest, total != total, unscale, bound)]
        return [root(total, unscale, clamped=self.judging.clamped)]

    def _scale(self, total: Any, largest: Any, unscale: Any, bound: Any) -> list[Any]:
        """The power of two that squares are scaled by, 0 for none; and whether they are."""
        needed = loses_bits(total, largest)
        return [np.where(needed, scale_for(np.minimum(largest * unscale, bound)), 0.0), needed]

    def rescaled_norms(self) -> None:
        """Writes norms from scaled squares in place of those that overflowed or vanished."""
        writer = self.writer
        writer.line(f"rescaled = load_i64(numbers + {control('rescaled')})")
        writer.line("segment = thread()")
        with writer.indented("while rescaled != 0 and segment < count:"):
            writer.line("at, last = load_i64x2(segments + segment * 16)")
            writer.line(f"scope = scopes + segment * {SCOPE_BYTES}")
            writer.line("scale = load_f64(scope + 16)")
            with writer.indented(f"if scale != {self.constant(0.0)}:"):
                with writer.indented("if segment == 0:"):
                    self.add_up(0)
                    writer.line("sum_of_squares = total")
                with writer.indented("else:"):
                    self.add_up(1)
                    writer.line("sum_of_squares = total")
                (norm,) = self.trace(
                    "s", lambda total, scale: [np.sqrt(total) / scale], "sum_of_squares", "scale"
                )
                writer.line(f"store_f64(scope + 24, {norm})")
            writer.line(f"segment += {self.threads}")

    def coefficients(self) -> None:
        """Writes what the gradients of each scope are multiplied by."""
        writer, judging = self.writer, self.judging
        first = 1 if judging.scoped else 0
        writer.line(f"segment = thread() + {first}")
        with writer.indented("while segment < count:"):
            writer.line(f"scope = scopes + segment * {SCOPE_BYTES}")
            writer.line("norm = load_f64(scope + 24)")
            if judging.told:
                writer.line(f"norm = load_f64(numbers + {control('total_norm')})")
            made = self.trace("c", self._coefficient, "norm", "clip_norm", "unscale")
            writer.line(f"store_f64(scope + 16, {made[0]})")
            writer.line(f"store_f64(scope, {made[1]})")
            narrow = writer.operation("convert", F64, F32)
            writer.line(f"store_f32(scope + 8, {narrow}({made[1]}))")
            writer.line(f"segment += {self.threads}")

    def _coefficient(self, norm: Any, limit: Any, unscale: Any) -> list[Any]:
        """(coefficient of clipping, all that gradients are multiplied by past their clamp)."""
        coef: Any = norm.trace.constant(1.0, F64)
        if self.judging.clips:
            coef = clip_coef(norm, SimpleNamespace(normalize=self.judging.normalize, clip_norm=limit))
        return [coef, coef if self.judging.clamped else unscale * coef]

    def outcome(self) -> None:
        """Writes what thread 0 says of the step as a whole."""
        writer, judging = self.writer, self.judging
        with writer.indented("if thread() == 0:"):
            if judging.told:
                writer.line(f"norm = load_f64(numbers + {control('total_norm')})")
            else:
                writer.line(
                    "norm = load_f64(scopes + 24)"
                    if judging.measured
                    else f"norm = {self.constant(math.nan)}"
                )
            writer.line("coef = load_f64(scopes + 16)")
            if judging.scoped:
                writer.line(f"coef = {self.constant(1.0)}")
                if judging.clips:
                    writer.line(f"coef = {self.constant(math.inf)}")
                    writer.line("segment = 1")
                    with writer.indented("while segment < count:"):
                        writer.line(f"other = load_f64(scopes + segment * {SCOPE_BYTES} + 16)")
                        (least,) = self.trace(
                            "m", lambda coef, other: [np.minimum(coef, other)], "coef", "other"
                        )
                        writer.line(f"coef = {least}")
                        writer.line("segment += 1")
                    with writer.indented("if count == 1:"):
                        writer.line(f"coef = {self.constant(1.0)}")
            writer.line("skipped = i64(0)")
            writer.line(
                f"nonfinite = load_i64(numbers + {control('nonfinite')})"
                if judging.measured
                else "nonfinite = i64(-1)"
            )
            if judging.skip_nonfinite:
                (finite,) = self.trace("f", lambda norm: [np.isfinite(norm)], "norm")
                with writer.indented(f"if nonfinite >= 0 or not {finite}:"):
                    writer.line("skipped = i64(1)")
            self.store("skipped", "skipped", "i64")
            if judging.counts:
                self.count()
            writer.lines(f"""
reports = load_i64(numbers + {control("reports")})
issued = load_i64(numbers + {control("issued")})
report = reports + issued % {REPORTS} * {REPORT_BYTES}
store_f64x2(report, norm, coef)
store_i64x2(report + 16, nonfinite, skipped)
""")
            self.store("issued", "issued + 1", "i64")

    def count(self) -> None:
        """Writes which row of scalars the step takes, and counts it unless it is skipped."""
        self.writer.lines(f"""
made = load_i64(numbers + {control("made")})
number = made - load_i64(numbers + {control("least_made")})
count = load_i64(numbers + {control("row_count")})
if number >= count:
    number = count - 1
size = load_i64(numbers + {control("row_bytes")})
store_i64(numbers + {control("row")}, load_i64(numbers + {control("rows")}) + number * size)
store_i64(numbers + {control("row32")}, load_i64(numbers + {control("rows32")}) + number * size // 2)
store_i64(numbers + {control("made")}, made + 1 - skipped)
""")


@functools.cache
def finish_text(judging: Judging, threads: int = THREADS) -> Text:
    """The kernel that makes an outcome of sums; with `rescales`, its first half, before the second pass."""
    finish = _Finish("finish", judging, threads)
    finish.number("unscale")
    finish.number("bound")
    finish.number("clip_norm")
    if judging.measured:
        with finish.writer.indented("if thread() == 0:"):
            finish.store("rescaled", "i64(0)", "i64")
        finish.writer.line("barrier()")
        finish.norms()
        finish.writer.line("barrier()")
    if not (judging.measured and judging.rescales):
        finish.coefficients()
        finish.writer.line("barrier()")
        finish.outcome()
    return finish.writer.done()


@functools.cache
def finish_rescaled_text(judging: Judging, threads: int = THREADS) -> Text:
    """The kernel that makes an outcome once squares have been scaled where they must be."""
    finish = _Finish("finish_rescaled", judging, threads)
    finish.number("unscale")
    finish.number("clip_norm")
    finish.rescaled_norms()
    finish.writer.line("barrier()")
    finish.coefficients()
    finish.writer.line("barrier()")
    finish.outcome()
    return finish.writer.done()
