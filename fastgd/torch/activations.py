"""Functions of each element by itself, with the signatures of torch.nn.functional.

The operators come of the table in csrc/layers.def: `fastgd::tanh(input, a, b)` and `fastgd::tanh_backward`,
where a and b are the parameters that the table names. Derivatives are differentiated by torch's operators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastgd._native import ffi, lib
from fastgd.torch.calls import check, packed, packed_as, pointer, real
from fastgd.torch.narrow import widened
from fastgd.torch.operators import Kernel, define

_aten = torch.ops.aten

# Klambauer et al. 2017, equation 2
_SELU_ALPHA, _SELU_LAMBDA = 1.6732632423543772, 1.0507009873554805


def _silu_slope(z: Tensor, p: Tensor) -> Tensor:
    return p * (1 + z * (1 - p))


def _mish_slope(z: Tensor, w: Tensor) -> Tensor:
    return w + z * (1 - w * w) * torch.sigmoid(z)


#: name in csrc/layers.def -> dz of (dy, what is saved, a, b), in operators of torch's
_TWICE: dict[str, Callable[..., Tensor]] = {
    "relu": lambda dy, y, a, b: _aten.threshold_backward(dy, y, 0),
    "tanh": lambda dy, y, a, b: _aten.tanh_backward(dy, y),
    "sigmoid": lambda dy, y, a, b: _aten.sigmoid_backward(dy, y),
    "leaky_relu": lambda dy, y, a, b: _aten.leaky_relu_backward(dy, y, a, True),
    "elu": lambda dy, z, a, b: _aten.elu_backward(dy, a, 1, 1, False, z),
    "selu": lambda dy, z, a, b: _aten.elu_backward(dy, _SELU_ALPHA, _SELU_LAMBDA, 1, False, z),
    "gelu": lambda dy, z, a, b: _aten.gelu_backward(dy, z),
    "gelu_tanh": lambda dy, z, a, b: _aten.gelu_backward(dy, z, approximate="tanh"),
    "silu": lambda dy, z, a, b: dy * _silu_slope(z, torch.sigmoid(z)),
    "mish": lambda dy, z, a, b: dy * _mish_slope(z, torch.tanh(torch.nn.functional.softplus(z))),
    "softplus": lambda dy, z, a, b: _aten.softplus_backward(dy, z, a, b),
    "logsigmoid": lambda dy, z, a, b: dy * torch.sigmoid(-z),
    "hardtanh": lambda dy, y, a, b: _aten.hardtanh_backward(dy, y, a, b),
    "hardsigmoid": lambda dy, z, a, b: dy * ((z > -3) & (z < 3)) / 6,
    "hardswish": lambda dy, z, a, b: _aten.hardswish_backward(dy, z),
}


@lru_cache(maxsize=1024)
def _described(kind: int, a: float, b: float) -> Any:
    return ffi.new("fgd_activation *", [kind, a, b])


class _Activation:
    """One row of the table as two operators."""

    def __init__(self, kind: int) -> None:
        info = lib.fgd_activation_at(kind)
        self.name: str = ffi.string(info.name).decode()
        self._kind, self._saves_input = kind, bool(info.saves_input)
        self._derivative = define(
            f"{self.name}_backward(Tensor grad_output, Tensor saved, float a, float b) -> Tensor",
            self._backward,
            lambda dy, saved, a, b: torch.empty_like(saved),
            twice=_TWICE[self.name],
        )
        self._operator = define(
            f"{self.name}(Tensor input, float a, float b) -> Tensor",
            self._forward,
            self._fake,
            save=self._save,
            backward=self._gradients,
        ).dispatched

    def __call__(self, input: Tensor, a: float = 0.0, b: float = 0.0, inplace: bool = False) -> Tensor:
        if not inplace:
            y: Tensor = self._operator(input, a, b)
            return y
        differentiated = torch.is_grad_enabled() and input.requires_grad
        kept = input.clone() if self._saves_input and differentiated else input
        changed: Tensor = input.copy_(self._operator(kept, a, b))
        return changed

    def _forward(self, z: Tensor, a: float, b: float) -> Tensor:
        code, z = real("input", z), packed(z)
        y = torch.empty_like(z)
        of = _described(self._kind, a, b)
        check(lib.fgd_activation_forward(code, of, z.numel(), pointer(z), pointer(y)))
        return y

    def _backward(self, dy: Tensor, saved: Tensor, a: float, b: float) -> Tensor:
        code, saved = real("saved", saved), packed(saved)
        dy, dz, of = packed_as(dy, saved), torch.empty_like(saved), _described(self._kind, a, b)
        arrays = pointer(saved), pointer(dy), pointer(dz)
        check(lib.fgd_activation_backward(code, of, dz.numel(), *arrays))
        return dz

    def _fake(self, z: Tensor, a: float, b: float) -> Tensor:
        real("input", z)
        return torch.empty_like(z)

    def _save(self, ctx: Any, arguments: Any, y: Tensor) -> None:
        z, *ctx.parameters = arguments
        ctx.save_for_backward(z if self._saves_input else y)

    def _gradients(self, ctx: Any, call: Kernel, dy: Tensor) -> Any:
        return call(self._derivative, dy, *ctx.saved_tensors, *ctx.parameters), None, None


_ALL = {a.name: a for a in map(_Activation, range(1, lib.fgd_activation_count()))}


@widened
def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(z, 0) (Nair and Hinton 2010, section 2)."""
    return _ALL["relu"](input, inplace=inplace)


