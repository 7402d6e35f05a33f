"""Losses with their gradients in the same pass, with the signatures of torch.nn.functional.

A loss that is to be differentiated computes its gradient in the forward pass, so that the backward pass costs
nothing where it begins with 1. They can be differentiated once.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import torch
from torch import Tensor

from fastgd._native import ffi, lib
from fastgd.torch.calls import alike, check, doubles, int64s, pointer, real
from fastgd.torch.narrow import widened
from fastgd.torch.norms import log_softmax
from fastgd.torch.operators import Kernel, define, keeps_graph, plainly

REDUCTIONS = ("mean", "sum", "none")


def _reduction(reduction: str, size_average: bool | None, reduce: bool | None) -> str:
    if size_average is not None or reduce is not None:
        chosen = "none" if reduce is False else "sum" if size_average is False else "mean"
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{chosen}' instead.",
            stacklevel=3,
        )
        return chosen
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction: take one of {REDUCTIONS}")
    return reduction


def _scaled(ctx: Any, call: Kernel, dloss: Tensor | None, _: Any) -> Tensor | None:
    """The saved gradient times dloss [] or [rows], in its own memory where nobody else needs that."""
    if dloss is None:
        return None
    grad: Tensor = ctx.saved_tensors[0]
    if dloss.dim():
        dloss = dloss.unsqueeze(-1)
    if call is not plainly or keeps_graph():
        return grad * dloss
    if not dloss.dim() and dloss.item() == 1:
        return grad
    return grad.mul_(dloss)


def _save(ctx: Any, arguments: Any, results: Any) -> None:
    ctx.save_for_backward(results[1])
    ctx.mark_non_differentiable(results[1])
    ctx.set_materialize_grads(False)


# ---- Cross-entropy -----------------------------------------------------------------------------------


def _checked(input: Tensor, target: Tensor, weight: Tensor | None) -> int:
    code = real("input", input)
    alike("weight", weight, input)
    if target.dtype != torch.int64:
        raise TypeError(f"target must be int64 class indices, not {target.dtype}: target.long()")
    return code


def _cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    differentiated: bool,
) -> tuple[Tensor, Tensor]:
    code = _checked(input, target, weight)
    rows, classes = input.shape
    x, labels = input.contiguous(), target.contiguous()
    w = None if weight is None else weight.contiguous()
    grad = torch.empty_like(x) if differentiated else x.new_empty(0)
    row_loss, loss = x.new_empty(rows, dtype=torch.float64), x.new_empty((), dtype=torch.float64)
    divisor = 0.0 if reduction == "mean" else 1.0
    of = ffi.new("fgd_labels *", [pointer(w), label_smoothing, divisor, ignore_index])
    into = pointer(grad) if differentiated else ffi.NULL
    arrays = pointer(x), int64s(labels), into, doubles(row_loss), doubles(loss)
    failed = lib.fgd_softmax_cross_entropy(code, of, rows, classes, *arrays)
    if failed == lib.FGD_ERROR_LABEL:
        outside = ((labels < 0) | (labels >= classes)) & (labels != ignore_index)
        label = int(labels[outside][0])
        raise IndexError(f"Target {label} is out of bounds: target must hold 0 .. {classes - 1}")
    check(failed)
    return (row_loss if reduction == "none" else loss).to(x.dtype), grad


def _cross_entropy_fake(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float,
    differentiated: bool,
) -> tuple[Tensor, Tensor]:
    _checked(input, target, weight)
    contiguous = torch.contiguous_format
    grad = torch.empty_like(input, memory_format=contiguous) if differentiated else input.new_empty(0)
    return input.new_empty(target.shape if reduction == "none" else ()), grad


def _cross_entropy_gradients(ctx: Any, call: Kernel, *gradients: Any) -> Any:
    return _scaled(ctx, call, *gradients), None, None, None, None, None, None


_CROSS_ENTROPY = define(
    "cross_entropy(Tensor input, Tensor target, Tensor? weight, str reduction, int ignore_index, "
    "float label_smoothing, bool differentiated) -> (Tensor, Tensor)",
    _cross_entropy,
    _cross_entropy_fake,
    save=_save,
    backward=_cross_entropy_gradients,
    once=True,
).dispatched


def _of_probabilities(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> Tensor:
    """Of a target with input's shape: -sum w p log softmax(x), a mean over the rows."""
    if tuple(target.shape) != tuple(input.shape):
        raise RuntimeError(f"target must have input's shape {[*input.shape]}, not {[*target.shape]}")
    classes = input.shape[-1]
    p = target * (1 - label_smoothing) + label_smoothing / classes if label_smoothing else target
    terms = log_softmax(input, -1) * p
    losses = -(terms if weight is None else terms * weight).sum(-1)
    if reduction == "none":
        return losses
    return losses.sum() if reduction == "sum" else losses.sum() / losses.numel()


