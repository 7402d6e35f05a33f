"""Functions of float32 for numbers in 16 bits: these are storage only, and each result is rounded once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import torch

NARROW = frozenset({torch.bfloat16, torch.float16})

Function = TypeVar("Function", bound=Callable[..., Any])


def widened(function: Function) -> Function:
    """The function of `input` and so on, which takes 16-bit tensors, too, and gives results in input's dtype.

    All that is in 16 bits among its arguments is computed with in float32. As in torch, an argument `dtype`
    says what results are in, a `target` in float32, too, and `inplace` that they go into the input. Under
    autocast results are float32.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(input: Any, *positional: Any, **named: Any) -> Any:
        if input.dtype not in NARROW or torch.is_autocast_enabled("cpu"):
            return function(input, *positional, **named)
        arguments = signature.bind(input, *positional, **named).arguments
        in_place = arguments.pop("inplace", False)
        wide = {name: _wide(value) for name, value in arguments.items()}
        result = function(**wide)
        if in_place:
            return input.copy_(result)
        return result if arguments.get("dtype") is not None else _as(_dtype(arguments), result)

    return cast(Function, call)


def _dtype(arguments: Mapping[str, Any]) -> torch.dtype:
    own: torch.dtype = arguments["input"].dtype
    target = arguments.get("target")
    if isinstance(target, torch.Tensor) and target.is_floating_point():
        return torch.promote_types(own, target.dtype)
    return own


def _wide(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.float() if value.dtype in NARROW else value
    if isinstance(value, Mapping):
        return {key: _wide(v) for key, v in value.items()}
    return tuple(map(_wide, value)) if isinstance(value, (tuple, list)) else value


def _as(dtype: torch.dtype, result: Any) -> Any:
    return tuple(part.to(dtype) for part in result) if isinstance(result, tuple) else result.to(dtype)
