"""What a linear model is fitted by and to: settings and rows, for the native course and the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastgd.arrays import Array


@dataclass(frozen=True)
class Settings:
    """The fields of fgd_online in csrc/fastgd_online.h, which says what each does."""

    #: a name in csrc/online.def
    loss: str
    #: a member of fgd_rate, in small letters
    rate: str
    eta0: float
    power_t: float = 0.5
    alpha: float = 0.0
    a: float = 0.0
    l2: float = 0.0
    l1: float = 0.0
    intercept_factor: float = 1.0
    positive: float = 1.0
    negative: float = 1.0
    average: float = 0.0
    tol: float = -np.inf
    patience: int = 1
    shuffled: bool = True
    measured: bool = True
    judged: bool = True
    seed: int = 1


class Rows(NamedTuple):
    """Rows in C order: arrays of one dtype, float32 or float64, but for columns, starts and held_out."""

    #: [rows, cols]; sparse: [numbers that are there]
    x: Array
    #: [rows]
    targets: Array
    #: [rows] or None for 1 each
    weights: Array | None = None
    #: [rows] bool, rows that nothing is learned from; or None
    held_out: Array | None = None
    #: sparse: the column of each number, int32; None for dense rows
    columns: Array | None = None
    #: sparse: where each row begins, and the end of the last, int64
    starts: Array | None = None
