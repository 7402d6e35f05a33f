"""Bodies of the primitives for the compiler: LLVM intrinsics of Numba-CUDA."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from fastgd.cuda.device import Primitive
from fastgd.llvm import llvm_type, numba_type
from fastgd.tracing import code_of

#: LLVM's number of the address space that global memory is
_GLOBAL = 1


def access(name: str, kind: str, dtype: np.dtype[Any], count: int) -> Primitive:
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


def shuffle(dtype: np.dtype[Any]) -> Primitive:
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
                builder.trunc(builder.lshr(whole, ir.Constant(bits, shift)), word) if bits != word else whole
            )
            every, clamp = ir.Constant(word, 0xFFFFFFFF), ir.Constant(word, 31)
            part = builder.call(function, [every, part, lane, clamp])
            wide = builder.zext(part, bits) if bits != word else part
            result = builder.or_(result, builder.shl(wide, ir.Constant(bits, shift)))
        return builder.bitcast(result, element) if element != bits else result

    return _intrinsic(f"shuffle_{code_of(dtype)}", item(item, types.int64), exchange)


def _to_int64() -> Primitive:
    def widen(context: Any, number: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, operands: Any) -> Any:
            if signature.args[0].bitwidth == 64:
                return operands[0]
            wider = builder.sext if signature.args[0].signed else builder.zext
            return wider(operands[0], ir.IntType(64))

        return types.int64(number), codegen

    made: Primitive = intrinsic(widen)
    return made


PLAIN: dict[str, Callable[[], Primitive]] = {
    "thread": lambda: _register("tid.x"),
    "block": lambda: _register("ctaid.x"),
    "barrier": _barrier,
    "i64": _to_int64,
}
