"""Initial parameters: functions that draw an array anew, in place, with torch.nn.init's names and defaults.

    from fastgd.nn import init
    init.kaiming_normal_(layer.weight, nonlinearity="relu", rng=0)

Each takes a NumPy array of floating point numbers, changes it and returns it. rng: an integer or a numpy
Generator to draw with; default None: differently each time. Numbers are drawn in float64 and then rounded.
A weight is [out, in, ...], what follows being the size of a convolution's kernel. Raises TypeError or
ValueError for arguments that are none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import finite

Rng = int | np.random.Generator | None


def _checked(array: Any, least: int = 0) -> Array:
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        what = f"of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise TypeError(f"array must be a NumPy array of floating point numbers, not {what}")
    if not array.flags.writeable:
        raise ValueError("array is read-only")
    if array.ndim < least:
        raise ValueError(
            f"array must have {least} dimensions or more, [out, in, ...], not {list(array.shape)}"
        )
    return array


def _filled(array: Array, values: Any) -> Array:
    array[...] = values
    return array


# ---- Of any shape ------------------------------------------------------------------------------------


def zeros_(array: Array) -> Array:
    """0 everywhere."""
    return _filled(_checked(array), 0)


def ones_(array: Array) -> Array:
    """1 everywhere."""
    return _filled(_checked(array), 1)


def constant_(array: Array, val: float) -> Array:
    """val everywhere."""
    return _filled(_checked(array), finite("val", val))


def uniform_(array: Array, a: float = 0.0, b: float = 1.0, *, rng: Rng = None) -> Array:
    """Uniform from a to b; a is at most b."""
    a, b = finite("a", a), finite("b", b)
    if a > b:
        raise ValueError(f"a must be at most b, not {a} and {b}")
    return _filled(_checked(array), np.random.default_rng(rng).uniform(a, b, np.shape(array)))


def normal_(array: Array, mean: float = 0.0, std: float = 1.0, *, rng: Rng = None) -> Array:
    """Normally distributed; std is 0 or above."""
    mean, std = finite("mean", mean), finite("std", std, 0)
    return _filled(_checked(array), np.random.default_rng(rng).normal(mean, std, np.shape(array)))


def trunc_normal_(
    array: Array, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, *, rng: Rng = None
) -> Array:
    """Normally distributed, but what is outside a .. b is drawn again.

    std is above 0, a is below b, and the mean is at most 2 std outside a .. b.
    """
    mean, std = finite("mean", mean), finite("std", std, 0, above=True)
    low, high = (finite("a", a) - mean) / std, (finite("b", b) - mean) / std
    if not a < b:
        raise ValueError(f"a must be below b, not {a} and {b}")
    if low > 2 or high < -2:
        raise ValueError(f"mean must be at most 2 std outside a .. b, not {mean} with std {std}")
    generator = np.random.default_rng(rng)
    drawn = np.empty(_checked(array).size)
    left = np.arange(drawn.size)
    nearest = min(max(low, 0.0), high)
    while left.size:
        if high - low > 2:
            x = generator.standard_normal(left.size)
            kept = (low <= x) & (x <= high)
        else:
            # most of a short interval is kept of what is drawn uniformly there (Robert 1995)
            x = generator.uniform(low, high, left.size)
            kept = generator.random(left.size) <= np.exp((nearest * nearest - x * x) / 2)
        drawn[left[kept]] = x[kept]
        left = left[~kept]
    return _filled(array, np.clip(mean + std * drawn.reshape(array.shape), a, b))


# ---- By the number of inputs and outputs -------------------------------------------------------------

#: what a layer's deviation is multiplied by for the activation behind it; those with a parameter take it
_GAINS = {"linear": 1.0, "identity": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """What the deviation of weights is multiplied by for the activation behind them, as in torch.

    nonlinearity: "linear", "identity", "sigmoid", "tanh", "relu", "selu", or "leaky_relu", whose
        negative_slope is param (default 0.01): sqrt(2 / (1 + param^2)) (He et al. 2015, section 2.2).
    """
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else finite("param", param)
        return math.sqrt(2 / (1 + slope * slope))
    if nonlinearity not in _GAINS:
        raise ValueError(f"nonlinearity must be one of {[*_GAINS, 'leaky_relu']}, not {nonlinearity!r}")
    return _GAINS[nonlinearity]


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight [out, in, ...]: how many numbers an output, and an input, depends on."""
    if len(shape) < 2:
        raise ValueError(f"a weight must have 2 dimensions or more, [out, in, ...], not {list(shape)}")
    kernel = math.prod(shape[2:])
    return shape[1] * kernel, shape[0] * kernel


