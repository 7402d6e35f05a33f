"""What the caller of a step is told about it."""

from __future__ import annotations

from typing import NamedTuple


class NonFinite(NamedTuple):
    """A gradient element that is NaN or infinite.

    group, parameter: index of the parameter group, and of the parameter within it.
    name: the parameter's, when it was given one.
    element: index in the parameter's shape. value: what stands there.
    """

    group: int
    parameter: int
    name: str | None
    element: tuple[int, ...]
    value: float


class StepReport(NamedTuple):
    """What one step did.

    grad_norm: global 2-norm of the gradients after grad_scale and clip_value, before clip_norm; None when
        they were not measured, because neither clip_norm nor skip_nonfinite was asked for.
    clip_coef: what the gradients were multiplied by to respect clip_norm; 1.0 when they were not clipped.
    skipped: True when a gradient was not finite, skip_nonfinite was set, and nothing at all was changed.
    nonfinite: the first element that was not finite; None when there was none, or nothing was measured.
    """

    grad_norm: float | None
    clip_coef: float
    skipped: bool
    nonfinite: NonFinite | None
