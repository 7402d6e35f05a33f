"""How a run has gone, as numbers: levels of the loss, sizes of updates and of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property

import numpy as np

from fastgd.arrays import Array
from fastgd.monitor.records import History, Layer, Look
from fastgd.monitor.thresholds import limit


def median(values: Iterable[float | None]) -> float:
    """Of those that are finite numbers; NaN of none."""
    kept = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.median(kept)) if kept else math.nan


class Trend:
    """A history up to the first step that is not finite, as the judges look at it."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.count = history.count
        finite = history.finite_losses()
        self.steps = [step for step, _ in finite]
        self.losses: Array = np.array([loss for _, loss in finite])
        self.spoiled = history.spoiled[0] if history.spoiled else None
        last = self.spoiled.step if self.spoiled else math.inf
        self.looks: list[Look] = [look for look in history.looks if look.step <= last]

    # ---- the loss ----

    def _level(self, losses: Array) -> float:
        return float(np.median(losses)) if len(losses) else math.nan

    @property
    def _window(self) -> int:
        """Losses whose median is one level."""
        return max(1, min(50, len(self.losses) // 10))

    @cached_property
    def start(self) -> float:
        """The level of the first losses; only the very first where updates are so large that they differ."""
        large = self.update_ratio(self.looks[:3]) > limit("update_large")
        return self._level(self.losses[: 1 if large else min(self._window, 5)])

    @cached_property
    def end(self) -> float:
        """The level of the last ones."""
        return self._level(self.losses[-self._window :])

    @cached_property
    def lowest(self) -> float:
        size = self._window
        parts = [self.losses[i : i + size] for i in range(0, len(self.losses) - size + 1, size)]
        return min([self.start, *map(self._level, parts)])

    @property
    def fallen(self) -> float:
        """By which part of its first level the loss has fallen; below 0 where it has risen."""
        return (self.start - self.end) / abs(self.start) if len(self.losses) and self.start else 0.0

    @property
    def rises(self) -> bool:
        """Whether it is well above its lowest level."""
        least = max(limit("loss_rise") * (self.start - self.lowest), limit("loss_fall") * abs(self.start))
        return self.end - self.lowest > least

    @property
    def falls(self) -> bool:
        return self.fallen >= limit("loss_fall") and not self.rises

    @property
    def diverged(self) -> bool:
        """Whether the loss or gradients became NaN or infinite though the data is finite."""
        return self.spoiled is not None and self.spoiled.what not in ("input", "target")

    @property
    def fails(self) -> bool:
        """Whether it diverged, or does not fall after steps enough to tell."""
        return self.diverged or (len(self.losses) >= limit("steps_few") and not self.falls)

    @property
    def flat(self) -> bool:
        """Whether it is the same in the last two quarters."""
        if len(self.losses) < limit("steps_slow"):
            return False
        n = len(self.losses) // 4
        before, behind = self._level(self.losses[-2 * n : -n]), self._level(self.losses[-n:])
        return abs(behind - before) <= limit("loss_flat") * abs(behind)

    @property
    def turns(self) -> bool:
        """Whether it goes up and down from step to step, as a step that is too long does."""
        recent = self.losses[-int(limit("steps_slow")) :]
        if len(recent) < limit("steps_slow"):
            return False
        changes = np.diff(recent)
        swing = float(np.median(np.abs(changes))) / max(abs(self._level(recent)), 1e-300)
        turning = float(np.mean(changes[1:] * changes[:-1] < 0))
        return turning >= limit("loss_turns") and swing >= limit("loss_swing")

    # ---- the layers ----

    def update_ratio(self, looks: list[Look]) -> float:
        """Of the median layer at the median of these looks."""
        return median(median(layer.update_ratio for layer in moving(look)) for look in looks)

    @cached_property
    def largest_ratio(self) -> float:
        """The largest that lasted for three looks: one long step may be the gradient's fault."""
        each = [self.update_ratio([look]) for look in self.looks]
        parts = [each[i : i + 3] for i in range(max(1, len(each) - 2))]
        return max((ratio for part in parts if (ratio := median(part)) == ratio), default=0.0)

    @cached_property
    def grad_norms(self) -> list[tuple[int, float]]:
        """(step, norm of all gradients): of every step where it was measured, else of those looked at."""
        last = math.inf if self.spoiled is None else self.spoiled.step
        every = [
            (s.step, s.grad_norm) for s in self.history.steps if s.grad_norm is not None and s.step <= last
        ]
        found = every or [(look.step, total(look, lambda layer: layer.grad_norm)) for look in self.looks]
        return [(step, norm) for step, norm in found if math.isfinite(norm)]

    @cached_property
    def _loss_at(self) -> dict[int, float]:
        return dict(zip(self.steps, self.losses.tolist(), strict=True))

    def elasticity(self, looks: list[Look]) -> float:
        """|gradient| |parameters| / |loss|: what part of the loss a change of all weights may change."""
        values = []
        for look in looks:
            loss = self._loss_at.get(look.step)
            if loss:
                size = total(look, lambda layer: layer.param_norm)
                values.append(total(look, lambda layer: layer.grad_norm) * size / abs(loss))
        return median(values)

    @property
    def steep(self) -> bool:
        """Whether the gradient is beyond all measure from the first steps on."""
        return self.elasticity(self.looks[:3]) >= limit("gradient_steep")


def total(look: Look, of: Callable[[Layer], float | None]) -> float:
    """The norm over all layers."""
    return float(np.hypot.reduce([of(layer) or 0.0 for layer in look.layers] or [0.0]))


def trained(look: Look) -> list[Layer]:
    """The layers with weights."""
    return [layer for layer in look.layers if layer.trained and layer.grad_norm is not None]


def moving(look: Look) -> list[Layer]:
    """Those that have got a gradient."""
    return [layer for layer in trained(look) if layer.grad_norm]
