"""Norms of gradients and clipping, in place of those of torch.nn.utils: same arguments, same results' types.

What fastgd's kernels reach, which is every float32, float64, bfloat16, float16 and complex gradient in host
memory, is measured and clipped in one native call. Other norms than 2 and infinity, the largest magnitude of
complex numbers, and tensors on CUDA are measured by torch in float64. For other tensors of torch's (sparse
ones, subclasses, meta, dtypes that cannot be clipped) its own function is called, and raises what it raises.
DTensors are measured on all ranks: fastgd/torch/sharded.py.
"""

from __future__ import annotations

import functools
import math
import types
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch._compile import _disable_dynamo
from torch.autograd.graph import increment_version

from fastgd.backends.base import Measured, Options
from fastgd.backends.reference_norms import clip_coef
from fastgd.checks import limit, named
from fastgd.torch import sharded
from fastgd.torch.host import DTYPES, PLAIN, HostTensors, all_reached, reached
from fastgd.torch.sharded import LocalPart, Placing, combined, local_part, nothing
from fastgd.torch.tensors import is_wrapper, local

#: norms that the kernels have
_KERNELS = (2.0, math.inf)

#: devices on which torch computes in float64
_DEVICES = ("cpu", "cuda")


F = TypeVar("F", bound=Callable[..., Any])


def _apart(function: F) -> F:
    """Has the function called outside of the graph that torch.compile makes of what is around."""
    outside = _disable_dynamo(function)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return (outside if torch.compiler.is_compiling() else function)(*arguments, **named)

    return cast(F, call)


