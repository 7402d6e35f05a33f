"""Whether somebody may have changed an optimizer's state between two steps.

Whoever changes it asks the optimizer for it, or still holds a part of what it was given earlier. So state is
looked at in every step from the moment that somebody asks, and no longer once nobody holds any of it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

import torch

from fastgd.torch._gather import described, stays
from fastgd.torch.tensors import INTERFACE

#: an entry and a name in it
Named = tuple[MutableMapping[str, Any], str]

#: steps from one search for holders to the next: it takes some times as long as looking at all state
STEPS = 32

#: of a storage's handle; None: this torch does not tell, and somebody may always hold one
_uses: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)


#: what sys.getrefcount says, called so, of an object that is in a list and nowhere else
_IN_A_LIST = next(map(sys.getrefcount, [object()]))


def references(objects: list[Any]) -> list[int]:
    """How many references there are to each, beside that of the list."""
    return [count - _IN_A_LIST for count in map(sys.getrefcount, objects)]


class Watch:
    """Over the state of one optimizer."""

    def __init__(self) -> None:
        #: whether state has to be looked at
        self.is_on = True
        self._steps = 0

    def alarm(self) -> None:
        """Somebody has asked for the state."""
        self.is_on = True

    def looked(self, is_held: Callable[[], bool]) -> None:
        """All state was found as it was. is_held: whether somebody beside the optimizer has a part of it."""
        self._steps += 1
        if self._steps >= STEPS:
            self._steps = 0
            self.is_on = is_held()


#: those to a storage's Python object: torch may keep it for the next who asks
_probe = torch.empty(1)
_TO_STORAGE = references([_probe.untyped_storage()])


class Seen:
    """What a plan has of the state: entries of parameters, tensors in them, and where these lay."""

    def __init__(self, entries: Mapping[Any, Any], slots: Iterable[Named], numbers: Iterable[Named]) -> None:
        """entries: all that there are, by parameter, in the order of the state.

        slots, numbers: tensors that the plan works on, by entry and name; arrays of the plan's show the
        memory of those in slots, one each.
        """
        self._keys, self._entries = tuple(entries), tuple(entries.values())
        self._arrays = [entry[name] for entry, name in slots]
        self._parts: tuple[Any, ...] = tuple(
            part
            for entry, name in (*slots, *numbers)
            for part in (entry, name, entry[name], described(INTERFACE, entry[name]))
        )

    def stays(self, state: Any, only: Any = None) -> bool:
        """Whether nobody has taken entries or tensors away, put others in their place, or moved these.

        only: the one parameter whose entry there is; None: there are those of all.
        """
        if only is not None and state.get(only) is not self._entries[0]:
            return False
        whole = state if only is None else None
        found: bool = stays(INTERFACE, whole, self._keys, self._entries, self._parts)
        return found

    def is_held(self, owner: Mapping[str, Any], name: str) -> bool:
        """Whether somebody but the optimizer has a reference to owner[name], the state, or to a part of it.

        Parts are entries, their tensors, and the memory of these.
        """
        if _uses is None:
            return True
        # others than of parameters may be anything; whoever reads them asks for the state first
        entries = [entry for entry in owner[name].values() if isinstance(entry, dict)]
        tensors = [value for entry in entries for value in entry.values() if isinstance(value, torch.Tensor)]
        beside = Counter(id(part) for parts in (self._entries, self._parts, self._arrays) for part in parts)
        # the state or the entry has one reference, the list here another
        expected = [2 + beside[id(part)] for part in (*entries, *tensors)]
        if references([*entries, *tensors]) != expected or references([owner[name]]) != [1]:
            return True
        of_storages: Counter[int] = Counter()
        for tensor in (*tensors, *self._arrays):
            of_storages[tensor.untyped_storage()._cdata] += 1
        for tensor in tensors:
            # the storage's Python object is one more
            uses = of_storages[tensor.untyped_storage()._cdata] + 1
            if _uses(tensor.untyped_storage()._cdata) > uses:
                return True
            if references([tensor.untyped_storage()]) != _TO_STORAGE:
                return True
        return False
