"""What Numba's compiler emits for an operation of a trace: one instruction, in every case the same bits.

Given as intrinsics, an operation is no call that would have to be compiled and inlined, and nothing of
Numba's own rules for numbers (which would make a float64 of float32 * 0.1) comes into it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from fastgd.tracing import Operation, TraceError


def _compared(sign: str) -> Callable[..., Any]:
    """NaN is unequal to everything, and no other comparison holds for it."""
    if sign == "!=":
        return lambda builder, a, b: builder.fcmp_unordered(sign, a, b)
    return lambda builder, a, b: builder.fcmp_ordered(sign, a, b)


def _called(name: str) -> Callable[..., Any]:
    def emit(builder: Any, x: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic(name, [x.type]), [x])

    return emit


_FLOATS: dict[str, Callable[..., Any]] = {
    "add": lambda builder, a, b: builder.fadd(a, b),
    "sub": lambda builder, a, b: builder.fsub(a, b),
    "mul": lambda builder, a, b: builder.fmul(a, b),
    "div": lambda builder, a, b: builder.fdiv(a, b),
    "neg": lambda builder, x: builder.fneg(x),
    "abs": _called("llvm.fabs"),
    "sqrt": _called("llvm.sqrt"),
    "lt": _compared("<"),
    "le": _compared("<="),
    "gt": _compared(">"),
    "ge": _compared(">="),
    "eq": _compared("=="),
    "ne": _compared("!="),
    "select": lambda builder, condition, a, b: builder.select(condition, a, b),
}

#: name of an operation's function -> (LLVM's builder, operands) -> result
EMITTED: dict[str, Callable[..., Any]] = {
    **{f"{name}_{real}": emit for real in ("f32", "f64") for name, emit in _FLOATS.items()},
    "and_b1": lambda builder, a, b: builder.and_(a, b),
    "or_b1": lambda builder, a, b: builder.or_(a, b),
    "xor_b1": lambda builder, a, b: builder.xor(a, b),
    "not_b1": lambda builder, x: builder.not_(x),
    "eq_b1": lambda builder, a, b: builder.icmp_unsigned("==", a, b),
    "ne_b1": lambda builder, a, b: builder.icmp_unsigned("!=", a, b),
    "select_b1": _FLOATS["select"],
}

#: conversions, which take LLVM's type of the result as well
_CONVERTED: dict[str, Callable[..., Any]] = {
    "convert_f32_f64": lambda builder, x, type_: builder.fpext(x, type_),
    "convert_f64_f32": lambda builder, x, type_: builder.fptrunc(x, type_),
    "convert_b1_f32": lambda builder, x, type_: builder.uitofp(x, type_),
    "convert_b1_f64": lambda builder, x, type_: builder.uitofp(x, type_),
}


def is_known(operation: Operation) -> bool:
    """Whether there is an intrinsic for it."""
    beside = operation.name in ("argument", "constant")
    return beside or operation.function in EMITTED or operation.function in _CONVERTED


def numba_type(dtype: Any) -> Any:
    from numba import types

    return getattr(types, np.dtype(dtype).name.replace("bool", "boolean"))


@functools.cache
def operation_intrinsic(operation: Operation) -> Any:
    """What computes it in compiled code; TraceError when nothing does. Its operands do not matter."""
    from numba.extending import intrinsic

    if not is_known(operation):
        raise TraceError(f"there is no compiled {operation.function}")
    emit, converts = EMITTED.get(operation.function), operation.name == "convert"

    def typed(*operands: Any) -> Any:
        signature = numba_type(operation.dtype)(*operands)

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            if converts:
                type_ = context.get_value_type(signature.return_type)
                return _CONVERTED[operation.function](builder, *arguments, type_)
            assert emit is not None
            return emit(builder, *arguments)

        return signature, code

    # Numba looks at the number of arguments by name
    arities = {
        1: lambda context, a: typed(a),
        2: lambda context, a, b: typed(a, b),
        3: lambda context, a, b, c: typed(a, b, c),
    }
    return intrinsic(arities[len(operation.operands)])


# ---- Memory -----------------------------------------------------------------------------------------


def _disjoint(module: Any, access: Any, which: int, count: int) -> None:
    """Tells that operand `which` of `count` overlaps no other, so that loops need not find out."""
    domain = module.add_metadata(["fastgd"])
    scopes = [module.add_metadata([f"operand {k}", domain]) for k in range(count)]
    others = [scope for k, scope in enumerate(scopes) if k != which]
    access.set_metadata("alias.scope", module.add_metadata([scopes[which]]))
    access.set_metadata("noalias", module.add_metadata(others))


def _place(context: Any, builder: Any, real: Any, pointer: Any, index: Any) -> Any:
    return builder.gep(builder.bitcast(pointer, context.get_data_type(real).as_pointer()), [index])


@functools.cache
def load_intrinsic(dtype: Any, which: int, count: int) -> Any:
    """(pointer, i) -> element i of operand `which` of `count`, which are disjoint."""
    from numba.extending import intrinsic

    real = numba_type(dtype)

    def load(context: Any, pointer: Any, index: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_place(context, builder, real, *arguments), align=np.dtype(dtype).itemsize)
            _disjoint(builder.module, value, which, count)
            return value

        return real(pointer, index), code

    return intrinsic(load)


@functools.cache
def store_intrinsic(dtype: Any, which: int, count: int) -> Any:
    """(pointer, i, value): element i of operand `which` of `count`, which are disjoint, is the value."""
    from numba import types
    from numba.extending import intrinsic

    real = numba_type(dtype)

    def store(context: Any, pointer: Any, index: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            at = _place(context, builder, real, *arguments[:2])
            _disjoint(
                builder.module,
                builder.store(arguments[2], at, align=np.dtype(dtype).itemsize),
                which,
                count,
            )
            return context.get_dummy_value()

        return types.void(pointer, index, value), code

    return intrinsic(store)
