"""State that is loaded comes in as it was saved: torch's loading would cast it to the parameter's dtype."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fastgd.torch.sharded_state import taken_in


class _Given:
    """A state of load_state_dict that torch is to leave as it is."""

    def __init__(self, entry: Any) -> None:
        self.entry = entry

    def __deepcopy__(self, memo: Any) -> _Given:
        return self


def left_alone(opt: torch.optim.Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """The state dict with its state out of torch's sight: the last hook before it is loaded."""
    return {**state_dict, "state": {key: _Given(entry) for key, entry in state_dict["state"].items()}}


def taken(state: Any) -> Any:
    """The state with copies of what was left alone."""
    for key, entry in state.items():
        if isinstance(entry, _Given):
            state[key] = taken_in(key, _copied(entry.entry))
    return state


def _copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(v) for key, v in value.items()}
    return value
