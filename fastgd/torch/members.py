"""The parameters of an optimizer, by their places in its groups."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

Group = dict[str, Any]


class Member(NamedTuple):
    """One parameter of the optimizer."""

    tensor: torch.Tensor
    group: int
    #: its number in its group
    place: int
    #: through all groups
    number: int
    name: str | None

    def __str__(self) -> str:
        place = f"parameter {self.place} of group {self.group}"
        return f"parameter {self.name!r} ({place})" if self.name is not None else place


def members_of(groups: Sequence[Group]) -> list[Member]:
    """All parameters, through all groups of an optimizer."""
    numbers = itertools.count()
    found = []
    for number, group in enumerate(groups):
        names = group.get("param_names", [None] * len(group["params"]))
        for index, (p, name) in enumerate(zip(group["params"], names, strict=True)):
            found.append(Member(p, number, index, next(numbers), name))
    return found
