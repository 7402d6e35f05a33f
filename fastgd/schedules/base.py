"""What a schedule is, the checks of its arguments, and how schedules are composed."""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastgd.checks import flag, named, number, one_of, optional, whole

__all__ = ["Join", "PerEpoch", "Product", "Schedule", "Warmup"]

_RATE, _SHARE = number(0), number(0, np.nextafter(1.0, 2.0))


def _above(low: float) -> Callable[[Any], float]:
    return number(float(np.nextafter(low, np.inf)))


def _schedule(value: Any) -> Schedule:
    if not isinstance(value, Schedule):
        raise TypeError(f"must be a schedule such as Cosine(0.1, steps=1000), not {value!r}")
    return value


def _milestones(value: Any) -> tuple[int, ...]:
    try:
        found = tuple([whole(0)(step) for step in value])
    except TypeError:
        raise TypeError(f"must be whole numbers, not {value!r}") from None
    if list(found) != sorted(set(found)):
        raise ValueError(f"must rise, each above the one before, not {list(found)}")
    return found


#: what the arguments of all schedules may be, by name
CHECKS: dict[str, Callable[[Any], Any]] = {
    "lr": _RATE,
    "end": _RATE,
    "low": _RATE,
    "high": _RATE,
    "max_lr": _RATE,
    "floor": _RATE,
    "decay": _RATE,
    "factor": _RATE,
    "power": _RATE,
    "start": _RATE,
    "steps": whole(1),
    "every": whole(1),
    "period": whole(1),
    "multiplier": whole(1),
    "up": whole(1),
    "down": optional(whole(1)),
    "steps_per_epoch": whole(1),
    "warmup_steps": whole(0),
    "decay_steps": whole(0),
    "milestones": _milestones,
    "share_up": _SHARE,
    "div_factor": _above(0),
    "final_div_factor": _above(0),
    "three_phases": flag,
    "whole_epochs": flag,
    "anneal": one_of("cosine", "linear"),
    "shape": one_of("linear", "cosine", "sqrt"),
    "mode": one_of("triangular", "triangular2", "exp_range"),
    "schedule": _schedule,
    "first": _schedule,
    "second": _schedule,
}


@dataclass(frozen=True)
class Schedule(ABC):
    """A learning rate as a function of the step: schedule(0) is the rate of the first one.

    It is given to an optimizer as `lr`. Rates have the same bits on every machine.

        lr = schedules.Cosine(3e-4, steps=1000).warmup(100)
        opt = fastgd.AdamW(params, lr=lr)

    Arguments out of range are refused with TypeError or ValueError, naming them.
    """

    def __post_init__(self) -> None:
        for item in fields(self):
            if item.name in CHECKS:
                checked = named(item.name, CHECKS[item.name], getattr(self, item.name))
                object.__setattr__(self, item.name, checked)
        self.check()

    def check(self) -> None:  # noqa: B027  (most kinds have no arguments that do not go together)
        """Raises ValueError for arguments that do not go together."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The rate of a step, counted from 0."""

    @property
    @abstractmethod
    def peak(self) -> float:
        """No rate is above it."""

    @property
    def cyclic(self) -> bool:
        """Whether it rises to its peak again and again."""
        return False

    def values(self, n: int) -> NDArray[np.float64]:
        """The rates of the first n steps."""
        return np.array([self(step) for step in range(n)], np.float64)

    def warmup(self, steps: int, *, start: float = 0.0) -> Warmup:
        """Begins after so many steps, in which the rate rises to its first one in a straight line.

        start: the share of its first rate that the warm-up begins with. Default 0.
        """
        return Warmup(self, steps, start)

    def per_epoch(self, steps_per_epoch: int) -> PerEpoch:
        """The same with epochs in place of steps: the rate changes with every epoch only."""
        return PerEpoch(self, steps_per_epoch)

    def __mul__(self, other: Any) -> Product:
        return Product(self, other)


class Decaying(Schedule):
    """One whose first rate, `lr`, is its largest."""

    lr: float

    @property
    def peak(self) -> float:
        return self.lr


class Timed(Schedule):
    """Another schedule at other times."""

    schedule: Schedule

    @property
    def peak(self) -> float:
        return self.schedule.peak

    @property
    def cyclic(self) -> bool:
        return self.schedule.cyclic


@dataclass(frozen=True)
class Warmup(Timed):
    """schedule, after `steps` steps in which the rate rises to its first one in a straight line.

    Step i of the warm-up has the share start + (1 - start) i / steps of it, as LinearLR of torch with
    start_factor `start` (Goyal et al. 2017, section 2.2).
    """

    schedule: Schedule
    steps: int
    start: float = 0.0

    def check(self) -> None:
        if self.start > 1:
            raise ValueError(f"start is a share of the first rate, at most 1, not {self.start!r}")

    def __call__(self, step: int) -> float:
        if step >= self.steps:
            return self.schedule(step - self.steps)
        return self.schedule(0) * (self.start + (1.0 - self.start) * step / self.steps)


@dataclass(frozen=True)
class PerEpoch(Timed):
    """schedule(epoch), for epochs of `steps_per_epoch` steps."""

    schedule: Schedule
    steps_per_epoch: int

    def __call__(self, step: int) -> float:
        return self.schedule(step // self.steps_per_epoch)


@dataclass(frozen=True)
class Product(Schedule):
    """The product of two schedules; a number in place of the second is a constant one."""

    first: Schedule
    second: Schedule

    def __post_init__(self) -> None:
        if not isinstance(self.second, Schedule):
            from fastgd.schedules.decays import Constant

            object.__setattr__(self, "second", Constant(named("factor", _RATE, self.second)))
        super().__post_init__()

    def __call__(self, step: int) -> float:
        return self.first(step) * self.second(step)

    @property
    def peak(self) -> float:
        return self.first.peak * self.second.peak


@dataclass(frozen=True)
class Join(Schedule):
    """Several schedules one after another, each counting its own steps, as SequentialLR of torch.

    schedules: at least one. milestones: the steps at which the second and all further ones begin.
    """

    schedules: Sequence[Schedule]
    milestones: Sequence[int]

    def check(self) -> None:
        parts = tuple([named(f"schedules[{i}]", _schedule, part) for i, part in enumerate(self.schedules)])
        if len(parts) != len(self.milestones) + 1:
            raise ValueError(
                f"{len(parts)} schedules need {len(parts) - 1} milestones, not {len(self.milestones)}"
            )
        object.__setattr__(self, "schedules", parts)

    def __call__(self, step: int) -> float:
        which = bisect.bisect_right(self.milestones, step)
        return self.schedules[which](step - self.milestones[which - 1] if which else step)

    @property
    def peak(self) -> float:
        return max(part.peak for part in self.schedules)
