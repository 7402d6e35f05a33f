"""Recurrent layers as operators: one direction of one layer, for sequences [batch, time, features]."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fastgd._native import ffi, lib
from fastgd.torch.calls import alike, check, int64s, pointer, product_ready, real
from fastgd.torch.operators import Kernel, define, keeps_graph, plainly


class Cell(NamedTuple):
    """A row of csrc/recurrent.def, in Python's own numbers."""

    number: int
    gates: int
    shared: int
    has_cell: bool


def _cells() -> Iterator[tuple[str, Cell]]:
    for i in range(lib.fgd_cell_count()):
        info = lib.fgd_cell_at(i)
        yield ffi.string(info.name).decode(), Cell(i, info.gates, info.shared, bool(info.has_cell))


CELLS = dict(_cells())


@lru_cache(maxsize=64)
def _described(cell: str, reverse: bool) -> Any:
    return ffi.new("fgd_recurrent *", [CELLS[cell].number, reverse, 1, 0, 0])


def _scratch(code: int, of: Any, x: Tensor, sizes: Sequence[int]) -> Tensor:
    batch, time, _, hidden = sizes
    return x.new_empty(lib.fgd_recurrent_scratch(code, of, batch, time, hidden), dtype=torch.float64)


def _checks(input: Tensor, named: Mapping[str, Tensor | None]) -> int:
    for name, array in named.items():
        alike(name, array, input)
    return real("input", input)


def saved_size(cell: str, batch: Any, time: Any, inside: Any, hidden: Any) -> Any:
    """What fgd_recurrent_saved says, for sizes that may be symbols."""
    info = CELLS[cell]
    columns = 2 * info.gates - info.shared
    return (
        batch * time * (inside + hidden + columns * hidden) + info.has_cell * (batch + batch * time) * hidden
    )


