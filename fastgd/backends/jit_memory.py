"""What Numba's compiler emits for an element read or written: an access that overlaps no other operand's."""

from __future__ import annotations

import functools
from typing import Any

from fastgd.tracing import DType


def _disjoint(module: Any, access: Any, which: int, count: int) -> None:
    """Tells that operand `which` of `count` overlaps no other, so that loops need not find out."""
    domain = module.add_metadata(["fastgd"])
    scopes = [module.add_metadata([f"operand {k}", domain]) for k in range(count)]
    others = [scope for k, scope in enumerate(scopes) if k != which]
    access.set_metadata("alias.scope", module.add_metadata([scopes[which]]))
    access.set_metadata("noalias", module.add_metadata(others))


def _place(builder: Any, dtype: DType, pointer: Any, index: Any) -> Any:
    from fastgd.llvm import llvm_type

    return builder.gep(builder.bitcast(pointer, llvm_type(dtype).as_pointer()), [index])


@functools.cache
def load_intrinsic(dtype: DType, which: int, count: int) -> Any:
    """(pointer, i) -> element i of operand `which` of `count`, which are disjoint."""
    from numba import types
    from numba.extending import intrinsic

    from fastgd.llvm import numba_type

    real = numba_type(types, dtype)

    def load(context: Any, pointer: Any, index: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            value = builder.load(_place(builder, dtype, *arguments), align=dtype.itemsize)
            _disjoint(builder.module, value, which, count)
            return value

        return real(pointer, index), code

    return intrinsic(load)


@functools.cache
def store_intrinsic(dtype: DType, which: int, count: int) -> Any:
    """(pointer, i, value): element i of operand `which` of `count`, which are disjoint, is the value."""
    from numba import types
    from numba.extending import intrinsic

    def store(context: Any, pointer: Any, index: Any, value: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            at = _place(builder, dtype, *arguments[:2])
            stored = builder.store(arguments[2], at, align=dtype.itemsize)
            _disjoint(builder.module, stored, which, count)
            return context.get_dummy_value()

        return types.void(pointer, index, value), code

    return intrinsic(store)
