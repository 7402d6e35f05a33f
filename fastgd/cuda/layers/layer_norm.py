"""Normalisation of rows on CUDA, and its way back."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastgd.cuda.layers.columns import Columns, column_sums
from fastgd.cuda.layers.elements import argument
from fastgd.cuda.layers.lanes import ROWS, Lanes
from fastgd.cuda.layers.launching import Run, blocks_of, part
from fastgd.cuda.passes import WIDE, Operand
from fastgd.cuda.writer import Text
from fastgd.nn.reference_layer_norm import GROUP, LayerNorm, derived, normalised, rows_of_block, scale_of
from fastgd.tracing import Trace

F64, I64 = np.dtype(np.float64), np.dtype(np.int64)


@functools.cache
def forward_text(of: LayerNorm, real: Any, weighted: bool, biased: bool) -> Text:
    lanes = Lanes("layer_norm_forward", ["x_at", "weight_at", "bias_at", "stats_at", "y_at"])
    writer, x, add = lanes.writer, Operand("x", "", real.name), lanes.add()
    trace = Trace()
    one = argument(trace, "x", real)
    n = argument(trace, "cols", I64).astype(np.float64)
    total, squares, mean, scale = (argument(trace, k, F64) for k in ("total", "squares", "mean", "scale"))
    wide = one.astype(np.float64)
    difference: Any = wide - mean
    zero = lanes.constant(0.0, F64)
    counted: dict[int, str] = {}
    writer.traced(trace, [n], {"cols": "cols"}, "n", counted)

    def summed(name: str, term: Any) -> None:
        def grow(suffix: str, _: str) -> None:
            given = {"x": f"x{suffix}", "mean": "mean"}
            lanes.grow({name: writer.traced(trace, [term], given, name[0] + suffix[1:])[0]}, add)

        writer.line(f"{name} = {zero}")
        lanes.over([x], grow)
        lanes.fold(name, add, F64)

    writer.line(f"mean = {zero}")
    if of.centered:
        summed("total", wide)
        quotient: Any = total / n
        writer.line(f"mean = {writer.traced(trace, [quotient], {'total': 'total'}, 'm', counted)[0]}")
    summed("squares", difference * difference)
    made: Any = scale_of(squares, n, of.eps)
    (name,) = writer.traced(trace, [made], {"squares": "squares"}, "s", counted)
    writer.line(f"scale = {name}")
    with lanes.only(""):
        writer.line("store_f64x2(stats_at + row * 16, mean, scale)")
    out: Any = normalised(one, mean, scale)
    by_column = []
    for asked, operand in ((weighted, "weight"), (biased, "bias")):
        if asked:
            by_column.append(Operand(operand, "", real.name))
            value = argument(trace, operand, real)
            out = out * value if operand == "weight" else out + value
    given = {"mean": "mean", "scale": "scale"}
    known = writer.hoisted(trace, [out], {"x", "weight", "bias"}.__contains__, "o")

    def stored(suffix: str, number: str) -> None:
        mine = given | {name: f"{name}{suffix}" for name in ("x", "weight", "bias")}
        (value,) = writer.traced(trace, [out], mine, f"y{suffix[1:]}", dict(known))
        writer.line(f"store_{x.code}(y_at + ({number}) * {x.size}, {value})")

    lanes.over([x], stored, by_column=by_column)
    return writer.done()


@functools.cache
def dx_text(of: LayerNorm, real: Any, weighted: bool) -> Text:
    lanes = Lanes("layer_norm_backward", ["x_at", "weight_at", "stats_at", "dy_at", "dx_at"])
    writer, add = lanes.writer, lanes.add()
    x, dy, weight = (Operand(name, "", real.name) for name in ("x", "dy", "weight"))
    trace = Trace()
    one, g, w = (argument(trace, name, real) for name in ("x", "dy", "weight"))
    mean, scale = (argument(trace, name, F64) for name in ("mean", "scale"))
    n = argument(trace, "cols", I64).astype(np.float64)
    h: Any = normalised(one, mean, scale)
    slope: Any = g * w if weighted else g
    terms: dict[str, Any] = {"g_sum": slope.astype(np.float64)} if of.centered else {}
    terms["gh_sum"] = (slope * h).astype(np.float64)
    zero = lanes.constant(0.0, F64)
    writer.line("mean, scale = load_f64x2(stats_at + row * 16)")
    varying = {"x", "dy", "weight"}
    known = writer.hoisted(trace, list(terms.values()), varying.__contains__, "u")
    given = {"mean": "mean", "scale": "scale"}
    by_column = [weight] if weighted else []

    def own(suffix: str) -> dict[str, str]:
        return given | {name: f"{name}{suffix}" for name in varying}

    def summed(suffix: str, _: str) -> None:
        values = writer.traced(trace, list(terms.values()), own(suffix), suffix[1:], dict(known))
        lanes.grow(dict(zip(terms, values, strict=True)), add)

    for name in terms:
        writer.line(f"{name} = {zero}")
    lanes.over([x, dy], summed, by_column=by_column)
    for name in terms:
        lanes.fold(name, add, F64)

    def mean_of(name: str) -> Any:
        if name not in terms:
            return real.type(0)
        total = argument(trace, name, F64)
        return (total / n).astype(real)

    by: Any = scale.astype(real)
    result: Any = derived(slope, h, mean_of("g_sum"), mean_of("gh_sum"), by)
    known = writer.hoisted(trace, [result], varying.__contains__, "d")

    def stored(suffix: str, number: str) -> None:
        (value,) = writer.traced(trace, [result], own(suffix), f"y{suffix[1:]}", dict(known))
        writer.line(f"store_{x.code}(dx_at + ({number}) * {x.size}, {value})")

    lanes.over([x, dy], stored, by_column=by_column)
    return writer.done()


@functools.cache
def pieces_text(real: Any) -> Text:
    """The kernel that sums dy h and dy over the columns of blocks of rows."""
    columns = Columns("layer_norm_columns", ["x_at", "stats_at", "dy_at", "of_weight_at", "of_bias_at"])
    writer = columns.writer
    x, dy = Operand("x", "", real.name), Operand("dy", "", real.name)
    trace = Trace()
    g = argument(trace, "dy", real)
    h: Any = normalised(
        argument(trace, "x", real),
        argument(trace, "mean", F64),
        argument(trace, "scale", F64),
    )
    term = g * h

    def element(suffix: str, row: str) -> dict[str, str]:
        writer.line(f"mean{suffix}, scale{suffix} = load_f64x2(stats_at + ({row}) * 16)")
        given = {name: f"{name}{suffix}" for name in ("x", "dy", "mean", "scale")}
        (value,) = writer.traced(trace, [term], given, suffix[1:])
        return {"of_weight": value, "of_bias": f"dy{suffix}"}

    columns.over([x, dy], element, {"of_weight": real, "of_bias": real}, group=GROUP)
    with writer.indented("if here:"):
        for name in ("of_weight", "of_bias"):
            writer.line(f"store_f64({name}_at + number * 8, {name})")
    return writer.done()


def forward(
    run: Run,
    real: Any,
    of: LayerNorm,
    rows: int,
    cols: int,
    x: Any,
    weight: Any,
    bias: Any,
    stats: Any,
    y: Any,
) -> None:
    text = forward_text(of, real, weight is not None, bias is not None)
    run(text, blocks_of(rows, ROWS), rows, cols, x, weight, bias, stats, y)


def backward(
    run: Run,
    real: Any,
    of: LayerNorm,
    rows: int,
    cols: int,
    x: Any,
    weight: Any,
    stats: Any,
    dy: Any,
    dx: Any,
    dweight: Any,
    dbias: Any,
    scratch: Any,
) -> None:
    if dweight is not None or dbias is not None:
        step = rows_of_block(cols)
        pieces = -(-rows // step)
        sums = part(scratch, 0, pieces, cols), part(scratch, pieces * cols, pieces, cols)
        run(pieces_text(real), blocks_of(pieces * cols, WIDE), rows, cols, step, x, stats, dy, *sums)
        for own, gradient in zip(sums, (dweight, dbias), strict=True):
            if gradient is not None:
                column_sums(run, pieces, cols, own, gradient)
    if dx is not None:
        text = dx_text(of, real, weight is not None)
        run(text, blocks_of(rows, ROWS), rows, cols, x, weight, stats, dy, dx)


ENTRIES = {"layer_norm_forward": forward, "layer_norm_backward": backward, "layer_norm_scratch": None}
