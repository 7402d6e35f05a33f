"""Norms of gradients and clipping on its own, in place, with the meaning of torch.nn.utils."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from fastgd import backends
from fastgd.arrays import Array, Spans, addresses, as_arrays, owned_arrays
from fastgd.backends.base import Backend, Options
from fastgd.checks import flag, limit, named, number, real
from fastgd.interrupts import uninterrupted
from fastgd.memory import HOST, check_together, memory_of, on_host
from fastgd.storage import arithmetic, load, store


def _norm_type(norm_type: float) -> float:
    value = named("norm_type", real, norm_type)
    if value not in (2.0, math.inf):
        raise ValueError(f"norm_type must be 2 or infinity, not {norm_type!r}")
    return value


def _working_on(arrays: Sequence[Array], backend: str, what: str) -> Backend:
    return backends.for_all(backend, map(memory_of, arrays), what)


def global_norm(arrays: Iterable[Any], norm_type: float = 2.0, *, backend: str = "auto") -> float:
    """The norm of all elements of all arrays, as if they were one vector; 0.0 for no elements.

    arrays: float32, float64, bfloat16 or float16, any shapes and strides, mixed.
    norm_type: 2 for the root of the sum of squares, infinity for the largest magnitude.

    Squares are summed in float64, and scaled where that would overflow or underflow, so that the result is
    right to float64's accuracy; it has the same bits whatever the backend, instruction set and thread count.
    NaN when an element is NaN, else infinite when one is infinite.
    """
    options = Options(norm=_norm_type(norm_type), measure=True)
    given = as_arrays(arrays, "array")
    return _working_on(given, backend, "array").measure(given, options).norm


def tensor_norms(arrays: Iterable[Any], norm_type: float = 2.0, *, backend: str = "auto") -> list[float]:
    """The norm of each array; otherwise as `global_norm`."""
    options = Options(norm=_norm_type(norm_type), measure=True)
    given = as_arrays(arrays, "array")
    return _working_on(given, backend, "array").norms(given, options)


def clip_grad_norm_(
    grads: Iterable[Any],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    *,
    backend: str = "auto",
) -> float:
    """Scales gradients in place so that their global norm is at most `max_norm`; returns the norm before.

    They are multiplied by `min(1, max_norm / (norm + 1e-6))`, as torch.nn.utils.clip_grad_norm_ does
    (Pascanu, Mikolov and Bengio 2013, section 3.2). With `error_if_nonfinite`, ValueError is raised
    when an element, or the norm itself, is NaN or infinite, and nothing is changed; without it such an
    element spoils all gradients, as in torch.
    """
    arrays = owned_arrays(grads, "gradient")
    options = Options(
        clip_norm=named("max_norm", limit, max_norm),
        norm=_norm_type(norm_type),
        measure=True,
        skip_nonfinite=named("error_if_nonfinite", flag, error_if_nonfinite),
    )
    measured = _working_on(arrays, backend, "gradient").clip(arrays, options)
    if measured.skipped:
        i = measured.nonfinite
        why = "all gradients are finite" if i is None else f"gradient {i} is not finite"
        raise ValueError(f"the global norm is {measured.norm}: {why}")
    return measured.norm


def clip_grad_value_(grads: Iterable[Any], clip_value: float, *, backend: str = "auto") -> None:
    """Limits every element of the gradients to [-clip_value, clip_value], in place. NaN stays NaN."""
    arrays = owned_arrays(grads, "gradient")
    options = Options(clip_value=named("clip_value", limit, clip_value))
    _working_on(arrays, backend, "gradient").clip(arrays, options)


def normalize_grads_(grads: Iterable[Any], norm: float = 1.0, *, backend: str = "auto") -> float:
    """Scales gradients in place to that global 2-norm, unless they are all 0; returns the norm before.

    They are multiplied by `norm / (norm before + 1e-6)`.
    """
    arrays = owned_arrays(grads, "gradient")
    options = Options(clip_norm=named("norm", limit, norm), normalize=True, measure=True)
    return _working_on(arrays, backend, "gradient").clip(arrays, options).norm


def clip_grad_adaptive_(
    params: Iterable[Any],
    grads: Iterable[Any],
    clip_factor: float = 0.01,
    eps: float = 1e-3,
    *,
    backend: str = "auto",
) -> float:
    """Limits the norm of gradients to `clip_factor` times that of their parameters, in place.

    params, grads: arrays in pairs of the same shape. Each index of the first dimension is a unit with a norm
        of its own; arrays of one dimension or none are one unit.
    clip_factor, eps: a unit's gradient is multiplied by
        `min(1, clip_factor * max(norm of the parameter's unit, eps) / norm of the gradient's)`
        (Brock et al. 2021, equation 3).

    Returns the smallest of these coefficients, 1.0 for none. `step(grads, clip_adaptive=clip_factor)` clips
    alike, without writing the gradients; but it squares in float64 without rescaling, so that units of norms
    above 1e154 or below 1e-154 are for this function alone. ValueError when a gradient shares memory with a
    parameter. What is on a device is clipped in copies on the host.
    """
    owned, given = owned_arrays(grads, "gradient"), as_arrays(params, "parameter")
    factor, least = named("clip_factor", limit, clip_factor), named("eps", number(0), eps)
    if len(owned) != len(given):
        raise ValueError(f"got {len(owned)} gradients for {len(given)} parameters")
    for i, (param, grad) in enumerate(zip(given, owned, strict=True)):
        if param.shape != grad.shape:
            raise ValueError(f"gradient {i} has shape {grad.shape}, the parameter {param.shape}")
        check_together(f"gradient {i}", grad, "the parameter", param)
    shared = Spans(owned).find(given, addresses(given))
    if shared is not None:
        raise ValueError(f"parameter {shared[0]} and gradient {shared[1]} share memory")
    _working_on(owned, backend, "gradient")
    name = backend if all(memory_of(grad) is HOST for grad in owned) else "auto"
    seen = [on_host(grad) for grad in owned]
    changes: list[tuple[Array, Array, Array]] = []
    coefs = [np.ones(1)]
    for param, grad in zip(map(_units, map(on_host, given)), map(_units, seen), strict=True):
        coefs.append(_unit_coefs(param, grad, factor, least, backends.get(name)))
        clipped = np.nonzero(coefs[-1] != 1)[0]
        changes.append((grad, clipped, _scaled(grad[clipped], coefs[-1][clipped])))
    with uninterrupted():
        for grad, clipped, values in changes:
            grad[clipped] = values
        for grad, values in zip(owned, seen, strict=True):
            if grad is not values:  # a copy of what is on a device
                memory_of(grad).write(grad, values)
    return float(np.concatenate(coefs).min())


def _units(array: Array) -> Array:
    """The array with its units along the first dimension."""
    return array if array.ndim >= 2 else array[None]


@np.errstate(all="ignore")
def _unit_coefs(param: Array, grad: Array, factor: float, least: float, backend: Backend) -> Array:
    """float64 [units]."""
    options = Options(measure=True)
    params, grads = (np.array(backend.norms(list(units), options)) for units in (param, grad))
    bound = factor * np.maximum(params, least)
    return np.where(grads <= bound, 1.0, bound / grads)


@np.errstate(all="ignore")
def _scaled(units: Array, coefs: Array) -> Array:
    """Each unit multiplied by its coefficient, in the precision computed in."""
    real = arithmetic(units.dtype)
    column = coefs.astype(real).reshape(-1, *[1] * (units.ndim - 1))
    return store(load(units, real) * column, units.dtype)
