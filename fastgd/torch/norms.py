"""Normalised rows, with the signatures of torch.nn.functional: layer_norm, rms_norm, softmax, log_softmax."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastgd._native import ffi, lib
from fastgd.torch.calls import alike, check, doubles, pointer, real
from fastgd.torch.narrow import widened
from fastgd.torch.operators import Kernel, again, define

_aten = torch.ops.aten

# ---- Layer and RMS normalisation ---------------------------------------------------------------------


@lru_cache(maxsize=256)
def _described(centered: bool, eps: float) -> Any:
    return ffi.new("fgd_layer_norm *", [centered, eps])


def _norm_checks(input: Tensor, weight: Tensor | None, bias: Tensor | None) -> int:
    code = real("input", input)
    alike("weight", weight, input)
    alike("bias", bias, input)
    return code


def _norm(
    input: Tensor, cols: int, weight: Tensor | None, bias: Tensor | None, eps: float, centered: bool
) -> tuple[Tensor, Tensor]:
    code = _norm_checks(input, weight, bias)
    rows = input.numel() // cols if cols else 0
    x = input.contiguous()
    w, b = (None if a is None else a.contiguous() for a in (weight, bias))
    y, stats = torch.empty_like(x), x.new_empty((rows, 2), dtype=torch.float64)
    arrays = pointer(x), pointer(w), pointer(b), doubles(stats), pointer(y)
    if rows:
        check(lib.fgd_layer_norm_forward(code, _described(centered, eps), rows, cols, *arrays))
    return y, stats


def _norm_fake(
    input: Tensor, cols: int, weight: Tensor | None, bias: Tensor | None, eps: float, centered: bool
) -> tuple[Tensor, Tensor]:
    _norm_checks(input, weight, bias)
    rows = input.numel() // cols if cols else 0
    y = torch.empty_like(input, memory_format=torch.contiguous_format)
    return y, input.new_empty((rows, 2), dtype=torch.float64)


def _norm_backward(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    cols: int,
    eps: float,
    centered: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    code = real("input", input)
    rows = stats.shape[0]
    x, dy = input.contiguous(), grad_output.contiguous()
    w = None if weight is None else weight.contiguous()
    dx, dweight, dbias = made = _norm_backward_fake(
        grad_output, input, weight, stats, cols, eps, centered, wanted
    )
    if not cols:
        return made
    sums = wanted[1] or wanted[2]
    scratch = x.new_empty(lib.fgd_layer_norm_scratch(rows, cols), dtype=torch.float64) if sums else None
    gradients = (pointer(a) if asked else ffi.NULL for a, asked in zip(made, wanted, strict=True))
    arrays = pointer(x), pointer(w), doubles(stats), pointer(dy), *gradients, doubles(scratch)
    check(lib.fgd_layer_norm_backward(code, _described(centered, eps), rows, cols, *arrays))
    return dx, dweight, dbias


def _norm_backward_fake(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    cols: int,
    eps: float,
    centered: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor]:
    dx = input.new_empty(input.shape if wanted[0] else (0,))
    dweight, dbias = (input.new_empty((cols,) if asked else (0,)) for asked in wanted[1:])
    return dx, dweight, dbias


def _norm_twice(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    stats: Tensor,
    cols: int,
    eps: float,
    centered: bool,
    wanted: Sequence[bool],
) -> tuple[Tensor, ...]:
    def formula(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        rows = x.reshape(-1, cols)
        if centered:
            return torch.layer_norm(rows, (cols,), w, b, eps).reshape(x.shape)
        return torch.rms_norm(rows, (cols,), w, eps).reshape(x.shape)

    w = input.new_ones(cols) if weight is None else weight
    found = again(formula, (input, w, torch.zeros_like(w)), grad_output, wanted)
    return tuple(input.new_empty(0) if a is None else a for a in found)


def _norm_save(ctx: Any, arguments: Any, results: Any) -> None:
    input, ctx.cols, weight, _, ctx.eps, ctx.centered = arguments
    ctx.save_for_backward(input, weight, results[1])
    ctx.mark_non_differentiable(results[1])
    ctx.set_materialize_grads(False)


def _norm_gradients(ctx: Any, call: Kernel, dy: Tensor | None, _: Any) -> Any:
    input, weight, stats = ctx.saved_tensors
    needs = ctx.needs_input_grad
    wanted = [needs[1], needs[3], needs[4]]
    if dy is None:
        return (None,) * 6
    found = call(_NORM_BACKWARD, dy, input, weight, stats, ctx.cols, ctx.eps, ctx.centered, wanted)
    dx, dweight, dbias = (a if asked else None for a, asked in zip(found, wanted, strict=True))
    return dx, None, dweight, dbias, None, None


_NORM_BACKWARD = define(
    "layer_norm_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor stats, SymInt cols, "
    "float eps, bool centered, bool[3] wanted) -> (Tensor, Tensor, Tensor)",
    _norm_backward,
    _norm_backward_fake,
    twice=_norm_twice,
)
_NORM = define(
    "layer_norm(Tensor input, SymInt cols, Tensor? weight, Tensor? bias, float eps, bool centered) "
    "-> (Tensor, Tensor)",
    _norm,
    _norm_fake,
    save=_norm_save,
    backward=_norm_gradients,
).dispatched


def _normalised(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    centered: bool,
) -> Tensor:
    shape = tuple(normalized_shape)
    if not shape:
        raise RuntimeError("normalized_shape must have at least one size")
    for name, array in (("weight", weight), ("bias", bias)):
        if array is not None and tuple(array.shape) != shape:
            raise RuntimeError(f"{name} must have shape {[*shape]}, not {[*array.shape]}")
    if tuple(input.shape[-len(shape) :]) != shape:
        raise RuntimeError(f"input must have shape {['...', *shape]}, not {[*input.shape]}")
    if not eps >= 0:
        raise ValueError(f"eps must be at least 0, not {eps}")
    if bias is not None and weight is None:
        weight = torch.ones_like(bias)
    flat = (a if a is None or len(shape) == 1 else a.reshape(-1) for a in (weight, bias))
    normed: Tensor = _NORM(input, math.prod(shape), *flat, eps, centered)[0]
    return normed


@widened
def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias (Ba, Kiros and Hinton 2016, equation 3).

    input: [..., *normalized_shape]; weight, bias: normalized_shape. Sums are in float64.
    """
    return _normalised(input, normalized_shape, weight, bias, eps, True)


