"""Which steps are looked at: every so many, or as many as a share of the training time pays for."""

from __future__ import annotations

from fastgd.checks import named, number, whole

#: these are looked at whatever it costs, for most faults show at once, and then one each half as far again
FIRST, GROWTH = 10, 1.5


class Sampling:
    """Decides before each step whether it is looked at.

    every: a number of steps, or "auto": the first ten, then the 15th, 22nd, 33rd and so on, and one whenever
        the time spent on looking, with one look more, is within `budget` times the time spent on training.
    budget: a share, above 0. Default 0.05.
    """

    def __init__(self, every: int | str = "auto", budget: float = 0.05) -> None:
        if isinstance(every, str):
            if every != "auto":
                raise ValueError(f"every must be 'auto' or a number of steps, not {every!r}")
            self.every = None
        else:
            self.every = named("every", whole(1), every)
        self.budget = named("budget", number(0), budget)
        #: seconds of all looks, of the last one, and of all else
        self.spent, self.last, self.trained = 0.0, 0.0, 0.0
        self._surely = FIRST

    def due(self, done: int) -> bool:
        """Whether the step behind so many is looked at."""
        if self.every is not None:
            return done % self.every == 0
        if done < FIRST:
            return True
        if done + 1 >= self._surely * GROWTH:
            self._surely = done + 1
            return True
        return self.spent + self.last <= self.budget * self.trained

    def looked(self, seconds: float) -> None:
        self.spent += seconds
        self.last = seconds
