"""The layers' kernels on CUDA: what csrc/ops.def lists, as far as it is there, for arrays on a device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, cast

import numpy as np

from fastgd.arrays import Array
from fastgd.cuda.driver import DEFAULT_STREAM
from fastgd.cuda.layers.launching import Run
from fastgd.cuda.memory import CudaMemory
from fastgd.lenders import owner_stream
from fastgd.memory import DeviceArray
from fastgd.nn.kernels import Kernels, Program, ReferenceKernels, ReferenceProgram
from fastgd.nn.program import Op

#: modules of this package with ENTRIES: name -> what launches it, (run, dtype, of, sizes..., arrays...); None
#: for what computes something of sizes only, which the reference does as well
MODULES = (
    "activations",
    "batch_norm",
    "dropout",
    "embedding",
    "layer_norm",
    "linear",
    "losses",
    "positions",
    "recurrent",
    "softmax",
)


@functools.cache
def entries() -> dict[str, Callable[..., None] | None]:
    """All that there is, by name."""
    modules = (import_module(f"fastgd.cuda.layers.{name}") for name in MODULES)
    return {name: launch for module in modules for name, launch in module.ENTRIES.items()}


class CudaKernels(Kernels):
    """Launches on the stream of the first array's owner. Nothing waits for them."""

    name = "cuda"
    null = None

    def __init__(self) -> None:
        self._reference = ReferenceKernels()

    def __getattr__(self, entry: str) -> Callable[..., int]:
        if entry.startswith("_"):
            raise AttributeError(entry)
        if entry not in entries():
            raise NotImplementedError(
                f"{entry} has no kernel for arrays on CUDA: compute this on the host, with x.host()"
            )
        launch = entries()[entry]
        if launch is None:
            of_sizes: Callable[..., int] = getattr(self._reference, entry)
            return of_sizes

        def run(dtype: Any, of: Any, *arguments: Any) -> int:
            own = run_of(arguments)
            with own.memory.device.current():
                launch(own, dtype, of, *arguments)
            return 0

        setattr(self, entry, run)
        return run

    def handle(self, array: Array) -> Any:
        return array

    def dtype(self, dtype: np.dtype[Any]) -> Any:
        return dtype

    def activation(self, name: str, a: float = 0.0, b: float = 0.0) -> Any:
        return self._reference.activation(name, a, b)

    def loss(self, name: str, a: float = 0.0, divisor: float = 1.0) -> Any:
        return self._reference.loss(name, a, divisor)

    def describe(self, what: str, *fields: Any) -> Any:
        return self._reference.describe(what, *fields)

    def error_text(self, code: int) -> str:
        return self._reference.error_text(code)

    def program(self, ops: Sequence[Op], ranges: Sequence[tuple[int, int]]) -> Program:
        return ReferenceProgram(self, ops)


def run_of(arguments: Sequence[Any]) -> Run:
    """Where an operation runs, by its first array on a device.

    ValueError for a stream that is none any more, RuntimeError for one that is captured in a graph.
    """
    array = next(argument for argument in arguments if isinstance(argument, DeviceArray))
    memory, stream = cast(CudaMemory, array.memory), owner_stream(array) or DEFAULT_STREAM
    if memory.device.stream_state(stream).capturing:
        # the memory of results would be taken by others while the graph still writes to it
        raise RuntimeError(
            "functions of layers cannot be captured in a CUDA graph, only the steps of optimizers: end the "
            "capture before"
        )
    return Run(memory, stream)
