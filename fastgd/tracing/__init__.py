"""A function of numbers, called with symbols in place of arrays, becomes a list of operations on one element.

So the NumPy reference is the source of kernels too: bodies of rules, formats of storage and elementary
functions are traced, and what they did is written down as Python in which every line is one operation:

    v4 = mul_f32(v2, v3)

A symbol has the dtype that an array would have, by NumPy's promotion, and takes part in NumPy's functions by
its protocols (NEP 13 and NEP 18). Where the function branches on a symbol, it is called once for each way,
and a `select` joins what comes of them: no operation has an effect, so all of them may be computed.
"""

from fastgd.tracing.operations import (
    BOOL,
    CODES,
    STORED,
    DType,
    Operation,
    TraceError,
    code_of,
    constant_name,
    number,
    numpy_operation,
)
from fastgd.tracing.symbols import Symbol
from fastgd.tracing.trace import Source, Trace

__all__ = [
    "BOOL",
    "CODES",
    "STORED",
    "DType",
    "Operation",
    "Source",
    "Symbol",
    "Trace",
    "TraceError",
    "code_of",
    "constant_name",
    "number",
    "numpy_operation",
]
