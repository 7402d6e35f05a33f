"""The seam between layers and backends: the kernels a layer calls, native or reference.

A layer asks for a `Kernels` by name and hands it handles: what `handle(array)` gives, a pointer or the array
itself. Every function returns 0 or an error code of csrc/fastgd.h, and `check` turns that into an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from fastgd.arrays import DTYPE_CODES, Array
from fastgd.nn import reference, reference_layer_norm, reference_losses


class Kernels(NamedTuple):
    """One backend. The functions take the arguments of their namesakes fgd_* in csrc/fastgd.h."""

    name: str
    null: Any
    handle: Callable[[Array], Any]
    dtype: Callable[[np.dtype[Any]], Any]
    activation: Callable[..., Any]  # of its name in csrc/layers.def and its parameters
    error_text: Callable[[int], str]
    error_label: int
    activation_forward: Callable[..., int]
    activation_backward: Callable[..., int]
    linear_forward: Callable[..., int]
    linear_backward: Callable[..., int]
    softmax_cross_entropy: Callable[..., int]
    loss: Callable[..., Any]  # of its name in csrc/losses.def and its parameter
    labels: Callable[..., Any]  # of the fields of fgd_labels, the weights an array or None
    loss_and_grad: Callable[..., int]
    loss_scratch: Callable[[int], int]
    layer_norm: Callable[..., Any]  # of the fields of fgd_layer_norm
    layer_norm_forward: Callable[..., int]
    layer_norm_backward: Callable[..., int]
    layer_norm_scratch: Callable[[int, int], int]

    def check(self, code: int) -> None:
        if code:
            raise RuntimeError(f"the {self.name} kernels refused the call: {self.error_text(code)}")


def _reference() -> Kernels:
    return Kernels(
        name="reference",
        null=None,
        handle=lambda array: array,
        dtype=lambda dtype: dtype,
        activation=reference.bound,
        error_text=lambda code: f"error {code}",
        error_label=reference_losses.ERROR_LABEL,
        activation_forward=reference.activation_forward,
        activation_backward=reference.activation_backward,
        linear_forward=reference.linear_forward,
        linear_backward=reference.linear_backward,
        softmax_cross_entropy=reference_losses.softmax_cross_entropy,
        loss=reference_losses.loss_of,
        labels=reference_losses.Labels,
        loss_and_grad=reference_losses.loss_and_grad,
        loss_scratch=reference_losses.loss_scratch,
        layer_norm=reference_layer_norm.LayerNorm,
        layer_norm_forward=reference_layer_norm.forward,
        layer_norm_backward=reference_layer_norm.backward,
        layer_norm_scratch=reference_layer_norm.scratch,
    )


def _native() -> Kernels:
    from fastgd import gemm
    from fastgd._native import ffi, lib

    kinds = {"float32": "float[]", "float64": "double[]", "int64": "int64_t[]"}
    ctypes = {np.dtype(name): kind for name, kind in kinds.items()}
    from_buffer = ffi.from_buffer

    def code_of(dtype: np.dtype[Any]) -> Any:
        gemm.ensure(dtype.name)
        return DTYPE_CODES[dtype]

    def activation(name: str, a: float = 0.0, b: float = 0.0) -> Any:
        kind = lib.fgd_activation_find(name.encode())
        return ffi.new("fgd_activation *", {"kind": kind, "a": a, "b": b})

    def loss(name: str, a: float = 0.0) -> Any:
        return ffi.new("fgd_loss *", {"kind": lib.fgd_loss_find(name.encode()), "a": a})

    alive: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def labels(
        weights: Array | None = None, label_smoothing: float = 0.0, divisor: float = 0.0, ignored: int = -1
    ) -> Any:
        at = ffi.NULL if weights is None else from_buffer(ctypes[weights.dtype], weights)
        made = ffi.new("fgd_labels *", [at, label_smoothing, divisor, ignored])
        alive[made] = at
        return made

    return Kernels(
        name="native",
        null=ffi.NULL,
        handle=lambda array: from_buffer(ctypes[array.dtype], array),
        dtype=code_of,
        activation=activation,
        error_text=lambda code: ffi.string(lib.fgd_error_text(code)).decode(),
        error_label=lib.FGD_ERROR_LABEL,
        activation_forward=lib.fgd_activation_forward,
        activation_backward=lib.fgd_activation_backward,
        linear_forward=lib.fgd_linear_forward,
        linear_backward=lib.fgd_linear_backward,
        softmax_cross_entropy=lib.fgd_softmax_cross_entropy,
        loss=loss,
        labels=labels,
        loss_and_grad=lib.fgd_loss_and_grad,
        loss_scratch=lib.fgd_loss_scratch,
        layer_norm=lambda centered, eps: ffi.new("fgd_layer_norm *", [centered, eps]),
        layer_norm_forward=lib.fgd_layer_norm_forward,
        layer_norm_backward=lib.fgd_layer_norm_backward,
        layer_norm_scratch=lib.fgd_layer_norm_scratch,
    )


_BACKENDS: dict[str, Callable[[], Kernels]] = {"native": cache(_native), "reference": cache(_reference)}


def kernels_of(backend: str) -> Kernels:
    """The kernels of "native" or "reference"; "auto" is the native ones.

    Raises ValueError when there is no such backend and ImportError when it cannot be used here.
    """
    if backend == "auto":
        backend = "native"
    if backend not in _BACKENDS:
        raise ValueError(f"backend must be auto, {' or '.join(_BACKENDS)}, not {backend!r}")
    return _BACKENDS[backend]()
