"""Checks what a step is asked to do with gradients before its rule sees them."""

from __future__ import annotations

import inspect
import math
from typing import Any

import numpy as np

from fastgd.backends.base import SCOPES, Options
from fastgd.checks import flag, limit, named, number, one_of, optional, real

#: options of an optimizer whose `step` is given none: name -> (type, default, meaning)
LASTING: dict[str, tuple[str, Any, str]] = {
    "clip_norm": (
        "float | None",
        None,
        "upper limit of the global norm of all gradients, which are not written; None: no limit",
    ),
    "clip_value": (
        "float | None",
        None,
        "each element of a gradient counts as limited to [-clip_value, clip_value]; None: no limit",
    ),
    "skip_nonfinite": (
        "bool",
        False,
        "whether a step changes nothing when a gradient holds NaN or an infinity",
    ),
}

#: options of fastgd.jax that say what holds for which part of a tree: name -> (type, default, meaning)
LABELLING: dict[str, tuple[str, Any, str]] = {
    "groups": (
        "Any",
        None,
        "hyperparameters and settings that parameters with a label have in place of these: dicts by label, "
        "empty for a label that has none of its own",
    ),
    "labels": (
        "Any",
        None,
        "the label of each parameter, as for optax.partition: a tree as that of the parameters, or one that "
        "ends earlier, where a label holds for all below; or a function that gives one of the parameters, of "
        "which it is given shapes and dtypes",
    ),
    "mask": (
        "Any",
        None,
        "which parameters have weight decay: True or False, in a tree or by a function as labels; None: all",
    ),
}


def total(value: Any) -> float:
    """A norm that others have measured: at least 0, or NaN."""
    result = real(value)
    if result < 0:
        raise ValueError(f"must not be negative, not {result!r}")
    return result


def step_options(
    narrowest: np.dtype[Any],
    clip_norm: Any = None,
    clip_value: Any = None,
    grad_scale: Any = 1.0,
    skip_nonfinite: Any = False,
    clip_scope: Any = "all",
    normalize: Any = False,
    total_norm: Any = None,
    clip_adaptive: Any = None,
    clip_adaptive_eps: Any = 1e-3,
) -> Options:
    """The keyword arguments of `Optimizer.step` as options; TypeError or ValueError that names one.

    narrowest: the dtype, float32 or float64, that the inverse of grad_scale must fit.
    """
    scale = named("grad_scale", real, grad_scale)
    if not 0 < scale < math.inf:
        raise ValueError(f"grad_scale must be above 0 and finite, not {scale!r}")
    if not float(np.finfo(narrowest).smallest_subnormal) <= 1 / scale <= float(np.finfo(narrowest).max):
        raise ValueError(f"grad_scale must have an inverse that {narrowest} can hold, not {scale!r}")
    options = Options(
        grad_scale=scale,
        clip_value=_limit("clip_value", clip_value),
        clip_norm=_limit("clip_norm", clip_norm),
        skip_nonfinite=named("skip_nonfinite", flag, skip_nonfinite),
        scope=named("clip_scope", one_of(*SCOPES), clip_scope),
        normalize=named("normalize", flag, normalize),
        total_norm=named("total_norm", optional(total), total_norm),
        clip_unit=_limit("clip_adaptive", clip_adaptive),
        unit_eps=named("clip_adaptive_eps", number(0), clip_adaptive_eps),
    )
    clips = not math.isinf(options.clip_norm)
    if options.normalize and not clips:
        raise ValueError("normalize needs clip_norm, the norm that gradients are brought to")
    if clips and not math.isinf(options.clip_unit):
        raise ValueError("clip_adaptive and clip_norm are two ways to clip: give one of them")
    if options.total_norm is not None:
        if not clips and not options.skip_nonfinite:
            raise ValueError("total_norm is for clip_norm or skip_nonfinite: give one of them")
        if options.scope != SCOPES[0]:
            raise ValueError(
                f"total_norm is the norm of all gradients: clip_scope {options.scope!r} has no use"
            )
    return options


def _limit(name: str, value: Any) -> float:
    return math.inf if value is None else named(name, limit, value)


#: the keyword arguments of `Optimizer.step` and their defaults, in their order
_USUAL = {
    name: parameter.default
    for name, parameter in inspect.signature(step_options).parameters.items()
    if name != "narrowest"
}


def asked_with(options: dict[str, Any]) -> tuple[Any, ...]:
    """All keyword arguments of `Optimizer.step` in their order, these being given; TypeError for others."""
    unknown = options.keys() - _USUAL.keys()
    if unknown:
        raise TypeError(f"step() got an unexpected keyword argument {sorted(unknown)[0]!r}")
    return tuple({**_USUAL, **options}.values())
