"""Bodies of the primitives for Numba's simulator: Python, and host memory by its addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from fastgd.cuda import simulation
from fastgd.cuda.device import Primitive
from fastgd.tracing import code_of

_C_TYPES: dict[str, Any] = {
    "u8": ctypes.c_uint8,
    "u16": ctypes.c_uint16,
    "i16": ctypes.c_int16,
    "u32": ctypes.c_uint32,
    "i32": ctypes.c_int32,
    "u64": ctypes.c_uint64,
    "i64": ctypes.c_int64,
    "f32": ctypes.c_float,
    "f64": ctypes.c_double,
    "bf16": ctypes.c_uint16,
    "f16": ctypes.c_uint16,
}


def access(name: str, kind: str, dtype: np.dtype[Any], count: int) -> Primitive:
    c_type: Any = _C_TYPES[code_of(dtype)] * count
    number = np.dtype(c_type._type_).type

    def at(address: Any) -> Any:
        if int(address) % ctypes.sizeof(c_type):
            raise AssertionError(f"{name} at an address that is no multiple of its size")
        return c_type.from_address(int(address))

    def load(address: Any) -> Any:
        values = at(address)
        return tuple([number(v) for v in values]) if count > 1 else number(values[0])

    def store(address: Any, *values: Any) -> None:
        memory = at(address)
        for i, value in enumerate(values):
            memory[i] = value.item() if hasattr(value, "item") else value

    return load if kind == "load" else store


def shuffle(dtype: np.dtype[Any]) -> Primitive:
    return simulation.shuffle


PLAIN: dict[str, Callable[[], Primitive]] = {
    "thread": lambda: simulation.thread,
    "block": lambda: simulation.block,
    "barrier": lambda: simulation.barrier,
    "i64": lambda: int,
}
