"""Losses on CUDA: those of single elements, and the cross-entropy of softmax."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastgd.backends.reference_norms import CHUNK, in_order
from fastgd.cuda.device import WARP
from fastgd.cuda.layers.elements import Elements, Ready, argument, write_number
from fastgd.cuda.layers.lanes import ROWS, Lanes
from fastgd.cuda.layers.launching import Run, blocks_of
from fastgd.cuda.layers.ordered import ordered_sum
from fastgd.cuda.layers.softmax import write_largest
from fastgd.cuda.layout import LANES
from fastgd.cuda.passes import WIDE, Operand
from fastgd.cuda.writer import Text, Writer
from fastgd.nn.reference_losses import (
    ElementLoss,
    Labels,
    label_slope,
    other_slope,
    own_of,
    row_loss_of,
)
from fastgd.nn.reference_softmax import unscaled
from fastgd.tracing import Trace

F64, I64 = np.dtype(np.float64), np.dtype(np.int64)

# ---- Losses of single elements ------------------------------------------------------------------------


@functools.cache
def slope_kernel(loss: ElementLoss, a: float, real: Any) -> Ready:
    trace = Trace()
    p = argument(trace, "prediction", real)
    t = argument(trace, "target", real)
    by = argument(trace, "by", real)
    (grad,) = trace.follow(lambda: [loss.slope(p, t, real.type(a)) * by])
    reads = {"prediction": real, "target": real}
    return Elements(trace, {"grad": grad}, reads, numbers={"by": real}).ready("loss_slope")


@functools.cache
def chunks_text(loss: ElementLoss, a: float, real: Any) -> Text:
    """The kernel that sums the losses of each chunk."""
    lanes = Lanes("loss_chunks", ["prediction_at", "target_at", "sums_at"], flat=True)
    writer, add = lanes.writer, lanes.add()
    trace = Trace()
    p = argument(trace, "prediction", real)
    t = argument(trace, "target", real)
    (term,) = trace.follow(lambda: [loss.loss(p, t, real.type(a))])

    def summed(suffix: str, _: str) -> None:
        given = {name: f"{name}{suffix}" for name in ("prediction", "target")}
        lanes.grow({"total": writer.traced(trace, [term], given, suffix[1:])[0]}, add)

    writer.line(f"total = {lanes.constant(0.0, F64)}")
    lanes.over([Operand(name, "", real.name) for name in ("prediction", "target")], summed)
    lanes.fold("total", add, F64)
    with lanes.only(""):
        writer.line("store_f64(sums_at + row * 8, total)")
    return writer.done()


def loss_and_grad(
    run: Run,
    real: Any,
    of: tuple[ElementLoss, float, float],
    n: int,
    prediction: Any,
    target: Any,
    grad: Any,
    scratch: Any,
    loss: Any,
) -> None:
    body, a, divisor = of
    if grad is not None:
        with np.errstate(all="ignore"):
            by = real.type(np.float64(body.factor) / np.float64(divisor))
        slope_kernel(body, a, real)(run, n, prediction=prediction, target=target, grad=grad, by=by)
    chunks = blocks_of(n, CHUNK)
    run(chunks_text(body, a, real), blocks_of(chunks, ROWS), chunks, CHUNK, n, prediction, target, scratch)
    ordered_sum(run, chunks, scratch, loss, divisor)


# ---- Softmax and negative log-likelihood -------------------------------------------------------------


def labels_check(run: Run, real: Any, of: Any, batch: int, classes: int, labels: Any) -> None:
    """Nothing: only the device knows the labels, and makes a row NaN whose label is out of range."""


@functools.cache
def weights_text(real: Any, weighted: bool) -> Text:
    """The kernel that gives each row the weight of its label, float64; 0 for what is not counted."""
    arguments = ("rows", "cols", "labels_at", "weights_at", "ignored", "to_at")
    writer = Writer("label_weights", arguments, WIDE)
    writer.lines(f"""
number = block() * {WIDE} + thread()
if number >= rows:
    return
label = load_i64(labels_at + number * 8)
weight = {writer.number(0.0, F64)}""")
    with writer.indented("if label != ignored and label >= 0 and label < cols:"):
        if weighted:
            operand = Operand("weights", "", real.name)
            value = f"load_{operand.code}(weights_at + label * {operand.size})"
            wide = value if real == F64 else f"{writer.operation('convert', real, F64)}({value})"
        else:
            wide = writer.number(1.0, F64)
        writer.line(f"weight = {wide}")
    writer.line("store_f64(to_at + number * 8, weight)")
    return writer.done()


@functools.cache
def rows_text(real: Any, smoothing: float, classes: int, weighted: bool, with_grad: bool) -> Text:
    """The kernel of the cross-entropy of rows and its gradient."""
    arguments = ["logits_at", "labels_at", "weights_at", "grad_at", "row_loss_at"]
    arguments += ["ignored", "total_word", "divisor_at", "divisor_word"]
    lanes = Lanes("softmax_cross_entropy", arguments)
    writer, add, code = lanes.writer, lanes.add(), Operand("z", "", real.name).code
    z, weights = Operand("logits", "", real.name), Operand("weights", "", real.name)
    each: Any = np.float64(smoothing) / np.float64(classes)
    write_number(writer, "total", F64)
    write_number(writer, "divisor", F64)
    writer.lines("""
