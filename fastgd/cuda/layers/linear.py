"""Linear layers on CUDA: a product of the arrays' library, and bias and activation in one pass behind it."""

from __future__ import annotations

import functools
from typing import Any

from fastgd.cuda.layers.activations import activation_backward
from fastgd.cuda.layers.columns import column_sums
from fastgd.cuda.layers.elements import Beside, Elements, Ready, Walk, argument
from fastgd.cuda.layers.launching import Run
from fastgd.cuda.products import product
from fastgd.nn.reference import Bound
from fastgd.tracing import Trace


@functools.cache
def behind_kernel(of: Bound, real: Any, biased: bool, keeps: bool) -> Ready | None:
    """From the product to y, and to z if that is kept; None where all is as it is."""
    trace = Trace()
    z = argument(trace, "product", real)
    if biased:
        z = z + argument(trace, "bias", real)
    (y,) = trace.follow(lambda: [of.forward(z)])
    if y.operation.name == "argument" and not keeps:
        return None
    beside = [Beside("bias", real, Walk("column"))] if biased else []
    outputs = {"z": z, "y": y} if keeps else {"y": y}
    return Elements(trace, outputs, {"product": real}, beside=beside).ready("linear_forward")


def forward(
    run: Run,
    real: Any,
    of: Bound,
    batch: int,
    inside: int,
    outside: int,
    x: Any,
    weight: Any,
    bias: Any,
    z: Any,
    y: Any,
) -> None:
    shape = batch, outside
    product(run.stream, x.reshape(batch, inside), weight, y.reshape(shape), transpose_b=True)
    keeps = z is not None and of.function.saves_input
    kernel = behind_kernel(of, real, bias is not None, keeps)
    if kernel is not None:
        walk = {"column_inner": 1, "column_outer": outside}
        kernel(run, batch * outside, product=y, bias=bias, z=z, y=y, **walk)


def backward(
    run: Run,
    real: Any,
    of: Bound,
    batch: int,
    inside: int,
    outside: int,
    x: Any,
    weight: Any,
    saved: Any,
    dy: Any,
    dx: Any,
    dweight: Any,
    dbias: Any,
) -> None:
    if changes(of, real):
        activation_backward(run, real, of, dy.size, dy if saved is None else saved, dy, dy)
    rows = dy.reshape(batch, outside)
    if dbias is not None:
        column_sums(run, batch, outside, rows, dbias)
    product(run.stream, rows, x.reshape(batch, inside), dweight, transpose_a=True)
    if dx is not None:
        product(run.stream, rows, weight, dx.reshape(batch, inside))


@functools.cache
def changes(of: Bound, real: Any) -> bool:
    """Whether an activation's way back is more than to hand on what comes."""
    trace = Trace()
    saved = argument(trace, "saved", real)
    dy = argument(trace, "dy", real)
    (dz,) = trace.follow(lambda: [of.backward(saved, dy)])
    return bool(dz.index != dy.index)


ENTRIES = {"linear_forward": forward, "linear_backward": backward}
