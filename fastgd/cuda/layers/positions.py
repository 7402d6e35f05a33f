"""Positions on CUDA."""

from __future__ import annotations

import functools
from typing import Any

from fastgd.cuda.layers.columns import column_sums
from fastgd.cuda.layers.elements import Beside, Elements, Ready, Walk, argument
from fastgd.cuda.layers.launching import Run, part
from fastgd.nn.reference_steps import Positions
from fastgd.tracing import Trace


@functools.cache
def forward_kernel(real: Any) -> Ready:
    trace = Trace()
    x = argument(trace, "x", real)
    beside = Beside("weight", real, Walk("at"))
    return Elements(trace, {"y": x + argument(trace, "weight", real)}, {"x": real}, beside=[beside]).ready(
        "positions_forward"
    )


def forward(
    run: Run, real: Any, of: Positions, batch: int, time: int, dim: int, x: Any, weight: Any, y: Any
) -> None:
    sizes = {"at_inner": 1, "at_outer": time * dim}
    forward_kernel(real)(run, batch * time * dim, x=x, weight=weight, y=y, **sizes)


def backward(
    run: Run, real: Any, of: Positions, batch: int, time: int, dim: int, dy: Any, dweight: Any
) -> None:
    run.clear(dweight)
    column_sums(run, batch, time * dim, dy, part(dweight, 0, time, dim))


ENTRIES = {"positions_forward": forward, "positions_backward": backward}
