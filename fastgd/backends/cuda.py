"""The CUDA backend: kernels made of the traced reference, on arrays that lie on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array, memory_order
from fastgd.backends.base import Measured, Options, Plan, Work
from fastgd.cuda import driver
from fastgd.cuda.clipping import clipped_by, norms_by
from fastgd.cuda.layout import TENSOR
from fastgd.cuda.layouts import layout_of
from fastgd.cuda.step import Judge, StepPlan, arithmetic_name, measured_by
from fastgd.cuda.tables import COLUMN
from fastgd.rules import Rule
from fastgd.storage import FORMATS


class CudaBackend:
    """See the module."""

    name = "cuda"
    #: the kind of memory that it works on
    memory = "cuda"

    def supports(self, rule: Rule, dtype: Any) -> bool:
        return np.dtype(dtype).name in FORMATS

    def plan(self, work: Work) -> Plan:
        device = _device_of([item.param for item in work.items])
        return StepPlan(device, work, lambda: driver.DEFAULT_STREAM)

    def measure(self, arrays: Sequence[Array], options: Options) -> Measured:
        return measured_by(_judge(arrays), options, driver.DEFAULT_STREAM)

    def norms(self, arrays: Sequence[Array], options: Options) -> list[float]:
        return norms_by(_judge(arrays), options, driver.DEFAULT_STREAM) if arrays else []

    def clip(self, arrays: Sequence[Array], options: Options) -> Measured:
        return clipped_by(_judge(arrays), options, driver.DEFAULT_STREAM)


def _device_of(arrays: Sequence[Any]) -> driver.Driver:
    found: driver.Driver = arrays[0].memory.device if arrays else driver.device(0)
    return found


def _judge(arrays: Sequence[Any]) -> Judge:
    rows = np.zeros((len(arrays), len(TENSOR)), np.int64)
    for row, array in zip(rows, arrays, strict=True):
        row[COLUMN["size"]], row[COLUMN["grad"]] = array.size, array.pointer
    names = [array.dtype.name for array in arrays]
    layouts = [layout_of({"grad": a}, memory_order(a), f"array {i}") for i, a in enumerate(arrays)]
    kinds = [(name, arithmetic_name(name)) for name in names]
    return Judge(_device_of(arrays), rows, kinds, [0] * len(arrays), layouts)


BACKEND = CudaBackend()
