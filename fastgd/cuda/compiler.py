"""From a kernel's text to what can be launched: compiled by Numba-CUDA, linked for one architecture."""

from __future__ import annotations

import re
from typing import Any

from fastgd.cuda.device import primitive
from fastgd.cuda.writer import Text
from fastgd.tracing import STORED, Operation, numpy_operation

#: what generated code is called in tracebacks
FILE = "<fastgd kernel {}>"

#: of a multiprocessor, which its threads share
REGISTERS = 65536


def scope_of(text: Text, *, simulated: bool) -> dict[str, Any]:
    """What the names in a kernel's text stand for."""
    scope: dict[str, Any] = {name: primitive(name) for name in text.primitives}
    if simulated:
        from fastgd.tracing import number

        scope |= {name: _simulated(operation) for name, operation in text.operations.items()}
        return scope | {name: number(constant) for name, constant in text.constants.items()}
    from numba.cuda import extending, types

    from fastgd.llvm import namespace

    return scope | namespace(extending, types, text.operations.values(), text.constants, rounded=True)


def _simulated(operation: Operation) -> Any:
    """The operation on NumPy's scalars, 16-bit floats being their bits as they are in Numba."""
    if operation.name == "view" and {operation.kind.name, operation.dtype.name} & set(STORED):
        return lambda bits: bits
    return numpy_operation(operation)


def function_of(text: Text, *, simulated: bool) -> Any:
    """The kernel as a Python function."""
    scope = scope_of(text, simulated=simulated)
    exec(compile(text.source, FILE.format(text.name), "exec"), scope)
    return scope[text.name]


#: the architecture that PTX is for: the oldest that CUDA 13 has. It is the same for all that follow
OLDEST_GPU = (7, 5)


def ptx_of(text: Text) -> str:
    """The kernel in PTX, which keeps its name in it."""
    from numba import cuda

    function = function_of(text, simulated=False)
    arguments = text.source.split("(", 1)[1].split(")", 1)[0].count(",") + 1
    signature = f"void({', '.join(['int64'] * arguments)})"
    ptx, _ = cuda.compile(
        function,
        signature,
        device=False,
        abi="numba",
        cc=OLDEST_GPU,
        output="ptx",
        launch_bounds=(text.threads, REGISTERS // (text.registers * text.threads)),
    )
    return _named(str(ptx), text.name)


def _named(ptx: str, name: str) -> str:
    """The kernel by its own name, in place of one that Numba counts up in each process."""
    (made,) = re.findall(r"\.entry\s+(\w+)\(", ptx)
    return ptx.replace(made, name)


def cubin_of(ptx: str, capability: tuple[int, int]) -> bytes:
    """Machine code for one architecture; needs no driver."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    options = LinkerOptions(arch=f"sm_{capability[0]}{capability[1]}", fma=False)
    linked = Linker(ObjectCode.from_ptx(ptx.encode()), options=options).link("cubin")
    return bytes(linked.code)
