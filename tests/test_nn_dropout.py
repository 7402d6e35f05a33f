"""Dropout: the reference's bits, the share and independence of what is kept, and the same mask backward."""

import copy
import math
import pickle

import numpy as np
import pytest
from models import both, everywhere, numbers, passed, same_bits
from snapshots import BACKENDS

from fastgd import nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES
from fastgd.nn.kernels import kernels_of
from fastgd.storage import mixed, random_bits

SIZES = [0, 1, 7, 15, 16, 17, 33, 1000, 16384, 16385, 50001]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.3, 0.5, 1 - 2.0**-40, 1.0])
def test_bits_of_the_reference(dtype, p):
    for n in SIZES:
        x = numbers(n, dtype)
        stream = np.array([2**63 + 12345], np.uint64)

        def call(k, counter, y, dx, x=x, stream=stream):
            of, at = k.describe("dropout", p, 3), [k.handle(array) for array in (x, stream, counter, y, dx)]
            code = k.dropout_forward(k.dtype(x.dtype), of, x.size, *at[:4])
            return code or k.dropout_backward(k.dtype(x.dtype), of, x.size, at[0], *at[1:3], at[4])

        counters, ys, dxs = everywhere(
            call, np.array([2**64 - 3], np.uint64), np.full_like(x, 9), np.full_like(x, 9)
        )
        assert counters[0][0] == counters[1][0] == 2**64 - 2
        same_bits(*ys)
        same_bits(*dxs)
        same_bits(ys[0], dxs[0])


def test_an_element_whose_bits_are_p_itself_is_kept():
    """And one below is not: its share is p exactly."""
    x, stream = np.ones(100, np.float32), np.array([5], np.uint64)
    bits = random_bits(mixed(mixed(mixed(5)) + 1), np.arange(100))
    for i, own in enumerate(bits.tolist()):
        for p, keeps in ((own / 2.0**32, True), ((own + 1) / 2.0**32, False)):

            def call(k, counter, y, p=p):
                at = (k.handle(array) for array in (x, stream, counter, y))
                return k.dropout_forward(k.dtype(x.dtype), k.describe("dropout", p, 0), x.size, *at)

            _, ys = both(call, np.zeros(1, np.uint64), np.empty_like(x))
            assert all((y[i] != 0) == keeps for y in ys)


def mask(layer, n=100_000, backend="native"):
    """Where the layer keeps ones, at its next pass."""
    y, _, dx = passed(layer, np.ones((1, n)), np.ones((1, n)), backend)
    assert np.array_equal(y, dx)
    return y[0] != 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.93])
def test_the_share_and_the_scale_of_what_is_kept(p, backend):
    x = np.random.default_rng(0).standard_normal((10, 10_000))
    y, _, dx = passed(nn.Dropout(p, seed=1), x, np.ones_like(x), backend)
    kept = dx != 0
    deviation = math.sqrt(p * (1 - p) / x.size)
    assert abs(kept.mean() - (1 - p)) < 4 * deviation
    assert np.array_equal(y, np.where(kept, x * (1 / (1 - p)), 0))
    assert np.array_equal(dx, np.where(kept, 1 / (1 - p), 0))


def test_masks_are_independent(backend):
    """Of the mask before, of other seeds, of the elements beside: half of the elements agree."""
    layer, other = nn.Dropout(seed=1), nn.Dropout(seed=2)
    first, second, third = (
        mask(layer, backend=backend),
        mask(layer, backend=backend),
        mask(other, backend=backend),
    )
    for a, b in [(first, second), (first, third), (first[1:], first[:-1]), (first[2:], first[:-2])]:
        assert abs((a == b).mean() - 0.5) < 4 * math.sqrt(0.25 / a.size)
    assert np.array_equal(first, mask(nn.Dropout(seed=1), backend=backend))


def test_p_of_0_and_1(backend):
    x = numbers(1000, np.float32).reshape(10, 100)
    dy = np.ones_like(x)
    y, _, dx = passed(nn.Dropout(0), x, dy, backend)
    same_bits(y, x)
    same_bits(dx, dy)
    y, _, dx = passed(nn.Dropout(1.0), x, dy, backend)
    assert not y.any() and not dx.any()


def model(*layers, backend="native", seed=None):
    return nn.Sequential(nn.Linear(1, 200, seed=0), *layers, loss=nn.MSELoss(), backend=backend, seed=seed)


