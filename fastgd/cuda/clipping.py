"""Clipping of arrays in place, apart from any step, and norms of many arrays at once."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastgd.arrays import dtype_named
from fastgd.backends.base import Measured, Options
from fastgd.cuda.element import Variant, gradient
from fastgd.cuda.judge import Judge, Kind, measured_by
from fastgd.cuda.layout import SCOPE_BYTES, TILE
from fastgd.cuda.passes import WIDE, Operand
from fastgd.cuda.tables import Held, pieces
from fastgd.cuda.update import Made, pass_text
from fastgd.cuda.writer import Text
from fastgd.rules import RULES
from fastgd.storage import load, store
from fastgd.tracing import Trace


@functools.cache
def clip_text(kind: Kind, *, clamped: bool, threads: int = WIDE) -> Text:
    """The kernel that scales and clamps arrays of a kind in place."""
    trace, real = Trace(), np.dtype(kind.real)
    operand = Operand("g", "grad", kind.grad)
    stored: Any = trace.argument("g", operand.dtype)
    g = gradient(load(stored, real), lambda name: trace.argument(name, real), clamped=clamped)
    made = Made(trace, {"g": store(g, dtype_named(kind.grad))}, [operand])
    # of a rule only what all have in common is looked at
    rule = next(iter(RULES.values()))
    state = (None,) * len(rule.slots)
    variant = Variant(rule.name, (), kind.grad, kind.grad, state, bounded=clamped, layout=kind.layout)
    return pass_text("clip", variant, made, threads)


def clipped_by(judge: Judge, options: Options, stream: int) -> Measured:
    """Clips the judge's gradients unless they are to be skipped, and says what was found in them."""
    measured = measured_by(judge, options, stream)
    if measured.skipped:
        return measured
    for kind in dict.fromkeys(judge.kinds):
        members = np.array([k for k, other in enumerate(judge.kinds) if other == kind], np.int64)
        cut = pieces([judge.sizes[k] for k in members], TILE)
        cut[:, 0] = members[cut[:, 0]]
        tiles = Held(judge.device, np.ascontiguousarray(cut))
        given = (judge.tensors.pointer, tiles.pointer, judge.numbers.pointer)
        launch = judge.launch(clip_text(kind, clamped=judge.judging.clamped), len(cut), given, tiles)
        judge.send(stream)
        launch(stream)
    return measured


def norms_by(judge: Judge, options: Options, stream: int) -> list[float]:
    """The norm of each of the judge's gradients, all in the same launches."""
    # any limit makes scopes of tensors be measured
    measured_by(judge, options._replace(clip_norm=1.0, scope="tensor", total_norm=None), stream)
    rows = np.empty((1 + len(judge.sizes), SCOPE_BYTES // 8))
    judge.device.download(judge.scopes.pointer, rows, stream)
    norms: list[float] = rows[1:, 3].tolist()
    return norms
