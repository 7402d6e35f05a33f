"""Hyperparameters by label for parts of a tree, and decay masks: what holds for which parameter."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax

from fastgd.checks import flag, named
from fastgd.jax.trees import Leaves
from fastgd.rules import Rule, resolved
from fastgd.settings import DEFAULTS, check_together


class Key(NamedTuple):
    """Which of the sets of values a parameter has."""

    label: Hashable = None
    decays: bool = True


class Values:
    """Hyperparameters and settings, for each key."""

    def __init__(
        self,
        rule: Rule,
        check: Callable[[str, Any], Any],
        values: Mapping[str, Any],
        groups: Any,
        labels: Any,
        mask: Any,
    ) -> None:
        """check: of a name and its value, which gives that in its canonical type, or raises.

        Raises TypeError or ValueError, naming the argument and label.
        """
        self._labels, self._mask = labels, mask
        if (groups is None) != (labels is None):
            given, lacking = ("groups", "labels") if labels is None else ("labels", "groups")
            raise TypeError(f"{given} needs {lacking}: what a label means, and which parameters have it")
        if mask is not None and "weight_decay" not in rule.defaults:
            raise TypeError(f"mask says what has weight decay, and {rule.title} has none")
        if groups is not None and not (isinstance(groups, Mapping) and groups):
            raise TypeError(f"groups must be hyperparameters by label, not {groups!r}")
        own: Mapping[Any, Any] = {None: {}} if groups is None else groups
        #: by key: checked numbers, schedules, and what is known in a step only
        self.by_key: dict[Key, dict[str, Any]] = {}
        for label, changes in own.items():
            name = "" if groups is None else f"groups[{label!r}]: "
            try:
                self.by_key[Key(label)] = _checked(rule, check, values, changes)
            except (TypeError, ValueError) as error:
                # JAX's own errors are kinds of these that take no text
                kind = ValueError if isinstance(error, ValueError) else TypeError
                raise kind(f"{name}{error}") from None
        if mask is not None:
            self.by_key |= {
                Key(key.label, False): {**values, "weight_decay": 0.0} for key, values in self.by_key.items()
            }

    @property
    def first(self) -> dict[str, Any]:
        """Those of the first key."""
        return next(iter(self.by_key.values()))

    def keys(self, leaves: Leaves) -> list[Key]:
        """The key of each leaf.

        Raises ValueError or TypeError, naming the parameter, for a label that groups does not have, or a mask
        that is neither True nor False.
        """
        labels, mask = (_each("labels", self._labels, leaves), _each("mask", self._mask, leaves))
        keys = []
        for path, label, decays in zip(leaves.paths, labels, mask, strict=True):
            if label is not None and not self._has(label):
                known = ", ".join(repr(key.label) for key in self.by_key if key.decays)
                raise ValueError(f"params{path} has the label {label!r}, and groups has {known}")
            decays = decays is None or named(f"mask of params{path}", flag, decays)
            keys.append(Key(label, decays))
        return keys

    def _has(self, label: Any) -> bool:
        try:
            return Key(label) in self.by_key
        except TypeError:  # such as an array, which is no key
            return False


def _checked(
    rule: Rule, check: Callable[[str, Any], Any], values: Mapping[str, Any], changes: Any
) -> dict[str, Any]:
    if not isinstance(changes, Mapping):
        raise TypeError(f"must be a dict of hyperparameters, not {changes!r}")
    unknown = changes.keys() - values.keys()
    if unknown:
        own = ", ".join([*rule.defaults, *DEFAULTS])
        raise TypeError(f"{min(unknown)!r} is none of what may differ between parameters: {own}")
    checked = {name: check(name, value) for name, value in resolved(rule, {**values, **changes}).items()}
    check_together(rule, checked)
    return checked


def _each(name: str, given: Any, leaves: Leaves) -> list[Any]:
    """Of each leaf, what a tree has for it or for what it is a part of; None where there is no tree."""
    if given is None:
        return [None] * len(leaves.parts)
    shape_of: Any = jax.ShapeDtypeStruct
    shapes = leaves.tree.unflatten([shape_of(part.shape, part.dtype) for part in leaves.parts])
    tree: Any = given(shapes) if callable(given) else given
    try:
        spread = jax.tree.map(lambda one, below: jax.tree.map(lambda _: one, below), tree, shapes)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} has another structure than params: {error}") from None
    return jax.tree.leaves(spread)
