"""Recurrent layers on CUDA: a product and one pass over gates for each step, forward and back.

Rows are in the reference's order, by descending length, so that those of a step follow each other. Lengths
are on the host: they say what is launched.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.cuda.layers.activations import add_kernel
from fastgd.cuda.layers.columns import column_sums
from fastgd.cuda.layers.embedding import gather
from fastgd.cuda.layers.gates import backward_text, forward_text, scatter_text
from fastgd.cuda.layers.launching import Run, blocks_of, part
from fastgd.cuda.memory import CudaMemory
from fastgd.cuda.passes import WIDE
from fastgd.cuda.products import product
from fastgd.memory import DeviceArray
from fastgd.nn.reference import bound
from fastgd.nn.reference_recurrent import CELLS, Cell, Recurrent, Steps

#: tables that are kept on the device, of the last batches that differ in sizes or lengths
TABLES = 16


class Tables(NamedTuple):
    """The steps of a batch, and what kernels read of them."""

    steps: Steps
    #: int64 [batch]: the number of each row in the batch
    order: Any
    #: int64 [steps of rows]: where it lies in x, as a row of [batch * time, inside]
    places: Any


def tables_of(run: Run, of: Recurrent, batch: int, time: int, lengths: Array | None) -> Tables:
    given = None if lengths is None else lengths.tobytes()
    return _tables(run.memory, run.stream, bool(of.reverse), batch, time, given)


@functools.lru_cache(TABLES)
def _tables(
    memory: CudaMemory, stream: int, reverse: bool, batch: int, time: int, given: bytes | None
) -> Tables:
    """Those that are on the device before what comes next on the stream."""
    run = Run(memory, stream)
    lengths = None if given is None else np.frombuffer(given, np.int64)
    steps = Steps(Recurrent(0, int(reverse), 1, 0, 0), batch, time, lengths)
    places = (steps.row * time + steps.time).astype(np.int64)
    return Tables(steps, run.sent(steps.order.astype(np.int64)), run.sent(places))


class Saved(NamedTuple):
    """Where the parts of what is saved lie: reference_recurrent.saved_of."""

    xs: DeviceArray
    hs: DeviceArray
    gates: DeviceArray
    cs: DeviceArray


def _saved(cell: Cell, batch: int, time: int, inside: int, hidden: int, memory: Any) -> Saved:
    n, flat = batch * time, memory.reshape(-1)
    shapes = (n, inside), (n, hidden), (n, cell.columns * hidden), ((batch + n) * cell.has_cell, hidden)
    parts, at = [], 0
    for rows, cols in shapes:
        parts.append(part(flat, at, rows, cols))
        at += rows * cols
    return Saved(*parts)


def _cell(of: Recurrent) -> tuple[str, Cell]:
    return list(CELLS.items())[of.cell]


def _rows(array: DeviceArray, first: int, count: int, cols: int | None = None, at: int = 0) -> DeviceArray:
    """Some rows of an array [rows, width], and of these `cols` columns from column `at` on."""
    width = array.shape[1]
    size = array.itemsize
    place, strides = array.pointer + (first * width + at) * size, (width * size, size)
    shape = count, width if cols is None else cols
    return DeviceArray(array.memory, place, shape, strides, array.dtype, array)


def forward(
    run: Run,
    real: Any,
    of: Recurrent,
    batch: int,
    time: int,
    inside: int,
    hidden: int,
    x: Any,
    lengths: Array | None,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any,
    bias_hh: Any,
    h0: Any,
    c0: Any,
    y: Any,
    hn: Any,
    cn: Any,
    saved: Any,
    scratch: Any,
) -> None:
    (name, cell), tables = _cell(of), tables_of(run, of, batch, time, lengths)
    steps, kept = tables.steps, _saved(cell, batch, time, inside, hidden, saved)
    if lengths is not None and not of.reverse:
        # of both directions: the second runs behind the first
        run.clear(y)
    gather(run, real, steps.total, batch * time, inside, tables.places, x, kept.xs)
    for state, to in ((h0, kept.hs), (c0, kept.cs))[: 1 + cell.has_cell]:
        if state is None:
            run.clear(_rows(to, 0, batch))
        else:
            gather(run, real, batch, batch, hidden, tables.order, state, to)
    width = cell.gates * hidden
    of_x, of_h = run.empty((steps.total, width), real), run.empty((batch, width), real)
    product(run.stream, _rows(kept.xs, 0, steps.total), weight_ih, of_x, transpose_b=True)
    text = forward_text(name, real, bias_ih is not None, bool(of.last))
    ends = (hn, cn if cell.has_cell else None)
    for s in range(time):
        n, begin = steps.rows[s], int(steps.first[s])
        product(run.stream, _rows(kept.hs, begin, n), weight_hh, _rows(of_h, 0, n), transpose_b=True)
        sizes = n, steps.rows[s + 1], hidden, begin, _c_from(steps, batch, s), batch + begin
        arrays = of_x, of_h, bias_ih, bias_hh, kept.hs, kept.cs, kept.gates, y, *ends
        where = tables.order, tables.places, of.directions, _direction(of)
        run(text, blocks_of(n * hidden, WIDE), *sizes, *arrays, *where)


def _c_from(steps: Steps, batch: int, s: int) -> int:
    """The first row of c before step s."""
    return batch + int(steps.first[s - 1]) if s else 0


def _direction(of: Recurrent) -> int:
    """Which part of a row of y is its own."""
    return of.directions - 1 if of.reverse else 0


def backward(
    run: Run,
    real: Any,
    of: Recurrent,
    batch: int,
    time: int,
    inside: int,
    hidden: int,
    lengths: Array | None,
    weight_ih: Any,
    weight_hh: Any,
    dy: Any,
    dx: Any,
    dweight_ih: Any,
    dweight_hh: Any,
    dbias_ih: Any,
    dbias_hh: Any,
    saved: Any,
    scratch: Any,
) -> None:
    (name, cell), tables = _cell(of), tables_of(run, of, batch, time, lengths)
    steps, kept = tables.steps, _saved(cell, batch, time, inside, hidden, saved)
    width, shared, total = cell.gates * hidden, cell.shared * hidden, steps.total
    dh, carry = run.empty((batch, hidden), real), run.empty((batch, hidden), real)
    text = backward_text(name, real, bool(of.last))
    for s in range(time - 1, -1, -1):
        n, after, begin = steps.rows[s], steps.rows[s + 1], int(steps.first[s])
        product(run.stream, _rows(kept.gates, begin + n, after, width), weight_hh, _rows(dh, 0, after))
        sizes = n, after, hidden, begin, _c_from(steps, batch, s), batch + begin
        arrays = kept.gates, kept.hs, kept.cs, dh, carry, dy
        where = tables.order, tables.places, of.directions, _direction(of)
        run(text, blocks_of(n * hidden, WIDE), *sizes, *arrays, *where)
    d, xs, hs = (_rows(array, 0, total) for array in (kept.gates, kept.xs, kept.hs))
    #: where columns of d go in the rows of weight_ih: (first of d, first of the weight, how many)
    spans = [(0, 0, shared), (width, shared, width - shared)][: 1 + (shared < width)]
    if dbias_ih is not None and dbias_hh is not None:
        sums = run.empty((cell.columns * hidden,), real)
        column_sums(run, total, cell.columns * hidden, d, sums)
        run.copy(dbias_hh, part(sums, 0, width))
        for at, to, count in spans:
            run.copy(part(dbias_ih.reshape(-1), to, count), part(sums, at, count))
    product(run.stream, _rows(d, 0, total, width), hs, dweight_hh, transpose_a=True)
    for at, to, count in spans:
        own = _rows(d, 0, total, count, at)
        product(run.stream, own, xs, _rows(dweight_ih, to, count), transpose_a=True)
    if dx is None:
        return
    made: DeviceArray | None = None
    for at, to, count in spans:
        here = run.empty((total, inside), real)
        product(run.stream, _rows(d, 0, total, count, at), _rows(weight_ih, to, count), here)
        if made is not None:
            add_kernel(bound("identity"), real, False)(run, here.size, a=here, b=made, y=here)
        made = here
    if lengths is not None and not of.add_dx:
        run.clear(dx)
    text = scatter_text(real, bool(of.add_dx))
    run(text, blocks_of(total * inside, WIDE), total, inside, tables.places, made, dx)


ENTRIES = {
    "recurrent_forward": forward,
    "recurrent_backward": backward,
    "recurrent_saved": None,
    "recurrent_scratch": None,
    "cell_find": None,
}
