"""The kernels of recurrent layers: the reference's bits for every cell, direction, option and length."""

import itertools
import math
from typing import NamedTuple

import numpy as np
import pytest
from models import both, everywhere, numbers, same_bits

from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES
from fastgd.nn.reference_recurrent import CELLS

#: batch, time, in, hidden
SHAPES = [
    (1, 1, 1, 1),
    (1, 3, 2, 1),
    (5, 1, 3, 2),
    (3, 4, 1, 17),
    (4, 5, 17, 16),
    (19, 6, 3, 33),
    (41, 9, 5, 65),
]


@pytest.fixture(params=[1, 3])
def threads(request):
    """Fewer numbers of them than elsewhere: a call takes long, and cuts its rows for 3 as for any."""
    before = lib.fgd_get_num_threads()
    assert lib.fgd_set_num_threads(request.param) == 0
    yield request.param
    lib.fgd_set_num_threads(before)


def lengths_of(batch, time):
    """Of all kinds, the shortest and the longest among them where there is room."""
    lengths = np.random.default_rng(batch).integers(1, time + 1, batch)
    lengths[:2] = [1, time][: len(lengths[:2])]
    return lengths


def one_number_a_line(gates, hidden, dtype):
    """[gates hidden, hidden] with one number in each column and one at most in each row.

    A sum of one number is the same in whatever order: products with the state are exact, however many rows a
    thread takes at once.
    """
    w = np.zeros((gates, hidden, hidden), dtype)
    for u in range(hidden):
        w[u % gates, (u * 5 + 3) % hidden if hidden % 5 else u, u] = 1.5 - u % 3
    return w.reshape(gates * hidden, hidden)


def test_the_reference_has_every_cell_of_the_table():
    infos = [lib.fgd_cell_at(i) for i in range(lib.fgd_cell_count())]
    assert [ffi.string(info.name).decode() for info in infos] == [*CELLS]
    for i, (info, (name, cell)) in enumerate(zip(infos, CELLS.items(), strict=True)):
        assert (info.gates, info.shared, info.has_cell) == (cell.gates, cell.shared, cell.has_cell)
        assert lib.fgd_cell_find(name.encode()) == i
    assert lib.fgd_cell_at(-1) == lib.fgd_cell_at(len(infos)) == ffi.NULL
    assert lib.fgd_cell_find(b"none") == lib.fgd_cell_find(ffi.NULL) == lib.FGD_ERROR_OPTION


class Case(NamedTuple):
    """What a call is given; arrays may be None."""

    sizes: tuple[int, ...]
    of: tuple[int, ...]
    inputs: tuple[np.ndarray, ...]
    dy: np.ndarray
    #: of c behind all steps; None where there are no states, or no c
    dcn: np.ndarray | None
    #: y, hn, cn, dx and the gradients of the parameters and of the states
    outputs: tuple[np.ndarray, ...]

    def run(self, k, *outputs):
        """Forward, then backward."""
        real, of, has_bias = (
            k.dtype(self.dy.dtype),
            k.describe("recurrent", *self.of),
            self.inputs[4] is not None,
        )
        saved = np.full(k.recurrent_saved(of, *self.sizes), np.nan, self.dy.dtype)
        batch, time, _, hidden = self.sizes
        scratch = np.full(k.recurrent_scratch(real, of, batch, time, hidden), np.nan)
        given = [k.null if array is None else k.handle(array) for array in self.inputs]
        y, hn, cn, dx, dw_ih, dw_hh, *biases, dh0, dc0 = map(k.handle, outputs)
        memory = k.handle(saved), k.handle(scratch)
        code = k.recurrent_forward(real, of, *self.sizes, *given, y, hn, cn, *memory)
        scratch.fill(np.nan)
        gradients = dw_ih, dw_hh, *(bias if has_bias else k.null for bias in biases)
        dy = k.handle(self.dy)
        if self.inputs[6] is None:
            rest = dy, dx, *gradients, *memory
            return code or k.recurrent_backward(real, of, *self.sizes, *given[1:4], *rest)
        has_c = self.dcn is not None
        dcn, dc0 = (k.handle(self.dcn), dc0) if has_c else (k.null, k.null)
        rest = dy, dcn, dx, *gradients, dh0, dc0, *memory
        return code or k.recurrent_backward_states(real, of, *self.sizes, *given[1:4], *rest)


def case(dtype, cell, sizes, reverse, directions, last, adds):
    batch, time, inside, hidden = sizes
    gates = CELLS[cell].gates
    full = reverse == last

    def drawn(seed, *shape):
        return numbers(math.prod(shape), dtype, seed=seed, special=False).reshape(shape)

    x, w_ih, w_hh = (
        drawn(0, batch, time, inside),
        drawn(1, gates * hidden, inside),
        one_number_a_line(gates, hidden, dtype),
    )
    biases = (drawn(2, gates * hidden), drawn(3, gates * hidden)) if full else (None, None)
    states = (drawn(4, batch, hidden), drawn(5, batch, hidden)) if full else (None, None)
    lengths = None if last and not reverse else lengths_of(batch, time)
    dy = drawn(6, *((batch,) if last else (batch, time)), directions * hidden)
    shapes = (
        dy.shape,
        (batch, hidden),
        (batch, hidden),
        x.shape,
        w_ih.shape,
        w_hh.shape,
        (gates * hidden,),
        (gates * hidden,),
        (batch, hidden),
        (batch, hidden),
    )
    of = list(CELLS).index(cell), reverse, directions, last, adds
    return Case(
        sizes,
        of,
        (x, lengths, w_ih, w_hh, *biases, *states),
        dy,
        drawn(7, batch, hidden) if full and CELLS[cell].has_cell else None,
        [np.full(shape, 9, dtype) for shape in shapes],
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_bits_of_the_reference(dtype, cell, numpy_products):
    for sizes, of in itertools.product(SHAPES, ((0, 1, 0, 0), (1, 2, 0, 1), (0, 2, 1, 0), (1, 1, 1, 0))):
        given = case(dtype, cell, sizes, *of)
        for mine, expected in everywhere(given.run, *given.outputs):
            same_bits(mine, expected)


@pytest.mark.parametrize("cell", CELLS)
def test_products_of_several_threads_agree_with_the_reference(cell, threads):
    """With the best product there is, of which each thread computes its own rows."""
    for of in ((0, 1, 0, 0), (1, 2, 1, 0)):
        given = case(np.float32, cell, (37, 30, 20, 64), *of)
        w_ih, w_hh = (np.random.default_rng(0).uniform(-0.1, 0.1, w.shape) for w in given.inputs[2:4])
        biases = (None, None) if given.inputs[4] is None else (np.float32([0.1] * len(w_ih)),) * 2
        x = np.random.default_rng(1).standard_normal(given.inputs[0].shape)
        arrays = [array.astype(np.float32) for array in (x, w_ih, w_hh)]
        given = given._replace(
            inputs=(arrays[0], given.inputs[1], *arrays[1:], *biases, None, None),
            dy=np.random.default_rng(2).standard_normal(given.dy.shape).astype(np.float32),
        )
        for mine, expected in both(given.run, *given.outputs):
            scale = np.abs(expected).max()
            np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=2e-5 * scale)
