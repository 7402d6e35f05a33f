"""The operations of a trace as LLVM instructions, one each, for Numba on CPUs and on CUDA.

`namespace` makes what a traced source calls: intrinsics whose operands and results have
exactly the dtypes in their names, so that Numba's own promotion has no part in it. Nothing is contracted: on
CUDA, where the compiler fuses a multiplication and an addition that it sees, both are the PTX instructions
with a rounding mode, which it leaves alone.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from llvmlite import ir

from fastgd.tracing import STORED, Operation, number

#: what 16-bit floats are to Numba: bits that are loaded, seen as such and stored
_BITS = dict.fromkeys(STORED, "uint16")

_FLOAT_COMPARISONS = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}

Builder = Callable[[Any, Operation, list[Any]], Any]


def numba_type(types: Any, dtype: np.dtype[Any]) -> Any:
    """The type of a dtype in `numba.types`, or in numba-cuda's."""
    name = _BITS.get(dtype.name, dtype.name)
    return types.boolean if name == "bool" else getattr(types, name)


def llvm_type(dtype: np.dtype[Any]) -> Any:
    name = _BITS.get(dtype.name, dtype.name)
    known = {"float32": ir.FloatType(), "float64": ir.DoubleType(), "bool": ir.IntType(1)}
    return known.get(name) or ir.IntType(8 * np.dtype(name).itemsize)


# ---- Instructions -----------------------------------------------------------------------------------


def _called(name: str) -> Builder:
    """A function of LLVM's with operands and result of one type."""

    def build(builder: Any, operation: Operation, operands: list[Any]) -> Any:
        kind = llvm_type(operation.kind)
        suffix = {"float32": "f32", "float64": "f64"}[operation.kind.name]
        full = name.format(full=suffix, short=suffix[0] if suffix == "f32" else "d")
        function = builder.module.globals.get(full)
        if function is None:
            function = ir.Function(builder.module, ir.FunctionType(kind, [kind] * len(operands)), full)
        return builder.call(function, operands)

    return build


def _by_kind(floats: Any, unsigned: Any, signed: Any = None) -> Builder:
    """The instruction for floating-point, unsigned or signed operands: a method's name, or a builder."""

    def build(builder: Any, operation: Operation, operands: list[Any]) -> Any:
        kind = {"f": floats, "i": signed or unsigned}.get(operation.kind.kind, unsigned)
        return (
            getattr(builder, kind)(*operands) if isinstance(kind, str) else kind(builder, operation, operands)
        )

    return build


def _compared(sign: str) -> Builder:
    def build(builder: Any, operation: Operation, operands: list[Any]) -> Any:
        if operation.kind.kind == "f":
            # NaN is unequal to all, and stands in no order
            compare = builder.fcmp_unordered if sign == "!=" else builder.fcmp_ordered
            return compare(sign, *operands)
        compare = builder.icmp_signed if operation.kind.kind == "i" else builder.icmp_unsigned
        return compare(sign, *operands)

    return build


def _converted(builder: Any, operation: Operation, operands: list[Any]) -> Any:
    value, old, new = operands[0], operation.kind, operation.dtype
    kind = llvm_type(new)
    if new.kind == "b":
        raise AssertionError("a comparison with 0 makes a bool")
    if old.kind == "f" and new.kind == "f":
        return builder.fpext(value, kind) if new.itemsize > old.itemsize else builder.fptrunc(value, kind)
    if new.kind == "f":
        return builder.sitofp(value, kind) if old.kind == "i" else builder.uitofp(value, kind)
    if old.kind == "f":
        return builder.fptosi(value, kind) if new.kind == "i" else builder.fptoui(value, kind)
    if new.itemsize < old.itemsize:
        return builder.trunc(value, kind)
    if new.itemsize == old.itemsize and old.kind != "b":
        return value
    return builder.sext(value, kind) if old.kind == "i" else builder.zext(value, kind)


def _viewed(builder: Any, operation: Operation, operands: list[Any]) -> Any:
    old, new = llvm_type(operation.kind), llvm_type(operation.dtype)
    return operands[0] if old == new else builder.bitcast(operands[0], new)


def _subtracted(builder: Any, operation: Operation, operands: list[Any]) -> Any:
    """a - b as a + -b, which is the same to the bit."""
    return _ROUNDED["add"](builder, operation, [operands[0], _negated(builder, operation, operands[1:])])


