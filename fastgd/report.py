"""What the caller of a step is told about it."""

from __future__ import annotations

from typing import NamedTuple


class NonFinite(NamedTuple):
    """A gradient element that is NaN or infinite."""

    #: index of the parameter group and of the parameter within it
    group: int
    parameter: int
    #: the parameter's name, when it was given one
    name: str | None
    #: index of the element in the parameter's shape
    element: tuple[int, ...]
    value: float


class StepReport(NamedTuple):
    """What one step did."""

    #: global 2-norm of the gradients after grad_scale and clip_value, before clip_norm; None: not measured
    grad_norm: float | None
    #: what the gradients were multiplied by to respect clip_norm; 1.0 when they were not clipped
    clip_coef: float
    #: True: a gradient was not finite, skip_nonfinite was set, and nothing at all was changed
    skipped: bool
    #: the first element that was not finite, when the gradients were measured and there was one
    nonfinite: NonFinite | None