@widened
def rms_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / sqrt(mean x^2 + eps) * weight (Zhang and Sennrich 2019, equation 4).

    eps: default None, the distance from 1 to the next number of input's dtype.
    """
    chosen = torch.finfo(input.dtype).eps if eps is None else eps
    return _normalised(input, normalized_shape, weight, None, chosen, False)


# ---- Softmax -----------------------------------------------------------------------------------------

_SOFTMAX = {log: ffi.new("fgd_softmax *", [log]) for log in (False, True)}


def _rows(x: Tensor) -> tuple[int, int]:
    cols = x.shape[-1]
    return (x.numel() // cols if cols else 0), cols


def _softmax(input: Tensor, log: bool) -> Tensor:
    code, x = real("input", input), input.contiguous()
    y = torch.empty_like(x)
    check(lib.fgd_softmax_forward(code, _SOFTMAX[log], *_rows(x), pointer(x), pointer(y)))
    return y


def _softmax_fake(input: Tensor, log: bool) -> Tensor:
    real("input", input)
    return torch.empty_like(input, memory_format=torch.contiguous_format)


def _softmax_backward(grad_output: Tensor, output: Tensor, log: bool) -> Tensor:
    code, dy, y = real("output", output), grad_output.contiguous(), output.contiguous()
    dx = torch.empty_like(y)
    arrays = pointer(y), pointer(dy), pointer(dx)
    check(lib.fgd_softmax_backward(code, _SOFTMAX[log], *_rows(y), *arrays))
    return dx


def _softmax_twice(grad_output: Tensor, output: Tensor, log: bool) -> Tensor:
    derivative = _aten._log_softmax_backward_data if log else _aten._softmax_backward_data
    found: Tensor = derivative(grad_output, output, -1, output.dtype)
    return found


def _softmax_save(ctx: Any, arguments: Any, y: Tensor) -> None:
    ctx.log = arguments[1]
    ctx.save_for_backward(y)


_SOFTMAX_BACKWARD = define(
    "softmax_backward(Tensor grad_output, Tensor output, bool log) -> Tensor",
    _softmax_backward,
    lambda dy, y, log: torch.empty_like(y, memory_format=torch.contiguous_format),
    twice=_softmax_twice,
)
_SOFTMAX_FORWARD = define(
    "softmax(Tensor input, bool log) -> Tensor",
    _softmax,
    _softmax_fake,
    save=_softmax_save,
    backward=lambda ctx, call, dy: (call(_SOFTMAX_BACKWARD, dy, *ctx.saved_tensors, ctx.log), None),
).dispatched


def _softmax_over(
    name: str, input: Tensor, dim: int | None, stacklevel: int, dtype: torch.dtype | None
) -> Tensor:
    if dim is None:
        text = f"Implicit dimension choice for {name} has been deprecated. "
        warnings.warn(f"{text}Change the call to include dim=X as an argument.", stacklevel=stacklevel)
        dim = 0 if input.dim() in (0, 1, 3) else 1
    x = input if dtype is None else input.to(dtype)
    if not x.dim():
        return _softmax_over(name, x.reshape(1), dim, stacklevel, None).reshape(())
    y: Tensor = _SOFTMAX_FORWARD(x.transpose(dim, -1), name == "log_softmax")
    return y.transpose(dim, -1)


@widened
def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """exp(x) / sum exp(x) over a dimension (Bridle 1990, section 3), for x of any size."""
    return _softmax_over("softmax", input, dim, _stacklevel, dtype)


@widened
def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: torch.dtype | None = None
) -> Tensor:
    """The logarithm of softmax, which neither overflows nor cancels."""
    return _softmax_over("log_softmax", input, dim, _stacklevel, dtype)
