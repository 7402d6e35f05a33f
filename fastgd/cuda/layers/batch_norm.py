"""Normalisation of channels on CUDA, and its way back.

Channels of single numbers are columns, a thread each; those of more have 16 threads, which go through the
examples in order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastgd.cuda.layers.columns import Columns
from fastgd.cuda.layers.elements import Beside, Elements, Ready, Walk, argument, write_number
from fastgd.cuda.layers.lanes import ROWS, Lanes
from fastgd.cuda.layers.launching import Run, blocks_of
from fastgd.cuda.passes import WIDE, Operand
from fastgd.cuda.writer import Text
from fastgd.nn.reference_batch_norm import BatchNorm, part_of, running, unbiased
from fastgd.nn.reference_layer_norm import derived, normalised, scale_of
from fastgd.tracing import Trace, code_of

F64, I64 = np.dtype(np.float64), np.dtype(np.int64)


class _Channels:
    """Writes passes over the numbers of each channel; `channel` is its number in the text."""

    def __init__(self, name: str, arguments: Sequence[str], *, single: bool) -> None:
        """single: whether an example has one number of a channel."""
        if single:
            self._columns = Columns(name, arguments)
            self.writer, self.channel, self._lanes = self._columns.writer, "col", None
            return
        self._lanes = lanes = Lanes(name, ["batch", *arguments])
        self.writer, self.channel = lanes.writer, "row"

    def sums(
        self, reads: Sequence[Operand], element: Callable[[str], Mapping[str, str]], names: Sequence[str]
    ) -> None:
        """element: suffix of what is loaded -> sum -> the float64 that it is to grow by."""
        lanes = self._lanes
        if lanes is None:
            self._columns.over(reads, lambda suffix, _: element(suffix), dict.fromkeys(names, F64))
            return
        writer, add = self.writer, lanes.add()
        for name in names:
            writer.line(f"{name} = {lanes.constant(0.0, F64)}")
        writer.line("example = i64(0)")
        with writer.indented("while example < batch:"):
            writer.lines("""
first = (example * rows + row) * cols
end = first + cols if here else first""")
            lanes.over(reads, lambda suffix, _: lanes.grow(element(suffix), add))
            writer.line("example += 1")
        for name in names:
            lanes.fold(name, add, F64)

    def once(self) -> Any:
        """Lines that are done once for each channel."""
        return (
            self.writer.indented("if here and piece == 0:") if self._lanes is None else self._lanes.only("")
        )


def _launch(
    run: Run, text: Callable[..., Text], batch: int, channels: int, length: int, *arguments: Any
) -> None:
    if length == 1:
        run(text(single=True), blocks_of(channels, WIDE), batch, channels, batch, *arguments)
    else:
        run(text(single=False), blocks_of(channels, ROWS), channels, length, batch, *arguments)


@functools.cache
def stats_text(of: BatchNorm, real: Any, tracked: bool, *, single: bool) -> Text:
    """The kernel of the batch's statistics; tracked: whether running ones are moved."""
    arguments = ["count", "x_at", "mean_at", "var_at", "stats_at", "part_word"]
    channels = _Channels("batch_norm_statistics", arguments, single=single)
    writer, x = channels.writer, Operand("x", "", real.name)
    write_number(writer, "part", F64)
    trace = Trace()
    one = argument(trace, "x", real)
    total, squares, mean = (argument(trace, name, F64) for name in ("total", "squares", "mean"))
    n = argument(trace, "count", I64).astype(np.float64)
    wide = one.astype(np.float64)
    difference: Any = wide - mean

    def summed(name: str, term: Any) -> None:
        def element(suffix: str) -> dict[str, str]:
            given = {"x": f"x{suffix}", "mean": "mean"}
            return {name: writer.traced(trace, [term], given, name[0] + suffix[1:])[0]}

        channels.sums([x], element, [name])

    known: dict[int, str] = {}
    writer.traced(trace, [n], {"count": "count"}, "n", known)
    quotient: Any = total / n
    summed("total", wide)
    writer.line(f"mean = {writer.traced(trace, [quotient], {'total': 'total'}, 'm', dict(known))[0]}")
    summed("squares", difference * difference)
    own: Any = scale_of(squares, n, of.eps)
    share = argument(trace, "part", F64)
    variance: Any = unbiased(squares / n, n)
    news: Any = {
        "mean": running(argument(trace, "old_mean", real), mean, share).astype(real),
        "var": running(argument(trace, "old_var", real), variance, share).astype(real),
    }
    with channels.once():
        given = {"squares": "squares", "mean": "mean", "part": "part"}
        (scale,) = writer.traced(trace, [own], given, "s", dict(known))
        writer.line(f"store_f64x2(stats_at + {channels.channel} * 16, mean, {scale})")
        for name, new in news.items() if tracked else ():
            at = f"{name}_at + {channels.channel} * {x.size}"
            writer.line(f"old_{name} = load_{x.code}({at})")
            mine = given | {f"old_{name}": f"old_{name}"}
            writer.line(f"store_{x.code}({at}, {writer.traced(trace, [new], mine, name[0], dict(known))[0]})")
    return writer.done()


