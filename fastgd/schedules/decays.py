"""Schedules whose rate falls, or stays: by steps, by powers, along a cosine, behind a plateau."""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fastgd.cosine import cos_pi
from fastgd.rules.powers import power, real_power, sqrt
from fastgd.schedules.base import Decaying, Schedule

__all__ = ["Constant", "Cosine", "Exponential", "InverseSquareRoot", "InverseTime", "MultiStep", "Polynomial"]
__all__ += ["Step", "WarmupStableDecay"]


@dataclass(frozen=True)
class Constant(Decaying):
    """lr at every step."""

    lr: float

    def __call__(self, step: int) -> float:
        return self.lr


@dataclass(frozen=True)
class InverseTime(Decaying):
    """lr / (1 + decay epoch), where an epoch has `steps_per_epoch` steps (Robbins and Monro 1951, section 2).

    whole_epochs: whether the rate changes between epochs only. Default True; else at every step.
    """

    lr: float
    decay: float
    steps_per_epoch: int = 1
    whole_epochs: bool = True

    def __call__(self, step: int) -> float:
        epoch = step // self.steps_per_epoch if self.whole_epochs else step / self.steps_per_epoch
        return self.lr / (1.0 + self.decay * epoch)


@dataclass(frozen=True)
class InverseSquareRoot(Decaying):
    """lr / sqrt(1 + step / period).

    Behind a warm-up of `period` steps it is the rate of Vaswani et al. 2017, section 5.3.
    """

    lr: float
    period: int

    def __call__(self, step: int) -> float:
        return self.lr / sqrt(1.0 + step / self.period)


@dataclass(frozen=True)
class Step(Decaying):
    """lr factor^(step // every), as StepLR of torch."""

    lr: float
    every: int
    factor: float = 0.1

    def check(self) -> None:
        _at_most_1(self.factor)

    def __call__(self, step: int) -> float:
        return self.lr * power(self.factor, step // self.every)


@dataclass(frozen=True)
class MultiStep(Decaying):
    """lr, multiplied by factor at each of the milestones (He et al. 2016, section 4.1).

    As MultiStepLR of torch. milestones: rising numbers of steps; of epochs behind `per_epoch`.
    """

    lr: float
    milestones: Sequence[int]
    factor: float = 0.1

    def check(self) -> None:
        _at_most_1(self.factor)

    def __call__(self, step: int) -> float:
        return self.lr * power(self.factor, bisect.bisect_right(self.milestones, step))


@dataclass(frozen=True)
class Exponential(Decaying):
    """lr factor^step, as ExponentialLR of torch."""

    lr: float
    factor: float

    def check(self) -> None:
        _at_most_1(self.factor)

    def __call__(self, step: int) -> float:
        return self.lr * power(self.factor, step)


@dataclass(frozen=True)
class Polynomial(Decaying):
    """end + (lr - end) (1 - step / steps)^power, then `end`; with power 1 a straight line.

    As PolynomialLR of torch where `end` is 0, and polynomial_schedule of optax.
    """

    lr: float
    steps: int
    power: float = 1.0
    end: float = 0.0

    def check(self) -> None:
        _end_below(self.end, self.lr)

    def __call__(self, step: int) -> float:
        left = 1.0 - min(step, self.steps) / self.steps
        return self.end + (self.lr - self.end) * real_power(left, self.power)


@dataclass(frozen=True)
class Cosine(Decaying):
    """end + (lr - end) (1 + cos(pi step / steps)) / 2, then `end` (Loshchilov and Hutter 2017, equation 5).

    As CosineAnnealingLR of torch for as long as that falls; there the rate rises again behind its T_max.
    """

    lr: float
    steps: int
    end: float = 0.0

    def check(self) -> None:
        _end_below(self.end, self.lr)

    def __call__(self, step: int) -> float:
        return self.end + (self.lr - self.end) * FALLING["cosine"](min(step, self.steps) / self.steps)


@dataclass(frozen=True)
class WarmupStableDecay(Schedule):
    """A warm-up in a straight line from 0, a plateau at `lr`, a decay to `end` (Hu et al. 2024, section 4).

    steps: of all three together. warmup_steps and decay_steps: of the first and the last; the last step but
    `decay_steps` still has the full rate. shape: of the decay, "linear", "cosine" or "sqrt", which is
    1 - sqrt(t) (Haegele et al. 2024, section 3). Default "sqrt".
    """

    lr: float
    steps: int
    warmup_steps: int
    decay_steps: int
    shape: str = "sqrt"
    end: float = 0.0

    def check(self) -> None:
        _end_below(self.end, self.lr)
        if self.warmup_steps + self.decay_steps > self.steps:
            raise ValueError(
                f"warmup_steps and decay_steps, {self.warmup_steps} and {self.decay_steps}, "
                f"are more than all {self.steps} steps"
            )

    def __call__(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.lr * step / self.warmup_steps
        passed = step - (self.steps - self.decay_steps)
        if passed <= 0:
            return self.lr
        left = FALLING[self.shape](passed / self.decay_steps) if passed < self.decay_steps else 0.0
        return self.end + (self.lr - self.end) * left

    @property
    def peak(self) -> float:
        return self.lr


#: how a rate may fall from 1 to 0 while t rises from 0 to 1
FALLING: dict[str, Callable[[float], float]] = {
    "linear": lambda t: 1.0 - t,
    "cosine": lambda t: 0.5 * (1.0 + cos_pi(t)),
    "sqrt": lambda t: 1.0 - sqrt(t),
}


def _end_below(end: float, lr: float) -> None:
    if end > lr:
        raise ValueError(f"end, {end!r}, must not be above lr, {lr!r}: the rate falls to it")


def _at_most_1(factor: float) -> None:
    if factor > 1:
        raise ValueError(f"factor must be at most 1, not {factor!r}: the rate would grow without end")
