"""The kernels between measuring and updating: what chunks sum up to becomes a norm and coefficients.

One block of threads; each thread takes every so-manieth segment of the chunks, and adds up in their order. A
segment is that of a scope: all gradients first, then, where clipping has other scopes, each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastgd.backends.reference_norms import TINY_SUM, clip_coef
from fastgd.backends.reference_update import counted
from fastgd.cuda.element import Variant
from fastgd.cuda.layout import (
    CHUNK_BYTES,
    RATIO_BYTES,
    REPORT_BYTES,
    REPORTS,
    SCOPE_BYTES,
    SUM_BYTES,
    TENSOR_BYTES,
    TRIED_BYTES,
    control,
    tensor,
)
from fastgd.cuda.passes import BESIDE, THREADS
from fastgd.cuda.writer import Text, Writer
from fastgd.tracing import Symbol, Trace

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
    #: whether the norm is told, in the number `norm`
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
        return self.writer.constant(Trace().constant(value, dtype).operation)

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
        """reference_norms.norm_of, but for squares that must be scaled."""
        if self.judging.largest:
            scaled = largest * unscale
            limited = np.where(scaled > bound, bound, scaled)
            hidden = (largest == np.inf) & (bound < np.inf)
            return [np.where((total != total) | hidden, np.nan, limited)]
        root = np.sqrt(total)
        return [root if self.judging.clamped else root * unscale]

    def _scale(self, total: Any, largest: Any, unscale: Any, bound: Any) -> list[Any]:
        """The power of two that squares are scaled by, 0 for none; and whether they are."""
        finite = (largest < np.inf) & (total == total)
        needed = finite & (~np.isfinite(total) | (total < TINY_SUM)) & (largest > 0)
        if self.judging.largest:
            needed = needed & False
        exponent = _exponent(_least(largest * unscale, bound))
        return [np.where(needed, _power_of_two(-exponent), 0.0), needed]

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
                        (least,) = self.trace("m", lambda coef, other: [_least(coef, other)], "coef", "other")
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


def _least(a: Any, b: Any) -> Any:
    """The smaller; NaN when one is."""
    return np.minimum(a, b)


def _exponent(value: Any) -> Any:
    """int64: the exponent of a float64 that is above 0, at least -1000: reference_norms.power_of_two_of."""
    exponent = (value.view(np.uint64) >> 52 & 0x7FF).astype(np.int64) - 1023
    return np.where(exponent < -1000, np.int64(-1000), exponent)


def _power_of_two(exponent: Any) -> Any:
    """float64: 2^exponent for an exponent from -1024 to 1000."""
    normal = (exponent + 1023).astype(np.uint64) << 52
    subnormal = np.uint64(1) << (exponent + 1074).astype(np.uint64)
    return np.where(exponent < -1022, subnormal, normal).view(np.float64)


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


# ---- Ratios of tensors ----------------------------------------------------------------------------------

RATIO_ARGUMENTS = ("tensors", "spans", "count", "tried", "numbers")


def ratios_text(variant: Variant, threads: int = THREADS) -> Text:
    """The kernel that makes trust ratios and cautious scales of what was tried, a thread for each tensor.

    spans: (tensor, first chunk, chunk past the last) of each tensor.
    """
    writer = Writer("ratios", RATIO_ARGUMENTS, threads)
    rule = variant.of
    with writer.indented(f"if load_i64(numbers + {control('skipped')}) != 0:"):
        writer.line("return")
    writer.line(f"number = block() * {threads} + thread()")
    with writer.indented("if number >= count:"):
        writer.line("return")
    zero = writer.constant(Trace().constant(0.0, F64).operation)
    writer.lines(f"""
tensor = load_i64(spans + number * 24)
at = load_i64(spans + number * 24 + 8)
last = load_i64(spans + number * 24 + 16)
of = tensors + tensor * {TENSOR_BYTES}
params, others, descending = {zero}, {zero}, {zero}
""")
    add = writer.operation("add", F64, F64)
    with writer.indented("while at < last:"):
        for k, name in enumerate(("params", "others", "descending")):
            writer.line(f"{name} = {add}({name}, load_f64(tried + at * {TRIED_BYTES} + {8 * k}))")
        writer.line("at += 1")
    trace = Trace()
    params, others, descending = (trace.argument(n, F64) for n in ("params", "others", "descending"))
    size = trace.argument("size", I64).astype(F64)
    scalars: dict[str, Any] = {name: trace.argument(f"s_{name}", F64) for name in rule.scalars}
    outputs: list[Symbol] = []

    def made() -> list[Any]:
        trust: Any = trace.constant(1.0, F64)
        if rule.trust is not None:
            norms: list[Any] = [np.sqrt(value) for value in (params, others, size)]
            trust = rule.trust.ratio(norms[0], norms[1], norms[2], scalars)
        scale = 1.0 / counted(descending / size) if variant.cautious else trace.constant(1.0, F64)
        return [trust, scale]

    outputs = trace.follow(made)
    needed = trace.arguments(outputs)
    writer.line(f"size = load_i64(of + {tensor('size')})")
    writer.line(f"row_number = load_i64(of + {tensor('block')}) * {len(rule.scalars) + len(BESIDE)}")
    writer.line(f"row = load_i64(numbers + {control('row')}) + row_number * 8")
    for k, name in enumerate(rule.scalars):
        if f"s_{name}" in needed:
            writer.line(f"s_{name} = load_f64(row + {8 * k})")
    names = writer.traced(trace, outputs, {name: name for name in needed}, "r")
    narrow = writer.operation("convert", F64, F32)
    writer.line(f"ratios = load_i64(of + {tensor('ratios')})")
    for k, name in enumerate(names):
        writer.line(f"store_f64(ratios + {8 * k}, {name})")
        writer.line(f"store_f32(ratios + {16 + 4 * k}, {narrow}({name}))")
    return writer.done()


__all__ = ["RATIO_BYTES", "Judging", "finish_rescaled_text", "finish_text", "ratios_text"]
