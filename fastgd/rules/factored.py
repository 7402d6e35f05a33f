"""Adafactor: second moments kept by rows and columns, and steps in proportion to what they change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastgd.checks import at_most, each, number, optional
from fastgd.rules.common import FULLY_DECOUPLED, check_decay, decay_rate
from fastgd.rules.powers import real_power, sqrt
from fastgd.rules.table import Carried, Factored, Hyperparameter, Hyperparameters, Rule, Slot, Trust

#: dtype -> the distance from 1 to the next number
_EPS = {"float32": 2.0**-23, "float64": 2.0**-52, "bfloat16": 2.0**-7, "float16": 2.0**-10}


def _traits(shape: tuple[int, ...], dtype: str) -> dict[str, Any]:
    return {"factored": len(shape) > 1, "machine_eps": _EPS[dtype]}


def _adafactor(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    root = s.eps1
    if on.factored:
        root = x.row_var * x.col_var
    if on.full:
        x.variance = x.variance + s.one_minus_beta2 * (g * g - x.variance)
        root = xp.sqrt(x.variance)
    root = xp.where(root < s.eps1, s.eps1, root)
    return s.decay * p - s.trust * (g / root)


_FACTORS = Factored(
    average=lambda average, mean, s: average + s.one_minus_beta2 * (mean - average),
    row_factor=lambda xp, row, mean, s: xp.sqrt(row / xp.where(mean < s.eps1, s.eps1, mean)),
    col_factor=lambda xp, col: xp.sqrt(col),
)


def _adafactor_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    eps1, eps2 = h["eps"]
    return (
        min(h["lr"], 1.0 / sqrt(step)),
        1.0 - decay_rate(h),
        1.0,
        1.0 / real_power(1.0 * step, -h["beta2_decay"]),
        h["machine_eps"] if eps1 is None else eps1,
        eps2,
        h["d"],
    )


def _adafactor_ratio(param: float, step: float, root: float, s: Mapping[str, float]) -> float:
    param_size, excess = param / root, step / (root * s["d"])
    return s["rho"] * (param_size if param_size > s["eps2"] else s["eps2"]) / (excess if excess > 1 else 1.0)


ADAFACTOR = Rule(
    name="adafactor",
    title="Adafactor",
    summary="RMSprop with averages by rows and columns of matrices, and steps in proportion to parameters.",
    source="Shazeer and Stern 2018, algorithms 4 to 6, with lr and eps as in torch",
    defaults={
        "lr": 1e-2,
        "beta2_decay": -0.8,
        "eps": (None, 1e-3),
        "d": 1.0,
        "weight_decay": 0.0,
        "maximize": False,
        **FULLY_DECOUPLED,
    },
    kernel="adafactor",
    slots=(
        Slot("row_var", switch="factored", unsigned=True, over=-1),
        Slot("col_var", switch="factored", unsigned=True, over=-2),
        Slot("variance", switch="full", unsigned=True),
    ),
    switches={"factored": lambda h: h["factored"], "full": lambda h: not h["factored"]},
    scalars=("rho", "decay", "trust", "one_minus_beta2", "eps1", "eps2", "d"),
    fold=_adafactor_fold,
    body=_adafactor,
    check=check_decay,
    trust=Trust("step", _adafactor_ratio),
    factored=_FACTORS,
    traits=_traits,
    own={
        "lr": Hyperparameter(
            number(0), "largest relative step size, and what weight_decay is multiplied by", folded=True
        ),
        "beta2_decay": Hyperparameter(
            at_most(0), "the step to this power is the weight of new squares in their averages"
        ),
        "eps": Hyperparameter(
            each(optional(number(0)), number(0)),
            "least divisor of the gradient (None: the distance from 1 to the next number of the parameter's "
            "dtype), and least size of a parameter for its steps",
            type="tuple[float | None, float]",
        ),
        "d": Hyperparameter(number(1), "size above which a step is clipped"),
    },
)
