"""What the groups of an optimizer say, checked, and what of it has changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

from fastgd.rules import Rule
from fastgd.torch._gather import differing
from fastgd.torch.members import Group
from fastgd.torch.settings import LR, alike, checked, checked_lr, is_changeable

PARAMS = "params"


class Change(Enum):
    """What a change of values asks of a plan."""

    #: nothing: scalars are folded anew at every step
    NONE = 0
    #: groups that were alike are no longer, or the other way round
    LEADERS = 1
    #: another plan
    ALL = 2


class Values:
    """The values of all groups, or of one."""

    def __init__(self, rule: Rule, only: int | None = None) -> None:
        """only: the number of the one group that is asked about, whatever parameters it has."""
        self._rule, self._only = rule, only
        #: checked, by number of the group; changed in place
        self.of: dict[int, dict[str, Any]] = {}
        #: the first group with the values that a group has, so that groups that are alike are one to kernels
        self.leaders: dict[int, int] = {}
        #: groups as they were when their values were checked: keys and values in turns
        self._seen: list[list[Any]] = []
        #: groups whose values may change though they stay the same objects
        self._changeable: set[int] = set()
        #: groups as `_gather.differing` takes them; None: their values may change and stay the same objects
        self.seen: list[list[Any]] | None = self._seen
        #: all values but the learning rate -> a number, and the numbers of the groups
        self._kinds: dict[tuple[Any, ...], int] = {}
        self._kind_of: dict[int, int] = {}

    def _asked(self, groups: Sequence[Group]) -> list[Group]:
        return list(groups) if self._only is None else [groups[self._only]]

    def _number(self, index: int) -> int:
        return index if self._only is None else self._only

    def check(self, groups: Sequence[Group]) -> None:
        """Takes over all values; TypeError or ValueError, naming the group, before any is."""
        asked = self._asked(groups)
        found = {
            self._number(i): checked(self._rule, group, self._number(i)) for i, group in enumerate(asked)
        }
        self.of = found
        self._seen = [parts_of(group) for group in asked]
        self._changeable = {i for i, group in enumerate(asked) if is_changeable(group, self._rule)}
        self.seen = None if self._changeable else self._seen
        self._kinds.clear()
        self._kind_of = {number: self._kind(values) for number, values in found.items()}
        self.leaders = self._leaders()

    def renew(self, groups: Sequence[Group]) -> Change:
        """Takes over what has changed since, up to where another plan is needed. Raises as `check`."""
        asked = self._asked(groups)
        found = differing(asked, self._seen)
        if found is not None and not found and not self._changeable:
            return Change.NONE
        anew, rates = set(self._changeable), False
        if found is None:  # keys have come or gone
            if not self._are_lists_those(asked):
                return Change.ALL
            anew.update(range(len(asked)))
        for index, place in found or ():
            group, parts = asked[index], self._seen[index]
            name, number = parts[place - 1], self._number(index)
            value, old = group[name], self.of[number]
            if name == PARAMS and self._only is None:
                return Change.ALL
            if name == LR and type(value) is float:
                old[LR], rates = checked_lr(value, number), True
            elif name in old:
                anew.add(index)
                continue
            parts[place] = value
        for index in anew:
            group, number = asked[index], self._number(index)
            new = checked(self._rule, group, number)
            if not alike(self._rule, self.of[number], new):
                return Change.ALL
            self.of[number].update(new)
            self._seen[index] = parts_of(group)
            self._kind_of[number] = self._kind(new)
            (self._changeable.add if is_changeable(group, self._rule) else self._changeable.discard)(index)
        self.seen = None if self._changeable else self._seen
        if not anew and not rates:
            return Change.NONE
        leaders, self.leaders = self.leaders, self._leaders()
        return Change.NONE if leaders == self.leaders else Change.LEADERS

    def _are_lists_those(self, asked: Sequence[Group]) -> bool:
        """Whether there are as many groups as were seen, with the same lists of parameters."""
        if len(asked) != len(self._seen):
            return False
        pairs = zip(asked, self._seen, strict=True)
        return self._only is not None or all(
            group[PARAMS] is dict(zip(parts[::2], parts[1::2], strict=True)).get(PARAMS)
            for group, parts in pairs
        )

    def _kind(self, values: Mapping[str, Any]) -> int:
        key = tuple(value for name, value in values.items() if name != LR)
        return self._kinds.setdefault(key, len(self._kinds))

    def _leaders(self) -> dict[int, int]:
        first: dict[tuple[int, float], int] = {}
        return {
            number: first.setdefault((self._kind_of[number], values[LR]), number)
            for number, values in self.of.items()
        }


def parts_of(group: Mapping[str, Any]) -> list[Any]:
    """Keys and values in turns."""
    return [part for pair in group.items() for part in pair]
