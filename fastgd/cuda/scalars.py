"""The scalars of steps to come, on the device: the kernels take the row of the step that they are at.

So nothing has to be sent while hyperparameters stay, and a step that the device skips needs no word to the
host. Scalars are folded here, in float64, as for every backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgd.backends.base import Block, Carriers, Work
from fastgd.cuda.driver import Driver
from fastgd.cuda.passes import BESIDE
from fastgd.rules import at_step

#: steps that rows are made for at once, at most
MOST = 64


class Scalars:
    """Of one plan: [steps, blocks, scalars] float64, and the same in float32."""

    def __init__(self, device: Driver, work: Work) -> None:
        self._device, self._blocks = device, work.blocks
        self._base = [int(work.steps[block.counter]) for block in work.blocks]
        rule = work.blocks[0].rule if work.blocks else None
        self._scalars = len(rule.scalars) + len(BESIDE) if rule else 0
        shape = (MOST, len(work.blocks), self._scalars)
        self._wide, self._narrow = np.zeros(shape), np.zeros(shape, np.float32)
        bytes_of_all = self._wide.nbytes + self._narrow.nbytes
        self._buffer = device.allocate(bytes_of_all)
        self.wide_at, self.narrow_at = self._buffer.pointer, self._buffer.pointer + self._wide.nbytes
        #: of one step in float64
        self.row_bytes = self._wide.nbytes // MOST
        #: the first of the steps, counted from the making of the plan, and how many there are
        self.first, self.count = 0, 0
        self._made_of: tuple[Any, ...] | None = None
        self._ahead = 1

    def values(self) -> tuple[Any, ...]:
        """All that rows are folded from and that may change in place."""
        names = [(block, name) for block in self._blocks for name in (*block.rule.defaults, "ema_decay")]
        found = [block.values[name] for block, name in names]
        # a schedule that follows a score, which may change though it stays the same object
        return *found, *(list(v.state_dict().values()) for v in found if hasattr(v, "state_dict"))

    def cover(self, first: int, last: int, stream: int) -> bool:
        """Sees to it that there are rows for the steps `first` to `last`; whether they were made anew."""
        values = self.values()
        same = values == self._made_of
        if same and self.first <= first and last < self.first + self.count:
            return False
        # more at once for as long as nothing changes
        self._ahead = min(2 * self._ahead, MOST) if same else 1
        count = min(max(last + 1 - first, self._ahead), MOST)
        for b, (block, base) in enumerate(zip(self._blocks, self._base, strict=True)):
            for k, scalars in enumerate(_folded(block, base + first, count)):
                self._wide[k, b, : len(scalars)] = scalars
                decay = block.values["ema_decay"]
                self._wide[k, b, -2] = 0.0 if decay is None else 1.0 - decay
                self._wide[k, b, -1:].view(np.int64)[0] = base + first + k + 1
        with np.errstate(all="ignore"):
            self._narrow[...] = self._wide
        wide, narrow = self._wide[:count], self._narrow[:count]
        if self._scalars:
            self._device.upload(self.wide_at, wide, stream)
            self._device.upload(self.narrow_at, narrow, stream)
        self.first, self.count, self._made_of = first, count, values
        return True

    def words(self) -> dict[str, int]:
        """What kernels are told of the rows: layout.CONTROL."""
        return {
            "rows": self.wide_at,
            "rows32": self.narrow_at,
            "row_bytes": self.row_bytes,
            "least_made": self.first,
            "row_count": self.count,
        }

    def carry(self, made: int) -> None:
        """Commits what parameters carry out of the step before which `made` steps have been made."""
        for block, base in zip(self._blocks, self._base, strict=True):
            if block.carriers:
                numbers, members = block.carriers
                number = base + made + 1
                before = tuple(numbers[members[0], (number - 1) % 2].tolist())
                at = at_step(block.rule, block.values, number)
                numbers[members, number % 2] = block.rule.carry(at, number, before)

    @property
    def carries(self) -> bool:
        return any(block.carriers for block in self._blocks)


def _folded(block: Block, made: int, count: int) -> Sequence[Sequence[float]]:
    """The scalars of `count` steps after the first `made`."""
    rule, values = block.rule, block.values
    carried: tuple[float, ...] = ()
    if isinstance(block.carriers, Carriers):
        numbers, members = block.carriers
        carried = tuple(numbers[members[0], made % 2].tolist())
    found = []
    for number in range(made + 1, made + count + 1):
        at = at_step(rule, values, number)
        found.append(rule.fold(at, number, carried))
        carried = rule.carry(at, number, carried)
    return found
