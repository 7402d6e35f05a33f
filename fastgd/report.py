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

    grad_norm: global 2-norm of the gradients after grad_scale and clip_value, before clip_norm, or the
        total_norm that was given; None when neither clip_norm nor skip_nonfinite asked for it.
    clip_coef: what the gradients were multiplied by to respect clip_norm or clip_adaptive; the smallest, when
        groups, tensors or units have their own; 1.0 when they were not clipped.
    skipped: True when a gradient was not finite, skip_nonfinite was set, and nothing at all was changed.
    nonfinite: the first element that was not finite; None when there was none, or nothing was measured.
    """

    grad_norm: float | None
    clip_coef: float
    skipped: bool
    nonfinite: NonFinite | None
