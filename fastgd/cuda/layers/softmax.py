"""Softmax on CUDA: a row's largest, its sum, and its shares; and the way back."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastgd.cuda.layers.elements import argument
from fastgd.cuda.layers.lanes import ROWS, Lanes
from fastgd.cuda.layers.launching import Run, blocks_of
from fastgd.cuda.passes import Operand
from fastgd.cuda.writer import Text
from fastgd.nn.reference_softmax import BODIES, Softmax, unscaled
from fastgd.tracing import Trace

F64 = np.dtype(np.float64)


def write_largest(lanes: Lanes, z: Operand) -> None:
    """Writes `largest` of each row; NaN is passed over."""
    real, larger = z.dtype, lanes.larger(z.dtype)
    lanes.writer.line(f"largest = {lanes.constant(-np.inf, real)}")
    lanes.over([z], lambda suffix, _: lanes.grow({"largest": f"{z.name}{suffix}"}, larger))
    lanes.fold("largest", larger, real)


@functools.cache
def forward_text(log: bool, real: Any) -> Text:
    lanes = Lanes("softmax_forward", ["z_at", "y_at"])
    writer, z = lanes.writer, Operand("z", "", real.name)
    write_largest(lanes, z)
    trace = Trace()
    one = argument(trace, "z", real)
    largest = argument(trace, "largest", real)
    sums = argument(trace, "sums", F64)
    weight: Any = unscaled(one, largest)
    counted: Any = weight.astype(np.float64)
    result: Any = BODIES[log][0](one, largest, sums)
    add = lanes.add()

    def summed(suffix: str, _: str) -> None:
        given = {"z": f"z{suffix}", "largest": "largest"}
        lanes.grow({"sums": writer.traced(trace, [counted], given, suffix[1:])[0]}, add)

    writer.line(f"sums = {lanes.constant(0.0, F64)}")
    lanes.over([z], summed)
    lanes.fold("sums", add, F64)

    known = writer.hoisted(trace, [result], {"z"}.__contains__, "u")

    def stored(suffix: str, number: str) -> None:
        (value,) = writer.traced(trace, [result], {"z": f"z{suffix}"}, f"y{suffix[1:]}", dict(known))
        writer.line(f"store_{z.code}(y_at + ({number}) * {z.size}, {value})")

    lanes.over([z], stored)
    return writer.done()


@functools.cache
def backward_text(log: bool, real: Any) -> Text:
    lanes = Lanes("softmax_backward", ["y_at", "dy_at", "dx_at"])
    writer, y, dy = lanes.writer, Operand("y", "", real.name), Operand("dy", "", real.name)
    _, terms, back = BODIES[log]
    trace = Trace()
    one = argument(trace, "y", real)
    slope = argument(trace, "dy", real)
    sums = argument(trace, "sums", F64)
    term: Any = terms(one, slope)
    result: Any = back(one, slope, sums)
    add = lanes.add()

    def given(suffix: str) -> dict[str, str]:
        return {"y": f"y{suffix}", "dy": f"dy{suffix}", "sums": "sums"}

    def summed(suffix: str, _: str) -> None:
        lanes.grow({"sums": writer.traced(trace, [term], given(suffix), suffix[1:])[0]}, add)

    def stored(suffix: str, number: str) -> None:
        (value,) = writer.traced(trace, [result], given(suffix), f"x{suffix[1:]}", dict(known))
        writer.line(f"store_{y.code}(dx_at + ({number}) * {y.size}, {value})")

    writer.line(f"sums = {lanes.constant(0.0, F64)}")
    lanes.over([dy] if log else [y, dy], summed)
    lanes.fold("sums", add, F64)
    known = writer.hoisted(trace, [result], {"y", "dy"}.__contains__, "u")
    lanes.over([y, dy], stored)
    return writer.done()


def forward(run: Run, real: Any, of: Softmax, rows: int, cols: int, x: Any, y: Any) -> None:
    run(forward_text(bool(of.log), real), blocks_of(rows, ROWS), rows, cols, x, y)


def backward(run: Run, real: Any, of: Softmax, rows: int, cols: int, y: Any, dy: Any, dx: Any) -> None:
    run(backward_text(bool(of.log), real), blocks_of(rows, ROWS), rows, cols, y, dy, dx)


ENTRIES = {"softmax_forward": forward, "softmax_backward": backward}
