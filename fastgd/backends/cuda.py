"""The CUDA backend: kernels made of the traced reference, on arrays that lie on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from fastgd.arrays import Array, memory_order
from fastgd.backends.base import Measured, Options, Plan, Work
from fastgd.cuda import driver
from fastgd.cuda.clipping import clipped_by, norms_by
from fastgd.cuda.judge import Judge, measured_by
from fastgd.cuda.layout import TENSOR
from fastgd.cuda.layouts import layout_of
from fastgd.cuda.missing import missing
from fastgd.cuda.step import StepPlan
from fastgd.cuda.tables import COLUMN
from fastgd.cuda.variants import real_name
from fastgd.lenders import owner_stream
from fastgd.rules import Rule
from fastgd.storage import FORMATS

if missing():
    raise ImportError(missing())

T = TypeVar("T")


class CudaBackend:
    """See the module."""

    name = "cuda"
    #: the kind of memory that it works on
    memory = "cuda"
    rearranges = False

    def supports(self, rule: Rule, dtype: Any) -> bool:
        return np.dtype(dtype).name in FORMATS

    def plan(self, work: Work) -> Plan:
        params = [item.param for item in work.items]
        device = _device_of(params)
        with device.current():
            return StepPlan(device, work, stream_of(params))

    def measure(self, arrays: Sequence[Array], options: Options) -> Measured:
        return _made_by(measured_by, arrays, options)

    def norms(self, arrays: Sequence[Array], options: Options) -> list[float]:
        return _made_by(norms_by, arrays, options)

    def clip(self, arrays: Sequence[Array], options: Options) -> Measured:
        return _made_by(clipped_by, arrays, options)


def _made_by(work: Callable[[Judge, Options, int], T], arrays: Sequence[Any], options: Options) -> T:
    """What this makes of arrays, on the stream of their owner."""
    device, stream = _device_of(arrays), stream_of(arrays)()
    device.stream_state(stream)
    with device.current():
        return work(_judge(arrays), options, stream)


def stream_of(arrays: Sequence[Any]) -> Callable[[], int]:
    """What tells the stream that the owner of these arrays works on now: that of the first."""
    owner = arrays[0] if arrays else None
    return lambda: owner_stream(owner) or driver.DEFAULT_STREAM


def _device_of(arrays: Sequence[Any]) -> driver.Driver:
    found: driver.Driver = arrays[0].memory.device if arrays else driver.device(0)
    return found


def _judge(arrays: Sequence[Any]) -> Judge:
    rows = np.zeros((len(arrays), len(TENSOR)), np.int64)
    for row, array in zip(rows, arrays, strict=True):
        row[COLUMN["size"]], row[COLUMN["grad"]] = array.size, array.pointer
    names = [array.dtype.name for array in arrays]
    layouts = [layout_of({"grad": a}, memory_order(a), f"array {i}") for i, a in enumerate(arrays)]
    kinds = [(name, real_name(name)) for name in names]
    return Judge(_device_of(arrays), rows, kinds, [0] * len(arrays), layouts)


BACKEND = CudaBackend()
