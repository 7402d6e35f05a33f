"""Which steps are looked at: every so many, or as many as a share of the training time pays for."""

from __future__ import annotations

import math
import time

from fastgd.checks import named, number, whole

#: these are looked at whatever it costs, for most faults show at once, and then one each half as far again
FIRST, GROWTH = 10, 1.5

#: what a look takes, in times of its own time: the next steps find the caches emptied, and torch calls hooks
AROUND = 1.2


class Sampling:
    """Decides before each step whether it is looked at.

    every: a number of steps, or "auto": the first ten, then the 15th, 23rd, 35th and so on, and one whenever
        the time spent on watching, with one look more, is within `budget` times the time spent on training.
    budget: a share. Default 0.035. The time of training is all that passes between looks.
    noting: seconds that are spent on each step, looked at or not, and count as part of the budget.
    """

    def __init__(self, every: int | str = "auto", budget: float = 0.035, noting: float = 0.0) -> None:
        if isinstance(every, str):
            if every != "auto":
                raise ValueError(f"every must be 'auto' or a number of steps, not {every!r}")
            self.every = None
        else:
            self.every = named("every", whole(1), every)
        self.budget = named("budget", number(0), budget)
        self.noting = noting
        #: seconds of all looks, and of training
        self.spent, self.trained = 0.0, 0.0
        #: behind so many steps one is looked at for sure, and when so many seconds have been saved for it
        self.sure, self.price = 0, math.inf
        self._mark = time.perf_counter()

    def passed(self, other: float = 0.0) -> None:
        """Counts the time since the last call as time of training, but for so many seconds."""
        now = time.perf_counter()
        self.trained += max(now - self._mark - other, 0.0)
        self._mark = now

    def restarted(self) -> None:
        """The time since the last call of `passed` was none of training."""
        self._mark = time.perf_counter()

    def _saved(self, done: int) -> float:
        """Seconds of the budget that are left for looks."""
        return self.budget * self.trained - self.noting * done

    def due(self, done: int) -> bool:
        """Whether the step behind so many is looked at."""
        return done >= self.sure or self._saved(done) >= self.price

    def until(self, done: int, most: int) -> int:
        """How many steps will be done when one may be due, as time has gone so far; at most so many more."""
        saved = self._saved(done)
        lacking = max(self.price - saved, 0.0) * done
        steps = lacking / saved if saved > 0 and lacking < most * saved else most
        return min(self.sure, done + max(1, math.ceil(steps)))

    def looked(self, done: int, seconds: float) -> None:
        """The step behind so many was, in so many seconds."""
        seconds *= AROUND
        self.spent += seconds
        if self.every is not None:
            self.sure = done + self.every
            return
        if done >= self.sure:
            self.sure = done + 1 if done + 1 < FIRST else math.ceil((done + 1) * GROWTH) - 1
        self.price = self.spent + seconds if self.budget and self.sure >= FIRST else math.inf
