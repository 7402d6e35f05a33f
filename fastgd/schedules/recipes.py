"""Schedules as text, such as "cosine(warmup=1)": fitted to a run of so many steps, lengths in epochs."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fastgd.checks import named, number
from fastgd.schedules.base import Schedule
from fastgd.schedules.cycles import OneCycle, Triangular, WarmRestarts
from fastgd.schedules.decays import (
    Constant,
    Cosine,
    Exponential,
    InverseSquareRoot,
    InverseTime,
    MultiStep,
    Polynomial,
    Step,
    WarmupStableDecay,
)
from fastgd.schedules.plateau import ReduceOnPlateau

__all__ = ["RECIPES", "Run", "from_text"]

WARMUP = "warmup"


class Run(NamedTuple):
    """What a schedule is fitted to."""

    steps: int
    steps_per_epoch: int

    def of(self, name: str, epochs: Any) -> int:
        """So many epochs, which need not be a whole number, in steps; at least one step."""
        return max(1, round(named(name, number(0), epochs) * self.steps_per_epoch))


def constant(lr: float, run: Run) -> Schedule:
    """The same rate at every step."""
    return Constant(lr)


def inverse_time(lr: float, run: Run, decay: float = 0.1) -> Schedule:
    """lr / (1 + decay epoch)."""
    return InverseTime(lr, decay, run.steps_per_epoch)


def inverse_square_root(lr: float, run: Run, epochs: float = 1) -> Schedule:
    """lr / sqrt(1 + epoch / epochs)."""
    return InverseSquareRoot(lr, run.of("epochs", epochs))


def step(lr: float, run: Run, every: int = 10, factor: float = 0.1) -> Schedule:
    """Multiplied by factor every so many epochs."""
    return Step(lr, every, factor).per_epoch(run.steps_per_epoch)


def multi_step(lr: float, run: Run, milestones: Sequence[int], factor: float = 0.1) -> Schedule:
    """Multiplied by factor after these numbers of epochs."""
    return MultiStep(lr, milestones, factor).per_epoch(run.steps_per_epoch)


def exponential(lr: float, run: Run, factor: float = 0.95) -> Schedule:
    """Multiplied by factor after every epoch."""
    return Exponential(lr, factor).per_epoch(run.steps_per_epoch)


def polynomial(lr: float, run: Run, power: float = 1.0, end: float = 0.0) -> Schedule:
    """From lr to end over the run; with power 1 a straight line."""
    return Polynomial(lr, run.steps, power, end)


def cosine(lr: float, run: Run, end: float = 0.0) -> Schedule:
    """From lr to end over the run, along half a cosine."""
    return Cosine(lr, run.steps, end)


def warm_restarts(lr: float, run: Run, epochs: float = 10, multiplier: int = 1, end: float = 0.0) -> Schedule:
    """A cosine over so many epochs, again and again, each multiplier times as long as the last (SGDR)."""
    return WarmRestarts(lr, run.of("epochs", epochs), multiplier, end)


def triangular(
    lr: float, run: Run, low: float = 0.0, epochs: float = 4, mode: str = "triangular"
) -> Schedule:
    """From low to lr and back within so many epochs, again and again."""
    up = max(1, run.of("epochs", epochs) // 2)
    return Triangular(low, lr, up, mode=mode)


def one_cycle(lr: float, run: Run, share_up: float = 0.3, anneal: str = "cosine") -> Schedule:
    """Up to lr and down to far below the start, once over the run."""
    return OneCycle(lr, max(run.steps, 2), share_up, anneal)


def warmup_stable_decay(
    lr: float, run: Run, share_down: float = 0.2, shape: str = "sqrt", end: float = 0.0
) -> Schedule:
    """lr, and over the last part of the run down to end."""
    down = round(named("share_down", number(0, 1), share_down) * run.steps)
    return WarmupStableDecay(lr, run.steps, 0, down, shape, end)


def plateau(
    lr: float, run: Run, factor: float = 0.1, patience: int = 3, floor: float = 0.0
) -> ReduceOnPlateau:
    """Multiplied by factor when the loss on the validation part has not improved for patience epochs."""
    return ReduceOnPlateau(lr, factor=factor, patience=patience, floor=floor)


#: name -> (learning rate, run, further arguments by name) -> the schedule
RECIPES: dict[str, Callable[..., Schedule | ReduceOnPlateau]] = {
    recipe.__name__: recipe
    for recipe in (
        constant,
        inverse_time,
        inverse_square_root,
        step,
        multi_step,
        exponential,
        polynomial,
        cosine,
        warm_restarts,
        triangular,
        one_cycle,
        warmup_stable_decay,
        plateau,
    )
}


def arguments_of(name: str) -> list[str]:
    """What a recipe may be told, in its order."""
    return [*list(inspect.signature(RECIPES[name]).parameters)[2:], WARMUP]


def from_text(text: str, lr: float, run: Run) -> Schedule | ReduceOnPlateau:
    """The schedule that a text names, for this learning rate and run.

    text: a name of RECIPES, with arguments in parentheses if some are not to have their defaults:
    "cosine", "step(every=5, factor=0.5)", "plateau(patience=2)". Every one takes `warmup`: so many epochs
    first in which the rate rises from 0 in a straight line; it is fitted to the rest of the run then.

    ValueError, one sentence, for a text that is none, an unknown name, and arguments that will not do.
    """
    name, given = parsed(text)
    warmup = named(WARMUP, number(0), given.pop(WARMUP, 0))
    before = run.of(WARMUP, warmup) if warmup else 0
    rest = run._replace(steps=max(1, run.steps - before))
    try:
        schedule = RECIPES[name](lr, rest, **given)
        if not before:
            return schedule
        if isinstance(schedule, ReduceOnPlateau):
            schedule.schedule = schedule.schedule.warmup(before)
            return schedule
        return schedule.warmup(before)
    except (TypeError, ValueError) as error:
        raise ValueError(f"schedule {name}: {error}") from None


def parsed(text: str) -> tuple[str, dict[str, Any]]:
    """A recipe's name, in which hyphens stand for underscores, and what it is told."""
    name, parenthesis, rest = text.partition("(")
    name = name.strip().replace("-", "_")
    try:
        call = ast.parse(name + (parenthesis + rest or "()"), mode="eval").body
    except SyntaxError:
        call = None
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)) or call.args:
        raise ValueError(f'{text!r} is no schedule such as "cosine" or "step(every=5)"')
    if name not in RECIPES:
        raise ValueError(f"the schedule is one of {', '.join(RECIPES)}, not {name}")
    given: dict[str, Any] = {}
    for keyword in call.keywords:
        known = arguments_of(name)
        if keyword.arg not in known:
            raise ValueError(f"schedule {name} takes {', '.join(known)}, not {keyword.arg}")
        try:
            given[keyword.arg] = ast.literal_eval(keyword.value)
        except ValueError:
            raise ValueError(f"schedule {name}: {keyword.arg} must be a number, text or list") from None
    return name, given
