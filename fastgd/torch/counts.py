"""Counts of steps and what is carried between them: kept for kernels, shown in torch's state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch

from fastgd.arrays import Array, address
from fastgd.rules import Rule
from fastgd.settings import DEFAULTS
from fastgd.torch.conventions import convention

STEP = "step"

#: settings under which random bits may depend on the step
_STORING = ("state_dtype", "state_rounding", "rounding")


class Counts:
    """Of all parameters of an optimizer, by number.

    What states show are tensors over one array for each name, so that all are brought up to date at once.
    Each is a tensor of its own, of one number: a view would carry all numbers into a pickle.
    """

    def __init__(self, rule: Rule, count: int) -> None:
        self.rule, self._convention = rule, convention(rule)
        count = max(count, 1)
        #: steps made
        self.made = np.zeros(count, np.int64)
        #: as Carriers.numbers
        self.carried = np.empty((count, 2, len(rule.carried)))
        self.carried[:] = rule.carried_at_first
        #: "step" of each, as torch keeps it
        self.shown = np.zeros(count, np.float32)
        names = [name for name, _ in rule.carried] + list(self._convention.numbers)
        #: other numbers in the state -> a number for each, and what was shown last
        self._told = {name: np.zeros(count) for name in names}
        self._last = {name: told.copy() for name, told in self._told.items()}
        #: whether states show more than steps, which follows from the values of the step that was made
        self.tells = bool(names)

    def stand(self) -> bool:
        """Whether states show what was shown last, steps themselves apart."""
        return all(np.array_equal(told, self._last[name]) for name, told in self._told.items())

    def agree(self, numbers: slice) -> bool:
        """Whether states show the steps that these parameters have made."""
        return np.array_equal(self.shown[numbers], self.made[numbers].astype(np.float32))

    def is_counted(self, values: Mapping[str, Any]) -> bool:
        """Whether the state has a "step" under these settings."""
        stores = any(values[name] != DEFAULTS[name] for name in _STORING)
        return self._convention.counts or stores

    def adopt(self, i: int, entry: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
        """Takes over what a parameter's state says, and puts tensors in its place that this keeps right."""
        if self.is_counted(values):
            told = _number(entry.get(STEP, 0))
            if np.float32(self.made[i]) != told:
                self.made[i] = int(told)
            self._show(entry, STEP, self.shown, i)
        else:
            self.made[i] = max(self.made[i], 1) if self._convention.begun in entry else 0
        self.shown[i] = self.made[i]
        row = self.made[i] % 2
        for k, (name, at_first) in enumerate(self.rule.carried):
            told = _number(entry.get(name, at_first))
            # another library's are rounded to float32
            if self.carried[i, row, k] != told:
                self.carried[i, row, k] = told
            self._tell(name, i, told)
            self._show(entry, name, self._told[name], i)
        for name, number in self._convention.numbers.items():
            self._tell(name, i, number(values, int(self.made[i])))
            self._show(entry, name, self._told[name], i)

    def _tell(self, name: str, numbers: Any, value: float) -> None:
        self._told[name][numbers] = self._last[name][numbers] = value

    @staticmethod
    def _show(entry: MutableMapping[str, Any], name: str, numbers: Array, i: int) -> None:
        found = entry.get(name)
        place = address(numbers) + i * numbers.itemsize
        if not isinstance(found, torch.Tensor) or found.data_ptr() != place:
            entry[name] = torch.from_numpy(numbers[i : i + 1].reshape(()))

    def names(self, values: Mapping[str, Any]) -> list[str]:
        """What the state of a parameter holds of this."""
        return [STEP, *self._told] if self.is_counted(values) else list(self._told)

    def show(
        self, blocks: Iterable[tuple[Mapping[str, Any], Sequence[int]]], only: int | None = None
    ) -> None:
        """Brings what states show up to date. blocks: values, and numbers of parameters that have them.

        only: the number of the one parameter that has made a step.
        """
        if only is None:
            self.shown[:] = self.made
        else:
            self.shown[only] = self.made[only]
        if not self._told:
            return
        for values, numbers in blocks:
            made = int(self.made[numbers[0]])
            carried = self.carried[numbers[0], made % 2]
            told = {name: float(carried[k]) for k, (name, _) in enumerate(self.rule.carried)}
            told |= {name: of(values, made) for name, of in self._convention.numbers.items()}
            for name, value in told.items():
                self._tell(name, numbers, value)


def _number(value: Any) -> float:
    return float(value.item() if isinstance(value, torch.Tensor) else value)