@functools.cache
def running_text(of: BatchNorm, real: Any) -> Text:
    """The kernel that makes running statistics those of the batch."""
    columns = Columns("batch_norm_running", ["mean_at", "var_at", "stats_at"])
    writer, code = columns.writer, code_of(real)
    trace = Trace()
    mean, var = (argument(trace, name, real) for name in ("mean", "var"))
    outputs: Any = [mean.astype(np.float64), scale_of(var.astype(np.float64), 1, of.eps)]
    with writer.indented("if here:"):
        for name in ("mean", "var"):
            writer.line(f"{name} = load_{code}({name}_at + col * {real.itemsize})")
        made = writer.traced(trace, outputs, {"mean": "mean", "var": "var"}, "r")
        writer.line(f"store_f64x2(stats_at + col * 16, {', '.join(made)})")
    return writer.done()


def _normal(trace: Trace, x: Any) -> Any:
    mean, scale = (argument(trace, name, F64) for name in ("mean", "scale"))
    return normalised(x, mean, scale)


def _statistics(walk: Walk) -> list[Beside]:
    return [Beside(name, F64, walk, of="stats", stride=2, at=k) for k, name in enumerate(("mean", "scale"))]


@functools.cache
def forward_kernel(real: Any, weighted: bool, biased: bool) -> Ready:
    trace, walk = Trace(), Walk("channel")
    beside = _statistics(walk)
    values: list[Any] = []
    for asked, name, else_ in ((weighted, "weight", 1), (biased, "bias", 0)):
        if asked:
            beside.append(Beside(name, real, walk))
        values.append(argument(trace, name, real) if asked else real.type(else_))
    y: Any = _normal(trace, argument(trace, "x", real)) * values[0] + values[1]
    return Elements(trace, {"y": y}, {"x": real}, beside=beside).ready("batch_norm_forward")


