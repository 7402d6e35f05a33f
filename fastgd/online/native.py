"""The course of fgd_online_fit from Python: arrays as pointers, codes as exceptions."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from fastgd._native import ffi, lib
from fastgd.arrays import DTYPE_CODES, Array
from fastgd.online.problem import Rows, Settings

GOES_ON: int = lib.FGD_ONLINE_GOES_ON
NOT_FINITE: int = lib.FGD_ONLINE_NOT_FINITE


class Loss(NamedTuple):
    """A row of csrc/online.def."""

    name: str
    #: what its parameter is, or None
    parameter: str | None
    #: the target of the second of two classes; the first one's is 1
    negative: float


def _loss(kind: int) -> Loss:
    info = lib.fgd_online_loss_at(kind)
    parameter = None if info.a == ffi.NULL else ffi.string(info.a).decode()
    return Loss(ffi.string(info.name).decode(), parameter, info.negative)


#: what C calls the elements of arrays
_ELEMENTS = {
    np.dtype(np.float32): "float",
    np.dtype(np.float64): "double",
    np.dtype(np.int32): "int32_t",
    np.dtype(np.int64): "int64_t",
    np.dtype(np.bool_): "uint8_t",
}

#: name -> loss
LOSSES = {loss.name: loss for loss in map(_loss, range(lib.fgd_online_loss_count()))}


def _pointer(name: str, array: Array | None, dtype: Any, writable: bool = False) -> Any:
    if array is None:
        return ffi.NULL
    if array.dtype != dtype:
        raise TypeError(f"{name} must be {np.dtype(dtype)}, not {array.dtype}")
    return ffi.from_buffer(f"{_ELEMENTS[array.dtype]}[]", array, require_writable=writable)


class Descent:
    """A fit that has begun: weights [cols], and averages with settings.average, are written in place.

    t: the number of the first row, from 1 on. `state` is the fgd_online_state. Until `finish` weights are
    without their scale and averages without what they share (csrc/fastgd_online.h). Arrays are refused with
    ValueError and TypeError where they do not belong together.
    """

    def __init__(
        self,
        settings: Settings,
        rows: Rows,
        weights: Array,
        intercept: float,
        *,
        t: float = 1.0,
        averages: Array | None = None,
        average_intercept: float = 0.0,
    ) -> None:
        dtype, cols, count = weights.dtype, len(weights), len(rows.targets)
        dense = rows.columns is None
        lengths = [part for part in (rows.weights, rows.held_out) if part is not None]
        if any(len(part) != count for part in lengths) or (dense and rows.x.shape != (count, cols)):
            raise ValueError("rows, targets, weights and held_out differ in length, or rows from the weights")
        if averages is not None and len(averages) != cols:
            raise ValueError(f"averages has length {len(averages)}, and there are {cols} weights")
        if rows.columns is not None:
            if rows.starts is None or len(rows.starts) != count + 1:
                raise ValueError("sparse rows need starts, one more than there are rows")
            if not len(rows.x) == len(rows.columns) >= rows.starts[-1]:
                raise ValueError("columns of sparse rows differ in length from x, or end before the last row")
        cuts = np.empty(cols, dtype) if settings.l1 > 0 else None
        order = np.empty(count, np.int32)
        fields = dict(vars(settings))
        fields["loss"] = lib.fgd_online_loss_find(settings.loss.encode())
        fields["rate"] = getattr(lib, f"FGD_RATE_{settings.rate.upper()}")
        self._of = ffi.new("fgd_online *", fields)
        given = [
            _pointer("x", rows.x, dtype),
            _pointer("columns", rows.columns, np.int32),
            _pointer("starts", rows.starts, np.int64),
            _pointer("targets", rows.targets, dtype),
            _pointer("weights of rows", rows.weights, dtype),
            _pointer("held_out", rows.held_out, np.bool_),
        ]
        fitted = [
            _pointer("weights", weights, dtype, writable=True),
            _pointer("averages", averages, dtype, writable=True),
            _pointer("cuts", cuts, dtype, writable=True),
            _pointer("order", order, np.int32, writable=True),
        ]
        self._alive = given, fitted
        self._rows = ffi.new("fgd_online_rows *", [count, cols, *given])
        self._model = ffi.new("fgd_online_model *", fitted)
        self.state = ffi.new("fgd_online_state *", [intercept, average_intercept, t])
        self._dtype = DTYPE_CODES[dtype]
        self._check(lib.fgd_online_check(self._dtype, self._of, self._rows))
        self._call(lib.fgd_online_begin)

    def _check(self, code: int) -> None:
        if code:
            raise ValueError(f"rows or settings are refused: {ffi.string(lib.fgd_error_text(code)).decode()}")

    def _call(self, function: Any, *arguments: Any) -> None:
        self._check(function(self._dtype, self._of, self._rows, self._model, *arguments, self.state))

    def run(self, epochs: int) -> None:
        """So many epochs, or until state.ended is another than GOES_ON."""
        self._call(lib.fgd_online_fit, epochs)

    def judge(self, value: float) -> None:
        """Judges the last epoch by a value that is to fall, where settings.judged is off."""
        self._check(lib.fgd_online_judge(self._of, value, self.state))

    def finish(self) -> None:
        self._call(lib.fgd_online_finish)
