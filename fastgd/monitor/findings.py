"""Judges a history: which of the table's kinds of trouble it shows, the cause before what follows of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fastgd.monitor.judges_of_layers import LAYERS
from fastgd.monitor.judges_of_runs import DATA, RUNS
from fastgd.monitor.kinds import KINDS
from fastgd.monitor.records import History
from fastgd.monitor.seen import Seen
from fastgd.monitor.thresholds import limit
from fastgd.monitor.trend import Trend


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a training.

    kind: its name in `kinds.KINDS`. where: the layer, tensor or part of the run. first_step, last_step:
    between which it was seen. text: what was seen, with its numbers.
    """

    kind: str
    where: str
    first_step: int
    last_step: int
    text: str

    @property
    def title(self) -> str:
        return KINDS[self.kind].title

    @property
    def reason(self) -> str:
        """Why it happens."""
        return KINDS[self.kind].reason

    @property
    def remedies(self) -> tuple[str, ...]:
        """What usually helps, the first first."""
        return KINDS[self.kind].remedies

    def __str__(self) -> str:
        helps = "".join(f"\n  - {remedy}" for remedy in self.remedies)
        return f"{self.title} ({self.where}): {self.text}. Why: {self.reason}. What helps:{helps}"


#: kind -> what looks for it
JUDGES: dict[str, Callable[[Trend], Seen | None]] = {**DATA, **LAYERS, **RUNS}


def judge(history: History, curvature: Callable[[], float | None] | None = None) -> list[Finding]:
    """All findings. curvature: as `curvature.smallest` gives it; asked only where the run is flat."""
    trend = Trend(history)
    seen = {kind: found for kind, look_for in JUDGES.items() if (found := look_for(trend)) is not None}
    told = _hidden(seen)
    if flat := _flat(trend, told, curvature):
        told = _hidden({**told, flat[0]: flat[1]})
    if not told and trend.count >= limit("steps_stalled") and trend.fallen < limit("loss_stalled"):
        told["stalled"] = Seen("loss", 1, trend.count, f"it was {trend.start:.4g} and is {trend.end:.4g}")
    return [Finding(kind, *told[kind]) for kind in KINDS if kind in told]


def _hidden(seen: dict[str, Seen]) -> dict[str, Seen]:
    """Without what others explain."""
    return {kind: found for kind, found in seen.items() if not seen.keys() & set(KINDS[kind].hidden_by)}


def _flat(
    trend: Trend, told: dict[str, Seen], curvature: Callable[[], float | None] | None
) -> tuple[str, Seen] | None:
    """A saddle or a plateau, where the loss is flat and gradients are small."""
    elasticity = trend.elasticity(trend.looks[-3:])
    if not trend.flat or trend.diverged or not elasticity <= limit("gradient_small"):
        return None
    if told.keys() & set(KINDS["saddle"].hidden_by):
        return None
    lost = trend.end / trend.start if trend.start else 0.0
    if lost < limit("loss_solved"):
        return None
    lowest = curvature() if curvature else None
    at = trend.steps[-len(trend.losses) // 2], trend.count
    text = f"the loss stays at {trend.end:.4g}, and |gradient| |parameters| / loss is {elasticity:.1e}"
    if lowest is None:
        text += "; curvature was not measured, so it may be a saddle"
    else:
        text += f"; the smallest eigenvalue is {lowest:.2g} of the largest"
    if lowest is not None and lowest <= limit("negative_curvature"):
        return "saddle", Seen("loss", *at, text)
    return ("plateau", Seen("loss", *at, text)) if lost > limit("loss_high") else None
