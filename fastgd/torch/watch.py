"""Whether somebody may have changed an optimizer's state between two steps.

Whoever changes it asks the optimizer for it, or still holds a part of what it was given earlier. So state is
looked at in every step from the moment that somebody asks, and no longer once nobody holds any of it.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

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


def is_held(
    owner: Mapping[str, Any],
    name: str,
    known: Sequence[Sequence[Any]],
    arrays: list[torch.Tensor],
    views_of: list[torch.Tensor],
) -> bool:
    """Whether somebody else has a reference to owner[name], which is parameter -> entry, or to a part of it.

    Parts are entries, their tensors, and the memory of these.

    known: where the optimizer has entries and tensors beside, as often as it has them.
    arrays: tensors whose memory NumPy arrays of the optimizer's show, too, one for each.
    views_of: tensors of the optimizer's that those in the state are views of.
    """
    if _uses is None:
        return True
    entries = list(owner[name].values())
    tensors = [value for entry in entries for value in entry.values() if isinstance(value, torch.Tensor)]
    beside = Counter(id(part) for parts in (*known, arrays) for part in parts)
    expected = [2 + beside[id(part)] for part in (*entries, *tensors)]
    if references([*entries, *tensors]) != expected or references([owner[name]]) != [1]:
        return True
    of_storages: Counter[int] = Counter()
    for tensor in (*tensors, *arrays, *views_of):
        of_storages[tensor.untyped_storage()._cdata] += 1
    for tensor in tensors:
        # the storage that is asked is one more
        uses = of_storages[tensor.untyped_storage()._cdata] + 1
        if (
            _uses(tensor.untyped_storage()._cdata) > uses
            or references([tensor.untyped_storage()]) != _TO_STORAGE
        ):
            return True
    return False
