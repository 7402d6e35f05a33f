"""What kernels do beside arithmetic: threads, loads and stores by address, exchange within a warp.

This is the one place that knows Numba-CUDA's stubs. Each primitive has a body for the compiler, an LLVM
intrinsic, and one for the simulator, where addresses are those of host memory. They are called by name in
the text of kernels:

    load_f32x4(address) -> 4 numbers, from an address that is a multiple of 16
    store_u16x8(address, 8 numbers)
    thread(), block(): the index of this thread in its block, of this block in the grid, as int64
    shuffle_f64(value, lane): the value of that lane of the warp; all 32 lanes must take part
    barrier(): all threads of the block get here before any goes on
"""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from fastgd.arrays import dtype_named
from fastgd.cuda.simulation import SIMULATED
from fastgd.tracing import CODES, code_of

_ACCESS = re.compile(r"(load|store)_([a-z]+\d+?)(?:x(\d+))?")
_SHUFFLE = re.compile(r"shuffle_([a-z]\d+)")

#: bytes of the widest load and store there is
WIDEST = 16

#: lanes of a warp
WARP = 32

#: by the codes in names
_DTYPES = {code: functools.partial(dtype_named, name) for name, code in CODES.items()}

Primitive = Callable[..., Any]


def parsed(name: str) -> tuple[str, np.dtype[Any], int] | None:
    """("load" or "store", dtype, how many) of an access by name; None for other names."""
    found = _ACCESS.fullmatch(name)
    if not found or found[2] not in _DTYPES:
        return None
    return found[1], _DTYPES[found[2]](), int(found[3] or 1)


def is_primitive(name: str) -> bool:
    return name in _PLAIN or bool(parsed(name) or _SHUFFLE.fullmatch(name))


@functools.cache
def primitive(name: str) -> Primitive:
    """What a kernel's text calls by this name."""
    if name in _PLAIN:
        return _PLAIN[name]()
    access = parsed(name)
    if access:
        return _access(name, *access)
    found = _SHUFFLE.fullmatch(name)
    if found:
        return _shuffle(_DTYPES[found[1]]())
    raise KeyError(name)


if SIMULATED:
    from fastgd.cuda import simulation

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

    def _access(name: str, kind: str, dtype: np.dtype[Any], count: int) -> Primitive:
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

    def _shuffle(dtype: np.dtype[Any]) -> Primitive:
        return simulation.shuffle

    _PLAIN: dict[str, Callable[[], Primitive]] = {
        "thread": lambda: simulation.thread,
        "block": lambda: simulation.block,
        "barrier": lambda: simulation.barrier,
        "i64": lambda: int,
    }
