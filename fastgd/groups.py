"""Parameter groups: parameters that share hyperparameters, checked when they are set."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array, as_array, first_overlap, listed, overlaps_itself
from fastgd.rules import Rule, check_hyperparameter, resolved


class Parameter:
    """One parameter: its array, where it stands, and its name if it has one."""

    __slots__ = ("_held", "array", "given", "group", "index", "name")

    def __init__(self, given: Any, group: int, index: int, name: str | None) -> None:
        self.group, self.index, self.name, self.given = group, index, name, given
        # a view of our own: setting the given array's shape or dtype does not change it
        self.array: Array = as_array(given, str(self), writable=True).view()
        # while a weak reference exists, ndarray.resize refuses to move the memory away
        self._held = weakref.ref(given) if isinstance(given, np.ndarray) else None

    def __str__(self) -> str:
        place = f"parameter {self.index} of group {self.group}"
        return f"parameter {self.name!r} ({place})" if self.name is not None else place


class ParamGroup(MutableMapping[str, Any]):
    """Hyperparameters by name, as a dict; `group["lr"] = 1e-4` holds from the next step on.

    A value out of range is refused where it is set, with ValueError or TypeError. "params" is the list of the
    group's parameters as they were given; it cannot be set.
    """

    def __init__(
        self,
        rule: Rule,
        number: int,
        members: list[Parameter],
        values: Mapping[str, Any],
        changed: Callable[[int], None],
    ) -> None:
        self.rule = rule
        self.members = members
        self._number = number
        self._changed = changed
        #: validated hyperparameters; this very dict is what the plan reads at every step
        self.values_in_place: dict[str, Any] = {
            k: self._checked(k, v) for k, v in resolved(rule, values).items()
        }
        self.check_together(number)

    def _checked(self, name: str, value: Any) -> Any:
        try:
            return check_hyperparameter(self.rule, name, value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"group {self._number}: {error}") from None

    def check_together(self, number: int) -> None:
        try:
            self.rule.check(self.values_in_place)
        except ValueError as error:
            raise ValueError(f"group {number}: {error}") from None

    def __getitem__(self, name: str) -> Any:
        if name == "params":
            return [p.given for p in self.members]
        return self.values_in_place[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name == "params":
            raise TypeError(f'group {self._number}: "params" cannot be changed; make a new optimizer')
        checked = self._checked(name, value)
        # lr alone cannot turn a switch on or off; what can makes the plan be built again. It is announced
        # before, lest Ctrl-C comes in between, and after, lest a step in another thread does
        affects_plan = name != "lr" and checked != self.values_in_place[name]
        if affects_plan:
            self._changed(self._number)
        self.values_in_place[name] = checked
        if affects_plan:
            self._changed(self._number)

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"group {self._number}: {name!r} cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        yield "params"
        yield from self.values_in_place

    def __len__(self) -> int:
        return len(self.values_in_place) + 1

    def summary(self) -> str:
        values = ", ".join(f"{k}={v!r}" for k, v in self.values_in_place.items())
        n = len(self.members)
        return f"{n} parameter{'' if n == 1 else 's'}, {values}"

    def __repr__(self) -> str:
        return f"ParamGroup({self.summary()})"


def _members(params: Any, group: int) -> list[Parameter]:
    pairs: Iterable[tuple[str | None, Any]]
    if isinstance(params, Mapping):
        pairs = params.items()
    else:
        pairs = [p if _is_named(p) else (None, p) for p in listed(params, f"group {group}: params")]
    return [Parameter(array, group, i, name) for i, (name, array) in enumerate(pairs)]


def _is_named(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)


def make_groups(
    rule: Rule, params: Any, defaults: Mapping[str, Any], changed: Callable[[int], None]
) -> list[ParamGroup]:
    """Groups from what a user gave: arrays, named arrays, or dicts with "params" and their own settings."""
    if not isinstance(params, Mapping):
        params = listed(params, "params")
    is_groups = isinstance(params, list) and len(params) > 0 and all(isinstance(p, Mapping) for p in params)
    dicts = params if is_groups else [{"params": params}]
    groups = []
    for number, given in enumerate(dicts):
        if "params" not in given:
            raise ValueError(f'group {number} has no "params"')
        own = {k: v for k, v in given.items() if k != "params"}
        groups.append(
            ParamGroup(rule, number, _members(given["params"], number), {**defaults, **own}, changed)
        )
    names = [p.name for group in groups for p in group.members if p.name is not None]
    if len(set(names)) != len(names):
        repeated = next(n for n in names if names.count(n) > 1)
        raise ValueError(f"two parameters are named {repeated!r}")
    return groups


def check_memory(parameters: Sequence[Parameter]) -> None:
    """Refuses parameters that are given twice, overlap, or have elements that share memory."""
    seen: dict[int, Parameter] = {}
    for p in parameters:
        first = seen.setdefault(id(p.given), p)
        if first is not p:
            raise ValueError(f"{p} was given twice: it is also {first}")
        if overlaps_itself(p.array):
            raise ValueError(f"{p} overlaps itself: several of its elements share memory")
    pair = first_overlap([p.array for p in parameters])
    if pair:
        a, b = parameters[pair[0]], parameters[pair[1]]
        raise ValueError(f"{a} and {b} share memory")
