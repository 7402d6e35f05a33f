"""Schedules whose rate rises again: warm restarts, triangles, one cycle."""

from __future__ import annotations

from dataclasses import dataclass

from fastgd.rules.powers import power
from fastgd.schedules.base import Decaying, Schedule
from fastgd.schedules.decays import FALLING, Cosine, _end_below

__all__ = ["OneCycle", "Triangular", "WarmRestarts"]


@dataclass(frozen=True)
class WarmRestarts(Decaying):
    """A cosine from lr to `end` over `period` steps, begun anew each time (SGDR).

    Loshchilov and Hutter 2017, section 3. multiplier: how many times as long each period is as the one
    before. Default 1. As CosineAnnealingWarmRestarts of torch.
    """

    lr: float
    period: int
    multiplier: int = 1
    end: float = 0.0

    def check(self) -> None:
        _end_below(self.end, self.lr)

    def __call__(self, step: int) -> float:
        period = self.period
        if self.multiplier == 1:
            step %= period
        while step >= period:
            step -= period
            period *= self.multiplier
        return Cosine(self.lr, period, self.end)(step)

    @property
    def cyclic(self) -> bool:
        return True


@dataclass(frozen=True)
class Triangular(Schedule):
    """From low to high in `up` steps, back in `down`, again and again (Smith 2017, section 3.2).

    As CyclicLR of torch. down: default None, as many as up. mode: "triangular"; "triangular2", each triangle
    half as high as the one before; "exp_range", the height multiplied by factor^step. Default "triangular".
    factor: default 1.
    """

    low: float
    high: float
    up: int
    down: int | None = None
    mode: str = "triangular"
    factor: float = 1.0

    def check(self) -> None:
        if self.low > self.high:
            raise ValueError(f"low, {self.low!r}, must not be above high, {self.high!r}")
        if self.factor > 1:
            raise ValueError(f"factor must be at most 1, not {self.factor!r}")

    def __call__(self, step: int) -> float:
        down = self.up if self.down is None else self.down
        cycle, place = divmod(step, self.up + down)
        share = place / self.up if place <= self.up else (self.up + down - place) / down
        scales = {"triangular": 1.0, "triangular2": 0.5**cycle, "exp_range": power(self.factor, step)}
        return self.low + (self.high - self.low) * share * scales[self.mode]

    @property
    def peak(self) -> float:
        return self.high

    @property
    def cyclic(self) -> bool:
        return True


@dataclass(frozen=True)
class OneCycle(Schedule):
    """From max_lr / div_factor up to max_lr, then down to far below the start (Smith and Topin 2019).

    Section 3 there; as OneCycleLR of torch. steps: of the whole cycle, at least 2; then the rate stays.
    share_up: of the steps in which it rises. Default 0.3. anneal: "cosine" or "linear". div_factor: default
    25. final_div_factor: the first rate over the last one. Default 1e4. three_phases: whether the rate first
    falls to where it began, as symmetrically as it rose, and then to its end. Default False.
    """

    max_lr: float
    steps: int
    share_up: float = 0.3
    anneal: str = "cosine"
    div_factor: float = 25.0
    final_div_factor: float = 1e4
    three_phases: bool = False

    def check(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps must be at least 2, not {self.steps}")
        if self.three_phases and self.share_up > 0.5:
            raise ValueError(f"share_up must be at most 0.5 with three_phases, not {self.share_up!r}")

    def __call__(self, step: int) -> float:
        first = self.max_lr / self.div_factor
        last = first / self.final_div_factor
        top = self.share_up * self.steps - 1.0
        ends = [(top, first, self.max_lr)]
        if self.three_phases:
            ends.append((2.0 * top, self.max_lr, first))
        ends.append((self.steps - 1.0, ends[-1][2], last))
        begin = 0.0
        for end, from_, to in ends:
            if step <= end:
                share = (step - begin) / (end - begin) if end > begin else 1.0
                return to + (from_ - to) * FALLING[self.anneal](share)
            begin = end
        return last

    @property
    def peak(self) -> float:
        return self.max_lr
