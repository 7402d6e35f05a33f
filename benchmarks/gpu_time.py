"""Takes turns: each contender at each piece of work, timed on the device, in rounds, with medians.

Nothing here knows a device. A machine has a clock and contenders; the tests have one that is made up.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

#: the contender that ratios are to
OWN = "fastgd"

#: the contender that only moves memory
COPY = "copy"


class Step(NamedTuple):
    """What a contender does once."""

    run: Callable[[], object]
    #: called before so many replays of a graph in which `run` was captured
    before_replay: Callable[[int], object] | None = None
    #: whether it can be captured
    captures: bool = True


class Work(NamedTuple):
    """Something to time."""

    name: str
    #: bytes that must be read and written at least; 0 where nothing is to be said of bandwidth
    nbytes: int
    #: contender -> what makes its step; a maker raises NotImplementedError where it has none
    makers: dict[str, Callable[[], Step]]
    #: contender or COPY -> how many times faster than it fastgd is to be, or which share of the bandwidth
    wanted: Mapping[str, float] = MappingProxyType({})


class Clock(Protocol):
    """Times on the device."""

    def events(self, step: Step, repeats: int) -> float:
        """Seconds that one of so many calls takes, between two events on the stream."""

    def capture(self, step: Step) -> Step | None:
        """A step that replays a graph of it; None where it cannot be captured."""


class Machine(NamedTuple):
    """A GPU with all that is compared on it."""

    #: card, driver, versions
    facts: dict[str, Any]
    #: what is left out, and why
    absent: list[str]
    clock: Clock
    work: Sequence[Callable[[], Work]]
    #: seconds of a turn
    turn: float = 0.05


#: replays that are readied at a time
MOST_REPLAYS = 64


def repeats_for(clock: Clock, step: Step, seconds: float) -> int:
    """How many calls take about that long; also warms up."""
    clock.events(step, 2)
    one = clock.events(step, 3)
    return max(1, min(MOST_REPLAYS, round(seconds / max(one, 1e-9))))


def measure(machine: Machine, rounds: int) -> list[dict[str, Any]]:
    """A row for each contender, of each work, called and replayed."""
    return [row for make in machine.work for row in _measured(machine, make(), rounds)]


def _measured(machine: Machine, work: Work, rounds: int) -> list[dict[str, Any]]:
    print(f"timing: {work.name}", flush=True)
    steps: dict[str, Step] = {}
    for name, maker in work.makers.items():
        try:
            steps[name] = maker()
        except NotImplementedError as error:
            machine.absent.append(f"{name} at {work.name}: {error}")
    called = {name: step._replace(before_replay=None) for name, step in steps.items()}
    rows = _rows(machine, work, "called", called, rounds)
    graphs = {name: machine.clock.capture(step) for name, step in steps.items() if name != COPY}
    replayed = {name: graph for name, graph in graphs.items() if graph is not None}
    if OWN in replayed:
        copies = {name: step for name, step in called.items() if name == COPY}
        rows += _rows(machine, work, "replayed", {**replayed, **copies}, rounds)
    return rows


def _rows(
    machine: Machine, work: Work, how: str, steps: dict[str, Step], rounds: int
) -> list[dict[str, Any]]:
    repeats = {name: repeats_for(machine.clock, step, machine.turn) for name, step in steps.items()}
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(machine.clock.events(step, repeats[name]))
    rows = []
    for name, times in taken.items():
        row: dict[str, Any] = {
            "work": work.name,
            "how": how,
            "contender": name,
            "seconds": statistics.median(times),
            # above 1, fastgd is faster
            "ratio": _median_ratio(times, taken[OWN]) if OWN in taken else None,
            "wanted": work.wanted.get(name),
            "of_bandwidth": None,
        }
        if COPY in taken and work.nbytes:
            # the copy moves as many bytes in its time
            row["of_bandwidth"] = _median_ratio(taken[COPY], times)
            row["gigabytes_per_second"] = work.nbytes / row["seconds"] / 1e9
        rows.append(row)
    return rows


def _median_ratio(times: Sequence[float], others: Sequence[float]) -> float:
    """Of times of the same round."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))
