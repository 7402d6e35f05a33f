"""What several rules have in common."""

from __future__ import annotations

from fastgd.rules.table import Hyperparameters


def adds_l2(h: Hyperparameters) -> bool:
    """Whether weight decay is a term of the gradient."""
    return bool(h["weight_decay"] != 0)
