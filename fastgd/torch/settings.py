"""A group's hyperparameters and settings as fastgd's kernels take them: checked, and as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from fastgd.checks import named, real
from fastgd.rules import Rule
from fastgd.settings import DEFAULTS, check_together, check_value


def number_of(value: Any) -> Any:
    """Tensors of one element as the numbers they hold, in tuples too; torch's dtypes by name."""
    if isinstance(value, torch.Tensor):
        return value.item()
    if isinstance(value, torch.dtype):
        return str(value).rpartition(".")[2]
    if isinstance(value, (tuple, list)):
        return tuple(map(number_of, value))
    return value


#: of values that stay what they are
_PLAIN = (int, float, str, bytes, type(None), torch.dtype, np.generic)


def is_changeable(group: Mapping[str, Any], rule: Rule) -> bool:
    """Whether a hyperparameter, as a tensor or a list, may change its value while it stays one object."""
    found = [group[name] for name in rule.defaults]
    inner = [x for value in found for x in (value if isinstance(value, tuple) else [value])]
    return not all(isinstance(value, _PLAIN) for value in inner)


LR = "lr"


def checked(rule: Rule, group: Mapping[str, Any], number: int) -> dict[str, Any]:
    """The values of a group of this number; TypeError or ValueError that names it and what is wrong.

    A learning rate may be negative, as those of torch's schedulers are where they round below 0.
    """
    try:
        values = {name: _value(rule, name, group[name]) for name in (*rule.defaults, *DEFAULTS)}
        check_together(rule, values)
    except (TypeError, ValueError) as error:
        raise type(error)(f"group {number}: {error}") from None
    return values


def checked_lr(value: Any, number: int) -> float:
    """The learning rate of a group of this number; as `checked`."""
    try:
        return _lr(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"group {number}: {error}") from None


def _lr(value: Any) -> float:
    lr = named(LR, real, number_of(value))
    if not math.isfinite(lr):
        raise ValueError(f"lr must be finite, not {lr!r}")
    return lr


def _value(rule: Rule, name: str, value: Any) -> Any:
    return _lr(value) if name == LR else check_value(rule, name, number_of(value))


def alike(rule: Rule, old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether a plan that was made for the old values will do for the new ones: only scalars differ."""
    if (old["ema_decay"] is None) != (new["ema_decay"] is None):
        return False
    may_differ = {"ema_decay", *rule.defaults}
    return rule.same_plan(old, new) and all(old[name] == new[name] for name in old.keys() - may_differ)
