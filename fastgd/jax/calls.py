"""The native call of a step: tables for the handler in fastgd/jax/_handler.c, as attributes of XLA's call.

The tables are the structs of csrc/fastgd.h. Where these have pointers, a table has numbers of operands, from
1: of the arguments of the call, then of its results.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fastgd._native import ffi, lib
from fastgd.arrays import Array, code_of
from fastgd.backends.base import Block, Codes, Options
from fastgd.backends.native import KERNELS, set_group
from fastgd.backends.native_table import set_options, set_shape
from fastgd.jax._handler import bind
from fastgd.jax.programs import Program
from fastgd.rules import Rule, Slot

TARGET = "fastgd_step"

#: of scratch memory's parts, in bytes
ALIGNMENT = 64


class Member(NamedTuple):
    """A parameter with a gradient, and what is kept beside it; None: not used."""

    param: Any
    grad: Any
    slots: tuple[Any, ...]
    residual: Any
    average: Any
    #: index into the groups
    group: int
    #: tells its random bits from others'
    stream: int

    @property
    def updated(self) -> list[Any]:
        """All that a step writes to: arrays, and of Codes both."""
        parts = [self.param, *self.slots, self.residual, self.average]
        arrays = [a for part in parts for a in (part if isinstance(part, Codes) else [part])]
        return [a for a in arrays if a is not None]


class Group(NamedTuple):
    """Parameters that share hyperparameters and scalars."""

    values: Mapping[str, Any]
    slots: tuple[Slot | None, ...]
    #: (step counted from 1, *rates, *carried) -> (*scalars, *carried on)
    program: Program


@functools.cache
def _registered() -> str:
    functions = ("fgd_update", "fgd_error_text")
    addresses = [int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in functions]
    handler, refusal = bind(*addresses)
    jax.ffi.register_ffi_target(TARGET, handler, platform="cpu")
    for platform in ("CUDA", "ROCM"):
        jax.ffi.register_ffi_target(TARGET, refusal, platform=platform)
    return TARGET


def make_step(
    rule: Rule,
    groups: Sequence[Group],
    members: Sequence[Member],
    options: Options,
    seed: int,
    count: Any,
    carried: Any,
    rates: Sequence[Any],
) -> tuple[Any, Any, list[list[Any]]]:
    """(count, carried, what each member has updated) after a step.

    count: int32 []. carried: None, or the float64 numbers of each group as uint32 [groups, numbers, 2].
    """
    begin = [count] if carried is None else [count, carried]
    grads = [m.grad for m in members]
    updated = [a for m in members for a in m.updated]
    arguments = [*begin, *rates, *grads, *updated]
    first_grad, first_updated = len(begin) + len(rates), len(begin) + len(rates) + len(grads)
    aliases = {i: i for i in range(len(begin))}
    aliases |= {first_updated + i: len(begin) + i for i in range(len(updated))}

    rows = ffi.new("fgd_tensor[]", len(members))
    operand = len(arguments) + len(begin)  # the first that is updated, among arguments and results
    for i, m in enumerate(members):
        _describe(rows[i], rule, groups[m.group], m, first_grad + i, operand)
        operand += len(m.updated)
    workspace = lib.fgd_workspace_size(rows, len(members))
    numbers = 0 if carried is None else len(rule.carried)
    registers = max(group.program.registers for group in groups)
    tables = {
        "tensors": _words(rows),
        "groups": _words(_groups(rule, groups, seed)),
        "options": _words(_options(options)),
        **_programs(rule, [group.program for group in groups]),
        "sizes": np.array([lib.FGD_ABI_VERSION, len(rates), numbers, registers, workspace], np.int64),
    }
    parts = (
        ffi.sizeof(rows),
        len(groups) * ffi.sizeof("fgd_group"),
        len(members) * 8,
        len(groups) * numbers * 8,
        registers * 8,
        (lib.FGD_MAX_SCALARS + numbers) * 8,
        workspace,
    )
    scratch = sum(-(-size // ALIGNMENT) * ALIGNMENT for size in parts)
    shape_of: Any = jax.ShapeDtypeStruct
    shapes = [shape_of(a.shape, a.dtype) for a in (*begin, *updated)]
    shapes.append(shape_of((scratch,), jnp.uint8))
    call = jax.ffi.ffi_call(_registered(), shapes, input_output_aliases=aliases, vmap_method="sequential")
    results = call(*arguments, **tables)[:-1]
    after = iter(results[len(begin) :])
    return (
        results[0],
        None if carried is None else results[1],
        [[next(after) for _ in m.updated] for m in members],
    )


def _describe(row: Any, rule: Rule, group: Group, m: Member, grad: int, operand: int) -> None:
    """A row of the table. grad, operand: the gradient's, and the first of the operands that are updated."""
    numbers = iter(range(operand + 1, operand + 1 + len(m.updated)))

    def pointer(kind: str = "void *") -> Any:
        return ffi.cast(kind, next(numbers))

    used = [slot for slot in group.slots if slot is not None]
    set_shape(row, rule, used, m.param.shape, np.dtype(m.param.dtype))
    row.size, row.group, row.stream = math.prod(m.param.shape), m.group, m.stream
    row.grad, row.grad_dtype = ffi.cast("void *", grad + 1), code_of(np.dtype(m.grad.dtype))
    row.param = pointer()
    for k, state in enumerate(m.slots):
        if isinstance(state, Codes):
            row.state_dtype[k] = lib.FGD_CODES
            row.state[k], row.scales[k] = pointer(), pointer("float *")
        elif state is not None:
            row.state_dtype[k], row.state[k] = code_of(np.dtype(state.dtype)), pointer()
    if m.residual is not None:
        row.residual = pointer()
    if m.average is not None:
        row.average = pointer()


def _groups(rule: Rule, groups: Sequence[Group], seed: int) -> Any:
    rows = ffi.new("fgd_group[]", len(groups))
    for row, group in zip(rows, groups, strict=True):
        set_group(row, Block(rule, group.values, 0))
        row.rule, row.seed = KERNELS[rule.name], seed
        decay = group.values["ema_decay"]
        row.average_weight = 0.0 if decay is None else 1.0 - decay
    return rows


def _options(options: Options) -> Any:
    row = ffi.new("fgd_options[1]")
    set_options(row[0], options)
    return row


def _words(structs: Any) -> Array:
    return np.frombuffer(bytes(ffi.buffer(structs)), np.int64)


def _programs(rule: Rule, programs: Sequence[Program]) -> dict[str, Array]:
    """The programs one behind the other, and for each where it begins."""
    constants: list[float] = [0.0]
    code: list[tuple[int, int, int, int]] = []
    rows = []
    for program in programs:
        rows += [len(constants), len(code), len(program.constants), len(rule.scalars)]
        constants += program.constants
        code += program.code
    return {
        "constants": np.array(constants),
        "code": np.array(code, np.int32).reshape(-1),
        "programs": np.array(rows, np.int64),
    }
