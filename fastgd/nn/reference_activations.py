"""The activations in NumPy: the formulas of csrc/layers.h in the same order of operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.elementary import PRECISIONS, exp, expm1, exponential, log1p, normal


class Function(NamedTuple):
    """One activation. a and b are its parameters, 0 where it has none."""

    #: y from (z, a, b)
    forward: Callable[[Array, float, float], Array]
    #: dz from (z or y, dy, a, b)
    backward: Callable[[Array, Array, float, float], Array]
    #: whether it is z that `backward` takes
    saves_input: bool = False


def _zero(x: Array) -> Array:
    return np.zeros_like(x)


def _bounded_below(z: Array, bound: float) -> Array:
    return np.where(z < -bound, z.dtype.type(-bound), z)


def _bounded_above(z: Array, bound: float) -> Array:
    return np.where(z > bound, z.dtype.type(bound), z)


def _magnitude(z: Array) -> Array:
    return np.where(z < 0, -z, z)


def _tanh(z: Array) -> Array:
    p = PRECISIONS[z.dtype]
    series, half, other_half = exponential(-2 * _bounded_above(_magnitude(z), p.tanh_max))
    scale = half * other_half
    t = series * scale + (scale - 1)
    y: Array = np.copysign(t / (2 + t), z)
    return y


def logistic(z: Array) -> Array:
    e = exp(-_magnitude(z))
    y: Array = np.where(z < 0, e, z.dtype.type(1)) / (1 + e)
    return y


_SELU_ALPHA, _SELU_LAMBDA = 1.6732632423543772, 1.0507009873554805


def _selu_backward(z: Array, dy: Array, a: float, b: float) -> Array:
    result: Array = _SELU_LAMBDA * np.where(z > 0, dy, dy * (_SELU_ALPHA * exp(z)))
    return result


def _normal_at(z: Array) -> tuple[Array, Array]:
    """Phi(z), and e^(-z^2 / 2)."""
    tail, e = normal(_bounded_above(_magnitude(z), PRECISIONS[z.dtype].normal_max))
    return np.where(z < 0, tail, 1 - tail), e


def _gelu(z: Array, a: float, b: float) -> Array:
    result: Array = _bounded_below(z, PRECISIONS[z.dtype].normal_max) * _normal_at(z)[0]
    return result


def _gelu_backward(z: Array, dy: Array, a: float, b: float) -> Array:
    bound = PRECISIONS[z.dtype].normal_max
    phi, e = _normal_at(z)
    result: Array = dy * (phi + _bounded_above(_bounded_below(z, bound), bound) * (0.3989422804014327 * e))
    return result


_TWICE_ROOT = 1.5957691216057308
_GELU_MAX = {np.dtype(np.float32): 12.0, np.dtype(np.float64): 25.0}


def _gelu_bounded(z: Array) -> Array:
    bound = _GELU_MAX[z.dtype]
    return _bounded_above(_bounded_below(z, bound), bound)


def _gelu_gate(near: Array) -> Array:
    return logistic(_TWICE_ROOT * (near + 0.044715 * (near * near * near)))


def _gelu_tanh(z: Array, a: float, b: float) -> Array:
    result: Array = _bounded_below(z, _GELU_MAX[z.dtype]) * _gelu_gate(_gelu_bounded(z))
    return result


def _gelu_tanh_backward(z: Array, dy: Array, a: float, b: float) -> Array:
    near = _gelu_bounded(z)
    p = _gelu_gate(near)
    slope = _TWICE_ROOT * (1 + 0.134145 * (near * near))
    result: Array = dy * (p + near * (p * (1 - p)) * slope)
    return result


def _exp_bounded(z: Array) -> Array:
    p = PRECISIONS[z.dtype]
    return _bounded_above(_bounded_below(z, -p.exp_min), p.exp_max)


def _silu(z: Array, a: float, b: float) -> Array:
    result: Array = _bounded_below(z, -PRECISIONS[z.dtype].exp_min) * logistic(z)
    return result


def _silu_backward(z: Array, dy: Array, a: float, b: float) -> Array:
    near = _exp_bounded(z)
    p = logistic(near)
    result: Array = dy * (p * (1 + near * (1 - p)))
    return result


def _mish_weight(z: Array) -> Array:
    e = exp(-_magnitude(z))
    below, above = e * (e + 2), 1 + 2 * e
    weight: Array = np.where(z < 0, below / (below + 2), above / (above + 2 * (e * e)))
    return weight


def _mish(z: Array, a: float, b: float) -> Array:
    result: Array = _bounded_below(z, -PRECISIONS[z.dtype].exp_min) * _mish_weight(z)
    return result


def _mish_backward(z: Array, dy: Array, a: float, b: float) -> Array:
    near = _exp_bounded(z)
    w = _mish_weight(near)
    result: Array = dy * (w + near * ((1 - w * w) * logistic(near)))
    return result


def log1p_exp(x: Array) -> Array:
    return np.where(x < 0, x.dtype.type(0), x) + log1p(exp(-_magnitude(x)))


def _softplus(z: Array, beta: float, threshold: float) -> Array:
    x = beta * z
    return np.where(x > threshold, z, log1p_exp(x) / z.dtype.type(beta))


def _softplus_backward(z: Array, dy: Array, beta: float, threshold: float) -> Array:
    x = beta * z
    return np.where(x > threshold, dy, dy * logistic(x))


def _hardtanh(z: Array, low: float, high: float) -> Array:
    of = z.dtype.type
    return np.where(z < of(low), of(low), np.where(z > of(high), of(high), z))


def _hardtanh_backward(y: Array, dy: Array, low: float, high: float) -> Array:
    of = y.dtype.type
    return np.where((y <= of(low)) | (y >= of(high)), _zero(dy), dy)


def _hard_step(z: Array) -> Array:
    x = z + 3
    return np.where(x < 0, _zero(x), np.where(x > 6, z.dtype.type(6), x))


def _hardswish_backward(z: Array, dy: Array, a: float, b: float) -> Array:
    return np.where(z < -3, _zero(dy), np.where(z > 3, dy, dy * (z / 3 + 0.5)))


#: name in csrc/layers.def -> its bodies
FUNCTIONS = {
    "identity": Function(lambda z, a, b: z, lambda y, dy, a, b: dy),
    "relu": Function(
        lambda z, a, b: np.where(z < 0, _zero(z), z), lambda y, dy, a, b: np.where(y <= 0, _zero(dy), dy)
    ),
    "tanh": Function(lambda z, a, b: _tanh(z), lambda y, dy, a, b: dy * (1 - y * y)),
    "sigmoid": Function(lambda z, a, b: logistic(z), lambda y, dy, a, b: dy * (y * (1 - y))),
    "leaky_relu": Function(
        lambda z, a, b: np.where(z < 0, a * z, z), lambda y, dy, a, b: np.where(y <= 0, a * dy, dy)
    ),
    "elu": Function(
        lambda z, a, b: np.where(z < 0, a * expm1(z), z),
        lambda z, dy, a, b: np.where(z > 0, dy, dy * (a * exp(z))),
        saves_input=True,
    ),
    "selu": Function(
        lambda z, a, b: _SELU_LAMBDA * np.where(z < 0, _SELU_ALPHA * expm1(z), z),
        _selu_backward,
        saves_input=True,
    ),
    "gelu": Function(_gelu, _gelu_backward, saves_input=True),
    "gelu_tanh": Function(_gelu_tanh, _gelu_tanh_backward, saves_input=True),
    "silu": Function(_silu, _silu_backward, saves_input=True),
    "mish": Function(_mish, _mish_backward, saves_input=True),
    "softplus": Function(_softplus, _softplus_backward, saves_input=True),
    "logsigmoid": Function(
        lambda z, a, b: -log1p_exp(-z), lambda z, dy, a, b: dy * logistic(-z), saves_input=True
    ),
    "hardtanh": Function(_hardtanh, _hardtanh_backward),
    "hardsigmoid": Function(
        lambda z, a, b: _hard_step(z) / 6,
        lambda z, dy, a, b: np.where((z <= -3) | (z >= 3), _zero(dy), dy / 6),
        saves_input=True,
    ),
    "hardswish": Function(
        lambda z, a, b: _bounded_below(z, 4) * (_hard_step(z) / 6), _hardswish_backward, saves_input=True
    ),
}
