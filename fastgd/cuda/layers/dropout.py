"""Dropout on CUDA, with the random bits of the reference."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from fastgd.cuda.layers.elements import Elements, Ready, argument
from fastgd.cuda.layers.launching import Run
from fastgd.nn.reference_dropout import Dropout, kept_or_0, key_of, limits
from fastgd.storage import hashed, key_above
from fastgd.tracing import Trace

F64, I64, U64 = (np.dtype(kind) for kind in (np.float64, np.int64, np.uint64))


@functools.cache
def kernel_of(real: Any) -> Ready:
    trace = Trace()
    x = argument(trace, "x", real)
    key, least = (argument(trace, name, U64) for name in ("key", "least"))
    # a block's elements do not go beyond a multiple of 2^32
    above: Any = key_above(key, (argument(trace, "first", I64) >> 32).astype(np.uint64))
    number = argument(trace, "number", I64)
    bits: Any = hashed(number.astype(np.uint32), above.astype(np.uint32), (above >> 32).astype(np.uint32))
    scale = argument(trace, "scale", real)
    y: Any = kept_or_0(x, bits.astype(np.uint64), least, scale)
    numbers = {"key": U64, "least": U64, "scale": real}
    return Elements(trace, {"y": y}, {"x": real}, numbers=numbers, number=True).ready("dropout")


def _dropped(run: Run, real: Any, of: Dropout, n: int, x: Any, stream: Any, counter: Any, y: Any) -> None:
    key = np.uint64(key_of(of, int(stream[0]), int(counter[0])))
    least, scale = limits(of)
    kernel_of(real)(run, n, x=x, y=y, key=key, least=np.uint64(least), scale=real.type(scale))


def forward(run: Run, real: Any, of: Dropout, n: int, x: Any, stream: Any, counter: Any, y: Any) -> None:
    """stream and counter are on the host."""
    counter += np.uint64(1)
    _dropped(run, real, of, n, x, stream, counter, y)


ENTRIES = {"dropout_forward": forward, "dropout_backward": _dropped}
