"""Settings that every optimizer has, whatever its rule: how numbers are stored, what is done beside the rule.

They stand in parameter groups beside the rule's hyperparameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgd.arrays import CODES
from fastgd.checks import dtype_of, flag, named, number, one_of, optional
from fastgd.rules import RULES, Hyperparameter, Rule, check_hyperparameter

#: of 16-bit parameters, by fgd_rounding in csrc/fastgd.h
ROUNDINGS = ("nearest", "stochastic", "kahan", "master", "split")

#: of state in 16 or 8 bits, likewise
STATE_ROUNDINGS = ROUNDINGS[:2]

#: the block format of backends.base.Codes
CODED = "8bit"

#: what is an average of parameters, a size of steps, or changes too little in one step for fewer bits
_PRECISE = ", ".join(
    f"{slot.name} of {rule.title}" for rule in RULES.values() for slot in rule.slots if slot.precise
)

#: name -> (default, what it means)
SETTINGS: dict[str, tuple[Any, Hyperparameter]] = {
    "state_dtype": (
        None,
        Hyperparameter(
            optional(dtype_of(*CODES, CODED)),
            "what state is stored in: a dtype or its name, or '8bit'; None: the dtype of the parameter. As "
            f"wide as the arithmetic whatever it says are {_PRECISE}",
            type="Any",
            fixed=True,
        ),
    ),
    "state_rounding": (
        None,
        Hyperparameter(
            optional(one_of(*STATE_ROUNDINGS)),
            "'nearest' or 'stochastic', of state in 16 or 8 bits; None: nearest in 16, stochastic in 8",
            type="str | None",
        ),
    ),
    "rounding": (
        "nearest",
        Hyperparameter(
            one_of(*ROUNDINGS),
            "of parameters in 16 bits: 'nearest', 'stochastic', or one that keeps what is lost beside them: "
            "'kahan' (in 16 bits), 'master' (a float32 copy), 'split' (of bfloat16: the other half of a "
            "float32)",
            fixed=True,
        ),
    ),
    "cautious": (
        False,
        Hyperparameter(
            flag,
            "whether only elements whose step goes against their gradient are changed, by more in turn "
            "(Liang et al. 2024, algorithm 1)",
        ),
    ),
    "ema_decay": (
        None,
        Hyperparameter(
            optional(number(0, 1)),
            "what a running average of the parameters keeps of itself at every step; None: no average",
            type="float | None",
            folded=True,
        ),
    ),
}

DEFAULTS: dict[str, Any] = {name: default for name, (default, _) in SETTINGS.items()}


def check_value(rule: Rule, name: str, value: Any) -> Any:
    """A hyperparameter or setting in its canonical type; TypeError or ValueError that names it otherwise."""
    if name in SETTINGS:
        return named(name, SETTINGS[name][1].check, value)
    return check_hyperparameter(rule, name, value)


def check_together(rule: Rule, values: Mapping[str, Any]) -> None:
    """ValueError for hyperparameters and settings that do not go together."""
    rule.check(values)
    if values["cautious"] and rule.whole is not None:
        raise ValueError(f"{rule.title} has no cautious updates: {rule.whole}")


def state_rounding(values: Mapping[str, Any]) -> str:
    """How state in 16 or 8 bits is rounded under these settings."""
    chosen: str | None = values["state_rounding"]
    return chosen or STATE_ROUNDINGS[values["state_dtype"] == CODED]
