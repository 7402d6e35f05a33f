"""The rule that is no optimizer's: averages, with what they average in place of the gradient."""

from __future__ import annotations

from typing import Any

from fastgd.checks import finite
from fastgd.rules.table import Carried, Hyperparameter, Hyperparameters, Rule


def _lerp(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
    back = s.rest * (g - p) - g if on.past_half else s.weight * (p - g)
    return s.decay * p - back


def _lerp_past_half(h: Hyperparameters) -> bool:
    return bool(abs(h["weight"]) >= 0.5)


def _lerp_fold(h: Hyperparameters, step: int, carried: Carried) -> tuple[float, ...]:
    return 0.0 if _lerp_past_half(h) else 1.0, h["weight"], 1.0 - h["weight"]


LERP = Rule(
    name="lerp",
    title="Lerp",
    summary="Goes a part of the way to what is given, from the nearer end.",
    source="linear interpolation as in torch.lerp",
    defaults={"weight": 0.5, "maximize": False},
    kernel="lerp",
    slots=(),
    switches={"past_half": _lerp_past_half},
    scalars=("decay", "weight", "rest"),
    fold=_lerp_fold,
    body=_lerp,
    in_torch=False,
    own={"weight": Hyperparameter(finite, "which part of the way is gone; 1 is all of it")},
)
