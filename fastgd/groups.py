"""Parameter groups: parameters that share hyperparameters and settings, checked when they are set."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array, as_array, first_overlap, listed, overlaps_itself
from fastgd.kept import check_rounding
from fastgd.memory import check_together as check_one_memory
from fastgd.rules import Hyperparameter, Rule, resolved
from fastgd.settings import DEFAULTS, SETTINGS, check_together, check_value


class Parameter:
    """One parameter: its array, where it stands, its name and the copy of it if there are any."""

    __slots__ = ("_held", "array", "copy", "given", "given_copy", "group", "index", "name")

    def __init__(self, given: Any, group: int, index: int, name: str | None) -> None:
        self.group, self.index, self.name, self.given = group, index, name, given
        self.copy: Array | None = None
        self.given_copy: Any = None
        # a view of our own: setting the given array's shape or dtype does not change it
        self.array: Array = as_array(given, str(self), writable=True).view()
        # while a weak reference exists, ndarray.resize refuses to move the memory away
        self._held = weakref.ref(given) if isinstance(given, np.ndarray) else None

    def __str__(self) -> str:
        place = f"parameter {self.index} of group {self.group}"
        return f"parameter {self.name!r} ({place})" if self.name is not None else place


class ParamGroup(MutableMapping[str, Any]):
    """Hyperparameters and settings by name, as a dict; `group["lr"] = 1e-4` holds from the next step on.

    A value out of range is refused where it is set, with ValueError or TypeError. `group["lr"]` may be a
    function of the step, such as those of fastgd.schedules: see docs/schedules.md. "params" is the list of
    the group's parameters as they were given; it cannot be set, nor can what state is stored in.
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
        for parameter in members:
            check_rounding(self.values_in_place, parameter.array, str(parameter))
            _check_dimensions(rule, parameter)

    def entry(self, name: str) -> Hyperparameter:
        """What a hyperparameter or setting means."""
        return SETTINGS[name][1] if name in SETTINGS else self.rule.hyperparameter(name)

    def _checked(self, name: str, value: Any) -> Any:
        try:
            if callable(value) and name in self.rule.defaults and self.rule.hyperparameter(name).folded:
                check_value(self.rule, name, value(0))
                return value
            return check_value(self.rule, name, value)
        except (TypeError, ValueError) as error:
            raise type(error)(f"group {self._number}: {error}") from None

    def check_together(self, number: int) -> None:
        try:
            check_together(self.rule, self.values_in_place)
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
        old, of = self.values_in_place[name], self.entry(name)
        if of.fixed and checked != old:
            raise ValueError(
                f"group {self._number}: {name} is {old!r} from the making of the optimizer on; make a new one"
            )
        # what makes the plan be built again is announced before, lest Ctrl-C comes in between, and after,
        # lest a step in another thread does
        affects_plan = checked != old and not self._leaves_plan(name, checked)
        if affects_plan:
            self._changed(self._number)
        self.values_in_place[name] = checked
        if affects_plan:
            self._changed(self._number)

    def _leaves_plan(self, name: str, value: Any) -> bool:
        """Whether the next step can be the last one's with other scalars, once `name` has another value."""
        values = self.values_in_place
        if self.entry(name).folded and not any(v is None or callable(v) for v in (values[name], value)):
            return True
        new = {**values, name: value}
        if name in SETTINGS or not self.rule.same_plan(values, new):
            return False
        try:
            check_together(self.rule, new)
        except ValueError:  # refused at the next step, unless others are set by then
            return False
        return True

    def __delitem__(self, name: str) -> None:
        raise TypeError(f"group {self._number}: {name!r} cannot be deleted")

    def __iter__(self) -> Iterator[str]:
        yield "params"
        yield from self.values_in_place

    def __len__(self) -> int:
        return len(self.values_in_place) + 1

    def summary(self) -> str:
        shown = {k: v for k, v in self.values_in_place.items() if k not in DEFAULTS or v != DEFAULTS[k]}
        values = ", ".join(f"{k}={v!r}" for k, v in shown.items())
        n = len(self.members)
        return f"{n} parameter{'' if n == 1 else 's'}, {values}"

    def __repr__(self) -> str:
        return f"ParamGroup({self.summary()})"


