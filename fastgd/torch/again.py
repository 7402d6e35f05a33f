"""How a step is made again while the optimizer's attributes and its groups' values are the same objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fastgd.backends.base import Measured
from fastgd.torch.prepared import Prepared
from fastgd.torch.values import parts_of

#: where an optimizer has its state in its __dict__, which planners are given: a reference to the state itself
#: would be one more that somebody may change it by
STATE = "state"

#: attributes that may have any value: who exchanges these is noticed otherwise, and references to them would
#: keep the state in memory
_ANY = ("planner", STATE)


class Again(NamedTuple):
    """A step that can be made again."""

    #: keys and values in turns, as `_gather` takes them: of the optimizer's __dict__, and of each group
    own: list[Any]
    groups: list[list[Any]]
    plan: Prepared
    #: as Plan.fetching gives it
    make: Callable[[], Measured | None]


def again(
    own: Mapping[str, Any],
    groups: list[list[Any]],
    plan: Prepared,
    make: Callable[[], Measured | None],
) -> Again:
    """own: the optimizer's __dict__. groups: as Values.seen has them."""
    return Again(parts_of({k: ... if k in _ANY else value for k, value in own.items()}), groups, plan, make)
