"""Which steps are looked at: every so many, or as many as a share of the training time pays for."""

from __future__ import annotations

import math

from fastgd.checks import named, number, whole

#: these are looked at whatever it costs, for most faults show at once, and then one each half as far again
FIRST, GROWTH = 10, 1.5


class Sampling:
    """Decides before each step whether it is looked at.

    every: a number of steps, or "auto": the first ten, then the 15th, 23rd, 35th and so on, and one whenever
        the time spent on looking, with one look more, is within `budget` times the time spent on training.
    budget: a share. Default 0.03, for what each step costs beside looks comes on top. The time of training
        is all that passes between looks.
    """

    def __init__(self, every: int | str = "auto", budget: float = 0.03) -> None:
        if isinstance(every, str):
            if every != "auto":
                raise ValueError(f"every must be 'auto' or a number of steps, not {every!r}")
            self.every = None
        else:
            self.every = named("every", whole(1), every)
        self.budget = named("budget", number(0), budget)
        #: seconds of all looks, and of all else
        self.spent, self.trained = 0.0, 0.0
        #: behind so many steps one is looked at for sure, and behind so many seconds of training
        self.sure, self.paid = 0, math.inf

    def due(self, done: int) -> bool:
        """Whether the step behind so many is looked at."""
        return done >= self.sure or self.trained >= self.paid

    def until(self, done: int, most: int) -> int:
        """How many steps will be done when one may be due, as time has gone so far; at most so many more."""
        left = max(self.paid - self.trained, 0.0) * done
        steps = left / self.trained if self.trained and left < most * self.trained else most
        return min(self.sure, done + max(1, math.ceil(steps)))

    def looked(self, done: int, seconds: float) -> None:
        """The step behind so many was, in so many seconds."""
        self.spent += seconds
        if self.every is not None:
            self.sure = done + self.every
            return
        if done >= self.sure:
            self.sure = done + 1 if done + 1 < FIRST else math.ceil((done + 1) * GROWTH) - 1
        self.paid = (self.spent + seconds) / self.budget if self.budget and self.sure >= FIRST else math.inf