def _forward(
    input: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    named = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    code = _checks(input, {**named, "h0": h0, "c0": c0})
    product_ready(input.dtype)
    x = input.contiguous()
    given = [None if a is None else a.contiguous() for a in (*named.values(), h0, c0)]
    y, c_n, saved = _fake(input, weight_ih, weight_hh, None, None, None, None, None, cell, reverse)
    of, sizes = _described(cell, reverse), (*x.shape, weight_hh.shape[1])
    scratch = _scratch(code, of, x, sizes)
    cn = pointer(c_n) if c_n.numel() else ffi.NULL
    arrays = pointer(x), int64s(lengths), *map(pointer, given), pointer(y), ffi.NULL, cn
    check(lib.fgd_recurrent_forward(code, of, *sizes, *arrays, pointer(saved), pointer(scratch)))
    return y, c_n, saved


def _fake(
    input: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    h0: Tensor | None,
    c0: Tensor | None,
    lengths: Tensor | None,
    cell: str,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    real("input", input)
    batch, time, inside = input.shape
    hidden = weight_hh.shape[1]
    c_n = input.new_empty((batch, hidden) if CELLS[cell].has_cell else (0,))
    saved = input.new_empty(saved_size(cell, batch, time, inside, hidden))
    return input.new_empty((batch, time, hidden)), c_n, saved


def _backward(
    grad_y: Tensor | None,
    grad_c_n: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    lengths: Tensor | None,
    saved: Tensor,
    sizes: Sequence[int],
    wanted: Sequence[bool],
    cell: str,
    reverse: bool,
) -> list[Tensor]:
    """Changes what is saved."""
    code = real("saved", saved)
    w_ih, w_hh = weight_ih.contiguous(), weight_hh.contiguous()
    batch, time, inside = sizes
    hidden = w_hh.shape[1]
    shape = batch, time, hidden
    dy = saved.new_zeros(shape) if grad_y is None else grad_y.contiguous()
    dcn = None if grad_c_n is None else grad_c_n.contiguous()
    made = _gradients_made(weight_ih, weight_hh, saved, sizes, wanted)
    dx, dw_ih, dw_hh, db_ih, db_hh, dh0, dc0 = (
        pointer(a) if asked or i in (1, 2) else ffi.NULL
        for i, (a, asked) in enumerate(zip(made, wanted, strict=True))
    )
    of = _described(cell, reverse)
    scratch = _scratch(code, of, saved, (batch, time, inside, hidden))
    given = int64s(lengths), pointer(w_ih), pointer(w_hh), pointer(dy), pointer(dcn)
    arrays = dx, dw_ih, dw_hh, db_ih, db_hh, dh0, dc0, pointer(saved), pointer(scratch)
    check(lib.fgd_recurrent_backward_states(code, of, batch, time, inside, hidden, *given, *arrays))
    return made


def _gradients_made(
    weight_ih: Tensor, weight_hh: Tensor, saved: Tensor, sizes: Sequence[int], wanted: Sequence[bool]
) -> list[Tensor]:
    """Room for the gradients, in the order of the arguments; those of weights are always computed."""
    batch, time, inside = sizes
    rows, hidden = weight_hh.shape
    shapes = (
        (batch, time, inside),
        (rows, inside),
        (rows, hidden),
        (rows,),
        (rows,),
        (batch, hidden),
        (batch, hidden),
    )
    filled = (asked or i in (1, 2) for i, asked in enumerate(wanted))
    return [saved.new_empty(shape if fill else (0,)) for shape, fill in zip(shapes, filled, strict=True)]


def _backward_spared(
    grad_y: Tensor | None,
    grad_c_n: Tensor | None,
    weight_ih: Tensor,
    weight_hh: Tensor,
    lengths: Tensor | None,
    saved: Tensor,
    *rest: Any,
) -> list[Tensor]:
    return _backward(grad_y, grad_c_n, weight_ih, weight_hh, lengths, saved.clone(), *rest)


def _save(ctx: Any, arguments: Any, results: Any) -> None:
    input, weight_ih, weight_hh, *_, lengths, ctx.cell, ctx.reverse = arguments
    ctx.sizes = [*input.shape]
    ctx.save_for_backward(weight_ih, weight_hh, lengths, results[2])
    ctx.mark_non_differentiable(results[2])
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, call: Kernel, dy: Tensor | None, dcn: Tensor | None, _: Any) -> Any:
    needs = [*ctx.needs_input_grad[1:8]]
    if dy is None and dcn is None:
        return (None,) * 10
    weight_ih, weight_hh, lengths, saved = ctx.saved_tensors
    if call is plainly and keeps_graph():
        saved = saved.clone()
    # both biases are computed, or neither is
    wanted = [needs[0], True, True, *[needs[3] or needs[4]] * 2, *needs[5:]]
    given = dy, dcn, weight_ih, weight_hh, lengths, saved, ctx.sizes, wanted, ctx.cell, ctx.reverse
    found = call(_BACKWARD, *given)
    return *(a if need else None for a, need in zip(found, needs, strict=True)), None, None, None


_BACKWARD = define(
    "recurrent_backward(Tensor? grad_y, Tensor? grad_c_n, Tensor weight_ih, Tensor weight_hh, "
    "Tensor? lengths, Tensor saved, SymInt[] sizes, bool[] wanted, str cell, bool reverse) -> Tensor[]",
    _backward_spared,
    lambda dy, dcn, w_ih, w_hh, lengths, saved, sizes, wanted, *_: _gradients_made(
        w_ih, w_hh, saved, sizes, wanted
    ),
)._replace(kernel=_backward)
DIRECTION = define(
    "recurrent(Tensor input, Tensor weight_ih, Tensor weight_hh, Tensor? bias_ih, Tensor? bias_hh, "
    "Tensor? h0, Tensor? c0, Tensor? lengths, str cell, bool reverse) -> (Tensor, Tensor, Tensor)",
    _forward,
    _fake,
    save=_save,
    backward=_gradients,
    once=True,
).dispatched