def _check_dimensions(rule: Rule, parameter: Parameter) -> None:
    if rule.ndim not in (None, parameter.array.ndim):
        raise ValueError(
            f"{parameter} has shape {parameter.array.shape}: {rule.title} is for parameters of {rule.ndim} "
            "dimensions; give others to another optimizer"
        )


def _members(params: Any, group: int) -> list[Parameter]:
    pairs: Iterable[tuple[str | None, Any]]
    if isinstance(params, Mapping):
        pairs = params.items()
    else:
        pairs = [p if _is_named(p) else (None, p) for p in listed(params, f"group {group}: params")]
    return [Parameter(array, group, i, name) for i, (name, array) in enumerate(pairs)]


def _is_named(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str)


def by_position(rule: Rule, positional: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters given by position, by name; TypeError for too many, or for one given twice."""
    if len(positional) > len(rule.defaults):
        raise TypeError(f"{rule.title} takes at most {len(rule.defaults)} hyperparameters")
    values = dict(zip(rule.defaults, positional, strict=False))
    twice = values.keys() & named.keys()
    if twice:
        raise TypeError(f"{rule.title} got {sorted(twice)[0]!r} twice")
    return values


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
    """Refuses parameters and copies that are given twice, overlap, or have elements that share memory."""
    seen: dict[int, Parameter] = {}
    for p in parameters:
        first = seen.setdefault(id(p.given), p)
        if first is not p:
            raise ValueError(f"{p} was given twice: it is also {first}")
    written = written_by(parameters)
    for what, array in written:
        if overlaps_itself(array):
            raise ValueError(f"{what} overlaps itself: several of its elements share memory")
    pair = first_overlap([array for _, array in written])
    if pair:
        raise ValueError(f"{written[pair[0]][0]} and {written[pair[1]][0]} share memory")


def written_by(parameters: Sequence[Parameter]) -> list[tuple[str, Array]]:
    """(what it is, the array) for all that a step writes and others own: parameters, then copies."""
    return [
        *((str(p), p.array) for p in parameters),
        *((f"copy of {p}", p.copy) for p in parameters if p.copy is not None),
    ]


def give_copies(parameters: Sequence[Parameter], copies: Any) -> None:
    """Gives each parameter the array that is to receive its new values, if there is one.

    copies: an array or None for each parameter, in order or by name; None for none at all. TypeError or
    ValueError, naming the copy, for what does not fit.
    """
    if copies is None:
        return
    given = by_name(copies, parameters, "copies") if isinstance(copies, Mapping) else listed(copies, "copies")
    if len(given) != len(parameters):
        raise ValueError(f"got {len(given)} copies for {len(parameters)} parameters")
    for p, copy in zip(parameters, given, strict=True):
        if copy is None:
            continue
        array = as_array(copy, f"copy of {p}", writable=True)
        if array.shape != p.array.shape:
            raise ValueError(f"copy of {p} has shape {array.shape}, the parameter {p.array.shape}")
        check_one_memory(f"copy of {p}", array, "the parameter", p.array)
        p.copy, p.given_copy = array.view(), copy


def by_name(values: Mapping[str, Any], parameters: Sequence[Parameter], what: str) -> list[Any]:
    """The values in the order of the parameters, None for a missing name; ValueError for a strange one."""
    names = {p.name for p in parameters}
    unknown = [name for name in values if name not in names or name is None]
    if unknown:
        raise ValueError(f"{what}: there is no parameter named {unknown[0]!r}")
    if None in names:
        raise ValueError(f"{what} is a mapping, but not all parameters were given names")
    return [values.get(p.name) for p in parameters if p.name is not None]
