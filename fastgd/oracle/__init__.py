"""The rules once more, as the textbooks have them: float64, raw hyperparameters, no thought of speed.

Nothing here is shared with fastgd/rules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastgd.oracle import formulas
from fastgd.oracle.settings import SETTINGS, STEPS

#: (p, g, x, t, h) -> new p; see formulas.py
Function = Callable[[Any, Any, dict[str, Any], int, Mapping[str, Any]], Any]


class Entry(NamedTuple):
    """How a rule is tried."""

    formula: Function
    settings: list[dict[str, Any]]
    steps: int


#: rule name -> its formula, which is the function of that name, and its settings
ORACLE: dict[str, Entry] = {
    name: Entry(getattr(formulas, name), tried, STEPS.get(name, 4)) for name, tried in SETTINGS.items()
}


def trajectory(
    name: str, params: list[Any], grads: list[list[Any]], h: Mapping[str, Any], coefs: list[float]
) -> list[Any]:
    """The parameters after len(grads) steps; grads[t] are one step's, multiplied by coefs[t]."""
    function = ORACLE[name].formula
    result = [np.asarray(p, np.float64) for p in params]
    states: list[dict[str, Any]] = [{} for _ in params]
    sign = -1.0 if h["maximize"] else 1.0
    for t, (step_grads, coef) in enumerate(zip(grads, coefs, strict=True), start=1):
        for i, g in enumerate(step_grads):
            if result[i].size == 0:
                continue
            result[i] = function(result[i], sign * coef * np.asarray(g, np.float64), states[i], t, h)
    return result
