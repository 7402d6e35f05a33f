"""Settings that every optimizer has, whatever its rule: how numbers are stored, and what is done beside the rule.

They stand in parameter groups beside the rule's hyperparameters.
"""

from __future__ import annotations

from typing import Any

from fastgd.checks import flag, number, one_of, optional
from fastgd.rules import Hyperparameter

#: of 16-bit parameters, by fgd_rounding in csrc/fastgd.h
ROUNDINGS = ("nearest", "stochastic", "kahan", "master", "split")

#: of state in 16 or 8 bits, likewise
STATE_ROUNDINGS = ROUNDINGS[:2]

#: what state can be stored in; "8bit" is a block format: Codes
STATE_DTYPES = ("float64", "float32", "bfloat16", "float16", "8bit")

SETTINGS: dict[str, tuple[Any, Hyperparameter]] = {
    "state_dtype": (
        None,
        Hyperparameter(
            optional(one_of(*STATE_DTYPES)), "what state is stored in; None: the dtype of the parameter"
        ),
    ),
    "state_rounding": (
        None,
        Hyperparameter(
            optional(one_of(*STATE_ROUNDINGS)), "of 16 and 8 bit state; None: nearest, stochastic in 8 bits"
        ),
    ),
    "rounding": ("nearest", Hyperparameter(one_of(*ROUNDINGS), "of 16-bit parameters")),
    "cautious": (
        False,
        Hyperparameter(flag, "whether only elements whose step descends are changed (Liang et al. 2024)"),
    ),
    "ema_decay": (
        None,
        Hyperparameter(
            optional(number(0, 1)), "what is kept of the running average of the parameters; None: no average"
        ),
    ),
}
