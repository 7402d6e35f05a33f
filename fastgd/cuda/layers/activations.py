"""Activations on CUDA, each by itself or behind a sum."""

from __future__ import annotations

import functools
from typing import Any

from fastgd.cuda.layers.elements import Elements, Ready, argument
from fastgd.cuda.layers.launching import Run
from fastgd.nn.reference import Bound
from fastgd.tracing import Trace


@functools.cache
def forward_kernel(of: Bound, real: Any) -> Ready:
    trace = Trace()
    z = argument(trace, "z", real)
    (y,) = trace.follow(lambda: [of.forward(z)])
    return Elements(trace, {"y": y}, {"z": real}).ready("activation_forward")


@functools.cache
def backward_kernel(of: Bound, real: Any) -> Ready:
    trace = Trace()
    saved = argument(trace, "saved", real)
    dy = argument(trace, "dy", real)
    (dz,) = trace.follow(lambda: [of.backward(saved, dy)])
    reads: dict[str, Any] = {name: real for name in ("saved", "dy") if name in trace.arguments([dz])}
    return Elements(trace, {"dz": dz}, reads).ready("activation_backward")


@functools.cache
def add_kernel(of: Bound, real: Any, keeps: bool) -> Ready:
    """keeps: whether the sum is stored beside the activation's result."""
    trace = Trace()
    a = argument(trace, "a", real)
    z: Any = a + argument(trace, "b", real)
    (y,) = trace.follow(lambda: [of.forward(z)])
    outputs = {"z": z, "y": y} if keeps else {"y": y}
    return Elements(trace, outputs, {"a": real, "b": real}).ready("add_forward")


def activation_forward(run: Run, real: Any, of: Bound, n: int, z: Any, y: Any) -> None:
    forward_kernel(of, real)(run, n, z=z, y=y)


def activation_backward(run: Run, real: Any, of: Bound, n: int, saved: Any, dy: Any, dz: Any) -> None:
    backward_kernel(of, real)(run, n, saved=saved, dy=dy, dz=dz)


def add_forward(run: Run, real: Any, of: Bound, n: int, a: Any, b: Any, z: Any, y: Any) -> None:
    keeps = z is not None and of.function.saves_input
    add_kernel(of, real, keeps)(run, n, a=a, b=b, z=z, y=y)


def copy(run: Run, real: Any, of: None, n: int, array: Any, to: Any) -> None:
    """Of n elements in C order."""
    run.copy(to, array)


ENTRIES = {
    "copy": copy,
    "activation_forward": activation_forward,
    "activation_backward": activation_backward,
    "add_forward": add_forward,
}