@widened
def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Softmax and negative log-likelihood (Bridle 1990, section 3), summed in float64.

    input: logits [classes], [batch, classes] or [batch, classes, ...], of any size. Where classes are not the
        last dimension in memory a copy is made.
    target: int64 labels, of input's shape without the classes, or probabilities of input's shape.
    weight: [classes]. Default None: 1 each.
    label_smoothing: 0 to 1 (Szegedy et al. 2016, section 7).

    Raises IndexError for a label that is neither a class nor ignore_index.
    """
    reduction = _reduction(reduction, size_average, reduce)
    if not 0 <= label_smoothing <= 1:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")
    if not input.dim():
        raise ValueError("input must have shape [batch, classes, ...] or [classes], not []")
    x = input.movedim(1, -1) if input.dim() > 2 else input
    classes = x.shape[-1]
    if weight is not None and tuple(weight.shape) != (classes,):
        raise RuntimeError(f"weight must have shape [{classes}], one for each class, not {[*weight.shape]}")
    if target.is_floating_point():
        y = target.movedim(1, -1) if target.dim() > 2 else target
        return _of_probabilities(x, y, weight, reduction, label_smoothing)
    if tuple(target.shape) != tuple(x.shape[:-1]):
        raise ValueError(f"target must have shape {[*x.shape[:-1]]}, not {[*target.shape]}")
    differentiated = torch.is_grad_enabled() and input.requires_grad
    rows = x if x.dim() == 2 else x.reshape(target.numel(), classes)
    given = rows, target.reshape(-1), weight, reduction, ignore_index, label_smoothing, differentiated
    loss: Tensor = _CROSS_ENTROPY(*given)[0]
    return loss.reshape(target.shape) if reduction == "none" else loss


# ---- Losses of single elements -----------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _described(kind: str, a: float, divisor: float) -> Any:
    return ffi.new("fgd_loss *", [lib.fgd_loss_find(kind.encode()), a, divisor])


def _element_loss(
    input: Tensor, target: Tensor, kind: str, a: float, reduction: str, differentiated: bool
) -> tuple[Tensor, Tensor]:
    code, n = real("input", input), input.numel()
    alike("target", target, input)
    x, y = input.contiguous(), target.contiguous()
    grad = torch.empty_like(x) if differentiated else x.new_empty(0)
    loss = x.new_empty((), dtype=torch.float64)
    scratch = x.new_empty(lib.fgd_loss_scratch(n), dtype=torch.float64)
    of = _described(kind, a, float(n) if reduction == "mean" else 1.0)
    into = pointer(grad) if differentiated else ffi.NULL
    arrays = pointer(x), pointer(y), into, doubles(scratch), doubles(loss)
    check(lib.fgd_loss_and_grad(code, of, n, *arrays))
    return loss.to(x.dtype), grad


def _element_loss_fake(
    input: Tensor, target: Tensor, kind: str, a: float, reduction: str, differentiated: bool
) -> tuple[Tensor, Tensor]:
    real("input", input)
    alike("target", target, input)
    contiguous = torch.contiguous_format
    grad = torch.empty_like(input, memory_format=contiguous) if differentiated else input.new_empty(0)
    return input.new_empty(()), grad


def _element_loss_gradients(ctx: Any, call: Kernel, *gradients: Any) -> Any:
    found, needs = _scaled(ctx, call, *gradients), ctx.needs_input_grad
    opposite = -found if found is not None and needs[2] else None
    return found if needs[1] else None, opposite, None, None, None, None


_ELEMENT_LOSS = define(
    "element_loss(Tensor input, Tensor target, str kind, float a, str reduction, bool differentiated) "
    "-> (Tensor, Tensor)",
    _element_loss,
    _element_loss_fake,
    save=_save,
    backward=_element_loss_gradients,
    once=True,
).dispatched


def _of_elements(
    kind: str, a: float, input: Tensor, target: Tensor, weight: Tensor | None, reduction: str
) -> Tensor:
    if weight is not None or reduction == "none":
        raise ValueError("reduction must be 'mean' or 'sum' and weight None: take torch.nn.functional else")
    if tuple(target.shape) != tuple(input.shape):
        raise ValueError(f"target must have input's shape {[*input.shape]}, not {[*target.shape]}")
    differentiated = torch.is_grad_enabled() and (input.requires_grad or target.requires_grad)
    loss: Tensor = _ELEMENT_LOSS(input, target, kind, a, reduction, differentiated)[0]
    return loss


@widened
def mse_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """The squared error. Without weights, and reduction "mean" or "sum", as all losses of elements here."""
    reduction = _reduction(reduction, size_average, reduce)
    return _of_elements("squared", 0.0, input, target, weight, reduction)


@widened
def l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Tensor | None = None,
) -> Tensor:
    """The absolute error; its derivative at 0 is 0."""
    reduction = _reduction(reduction, size_average, reduce)
    return _of_elements("absolute", 0.0, input, target, weight, reduction)


@widened
def huber_loss(
    input: Tensor,
    target: Tensor,
    reduction: str = "mean",
    delta: float = 1.0,
    weight: Tensor | None = None,
) -> Tensor:
    """d^2 / 2, or delta (d - delta / 2) where d = |input - target| is above delta (Huber 1964, section 4)."""
    if not delta > 0:
        raise ValueError(f"delta must be above 0, not {delta}")
    return _of_elements("huber", delta, input, target, weight, _reduction(reduction, None, None))


@widened
def smooth_l1_loss(
    input: Tensor,
    target: Tensor,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    beta: float = 1.0,
) -> Tensor:
    """d^2 / (2 beta), or d - beta / 2 where d = |input - target| >= beta (Girshick 2015, equation 3)."""
    if not beta >= 0:
        raise RuntimeError(f"smooth_l1_loss does not support negative values for beta: {beta}")
    reduction = _reduction(reduction, size_average, reduce)
    return _of_elements("smooth_absolute", beta, input, target, None, reduction)


@widened
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-pos_weight y log p - (1 - y) log(1 - p), p being the sigmoid of input.

    pos_weight: of one element. Default None: 1. target has no gradient here.
    """
    if target.requires_grad:
        raise ValueError("target must not require a gradient: take torch.nn.functional for it")
    if pos_weight is not None and pos_weight.numel() != 1:
        raise ValueError(f"pos_weight must have one element, not shape {[*pos_weight.shape]}")
    a = 1.0 if pos_weight is None else float(pos_weight)
    reduction = _reduction(reduction, size_average, reduce)
    return _of_elements("binary_cross_entropy", a, input, target, weight, reduction)
