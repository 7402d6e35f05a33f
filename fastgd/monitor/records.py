"""What a monitor has seen of a run, as data: its steps, and looks at its layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar, overload

from fastgd.monitor.batches import Facts
from fastgd.monitor.spoiled import Spoiled

T = TypeVar("T")

#: steps that are kept one by one, and looks at layers; beyond, the older half is thinned
MOST_STEPS, MOST_LOOKS = 8192, 1024


class Thinned(Generic[T]):
    """A list of bounded length: when it is full, every other element of its older half is dropped.

    So the newest are always complete, and the older they are the fewer are left; the first is kept.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._rows: list[T] = []

    def append(self, row: T) -> None:
        self.extend([row])

    def extend(self, rows: Sequence[T]) -> None:
        self._rows.extend(rows)
        while len(self._rows) > self._most:
            del self._rows[1 : self._most // 2 : 2]

    def __iter__(self) -> Iterator[T]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._rows[index]


class Steps:
    """Steps, as Thinned keeps them: in columns, of which a row is made when it is asked for.

    A tuple for each step that is kept would take longer to make, and the garbage collector to visit, than all
    else that is done with one.
    """

    def __init__(self, most: int) -> None:
        self._columns: tuple[Thinned[Any], ...] = tuple(Thinned(most) for _ in Step._fields)

    def extend(self, *columns: Sequence[Any]) -> None:
        """Adds rows, given as the columns of Step."""
        for kept, new in zip(self._columns, columns, strict=True):
            kept.extend(new)

    def __iter__(self) -> Iterator[Step]:
        return map(Step._make, zip(*self._columns, strict=True))

    def __len__(self) -> int:
        return len(self._columns[0])

    def last(self, count: int) -> list[Step]:
        return list(map(Step._make, zip(*(column[-count:] for column in self._columns), strict=True)))


class Step(NamedTuple):
    """What is known of every step. step counts from 1.

    loss: before the update; None if it was not told. grad_norm, clip_coef and skipped: of the
    step's report, where there is one.
    """

    step: int
    loss: float | None
    grad_norm: float | None = None
    clip_coef: float = 1.0
    skipped: bool = False


class Layer(NamedTuple):
    """One layer at one step. What it has not got, or could not be seen, is None.

    name: its place, "0" or "2.1" inside a Residual. kind: its class. trained: whether it has weights, which
    is to say parameters of two or more dimensions.
    grad_norm: 2-norm of the gradients of all its parameters, as the step received them.
    param_norm: 2-norm of its parameters before the step.
    update_ratio: 2-norm of the change that the step made, divided by param_norm.
    output_rms: root of the mean square of its outputs.
    zeros: the share of its outputs that is 0. dead: the share of its units that gave a flat end for each of
    the last examples looked at, `units.EXAMPLES` of them at least. saturated: the share of its outputs that
    is at a flat end of its activation. All 0 to 1.
    """

    name: str
    kind: str
    trained: bool = False
    grad_norm: float | None = None
    param_norm: float | None = None
    update_ratio: float | None = None
    output_rms: float | None = None
    zeros: float | None = None
    dead: float | None = None
    saturated: float | None = None
    #: whether flat ends lie on both sides of its activation (sigmoid) or on one (ReLU); None: it is none
    two_sided: bool | None = None
    #: whether each row of its weights is the same, so that its units cannot become different
    symmetric: bool = False

    @property
    def label(self) -> str:
        return f"{self.name} {self.kind}"


class Look(NamedTuple):
    """All layers at one step, in the order of the model; lr is that of the first parameter group."""

    step: int
    layers: tuple[Layer, ...]
    lr: float | None = None


@dataclass
class History:
    """A run as the monitor has seen it. Memory is bounded, however long the run is."""

    steps: Steps = field(default_factory=lambda: Steps(MOST_STEPS))
    looks: Thinned[Look] = field(default_factory=lambda: Thinned(MOST_LOOKS))
    #: of the first steps that were not finite
    spoiled: list[Spoiled] = field(default_factory=list)
    inputs: Facts = field(default_factory=Facts)
    targets: Facts = field(default_factory=Facts)
    #: whether targets are probabilities, and whether inputs are normalised by the first layer
    probabilities: bool = False
    normalises: bool = False
    #: of all steps: how many there were, were clipped, were skipped, were not finite
    count: int = 0
    clipped: int = 0
    skipped: int = 0
    nonfinite: int = 0

    def add(
        self,
        losses: Sequence[float | None],
        grad_norms: Sequence[float | None],
        clip_coefs: Sequence[float],
        skipped: Sequence[bool],
    ) -> None:
        """Adds steps, given as the columns of Step behind the first."""
        first = self.count + 1
        self.count += len(losses)
        self.steps.extend(range(first, self.count + 1), losses, grad_norms, clip_coefs, skipped)
        self.clipped += sum(map((1.0).__gt__, clip_coefs))
        self.skipped += sum(skipped)

    def finite_losses(self) -> list[tuple[int, float]]:
        """(step, loss) up to the first loss that is not finite."""
        kept: list[tuple[int, float]] = []
        for step in self.steps:
            if step.loss is not None and not math.isfinite(step.loss):
                break
            if step.loss is not None:
                kept.append((step.step, step.loss))
        return kept
