"""The kernels of a recurrent layer's steps: all gates of one element of one row, forward and back.

An element is unit u of the row r of a step; rows of all steps lie one behind the other, those of this step
from `begin` on. `after` rows go on to the next step, the others have ended.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from fastgd.cuda.layers.elements import argument
from fastgd.cuda.passes import WIDE
from fastgd.cuda.writer import Text, Writer
from fastgd.nn.reference_recurrent import CELLS
from fastgd.tracing import Symbol, Trace, code_of

#: arguments that all steps begin with, and end with
SIZES = ("n", "after", "hidden", "begin", "c_from", "c_to")
WHERE = ("order_at", "places_at", "directions", "direction")


class _Step:
    """Writes what a thread does for its element."""

    def __init__(self, name: str, arrays: Sequence[str], real: Any, last: bool) -> None:
        self.writer = Writer(name, [*SIZES, *arrays, *WHERE], WIDE)
        self.code, self.size, self.last = code_of(real), real.itemsize, last
        self.zero = self.writer.number(0, real)
        self.writer.lines(f"""
i = block() * {WIDE} + thread()
if i >= n * hidden:
    return
r = i // hidden
u = i - r * hidden
row = load_i64(order_at + r * 8)
goes_on = r < after""")
        place = "row" if last else "load_i64(places_at + (begin + r) * 8)"
        self.writer.line(f"out = (({place}) * directions + direction) * hidden + u")

    def load(self, name: str, array: str, row: str, condition: str = "") -> None:
        value = f"load_{self.code}({array}_at + (({row}) * hidden + u) * {self.size})"
        if not condition:
            self.writer.line(f"{name} = {value}")
            return
        self.writer.line(f"{name} = {self.zero}")
        with self.writer.indented(f"if {condition}:"):
            self.writer.line(f"{name} = {value}")

    def store(self, value: str, array: str, row: str) -> None:
        self.writer.line(f"store_{self.code}({array}_at + (({row}) * hidden + u) * {self.size}, {value})")

    def traced(self, trace: Trace, outputs: Sequence[Symbol]) -> list[str]:
        return self.writer.traced(trace, outputs, {name: name for name in trace.arguments(outputs)}, "s")


@functools.cache
def forward_text(name: str, real: Any, biased: bool, last: bool) -> Text:
    cell = CELLS[name]
    arrays = ("of_x", "of_h", "bias_ih", "bias_hh", "h", "c", "gates", "y", "hn", "cn")
    step = _Step("recurrent_forward", [f"{array}_at" for array in arrays], real, last)
    writer, trace = step.writer, Trace()

    def given(product: str, bias: str, row: str) -> list[Any]:
        """From a product to what goes into each gate."""
        values: list[Any] = []
        for k in range(cell.gates):
            step.load(f"{product}{k}", product, f"({row}) * {cell.gates} + {k}")
            value = argument(trace, f"{product}{k}", real)
            if biased:
                step.load(f"{bias}{k}", bias, f"{k}")
            values.append(value + (argument(trace, f"{bias}{k}", real) if biased else real.type(0)))
        return values

    from_x = given("of_x", "bias_ih", "begin + r")
    from_h = given("of_h", "bias_hh", "r")
    step.load("h", "h", "begin + r")
    if cell.has_cell:
        step.load("c", "c", "c_from + r")
    h = argument(trace, "h", real)
    c = argument(trace, "c", real)

    def run() -> list[Any]:
        kept, new_h, new_c = cell.forward(from_x, from_h, h, c)
        return [*kept, new_h, *([new_c] if cell.has_cell else [])]

    results = step.traced(trace, trace.follow(run))
    for k in range(cell.columns):
        step.store(results[k], "gates", f"(begin + r) * {cell.columns} + {k}")
    new_h = results[cell.columns]
    if cell.has_cell:
        step.store(results[-1], "c", "c_to + r")
    with writer.indented("if goes_on:"):
        step.store(new_h, "h", "begin + n + r")
    ended = "not goes_on"
    with writer.indented(f"if {ended}:") if last else nullcontext():
        writer.line(f"store_{step.code}(y_at + out * {step.size}, {new_h})")
    states = (("hn", new_h), ("cn", results[-1]))[: 1 + cell.has_cell]
    for array, value in states:
        with writer.indented(f"if {ended} and {array}_at != 0:"):
            step.store(value, array, "row")
    return writer.done()


@functools.cache
def backward_text(name: str, real: Any, last: bool) -> Text:
    cell = CELLS[name]
    arrays = ("gates", "h", "c", "dh", "carry", "dy")
    step = _Step("recurrent_backward", [f"{array}_at" for array in arrays], real, last)
    writer, trace = step.writer, Trace()
    saved: list[Any] = []
    for k in range(cell.columns):
        step.load(f"kept{k}", "gates", f"(begin + r) * {cell.columns} + {k}")
        saved.append(argument(trace, f"kept{k}", real))
    step.load("h", "h", "begin + r")
    if cell.has_cell:
        step.load("c_before", "c", "c_from + r")
        step.load("c", "c", "c_to + r")
    step.load("dh", "dh", "r", "goes_on")
    step.load("carry", "carry", "r", "goes_on")
    writer.line(f"dy = {step.zero}")
    with writer.indented("if not goes_on:") if last else nullcontext():
        writer.line(f"dy = load_{step.code}(dy_at + out * {step.size})")
    h, c_before, c, dh, dy, carry = (
        argument(trace, name, real) for name in ("h", "c_before", "c", "dh", "dy", "carry")
    )

    def run() -> list[Any]:
        gates, new = cell.backward(saved, h, c_before, c, dh, dy, carry)
        return [*gates, new]

    results = step.traced(trace, trace.follow(run))
    for k in range(cell.columns):
        step.store(results[k], "gates", f"(begin + r) * {cell.columns} + {k}")
    step.store(results[-1], "carry", "r")
    return writer.done()


@functools.cache
def scatter_text(real: Any, added: bool) -> Text:
    """The kernel that puts rows in their places, or adds them to what is there."""
    writer = Writer("recurrent_scatter", ["n", "dim", "places_at", "rows_at", "to_at"], WIDE)
    code, size = code_of(real), real.itemsize
    writer.lines(f"""
i = block() * {WIDE} + thread()
if i >= n * dim:
    return
place = i // dim
at = to_at + (load_i64(places_at + place * 8) * dim + i - place * dim) * {size}
value = load_{code}(rows_at + i * {size})""")
    if added:
        writer.line(f"value = {writer.operation('add', real, real)}(load_{code}(at), value)")
    writer.line(f"store_{code}(at, value)")
    return writer.done()