@_apart
def get_total_norm(
    tensors: torch.Tensor | Iterable[torch.Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> torch.Tensor:
    """The norm of all elements of all tensors, as if they were one vector: torch.nn.utils.get_total_norm.

    tensors: one or several, of any shapes, strides and dtypes.
    norm_type: 2 for the root of the sum of squares, infinity for the largest magnitude; any other that torch
        takes. 0 counts the elements that are not 0. Tensors without elements have no part in any norm.
    foreach: taken for torch's sake; it changes nothing here.

    Returns a tensor without dimensions on the first tensor's device, in the dtype in which torch gives it:
    that to which the tensors' promote. Sums are in float64, and where the norm is beyond the largest number
    of that dtype, it is given in float32, or in float64. Of DTensors it is the norm over all ranks, as a
    plain tensor. RuntimeError with `error_if_nonfinite`, if the norm is NaN or infinite.
    """
    given = [tensors] if isinstance(tensors, torch.Tensor) else list(tensors)
    if not given:
        return torch.tensor(0.0)
    order = float(norm_type)
    dtypes = all_reached(given) if order in _KERNELS else None
    if not dtypes and not _taken(given):
        return torch.nn.utils.get_total_norm(given, order, error_if_nonfinite, foreach)
    if dtypes:
        norm = _measured(HostTensors(given, dtypes), order)
    else:
        norm = _total_norm([local_part(tensor) for tensor in given], order)
    if error_if_nonfinite and not math.isfinite(norm):
        raise _not_finite(order)
    return _as_tensor(norm, given[0].device, dtypes or _dtypes(given))


@_apart
def clip_grad_norm_(
    parameters: torch.Tensor | Iterable[torch.Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> torch.Tensor:
    """Scales the parameters' gradients in place so that their norm is at most `max_norm`; returns it.

    As torch.nn.utils.clip_grad_norm_: they are multiplied by `min(1, max_norm / (norm + 1e-6))` (Pascanu,
    Mikolov and Bengio 2013, section 3.2), which is computed in float64. norm_type, foreach, what is returned
    and RuntimeError with `error_if_nonfinite`, when nothing has been changed: see `get_total_norm`. With an
    infinite `max_norm` gradients are only measured. ValueError for one that is negative or NaN.
    """
    bound, order = named("max_norm", limit, float(max_norm)), float(norm_type)
    if isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    else:
        is_generator = isinstance(parameters, types.GeneratorType)
        parameters = list(parameters)
        if is_generator and not parameters:
            text = "`parameters` is an empty generator, no gradient clipping will occur."
            warnings.warn(text, stacklevel=3)
    grads = _grads_of(parameters)
    if not grads:
        return torch.tensor(0.0)
    dtypes = all_reached(grads) if order in _KERNELS else None
    if dtypes:
        own = HostTensors(grads, dtypes)
        if not own.share_memory():
            skip = bool(error_if_nonfinite)
            options = Options(clip_norm=bound, norm=order, measure=True, skip_nonfinite=skip)
            measured = _clipped(own, grads, options)
            if measured.skipped:
                raise _not_finite(order)
            return _as_tensor(measured.norm, grads[0].device, dtypes)
    if not _taken(grads):
        with torch.no_grad():
            return torch.nn.utils.clip_grad_norm_(parameters, bound, order, error_if_nonfinite, foreach)
    parts = [local_part(grad) for grad in grads]
    norm = _total_norm(parts, order)
    if error_if_nonfinite and not math.isfinite(norm):
        raise _not_finite(order)
    _change([part.own for part in parts], Options(clip_norm=bound, total_norm=norm))
    return _as_tensor(norm, grads[0].device, _dtypes(grads))


@_apart
def clip_grads_with_norm_(
    parameters: torch.Tensor | Iterable[torch.Tensor],
    max_norm: float,
    total_norm: torch.Tensor,
    foreach: bool | None = None,
) -> None:
    """Scales the parameters' gradients in place as `clip_grad_norm_` does, by a norm that is known already.

    total_norm: a number, or a tensor of one element. ValueError for one that is negative.
    """
    bound = named("max_norm", limit, float(max_norm))
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    grads = _grads_of(parameters)
    if not grads:
        return
    dtypes = all_reached(grads)
    if not dtypes:
        if not _taken(grads):
            torch.nn.utils.clip_grads_with_norm_(parameters, bound, total_norm, foreach)
            return
        grads = [local(grad) for grad in grads]
    whole: Any = total_norm
    norm = float(whole.full_tensor() if is_wrapper(whole) else whole)
    if norm < 0:
        raise ValueError(f"total_norm must be at least 0, not {norm!r}")
    _change(grads, Options(clip_norm=bound, total_norm=norm), dtypes)


@_apart
def clip_grad_value_(
    parameters: torch.Tensor | Iterable[torch.Tensor],
    clip_value: float,
    foreach: bool | None = None,
) -> None:
    """Limits every element of the parameters' gradients to [-clip_value, clip_value], in place.

    As torch.nn.utils.clip_grad_value_, foreach too. NaN stays NaN. ValueError for a negative limit or NaN.
    """
    bound = named("clip_value", limit, float(clip_value))
    parameters = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
    grads = _grads_of(parameters)
    if not grads:
        return
    dtypes = all_reached(grads)
    if not dtypes:
        if not _taken(grads) or any(map(_has_no_limits, grads)):
            torch.nn.utils.clip_grad_value_(parameters, bound, foreach)
            return
        grads = [local(grad) for grad in grads]
    _change(grads, Options(clip_value=bound), dtypes)


def _grads_of(parameters: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    return [grad for parameter in parameters if (grad := parameter.grad) is not None]


def _has_no_limits(grad: Any) -> bool:
    """Whether elements cannot be limited one by one, as they lie here."""
    return grad.is_complex() or (is_wrapper(grad) and sharded.is_sum(grad))


def _taken(tensors: Sequence[Any]) -> bool:
    """Whether all are tensors that fastgd measures and clips."""
    if all_reached(tensors):
        return True
    for tensor in tensors:
        here = local(tensor)
        if type(here) not in PLAIN or here.layout is not torch.strided or here.device.type not in _DEVICES:
            return False
        if here.dtype not in DTYPES and not here.is_complex():
            return False
    return True


def _not_finite(order: float) -> RuntimeError:
    return RuntimeError(
        f"The total norm of order {order} for gradients from `parameters` is non-finite, so it cannot be "
        "clipped. To disable this error and scale the gradients by the non-finite norm anyway, set "
        "`error_if_nonfinite=False`"
    )


def _dtypes(tensors: Iterable[torch.Tensor]) -> list[torch.dtype]:
    return list({tensor.dtype for tensor in tensors})


def _as_tensor(norm: float, device: torch.device, dtypes: Sequence[torch.dtype]) -> torch.Tensor:
    """The norm in the dtype that torch has for such tensors, or in the first that is wide enough."""
    common = dtypes[0]
    for dtype in dtypes[1:]:
        common = torch.promote_types(common, dtype)
    for dtype in (common.to_real(), torch.float32, torch.float64):
        if not math.isfinite(norm) or norm <= torch.finfo(dtype).max:
            break
    return torch.tensor(norm, dtype=dtype, device=device)


# ---- Measuring --------------------------------------------------------------------------------------


def _total_norm(parts: Sequence[LocalPart], order: float) -> float:
    placed: dict[Placing | None, list[torch.Tensor]] = {}
    for part in parts:
        placed.setdefault(part.placing, []).append(part.values)
    return sharded.total_norm({p: _local_norm(values, order) for p, values in placed.items()}, order)


def _local_norm(tensors: Sequence[torch.Tensor], order: float) -> float:
    """The norm of what lies here."""
    own, others = _split(tensors, _numbers(order))
    norms = [nothing(order), *_norms_by_torch(others, order)]
    if own:
        norms.append(_measured(HostTensors(own), order))
    return combined(norms, order)


def _measured(tensors: HostTensors, order: float) -> float:
    return tensors.table.measure(Options(norm=order, measure=True)).norm


def _norms_by_torch(tensors: Sequence[torch.Tensor], order: float) -> list[float]:
    """The norm of each that has elements, summed in float64."""
    wide = {True: torch.complex128, False: torch.float64}
    with torch.no_grad():
        norms = [
            torch.linalg.vector_norm(tensor, order, dtype=wide[tensor.is_complex()])
            for tensor in tensors
            if tensor.numel()
        ]
        if not norms:
            return []
        # one transfer from a device
        values: list[float] = torch.stack([norm.to(norms[0].device) for norm in norms]).tolist()
        return values


def _numbers(order: float) -> Callable[[torch.Tensor], torch.Tensor | None]:
    """What gives a tensor as numbers of which the kernels have this norm; None where they do not."""
    if order == 2:
        return reached
    # of a complex number the magnitude is not that of its larger part
    return lambda tensor: reached(tensor) if order in _KERNELS and not tensor.is_complex() else None


def _split(
    tensors: Sequence[torch.Tensor], numbers: Callable[[torch.Tensor], torch.Tensor | None] = reached
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The numbers of those that the kernels reach, and the others."""
    views = [(tensor, numbers(tensor)) for tensor in tensors]
    return [view for _, view in views if view is not None], [tensor for tensor, view in views if view is None]


# ---- Changing ---------------------------------------------------------------------------------------


def _change(grads: list[torch.Tensor], options: Options, dtypes: Sequence[torch.dtype] | None = None) -> None:
    """Clips what lies here, by a value or by a norm that is known. dtypes: as `all_reached` gives them."""
    if math.isinf(options.clip_norm) and math.isinf(options.clip_value):
        return
    own, others = (grads, []) if dtypes else _split(grads)
    tensors = HostTensors(own, dtypes or ())
    if tensors.share_memory():  # threads would meet there; one after the other, and twice, as in torch
        own, others = [], list(grads)
    with torch.no_grad():
        if others and math.isinf(options.clip_value):
            torch._foreach_mul_(others, clip_coef(options.total_norm or 0.0, options))
        for grad in others if math.isinf(options.clip_norm) else []:
            grad.clamp_(-options.clip_value, options.clip_value)
    if own:
        _clipped(tensors, own, options)


def _clipped(tensors: HostTensors, grads: Sequence[torch.Tensor], options: Options) -> Measured:
    """The kernels' clipping of these tensors. grads: the same, or views of them."""
    increment_version(grads)  # autograd must see what the kernels write
    return tensors.table.clip(options)
