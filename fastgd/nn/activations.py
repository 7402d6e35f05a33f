"""The activations: functions of each element by itself, forward and backward."""

from __future__ import annotations

import math
from typing import Any

from fastgd.nn.base import Backward, Layer
from fastgd.nn.kernels import Kernels
from fastgd.nn.program import Builder, Shape, Value
from fastgd.nn.reference_activations import FUNCTIONS


class Activation(Layer):
    """A function of each element by itself. After a Linear it costs no pass of its own."""

    #: the name in csrc/layers.def
    kind: str
    #: the parameters that csrc/layers.def has for it, in its order
    values: tuple[float, ...] = ()

    def __init_subclass__(cls) -> None:
        if "kind" in vars(cls) and cls.kind not in ACTIVATIONS:
            ACTIVATIONS[cls.kind] = cls

    @property
    def activation(self) -> Activation:
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.values))})"

    def output_shape(self, shape: Shape) -> Shape:
        return shape

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        does, saves_input = bound(to.kernels, self)
        y = to.value(x.shape)
        to.emit("activation_forward", does, (x.size,), (x, y))
        saved = x if saves_input else y

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            if not needs_dx:
                return None
            to.emit("activation_backward", does, (x.size,), (saved, dy, dy))
            return dy

        return y, backward


#: name in csrc/layers.def -> the first class below that is it
ACTIVATIONS: dict[str, type[Activation]] = {}


def bound(kernels: Kernels, activation: Activation | None) -> tuple[Any, bool]:
    """What the kernels take for an activation, None being the identity, and whether it saves its input."""
    kind, values = ("identity", ()) if activation is None else (activation.kind, activation.values)
    return kernels.activation(kind, *values), FUNCTIONS[kind].saves_input


def activation_of(activation: str | Activation | None) -> Activation | None:
    """The activation of a name, or as it is; ValueError for what is neither."""
    if isinstance(activation, str) and activation in ACTIVATIONS:
        return ACTIVATIONS[activation]()
    if activation is None or isinstance(activation, Activation):
        return activation
    wanted = f"None, a layer such as nn.LeakyReLU(0.1) or one of {[*ACTIVATIONS]}"
    raise ValueError(f"activation must be {wanted}, not {activation!r}")


def finite(name: str, value: Any, least: float = -math.inf, *, above: bool = False) -> float:
    """value as a float; TypeError or ValueError that names it unless it is finite and at least, or above."""
    if isinstance(value, bool) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")
    number = float(value)
    if math.isnan(number) or number < least or (above and number == least) or math.isinf(number):
        bound = "finite" if least == -math.inf else f"finite and {'above' if above else 'at least'} {least:g}"
        raise ValueError(f"{name} must be {bound}, not {value}")
    return number


class ReLU(Activation):
    """max(z, 0) (Nair and Hinton 2010, section 2). NaN stays NaN; the derivative at 0 is 0."""

    kind = "relu"


class Tanh(Activation):
    """The hyperbolic tangent, within 2.5 units in the last place in both precisions."""

    kind = "tanh"


class Sigmoid(Activation):
    """1 / (1 + exp(-z)), within 2.5 units in the last place in both precisions."""

    kind = "sigmoid"


class LeakyReLU(Activation):
    """z, or negative_slope z below 0 (Maas et al. 2013, section 2).

    negative_slope: 0 or above, finite. Default 0.01. ValueError for others.
    """

    kind = "leaky_relu"

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.values = (finite("negative_slope", negative_slope, 0),)


class ELU(Activation):
    """z, or alpha (exp(z) - 1) below 0 (Clevert et al. 2016, equation 15).

    alpha: finite. Default 1.
    """

    kind = "elu"

    def __init__(self, alpha: float = 1.0) -> None:
        self.values = (finite("alpha", alpha),)


class SELU(Activation):
    """lambda z, or lambda alpha (exp(z) - 1) below 0, with constants that keep mean 0 and variance 1.

    Klambauer et al. 2017, equation 2.
    """

    kind = "selu"


class GELU(Activation):
    """z Phi(z), Phi being the normal distribution (Hendrycks and Gimpel 2016, section 2).

    Relative accuracy holds in the tail below 0, too, where 1 + erf(z / sqrt 2) would cancel.

    approximate: "none" (default), or "tanh" for z (1 + tanh(sqrt(2 / pi) (z + 0.044715 z^3))) / 2. ValueError
        for others.
    """

    kind = "gelu"

    def __init__(self, approximate: str = "none") -> None:
        kinds = {"none": "gelu", "tanh": "gelu_tanh"}
        if approximate not in kinds:
            raise ValueError(f"approximate must be 'none' or 'tanh', not {approximate!r}")
        self.approximate = approximate
        self.kind = kinds[approximate]

    def __repr__(self) -> str:
        return f"GELU({self.approximate!r})" if self.approximate != "none" else "GELU()"


class SiLU(Activation):
    """z / (1 + exp(-z)), also called swish (Elfwing et al. 2018, equation 4)."""

    kind = "silu"


class Mish(Activation):
    """z tanh(log(1 + exp(z))) (Misra 2020, section 2)."""

    kind = "mish"


class Softplus(Activation):
    """log(1 + exp(beta z)) / beta (Dugas et al. 2001, section 3), and z itself where beta z > threshold.

    beta: above 0, finite. Default 1. threshold: finite. Default 20. ValueError for others.
    """

    kind = "softplus"

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        self.values = finite("beta", beta, 0, above=True), finite("threshold", threshold)


class LogSigmoid(Activation):
    """log(1 / (1 + exp(-z))), which neither overflows nor cancels."""

    kind = "logsigmoid"


class Hardtanh(Activation):
    """min(max(z, min_val), max_val). NaN stays NaN; the derivative at both ends is 0.

    min_val, max_val: finite, default -1 and 1. ValueError unless min_val is less.
    """

    kind = "hardtanh"

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        self.values = finite("min_val", min_val), finite("max_val", max_val)
        if not self.values[0] < self.values[1]:
            raise ValueError(f"min_val must be below max_val, not {min_val} and {max_val}")


class ReLU6(Hardtanh):
    """min(max(z, 0), 6) (Howard et al. 2017, section 3)."""

    def __init__(self) -> None:
        super().__init__(0.0, 6.0)

    def __repr__(self) -> str:
        return "ReLU6()"


class Hardsigmoid(Activation):
    """min(max(z + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2)."""

    kind = "hardsigmoid"


class Hardswish(Activation):
    """z min(max(z + 3, 0), 6) / 6 (Howard et al. 2019, section 5.2)."""

    kind = "hardswish"
