"""The operations that traces are made of: their names, their dtypes, and what they are in NumPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

DType = np.dtype[Any]


class TraceError(TypeError):
    """A function does with a symbol what can be done with a number or an array only."""


#: name of a dtype -> how it is called in the names of operations
CODES = {
    "bool": "b1",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "float32": "f32",
    "float64": "f64",
    "bfloat16": "bf16",
    "float16": "f16",
}

#: what is stored only: it can be seen as bits, and that is all
STORED = ("bfloat16", "float16")


def code_of(dtype: DType) -> str:
    """How a dtype is called in the names of operations; TraceError for one that has none."""
    if dtype.name not in CODES:
        raise TraceError(f"there are no operations of {dtype}")
    return CODES[dtype.name]


BOOL = np.dtype(np.bool_)


class Operation(NamedTuple):
    """One line: what it does, to which earlier lines, and what it gives."""

    #: of OPERATIONS, or "argument" or "constant"
    name: str
    #: of its operands but for a select's condition; of the result for those without
    kind: DType
    dtype: DType
    operands: tuple[int, ...]
    #: the name of an argument, or the bytes of a constant
    what: Any = None

    @property
    def function(self) -> str:
        """The name of what computes it: "add_f32", and with both dtypes where they differ freely."""
        name = f"{self.name}_{code_of(self.kind)}"
        return f"{name}_{code_of(self.dtype)}" if self.name in ("convert", "view") else name


def _numpy_select(condition: Any, a: Any, b: Any) -> Any:
    return np.where(condition, a, b)[()]


#: what there is, in terms of NumPy: (operands) -> result, both of the dtypes in the name. `convert` and
#: `view` take the dtype of the result as well
OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.true_divide,
    "neg": np.negative,
    "abs": np.absolute,
    "sqrt": np.sqrt,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "not": np.invert,
    "shl": np.left_shift,
    "shr": np.right_shift,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "select": _numpy_select,
    "convert": lambda value, dtype: np.asarray(value).astype(dtype)[()],
    "view": lambda value, dtype: value.view(dtype),
}

COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne")


def number(constant: Operation) -> Any:
    """The value of a constant, as NumPy's scalar."""
    return np.frombuffer(constant.what, constant.dtype)[0]


def numpy_operation(operation: Operation) -> Callable[..., Any]:
    """The operation for NumPy's arrays and scalars."""
    function = OPERATIONS[operation.name]
    if operation.name in ("convert", "view"):
        dtype = operation.dtype
        return lambda value: function(value, dtype)
    return function


def check_computed(dtype: DType) -> None:
    """TraceError for a dtype that nothing is computed in."""
    if dtype.name in STORED:
        raise TraceError(f"nothing is computed in {dtype}: it can only be seen as bits")
    code_of(dtype)


def constant_name(operation: Operation) -> str:
    return f"c_{code_of(operation.dtype)}_{operation.what[::-1].hex()}"