def training_mask(trained):
    """Where all dropout layers of a model behind its Linear keep what they get: there is a gradient."""
    x, y = np.ones((1, 1), np.float32), np.full((1, 200), 99, np.float32)
    return trained.loss_and_grad(x, y)[1][1] != 0


def test_layers_with_one_seed_have_masks_of_their_own(backend):
    one = training_mask(model(nn.Dropout(), backend=backend)).mean()
    two = training_mask(model(nn.Dropout(), nn.Dropout(), backend=backend)).mean()
    assert abs(one - 0.5) < 0.15 and abs(two - 0.25) < 0.15


def test_a_model_s_seed_draws_the_masks():
    first, again, other = (training_mask(model(nn.Dropout(), seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_only_training_drops_and_counts(backend):
    layer = nn.Dropout()
    trained = model(layer, backend=backend)
    x, y = np.ones((1, 1), np.float32), np.ones((1, 200), np.float32)
    expected = model(backend=backend)
    same_bits(trained.forward(x), expected.forward(x))
    assert trained.loss(x, y) == expected.loss(x, y)
    assert layer.buffers()["counter"][0] == 0
    assert trained.loss_and_grad(x, y)[0] != expected.loss(x, y)
    assert layer.buffers()["counter"].dtype == np.uint64
    assert layer.buffers()["counter"].tolist() == [1]
    alone = nn.Sequential(nn.Dropout(), backend=backend)
    same_bits(alone.forward(x), x)
    assert alone.forward(x) is not x


def test_masks_go_on_where_a_copy_or_the_counter_left_off():
    trained = model(nn.Dropout())
    training_mask(trained)
    copies = [copy.deepcopy(trained), pickle.loads(pickle.dumps(trained)), model(nn.Dropout())]
    copies[2].layers[1].buffers()["counter"][...] = trained.layers[1].buffers()["counter"]
    expected = training_mask(trained)
    for again in copies:
        assert np.array_equal(training_mask(again), expected)


def test_backends_have_the_same_masks():
    x = np.ones((3, 1), np.float32)
    dropped = [model(nn.Dropout(0.3), nn.Dropout(0.3), backend=name) for name in BACKENDS]
    for _ in range(3):
        first, second = (trained.loss_and_grad(x, np.zeros((3, 200), np.float32))[1] for trained in dropped)
        assert np.array_equal(first[1] == 0, second[1] == 0)


@pytest.mark.parametrize(
    ("make", "error", "reason"),
    [
        (lambda: nn.Dropout(-0.1), ValueError, "p must be finite and at least 0, not -0.1"),
        (lambda: nn.Dropout(1.1), ValueError, "p must be at most 1, not 1.1"),
        (lambda: nn.Dropout(math.nan), ValueError, "p must be finite"),
        (lambda: nn.Dropout("0.5"), TypeError, "p must be a number, not str"),
    ],
)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_bad_native_calls_are_refused_before_anything_is_written():
    a, numbers64 = np.full(16, 7, np.float32), np.full(2, 7, np.uint64)
    p, null = ffi.from_buffer(a), ffi.NULL
    stream = ffi.from_buffer("uint64_t[]", numbers64)
    of = kernels_of("native").describe("dropout", 0.5, 0)
    for entry in (lib.fgd_dropout_forward, lib.fgd_dropout_backward):
        assert entry(7, of, 4, p, stream, stream, p) == lib.FGD_ERROR_DTYPE
        assert entry(0, null, 4, p, stream, stream, p) == lib.FGD_ERROR_NULL
        assert entry(0, of, -4, p, stream, stream, p) == lib.FGD_ERROR_SIZE
        assert entry(0, of, 2**62, p, stream, stream, p) == lib.FGD_ERROR_SIZE
        for pointers in [
            (null, stream, stream, p),
            (p, null, stream, p),
            (p, stream, null, p),
            (p, stream, stream, null),
        ]:
            assert entry(0, of, 4, *pointers) == lib.FGD_ERROR_NULL
        for beyond in (-0.1, 1.1, math.nan):
            bad = kernels_of("native").describe("dropout", beyond, 0)
            assert entry(0, bad, 4, p, stream, stream, p) == lib.FGD_ERROR_OPTION
    assert np.all(a == 7) and np.all(numbers64 == 7)