def _negated(builder: Any, operation: Operation, operands: list[Any]) -> Any:
    """-0 - x, which the LLVM that NVVM reads takes for a change of sign; it has no fneg."""
    return builder.fsub(ir.Constant(llvm_type(operation.kind), -0.0), operands[0])


def _magnitude(builder: Any, operation: Operation, operands: list[Any]) -> Any:
    """Without the bit of the sign; NVVM has no llvm.fabs."""
    bits = ir.IntType(8 * operation.kind.itemsize)
    rest = builder.and_(builder.bitcast(operands[0], bits), ir.Constant(bits, (1 << bits.width - 1) - 1))
    return builder.bitcast(rest, llvm_type(operation.kind))


#: on CUDA in place of the plain instructions on floating-point numbers, which it would contract or lacks
_ROUNDED: dict[str, Builder] = {
    "add": _called("llvm.nvvm.add.rn.{short}"),
    "sub": _subtracted,
    "mul": _called("llvm.nvvm.mul.rn.{short}"),
    "sqrt": _called("llvm.nvvm.sqrt.rn.{short}"),
    "abs": _magnitude,
}

_INSTRUCTIONS: dict[str, Builder] = {
    "add": _by_kind("fadd", "add"),
    "sub": _by_kind("fsub", "sub"),
    "mul": _by_kind("fmul", "mul"),
    "div": _by_kind("fdiv", "udiv", "sdiv"),
    "neg": _by_kind(_negated, "neg"),
    "abs": _called("llvm.fabs.{full}"),
    "sqrt": _called("llvm.sqrt.{full}"),
    "and": _by_kind("and_", "and_"),
    "or": _by_kind("or_", "or_"),
    "xor": _by_kind("xor", "xor"),
    "not": _by_kind("not_", "not_"),
    "shl": _by_kind("shl", "shl"),
    "shr": _by_kind("lshr", "lshr", "ashr"),
    **{name: _compared(sign) for name, sign in _FLOAT_COMPARISONS.items()},
    "select": lambda builder, operation, operands: builder.select(*operands),
    "convert": _converted,
    "view": _viewed,
}


def builder_of(operation: Operation, *, rounded: bool) -> Builder:
    """What builds the instruction. rounded: with the rounding mode in it, as CUDA needs it."""
    if rounded and operation.kind.kind == "f" and operation.name in _ROUNDED:
        return _ROUNDED[operation.name]
    return _INSTRUCTIONS[operation.name]


# ---- What a source calls ----------------------------------------------------------------------------


def intrinsic_of(extending: Any, types: Any, operation: Operation, *, rounded: bool) -> Any:
    """The operation as an intrinsic of Numba's.

    extending, types: `numba.extending` and `numba.types`, or those of numba-cuda.
    """
    build = builder_of(operation, rounded=rounded)
    kinds = [operation.kind] * len(_operands_of(operation.name))
    if operation.name == "select":
        kinds[0] = np.dtype(np.bool_)
    signature = numba_type(types, operation.dtype)(*(numba_type(types, kind) for kind in kinds))

    def codegen(context: Any, builder: Any, of: Any, operands: Any) -> Any:
        return build(builder, operation, list(operands))

    parameters = ", ".join(_operands_of(operation.name))
    scope: dict[str, Any] = {"signature": signature, "codegen": codegen}
    exec(f"def {operation.function}(context, {parameters}):\n    return signature, codegen\n", scope)
    return extending.intrinsic(scope[operation.function])


@functools.cache
def _operands_of(name: str) -> tuple[str, ...]:
    one, three = ("neg", "abs", "sqrt", "not", "convert", "view"), ("select",)
    return ("a", "b", "c") if name in three else ("a",) if name in one else ("a", "b")


def namespace(
    extending: Any,
    types: Any,
    functions: Iterable[Operation],
    constants: Mapping[str, Operation],
    *,
    rounded: bool,
) -> dict[str, Any]:
    """All that the lines of a source refer to, but for its arguments."""
    made = {o.function: intrinsic_of(extending, types, o, rounded=rounded) for o in functions}
    return {**made, **{name: number(constant) for name, constant in constants.items()}}


__all__ = ["builder_of", "intrinsic_of", "llvm_type", "namespace", "numba_type"]
