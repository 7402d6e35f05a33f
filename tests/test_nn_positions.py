"""PositionalEmbedding, and steps behind the end cut off: the reference's bits, gradients and bad input."""

import numpy as np
import pytest
from models import check_gradients, everywhere, numbers, same_bits

from fastgd import nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_positions_and_ends_have_the_bits_of_the_reference(dtype):
    for batch, time, dim, max_time in [(1, 1, 1, 1), (3, 2, 5, 9), (9, 40, 33, 41), (300, 70, 16, 70)]:
        x, dy = (numbers(batch * time * dim, dtype, seed=s).reshape(batch, time, dim) for s in (0, 1))
        weight = numbers(max_time * dim, dtype, seed=2).reshape(max_time, dim)
        lengths, sizes = np.random.default_rng(time).integers(1, time + 1, batch), (batch, time, dim)

        def call(k, name, *arrays, sizes=sizes, max_time=max_time):
            of, at = k.describe("positions", max_time), (k.handle(array) for array in arrays)
            return getattr(k, name)(k.dtype(arrays[0].dtype), of, *sizes, *at)

        ((y, expected),) = everywhere(
            lambda k, y, x=x, w=weight, call=call: call(k, "positions_forward", x, w, y), np.full_like(x, 9)
        )
        same_bits(y, expected)
        with np.errstate(all="ignore"):
            same_bits(y, x + weight[:time])
        ((dweight, expected),) = everywhere(
            lambda k, dw, dy=dy, call=call: call(k, "positions_backward", dy, dw), np.full_like(weight, 9)
        )
        same_bits(dweight, expected)
        assert not dweight[time:].any()

        def cut(k, y, lengths=lengths, sizes=sizes):
            return k.cut(k.dtype(y.dtype), k.null, *sizes, k.handle(lengths), k.handle(y))

        ((y, expected),) = everywhere(cut, x)
        same_bits(y, expected)
        for row, length in enumerate(lengths):
            assert not y[row, length:].any()
            same_bits(y[row, :length], x[row, :length])


def test_gradients_against_central_differences(backend):
    x, dy = np.random.default_rng(0).standard_normal((2, 2, 5, 6))
    layer = nn.PositionalEmbedding(9, 6, dtype=np.float64)
    layer.weight[...] = np.random.default_rng(4).standard_normal((9, 6)) / 2
    check_gradients(layer, x, dy, backend, 1e-6)


def test_initial_parameters():
    table = nn.PositionalEmbedding(50, 100, seed=1).weight
    assert abs(table.mean()) < 1e-3 and abs(table.std() - 0.02) < 1e-3


ONES = np.ones((2, 5, 6), np.float32)
BAD = [
    (lambda: nn.PositionalEmbedding(0, 6), ValueError, "max_time must be 1 or more, not 0"),
    (lambda: nn.PositionalEmbedding(6, "6"), TypeError, "embedding_dim must be an integer, not str"),
    (
        lambda: nn.Sequential(nn.PositionalEmbedding(4, 6)).forward(ONES),
        ValueError,
        r"PositionalEmbedding\(4, 6\) takes \[batch, 1 to 4, 6\], not \[2, 5, 6\]",
    ),
]


@pytest.mark.parametrize(("make", "error", "reason"), BAD)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_bad_native_calls_are_refused_before_anything_is_written():
    a, lengths = np.full(16, 7, np.float32), np.array([2, 3])
    p, null, at = ffi.from_buffer(a), ffi.NULL, ffi.from_buffer("int64_t[]", lengths)
    of = ffi.new("fgd_positions *", [2])
    add, sums = lib.fgd_positions_forward, lib.fgd_positions_backward
    for call, pointers in ((add, (p, p, p)), (sums, (p, p))):
        assert call(7, of, 2, 2, 4, *pointers) == lib.FGD_ERROR_DTYPE
        assert call(0, null, 2, 2, 4, *pointers) == lib.FGD_ERROR_NULL
        assert call(0, of, 2, 3, 4, *pointers) == lib.FGD_ERROR_SIZE
        assert call(0, of, -2, 2, 4, *pointers) == lib.FGD_ERROR_SIZE
        assert call(0, of, 2**40, 2, 2**40, *pointers) == lib.FGD_ERROR_SIZE
        for i in range(len(pointers)):
            some = [null if k == i else pointer for k, pointer in enumerate(pointers)]
            assert call(0, of, 2, 2, 4, *some) == lib.FGD_ERROR_NULL
    assert lib.fgd_cut(7, null, 2, 2, 4, at, p) == lib.FGD_ERROR_DTYPE
    assert lib.fgd_cut(0, null, 2, -2, 4, at, p) == lib.FGD_ERROR_SIZE
    assert lib.fgd_cut(0, null, 2, 2, 4, at, p) == lib.FGD_ERROR_SIZE
    assert lib.fgd_cut(0, null, 2, 2, 4, null, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_cut(0, null, 2, 2, 4, at, null) == lib.FGD_ERROR_NULL
    assert np.all(a == 7)
    assert add(0, of, 0, 2, 4, null, null, null) == lib.fgd_cut(0, null, 0, 2, 4, null, null) == 0
    assert sums(0, of, 0, 2, 4, null, p) == 0 and not a[:8].any() and np.all(a[8:] == 7)