if divisor_at != 0:
    divisor = load_f64(divisor_at)
label = load_i64(labels_at + row * 8)
counted = label != ignored
valid = label >= 0 and label < cols
if not valid:
    label = i64(0)""")
    write_largest(lanes, z)
    trace = Trace()
    one, largest, at_label = (argument(trace, name, real) for name in ("logits", "largest", "at_label"))
    of_class: Any = argument(trace, "weights", real) if weighted else trace.constant(1, real)
    sums, weighed, total, divisor = (
        argument(trace, name, F64) for name in ("sums", "weighed", "total", "divisor")
    )
    weight = argument(trace, "weight", F64)
    e: Any = unscaled(one, largest)
    below: Any = one.astype(F64) - largest.astype(F64)
    terms: dict[str, Any] = {"sums": e.astype(F64)}
    if each > 0:
        terms["weighed"] = of_class.astype(F64) * below

    def summed(suffix: str, number: str) -> None:
        given = {"logits": f"logits{suffix}", "weights": f"weights{suffix}", "largest": "largest"}
        values = writer.traced(trace, list(terms.values()), given, suffix[1:])
        lanes.grow(dict(zip(terms, values, strict=True)), add)
        with writer.indented(f"if {number} - first == label:"):
            writer.line(f"at_label = logits{suffix}")

    for name in terms:
        writer.line(f"{name} = {lanes.constant(0.0, F64)}")
    writer.line(f"at_label = {lanes.constant(0.0, real)}")
    by_column = [weights] if weighted else []
    lanes.over([z], summed, by_column=by_column if each > 0 else [])
    for name in terms:
        lanes.fold(name, add, F64)
    # the lane that has met the label tells the others
    holder = f"thread() % {WARP} // {LANES} * {LANES} + label % {LANES}"
    writer.line(f"at_label = shuffle_{code}(at_label, {holder})")
    if weighted:
        value = f"load_{code}(weights_at + label * {z.size})"
        wide = value if real == F64 else f"{writer.operation('convert', real, F64)}({value})"
    else:
        wide = lanes.constant(1.0, F64)
    writer.line(f"weight = {wide}")
    with writer.indented("if counted and not valid:"):
        writer.line(f"sums = {lanes.constant(np.nan, F64)}")
    given = {name: name for name in ("sums", "weighed", "total", "divisor", "weight", "largest", "at_label")}
    below_label: Any = at_label.astype(F64) - largest.astype(F64)
    spread: Any = (each, total, weighed) if each > 0 else None
    part: Any = np.float64(smoothing)
    loss: Any = row_loss_of(sums, below_label, weight, part, spread)
    (name,) = writer.traced(trace, [loss], given, "l")
    with lanes.only(""):
        writer.line(f"store_f64(row_loss_at + row * 8, {name} if counted else {lanes.constant(0.0, F64)})")
    if with_grad:
        e_label: Any = unscaled(at_label, largest)
        own: Any = own_of(weight, part, each, total)
        slope: Any = label_slope(e_label, sums, weight, divisor, part, each, total)
        (of_label,) = writer.traced(trace, [slope.astype(real)], given, "g")
        other: Any = other_slope(
            e,
            own,
            sums,
            divisor,
            each,
            of_class if each > 0 else None,
        )
        known = writer.hoisted(trace, [other], {"logits", "weights"}.__contains__, "r")

        def stored(suffix: str, number: str) -> None:
            mine = given | {"logits": f"logits{suffix}", "weights": f"weights{suffix}"}
            (value,) = writer.traced(trace, [other], mine, f"d{suffix[1:]}", dict(known))
            writer.lines(f"""
slope{suffix} = {value}
if {number} - first == label:
    slope{suffix} = {of_label}
if not counted:
    slope{suffix} = {lanes.constant(0.0, real)}
store_{code}(grad_at + ({number}) * {z.size}, slope{suffix})""")

        lanes.over([z], stored, by_column=by_column if each > 0 else [])
    return writer.done()


def softmax_cross_entropy(
    run: Run,
    real: Any,
    of: Labels,
    batch: int,
    classes: int,
    logits: Any,
    labels: Any,
    grad: Any,
    row_loss: Any,
    loss: Any,
) -> None:
    weights: Any = None if of.weights is None else run.sent(of.weights)
    total = float(classes) if of.weights is None else in_order(of.weights.astype(np.float64).tolist())
    divisor: Any = of.divisor
    if not divisor:
        each, divisor = run.empty((batch,), F64), run.empty((1,), F64)
        text = weights_text(real, weights is not None)
        run(text, blocks_of(batch, WIDE), batch, classes, labels, weights, of.ignored, each)
        ordered_sum(run, batch, each, divisor)
    text = rows_text(real, of.label_smoothing, classes, weights is not None, grad is not None)
    known = isinstance(divisor, float)
    by = (None, np.float64(divisor)) if known else (divisor, np.float64(0))
    arrays = logits, labels, weights, grad, row_loss
    run(text, blocks_of(batch, ROWS), batch, classes, *arrays, of.ignored, np.float64(total), *by)
    ordered_sum(run, batch, row_loss, loss, divisor)


ENTRIES = {
    "loss_and_grad": loss_and_grad,
    "labels_check": labels_check,
    "softmax_cross_entropy": softmax_cross_entropy,
    "loss_scratch": None,
}