@widened
def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent, within 2.5 units in the last place in both precisions."""
    return _ALL["tanh"](input)


@widened
def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + exp(-z)), within 2.5 units in the last place in both precisions."""
    return _ALL["sigmoid"](input)


@widened
def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """z, or negative_slope z below 0 (Maas et al. 2013, section 2).

    Raises ValueError for a slope below 0: its derivative comes of the output's sign.
    """
    if not negative_slope >= 0:
        raise ValueError(f"negative_slope must be at least 0, not {negative_slope}")
    return _ALL["leaky_relu"](input, negative_slope, inplace=inplace)


@widened
def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """z, or alpha (exp(z) - 1) below 0 (Clevert et al. 2016, equation 15)."""
    return _ALL["elu"](input, alpha, inplace=inplace)


@widened
def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """lambda z, or lambda alpha (exp(z) - 1) below 0 (Klambauer et al. 2017, equation 2)."""
    return _ALL["selu"](input, inplace=inplace)


@widened
def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """z Phi(z), Phi being the normal distribution (Hendrycks and Gimpel 2016, section 2).

    approximate: "none" (default), or "tanh" for z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2.
    """
    if approximate not in ("none", "tanh"):
        raise RuntimeError(f"approximate argument must be either none or tanh, not {approximate!r}")
    return _ALL["gelu_tanh" if approximate == "tanh" else "gelu"](input)


@widened
def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """z / (1 + exp(-z)) (Elfwing et al. 2018, equation 4)."""
    return _ALL["silu"](input, inplace=inplace)


@widened
def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """z tanh(log(1 + exp(z))) (Misra 2020, section 2)."""
    return _ALL["mish"](input, inplace=inplace)


@widened
def softplus(input: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    """log(1 + exp(beta z)) / beta (Dugas et al. 2001, section 3), and z where beta z > threshold."""
    return _ALL["softplus"](input, beta, threshold)


@widened
def logsigmoid(input: Tensor) -> Tensor:
    """log(1 / (1 + exp(-z))), which neither overflows nor cancels."""
    return _ALL["logsigmoid"](input)


@widened
def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """min(max(z, min_val), max_val). ValueError where min_val is above max_val."""
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    return _ALL["hardtanh"](input, min_val, max_val, inplace=inplace)


@widened
def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(z, 0), 6) (Howard et al. 2017, section 3)."""
    return _ALL["hardtanh"](input, 0.0, 6.0, inplace=inplace)


@widened
def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """min(max(z + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2)."""
    return _ALL["hardsigmoid"](input, inplace=inplace)


@widened
def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """z min(max(z + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2)."""
    return _ALL["hardswish"](input, inplace=inplace)
