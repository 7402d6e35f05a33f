"""What the caller of a step is told about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


class NonFinite(NamedTuple):
    """A gradient element that is NaN or infinite.

    group, parameter: index of the parameter group, and of the parameter within it.
    name: the parameter's, when it was given one.
    element: index in the parameter's shape. value: what stands there.

    After a step on a device, the element is looked for when the report is read: it is None and its value NaN
    when the gradient is gone by then, or has been written anew.
    """

    group: int
    parameter: int
    name: str | None
    element: tuple[int, ...] | None
    value: float


class StepReport(NamedTuple):
    """What one step did.

    grad_norm: global 2-norm of the gradients after grad_scale and clip_value, before clip_norm, or the
        total_norm that was given; None when neither clip_norm nor skip_nonfinite asked for it.
    clip_coef: what the gradients were multiplied by to respect clip_norm or clip_adaptive; the smallest, when
        groups, tensors or units have their own; 1.0 when they were not clipped.
    skipped: True when a gradient was not finite, skip_nonfinite was set, and nothing at all was changed.
    nonfinite: the first element that was not finite; None when there was none, or nothing was measured.

    A step on a device goes on while its report is returned; whoever reads the report first waits for it.
    """

    grad_norm: float | None
    clip_coef: float
    skipped: bool
    nonfinite: NonFinite | None


class PendingReport(StepReport):
    """The report of a step on a device: fetched from there when it is first looked at."""

    _fetch: Callable[[], StepReport]
    _fetched: StepReport | None

    @classmethod
    def of(cls, fetch: Callable[[], StepReport]) -> PendingReport:
        """fetch: called once at most, and not under any lock."""
        # the tuple itself is a stand-in that nobody gets to see
        self = tuple.__new__(cls, (None, 1.0, False, None))
        self._fetch, self._fetched = fetch, None
        return self

    def now(self) -> StepReport:
        """The report as a plain tuple."""
        if self._fetched is None:
            self._fetched = self._fetch()
            del self._fetch
        return self._fetched

    grad_norm = property(lambda self: self.now().grad_norm)
    clip_coef = property(lambda self: self.now().clip_coef)
    skipped = property(lambda self: self.now().skipped)
    nonfinite = property(lambda self: self.now().nonfinite)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.now())

    def __getitem__(self, index: Any) -> Any:
        return self.now()[index]

    def __contains__(self, value: object) -> bool:
        return value in self.now()

    def __eq__(self, other: object) -> bool:
        return self.now() == (other.now() if isinstance(other, PendingReport) else other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.now())

    def __repr__(self) -> str:
        return repr(self.now())

    def __reduce__(self) -> Any:
        return StepReport, tuple(self.now())

    def index(self, *value: Any) -> int:
        return self.now().index(*value)

    def count(self, value: Any) -> int:
        return self.now().count(value)

    def _asdict(self) -> dict[str, Any]:
        return self.now()._asdict()

    def _replace(self, **changes: Any) -> Any:
        return self.now()._replace(**changes)
