"""The native call of a step: tables for the handler in fastgd/jax/_handler.c, as attributes of XLA's call.

The tables are the structs of csrc/fastgd.h. Where these have pointers, a table has numbers of places, from 1:
of operands, which are the arguments of the call, then its results, and of bytes from their begin.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
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
from fastgd.jax.trees import Part
from fastgd.rules import Rule, Slot
from fastgd.rules.programs import Program

TARGET = "fastgd_step"

#: of scratch memory's parts, in bytes
ALIGNMENT = 64


class Member(NamedTuple):
    """A parameter with a gradient, and where all of it lies; None: not used.

    Gradients are among the arrays that are read, the others among those that are updated.
    """

    param: Part
    grad: Part
    #: a Part each, or Codes of two
    slots: tuple[Any, ...]
    residual: Part | None
    average: Part | None
    #: index into the groups
    group: int
    #: tells its random bits from others'
    stream: int

    @property
    def updated(self) -> list[Part]:
        """All that a step writes to."""
        kept = [self.param, *self.slots, self.residual, self.average]
        parts: list[Any] = [a for part in kept for a in (part if isinstance(part, Codes) else [part])]
        return [a for a in parts if a is not None]


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
    grads: Sequence[Any],
    arrays: Sequence[Any],
    options: Options,
    seed: int,
    count: Any,
    carried: Any,
    rates: Sequence[Any],
) -> tuple[Any, Any, list[Any]]:
    """(count, carried, arrays) after a step.

    grads, arrays: what the members are parts of. count: int32 []. carried: None, or the float64 numbers of
    each group as uint32 [groups, numbers, 2].
    """
    begin = [count] if carried is None else [count, carried]
    used = sorted({part.array for m in members for part in m.updated})
    arguments = [*begin, *rates, *grads, *(arrays[i] for i in used)]
    first_grad = len(begin) + len(rates)
    first_updated = first_grad + len(grads)
    aliases = {i: i for i in range(len(begin))}
    aliases |= {first_updated + i: len(begin) + i for i in range(len(used))}

    # operands are numbered from 1: what is updated is among the arguments, and among the results
    results = {array: len(arguments) + len(begin) + i + 1 for i, array in enumerate(used)}
    places = _Places()
    rows = ffi.new("fgd_tensor[]", len(members))
    for row, m in zip(rows, members, strict=True):
        _describe(row, rule, groups[m.group], m)
        _place(row, m, places, lambda part: results[part.array], first_grad + 1)
    workspace = lib.fgd_workspace_size(rows, len(members))
    numbers = 0 if carried is None else len(rule.carried)
    registers = max(group.program.registers for group in groups)
    tables = {
        "tensors": _words(rows),
        "places": places.table(),
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
    shapes = [shape_of(a.shape, a.dtype) for a in (*begin, *(arrays[i] for i in used))]
    shapes.append(shape_of((scratch,), jnp.uint8))
    call = jax.ffi.ffi_call(_registered(), shapes, input_output_aliases=aliases, vmap_method="sequential")
    after = call(*arguments, **tables)[:-1]
    updated = list(arrays)
    for array, new in zip(used, after[len(begin) :], strict=True):
        updated[array] = new
    return after[0], None if carried is None else after[1], updated


class _Places:
    """Operands, each with bytes from its begin: what the pointers of a table are numbers of, from 1."""

    def __init__(self) -> None:
        self._places: list[tuple[int, int]] = []

    def pointer(self, operand: int, offset: int, kind: str = "void *") -> Any:
        self._places.append((operand, offset))
        return ffi.cast(kind, len(self._places))

    def table(self) -> Array:
        return np.array(self._places, np.int64).reshape(-1)


def _describe(row: Any, rule: Rule, group: Group, m: Member) -> None:
    """All of a row of the table but pointers."""
    used = [slot for slot in group.slots if slot is not None]
    set_shape(row, rule, used, m.param.shape, m.param.dtype)
    row.size, row.group, row.stream = math.prod(m.param.shape), m.group, m.stream
    row.grad_dtype = code_of(m.grad.dtype)
    for k, state in enumerate(m.slots):
        if state is not None:
            row.state_dtype[k] = lib.FGD_CODES if isinstance(state, Codes) else code_of(state.dtype)


def _place(row: Any, m: Member, places: _Places, operand: Callable[[Part], int], first_grad: int) -> None:
    """The pointers of a row. operand: the number of the one with a part that is updated."""

    def pointer(part: Any, kind: str = "void *") -> Any:
        return places.pointer(operand(part), part.offset, kind)

    row.grad = places.pointer(first_grad + m.grad.array, m.grad.offset)
    row.param = pointer(m.param)
    for k, state in enumerate(m.slots):
        if isinstance(state, Codes):
            row.state[k], row.scales[k] = pointer(state.codes), pointer(state.scales, "float *")
        elif state is not None:
            row.state[k] = pointer(state)
    if m.residual is not None:
        row.residual = pointer(m.residual)
    if m.average is not None:
        row.average = pointer(m.average)


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
