"""A rate that is lowered when a score no longer improves, which is no function of the step alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from fastgd.checks import named, number, one_of, real, whole
from fastgd.schedules.base import Schedule
from fastgd.schedules.decays import Constant

__all__ = ["ReduceOnPlateau"]


class ReduceOnPlateau:
    """A rate, or a schedule, multiplied by `factor` each time a score has not improved for a while.

        plateau = schedules.ReduceOnPlateau(0.1, patience=3, floor=1e-4)
        opt = fastgd.SGD(params, lr=plateau)
        ...
        plateau.update(validation_loss)  # after every epoch
        if plateau.exhausted:
            break

    lr: a number, or a schedule. factor: in [0, 1). patience: how many scores without an improvement are let
    pass; the next one lowers the rate. threshold: what counts as an improvement: a score below
    (1 - threshold) times the best, or, with threshold_mode "absolute", below it by more than threshold. mode:
    "min" for scores that are to fall, "max" for others. cooldown: scores after a reduction that do not count
    as bad. floor: the rate does not fall below it. Defaults as in ReduceLROnPlateau of torch, whose rates
    these are (but for scores below 0, a share of which there makes a worse one the best). A score that is NaN
    is no improvement.
    """

    def __init__(
        self,
        lr: float | Schedule,
        *,
        factor: float = 0.1,
        patience: int = 10,
        threshold: float = 1e-4,
        threshold_mode: str = "relative",
        mode: str = "min",
        cooldown: int = 0,
        floor: float = 0.0,
    ) -> None:
        self.schedule = lr if isinstance(lr, Schedule) else Constant(lr)
        self.factor = named("factor", number(0, 1), factor)
        self.patience = named("patience", whole(0), patience)
        self.threshold = named("threshold", number(0), threshold)
        self.threshold_mode = named("threshold_mode", one_of("relative", "absolute"), threshold_mode)
        self.mode = named("mode", one_of("min", "max"), mode)
        self.cooldown = named("cooldown", whole(0), cooldown)
        self.floor = named("floor", number(0), floor)
        #: the best score so far
        self.best = math.inf if self.mode == "min" else -math.inf
        #: scores since then that count as bad
        self.bad = 0
        #: what the schedule's rates are multiplied by
        self.scale = 1.0
        #: whether `patience` has run out where the rate could not be lowered any more
        self.exhausted = False
        self._cooling = 0

    def __repr__(self) -> str:
        arguments = f"factor={self.factor}, patience={self.patience}, floor={self.floor}"
        return f"ReduceOnPlateau({self.schedule}, {arguments}, scale={self.scale})"

    def __call__(self, step: int) -> float:
        """The rate of a step, counted from 0."""
        return max(self.schedule(step) * self.scale, min(self.floor, self.schedule(step)))

    @property
    def peak(self) -> float:
        """No rate is above it."""
        return self.schedule.peak

    def update(self, score: float) -> bool:
        """Takes a score, after an epoch say; whether the rate was lowered."""
        score = named("score", real, score)
        if self._improves(score):
            self.best, self.bad = score, 0
        else:
            self.bad += 1
        if self._cooling:
            self._cooling -= 1
            self.bad = 0
        if self.bad <= self.patience:
            return False
        self.bad, self._cooling = 0, self.cooldown
        # where products of factors end a rounding above the floor, there is nothing left to lower
        if self.scale * self.schedule.peak <= self.floor * (1 + 1e-9):
            self.exhausted = True
            return False
        self.scale *= self.factor
        return True

    def _improves(self, score: float) -> bool:
        sign = 1.0 if self.mode == "min" else -1.0
        if math.isinf(self.best):
            return sign * score < sign * self.best
        margin = self.threshold * (abs(self.best) if self.threshold_mode == "relative" else 1.0)
        return sign * score < sign * self.best - margin

    def state_dict(self) -> dict[str, Any]:
        """What changes from score to score; arguments are not in it."""
        kept = ("best", "bad", "scale", "exhausted")
        return {**{name: getattr(self, name) for name in kept}, "cooling": self._cooling}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave; KeyError, and no change, where something is missing."""
        values = {name: state[name] for name in self.state_dict()}
        self._cooling = values.pop("cooling")
        vars(self).update(values)
