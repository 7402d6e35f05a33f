"""The CUDA backend: kernels made of the traced reference, on arrays that lie on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.base import Measured, Options, Plan, Work
from fastgd.cuda import driver
from fastgd.cuda.layout import TENSOR
from fastgd.cuda.step import Judge, StepPlan, arithmetic_name, measured_by
from fastgd.cuda.tables import COLUMN
from fastgd.lenders import owner_stream
from fastgd.rules import Rule
from fastgd.storage import FORMATS


class CudaBackend:
    """See the module."""

    name = "cuda"
    #: the kind of memory that it works on
    memory = "cuda"

    def supports(self, rule: Rule, dtype: Any) -> bool:
        return np.dtype(dtype).name in FORMATS and rule.factored is None and rule.orthogonal is None

    def plan(self, work: Work) -> Plan:
        params = [item.param for item in work.items]
        device = _device_of(params)
        with device.current():
            return StepPlan(device, work, stream_of(params))

    def measure(self, arrays: Sequence[Array], options: Options) -> Measured:
        device, stream = _device_of(arrays), stream_of(arrays)()
        device.stream_state(stream)
        with device.current():
            return measured_by(_judge(arrays), options, stream)

    def norms(self, arrays: Sequence[Array], options: Options) -> list[float]:
        return [self.measure([array], options).norm for array in arrays]

    def clip(self, arrays: Sequence[Array], options: Options) -> Measured:
        raise NotImplementedError


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
    return Judge(_device_of(arrays), rows, [(n, arithmetic_name(n)) for n in names], [0] * len(arrays))


BACKEND = CudaBackend()
