"""Norms of gradients and clipping on its own, in place, with the meaning of torch.nn.utils."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from fastgd import backends
from fastgd.arrays import as_arrays, owned_arrays
from fastgd.backends.base import Options
from fastgd.checks import flag, limit, named, real


def _norm_type(norm_type: float) -> float:
    value = named("norm_type", real, norm_type)
    if value not in (2.0, math.inf):
        raise ValueError(f"norm_type must be 2 or infinity, not {norm_type!r}")
    return value


def global_norm(arrays: Iterable[Any], norm_type: float = 2.0, *, backend: str = "auto") -> float:
    """The norm of all elements of all arrays, as if they were one vector; 0.0 for no elements.

    arrays: float32 or float64, any shapes and strides, mixed.
    norm_type: 2 for the root of the sum of squares, infinity for the largest magnitude.

    Squares are summed in float64, and scaled where that would overflow or underflow, so that the result is
    right to float64's accuracy; it has the same bits whatever the backend, instruction set and thread count.
    NaN when an element is NaN, else infinite when one is infinite.
    """
    options = Options(norm=_norm_type(norm_type), measure=True)
    return backends.get(backend).measure(as_arrays(arrays, "array"), options).norm


def tensor_norms(arrays: Iterable[Any], norm_type: float = 2.0, *, backend: str = "auto") -> list[float]:
    """The norm of each array; otherwise as `global_norm`."""
    options = Options(norm=_norm_type(norm_type), measure=True)
    return backends.get(backend).norms(as_arrays(arrays, "array"), options)


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
    measured = backends.get(backend).clip(arrays, options)
    if measured.skipped:
        i = measured.nonfinite
        why = "all gradients are finite" if i is None else f"gradient {i} is not finite"
        raise ValueError(f"the global norm is {measured.norm}: {why}")
    return measured.norm


def clip_grad_value_(grads: Iterable[Any], clip_value: float, *, backend: str = "auto") -> None:
    """Limits every element of the gradients to [-clip_value, clip_value], in place. NaN stays NaN."""
    arrays = owned_arrays(grads, "gradient")
    options = Options(clip_value=named("clip_value", limit, clip_value))
    backends.get(backend).clip(arrays, options)