@functools.cache
def sums_text(of: BatchNorm, real: Any, *, single: bool) -> Text:
    """The kernel of the gradients of weight and bias, and of the means that dx is made of."""
    arguments = ["count", "x_at", "stats_at", "dy_at", "dweight_at", "dbias_at", "means_at"]
    channels = _Channels("batch_norm_columns", arguments, single=single)
    writer, code, size = channels.writer, code_of(real), real.itemsize
    x, dy = Operand("x", "", real.name), Operand("dy", "", real.name)
    trace = Trace()
    g = argument(trace, "dy", real)
    wide = g.astype(np.float64)
    terms: dict[str, Any] = {
        "of_bias": wide,
        "of_weight": wide * _normal(trace, argument(trace, "x", real)).astype(np.float64),
    }
    writer.line(f"mean, scale = load_f64x2(stats_at + {channels.channel} * 16)")

    def element(suffix: str) -> dict[str, str]:
        given = {"x": f"x{suffix}", "dy": f"dy{suffix}", "mean": "mean", "scale": "scale"}
        values = writer.traced(trace, list(terms.values()), given, suffix[1:])
        return dict(zip(terms, values, strict=True))

    channels.sums([x, dy], element, list(terms))
    n = argument(trace, "count", I64).astype(np.float64)
    with channels.once():
        for k, name in enumerate(terms):
            total = argument(trace, name, F64)
            gradient, place = f"d{name[3:]}_at", f"{channels.channel} * {size}"
            (value,) = writer.traced(trace, [total.astype(real)], {name: name}, f"g{k}")
            with writer.indented(f"if {gradient} != 0:"):
                writer.line(f"store_{code}({gradient} + {place}, {value})")
            average: Any = trace.constant(0, real) if of.running else (total / n).astype(real)
            (value,) = writer.traced(trace, [average], {name: name, "count": "count"}, f"a{k}")
            writer.line(f"store_{code}(means_at + ({channels.channel} * 2 + {k}) * {size}, {value})")
    return writer.done()


@functools.cache
def dx_kernel(real: Any, weighted: bool) -> Ready:
    trace, walk = Trace(), Walk("channel")
    beside = _statistics(walk)
    names = ("of_bias", "of_weight")
    beside += [Beside(name, real, walk, of="means", stride=2, at=k) for k, name in enumerate(names)]
    weight: Any = real.type(1)
    if weighted:
        beside.append(Beside("weight", real, walk))
        weight = argument(trace, "weight", real)
    h = _normal(trace, argument(trace, "x", real))
    by: Any = argument(trace, "scale", F64).astype(real) * weight
    means: Any = [argument(trace, name, real) for name in names]
    g = argument(trace, "dy", real)
    made: Any = derived(g, h, means[0], means[1], by)
    reads = {"x": real, "dy": real}
    return Elements(trace, {"dx": made}, reads, beside=beside).ready("batch_norm_backward")


def forward(
    run: Run,
    real: Any,
    of: BatchNorm,
    batch: int,
    channels: int,
    length: int,
    x: Any,
    weight: Any,
    bias: Any,
    mean: Any,
    var: Any,
    count: Any,
    stats: Any,
    y: Any,
) -> None:
    """count is on the host."""
    if of.running:
        run(running_text(of, real), blocks_of(channels, WIDE), 1, channels, 1, mean, var, stats)
    else:
        part = 0.0
        if mean is not None:
            count += 1
            part = part_of(of.momentum, int(count[0]))
        text = functools.partial(stats_text, of, real, mean is not None)
        given = batch * length, x, mean, var, stats, np.float64(part)
        _launch(run, text, batch, channels, length, *given)
    kernel = forward_kernel(real, weight is not None, bias is not None)
    walk = {"channel_inner": length, "channel_outer": channels}
    kernel(run, batch * channels * length, x=x, stats=stats, weight=weight, bias=bias, y=y, **walk)


def backward(
    run: Run,
    real: Any,
    of: BatchNorm,
    batch: int,
    channels: int,
    length: int,
    x: Any,
    weight: Any,
    stats: Any,
    dy: Any,
    dx: Any,
    dweight: Any,
    dbias: Any,
) -> None:
    means = run.empty((channels, 2), real)
    given = batch * length, x, stats, dy, dweight, dbias, means
    _launch(run, functools.partial(sums_text, of, real), batch, channels, length, *given)
    if dx is not None:
        walk = {"channel_inner": length, "channel_outer": channels}
        arrays = {"x": x, "stats": stats, "means": means, "weight": weight, "dy": dy, "dx": dx}
        dx_kernel(real, weight is not None)(run, batch * channels * length, **arrays, **walk)


ENTRIES = {"batch_norm_forward": forward, "batch_norm_backward": backward}