def _fan(array: Array, mode: str) -> int:
    modes = dict(zip(("fan_in", "fan_out"), fans(_checked(array, 2).shape), strict=True))
    if mode not in modes:
        raise ValueError(f"mode must be 'fan_in' or 'fan_out', not {mode!r}")
    return modes[mode]


def _uniform(array: Array, std: float, rng: Rng) -> Array:
    bound = math.sqrt(3) * std
    return uniform_(array, -bound, bound, rng=rng)


def _scale(gain: float, fan: float) -> float:
    """The deviation; what has no inputs has no numbers either."""
    return gain / math.sqrt(fan) if fan else 0.0


def _xavier(array: Array, gain: float) -> float:
    return _scale(finite("gain", gain, 0), sum(fans(_checked(array, 2).shape)) / 2)


def xavier_uniform_(array: Array, gain: float = 1.0, *, rng: Rng = None) -> Array:
    """Uniform in +-gain sqrt(6 / (fan_in + fan_out)): Glorot and Bengio 2010, equation 16."""
    return _uniform(array, _xavier(array, gain), rng)


def xavier_normal_(array: Array, gain: float = 1.0, *, rng: Rng = None) -> Array:
    """Normal with deviation gain sqrt(2 / (fan_in + fan_out)): Glorot and Bengio 2010, equation 12."""
    return normal_(array, 0.0, _xavier(array, gain), rng=rng)


def kaiming_uniform_(
    array: Array, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", *, rng: Rng = None
) -> Array:
    """Uniform in +-gain sqrt(3 / fan): He et al. 2015, section 2.2.

    a: negative_slope of "leaky_relu". mode: "fan_in" (default) or "fan_out". nonlinearity: as
    calculate_gain's.
    """
    return _uniform(array, _scale(calculate_gain(nonlinearity, a), _fan(array, mode)), rng)


def kaiming_normal_(
    array: Array, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", *, rng: Rng = None
) -> Array:
    """Normal with deviation gain / sqrt(fan): He et al. 2015, section 2.2. Arguments: kaiming_uniform_'s."""
    return normal_(array, 0.0, _scale(calculate_gain(nonlinearity, a), _fan(array, mode)), rng=rng)


def lecun_uniform_(array: Array, *, rng: Rng = None) -> Array:
    """Uniform in +-sqrt(3 / fan_in): LeCun et al. 1998, equation 16."""
    return _uniform(array, _scale(1, _fan(array, "fan_in")), rng)


def lecun_normal_(array: Array, *, rng: Rng = None) -> Array:
    """Normal with deviation 1 / sqrt(fan_in): LeCun et al. 1998, equation 16. SELU's own."""
    return normal_(array, 0.0, _scale(1, _fan(array, "fan_in")), rng=rng)


def orthogonal_(array: Array, gain: float = 1.0, *, rng: Rng = None) -> Array:
    """gain times a random matrix [out, rest] with orthonormal rows, or columns where these are fewer.

    Saxe et al. 2014; uniformly distributed among these matrices (Mezzadri 2007).
    """
    gain = finite("gain", gain, 0)
    rows = _checked(array, 2).shape[0]
    cols = math.prod(array.shape[1:])
    q, r = np.linalg.qr(np.random.default_rng(rng).standard_normal((max(rows, cols), min(rows, cols))))
    q *= np.where(np.diagonal(r) < 0, -gain, gain)
    return _filled(array, (q if rows >= cols else q.T).reshape(array.shape))


# ---- Of recurrent layers -----------------------------------------------------------------------------


def forget_gate_bias_(bias: Array, value: float = 1.0) -> Array:
    """Sets the forget gate's part of an LSTM's bias [4 hidden] (input, forget, cell and output gate).

    With 1 the cell remembers from the start (Gers et al. 2000; Jozefowicz et al. 2015). Where a layer adds
    two biases, the other one should be 0 there.
    """
    if _checked(bias).ndim != 1 or bias.size % 4:
        raise ValueError(f"bias must have shape [4 hidden], not {list(bias.shape)}")
    hidden = bias.size // 4
    bias[hidden : 2 * hidden] = finite("value", value)
    return bias
