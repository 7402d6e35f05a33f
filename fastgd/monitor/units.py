"""Where activations are flat, as data, and what outputs say of the units that gave them.

Where an activation's derivative is next to 0 no gradient passes. ReLU and its kin have one such end, at 0: a
unit that is there for every example is dead. Sigmoid and its kin have two: such a unit is saturated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from fastgd.arrays import Array

#: a unit is called dead when it has been flat for so many examples one after the other
EXAMPLES = 64

#: (value at the end, how near an output is to count as being there)
End = tuple[float, float]

#: the derivative of sigmoid, tanh and exponentials is below 2 % of its largest where they are this near,
#: as a part of the distance between both ends
NEAR = 0.005


class Flat(NamedTuple):
    """The flat ends of one activation."""

    ends: tuple[End, ...]
    two_sided: bool = False


def _sigmoidal(low: float, high: float, near: float) -> Flat:
    return Flat(((low, near * (high - low)), (high, near * (high - low))), two_sided=True)


_RECTIFIER = Flat(((0.0, 0.0),))
_SELU_FLOOR = 1.7580993408473766  # alpha lambda

#: name in csrc/layers.def -> its flat ends, from the activation's parameters
FLAT: dict[str, Callable[..., Flat]] = {
    "relu": lambda: _RECTIFIER,
    "tanh": lambda: _sigmoidal(-1, 1, NEAR),
    "sigmoid": lambda: _sigmoidal(0, 1, NEAR),
    "elu": lambda alpha: Flat(((-alpha, 4 * NEAR * abs(alpha)),)),
    "selu": lambda: Flat(((-_SELU_FLOOR, 4 * NEAR * _SELU_FLOOR),)),
    "gelu": lambda: _RECTIFIER,
    "gelu_tanh": lambda: _RECTIFIER,
    "silu": lambda: _RECTIFIER,
    "mish": lambda: _RECTIFIER,
    "softplus": lambda beta, threshold: Flat(((0.0, 4 * NEAR / beta),)),
    "logsigmoid": lambda: Flat(((0.0, 4 * NEAR),)),
    "hardtanh": lambda low, high: _sigmoidal(low, high, 0.0) if low else Flat(((0.0, 0.0), (high, 0.0))),
    "hardsigmoid": lambda: _sigmoidal(0, 1, 0.0),
    "hardswish": lambda: _RECTIFIER,
}


def flat_of(kind: str | None, values: Sequence[float] = ()) -> Flat | None:
    """The flat ends of an activation by its name in csrc/layers.def; None where it has none."""
    made = FLAT.get(kind or "")
    return made(*values) if made else None


class Outputs(NamedTuple):
    """What one layer's outputs for one batch are like; shares are 0 to 1.

    saturated and dead are None where there is no flat end, or outputs are not finite.
    """

    rms: float
    zeros: float
    saturated: float | None
    dead: float | None


class Units:
    """Follows one layer's units from look to look."""

    def __init__(self, flat: Flat | None, channels_first: bool) -> None:
        """channels_first: whether a unit is an index of dimension 1, as in images, or of the last one."""
        self.flat = flat
        self._axis = 1 if channels_first else -1
        #: for so many of the last examples each unit has been at a flat end
        self._quiet: Array = np.zeros(0, np.int64)

    @np.errstate(all="ignore")
    def measure(self, y: Array) -> Outputs:
        """y: the outputs [batch, ...]."""
        rms = float(np.sqrt(np.mean(np.square(y, dtype=np.float64)))) if y.size else 0.0
        zeros = float(np.mean(y == 0)) if y.size else 0.0
        if self.flat is None or y.ndim < 2 or not y.size or not np.isfinite(rms):
            return Outputs(rms, zeros, None, None)
        at_end = np.zeros(y.shape, np.bool_)
        for value, near in self.flat.ends:
            at_end |= (y == value) if near == 0 else (np.abs(y - y.dtype.type(value)) <= near)
        others = tuple(i for i in range(y.ndim) if i != self._axis % y.ndim)
        quiet = at_end.all(axis=others)
        if self._quiet.shape != quiet.shape:
            self._quiet = np.zeros(quiet.shape, np.int64)
        self._quiet = np.where(quiet, self._quiet + len(y), 0)
        dead = float(np.mean(self._quiet >= EXAMPLES))
        return Outputs(rms, zeros, float(np.mean(at_end)), dead)