else:
    from llvmlite import ir
    from numba.cuda import types
    from numba.cuda.extending import intrinsic

    from fastgd.llvm import llvm_type, numba_type

    #: LLVM's number of the address space that global memory is
    _GLOBAL = 1

    def _access(name: str, kind: str, dtype: np.dtype[Any], count: int) -> Primitive:
        item, element = numba_type(types, dtype), llvm_type(dtype)
        number = ir.IntType(32)
        # PTX has vectors of 4 at most, so smaller numbers are moved in words, the first of each the lowest
        each = 4 // dtype.itemsize if dtype.itemsize < 4 and count * dtype.itemsize > 4 else 1
        moved = number if each > 1 else element
        vector = moved if count == each else ir.VectorType(moved, count // each)

        def pointer(builder: Any, address: Any) -> Any:
            return builder.inttoptr(address, vector.as_pointer(_GLOBAL))

        def load(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
            value = builder.load(pointer(builder, operands[0]))
            value.align = dtype.itemsize * count
            if count == 1:
                return value
            result = ir.Constant(ir.ArrayType(element, count), ir.Undefined)
            for i in range(count):
                one = builder.extract_element(value, ir.Constant(number, i // each))
                if each > 1:
                    shift = ir.Constant(number, i % each * 8 * dtype.itemsize)
                    one = builder.trunc(builder.lshr(one, shift), element)
                result = builder.insert_value(result, one, i)
            return result

        def store(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
            values = operands[1:]
            if each > 1:
                values = [_word(builder, values[i : i + each]) for i in range(0, count, each)]
            value = values[0]
            if count > 1:
                value = ir.Constant(vector, ir.Undefined)
                for i, one in enumerate(values):
                    value = builder.insert_element(value, one, ir.Constant(number, i))
            builder.store(value, pointer(builder, operands[0])).align = dtype.itemsize * count
            return context.get_dummy_value()

        def _word(builder: Any, parts: Any) -> Any:
            word = ir.Constant(number, 0)
            for i, part in enumerate(parts):
                shift = ir.Constant(number, i * 8 * dtype.itemsize)
                word = builder.or_(word, builder.shl(builder.zext(part, number), shift))
            return word

        if kind == "load":
            result = item if count == 1 else types.UniTuple(item, count)
            return _intrinsic(name, result(types.int64), load)
        return _intrinsic(name, types.void(types.int64, *[item] * count), store)

    def _intrinsic(name: str, signature: Any, codegen: Any) -> Primitive:
        parameters = ", ".join(f"a{i}" for i in range(len(signature.args)))
        scope: dict[str, Any] = {"signature": signature, "codegen": codegen}
        exec(f"def {name}(context, {parameters}):\n    return signature, codegen\n", scope)
        made: Primitive = intrinsic(scope[name])
        return made

    def _register(name: str) -> Primitive:
        """A special register of PTX, as int64."""

        def read(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
            full = f"llvm.nvvm.read.ptx.sreg.{name}"
            function = builder.module.globals.get(full)
            if function is None:
                function = ir.Function(builder.module, ir.FunctionType(ir.IntType(32), ()), full)
            return builder.zext(builder.call(function, ()), ir.IntType(64))

        return _intrinsic(name.replace(".", "_"), types.int64(), read)

    def _barrier() -> Primitive:
        def wait(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
            full = "llvm.nvvm.barrier0"
            function = builder.module.globals.get(full)
            if function is None:
                function = ir.Function(builder.module, ir.FunctionType(ir.VoidType(), ()), full)
            builder.call(function, ())
            return context.get_dummy_value()

        return _intrinsic("barrier", types.void(), wait)

    def _shuffle(dtype: np.dtype[Any]) -> Primitive:
        """shfl.sync.idx on one or two words of 32 bits."""
        item, element = numba_type(types, dtype), llvm_type(dtype)
        word, bits = ir.IntType(32), ir.IntType(8 * dtype.itemsize)

        def exchange(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
            full = "llvm.nvvm.shfl.sync.idx.i32"
            function = builder.module.globals.get(full)
            if function is None:
                function = ir.Function(builder.module, ir.FunctionType(word, [word] * 4), full)
            whole = builder.bitcast(operands[0], bits) if element != bits else operands[0]
            lane = builder.trunc(operands[1], word)
            result = ir.Constant(bits, 0)
            for shift in range(0, 8 * dtype.itemsize, 32):
                part = (
                    builder.trunc(builder.lshr(whole, ir.Constant(bits, shift)), word)
                    if bits != word
                    else whole
                )
                every, clamp = ir.Constant(word, 0xFFFFFFFF), ir.Constant(word, 31)
                part = builder.call(function, [every, part, lane, clamp])
                wide = builder.zext(part, bits) if bits != word else part
                result = builder.or_(result, builder.shl(wide, ir.Constant(bits, shift)))
            return builder.bitcast(result, element) if element != bits else result

        return _intrinsic(f"shuffle_{code_of(dtype)}", item(item, types.int64), exchange)

    _PLAIN = {
        "thread": lambda: _register("tid.x"),
        "block": lambda: _register("ctaid.x"),
        "barrier": _barrier,
        "i64": lambda: _to_int64(),
    }

    def _to_int64() -> Primitive:
        def widen(context: Any, number: Any) -> Any:
            def codegen(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
                if signature.args[0].bitwidth == 64:
                    return operands[0]
                wider = builder.sext if signature.args[0].signed else builder.zext
                return wider(operands[0], ir.IntType(64))

            return types.int64(number), codegen

        return intrinsic(widen)  # type: ignore[no-any-return]
