"""BatchNorm1d and BatchNorm2d: the reference's bits, gradients, torch, and running statistics."""

import numpy as np
import pytest
from models import check_gradients, check_torch, everywhere, numbers, passed, same_bits, torchs

import fastgd
from fastgd import nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES
from fastgd.nn.kernels import kernels_of

#: batch, channels, length
SHAPES = [(2, 1, 1), (5, 3, 1), (33, 63, 1), (7, 65, 1), (300, 130, 1)]
SHAPES += [(1, 1, 2), (3, 5, 15), (2, 3, 16), (9, 7, 17), (4, 66, 33), (3, 2, 20001), (600, 1, 49)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("affine", ["none", "weight", "both"])
@pytest.mark.parametrize("running", [False, True])
def test_bits_of_the_reference(dtype, affine, running):
    for batch, channels, length in SHAPES:
        size = batch * channels * length
        x, dy = (numbers(size, dtype, seed=s).reshape(batch, channels, length) for s in (0, 1))
        w, b, mean = (numbers(channels, dtype, seed=s, special=False) for s in (2, 3, 4))
        var = np.abs(numbers(channels, dtype, seed=5, special=False))

        def given(k, w=w, b=b):
            at = k.null if affine == "none" else k.handle(w)
            return at, k.handle(b) if affine == "both" else k.null

        def forward(k, mean, var, count, stats, y, x=x, given=given):
            of = k.describe("batch_norm", running, 1e-5, 0.3)
            at = (k.handle(x), *given(k), *map(k.handle, (mean, var, count, stats, y)))
            return k.batch_norm_forward(k.dtype(x.dtype), of, *x.shape, *at)

        outputs = mean, var, np.array([4]), np.full((channels, 2), 9.0), np.full_like(x, 9)
        results = list(everywhere(forward, *outputs))
        for mine, expected in results[:2] + results[3:]:
            same_bits(mine, expected)
        assert results[2][0][0] == results[2][1][0] == (4 if running else 5)
        stats = results[3][0]

        def backward(k, dx, dw, db, x=x, dy=dy, stats=stats, given=given):
            of, (at, _) = k.describe("batch_norm", running, 1e-5, 0.3), given(k)
            after = (
                k.null if affine == "none" else k.handle(dw),
                k.handle(db) if affine == "both" else k.null,
            )
            rest = (k.handle(x), at, k.handle(stats), k.handle(dy), k.handle(dx))
            return k.batch_norm_backward(k.dtype(x.dtype), of, *x.shape, *rest, *after)

        for mine, expected in everywhere(
            backward, np.full_like(x, 9), np.full_like(w, 9), np.full_like(b, 9)
        ):
            same_bits(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [1, 35])
def test_outputs_may_be_inputs(dtype, length, isa):
    k, shape = kernels_of("native"), (3, 20, length)
    x, dy = (numbers(60 * length, dtype, seed=s).reshape(shape) for s in (0, 1))
    of, stats, null = k.describe("batch_norm", 0, 1e-5, 0.1), np.empty((20, 2)), k.null
    y, dx, kept = np.empty_like(x), np.empty_like(x), x.copy()
    before, behind = (null, null, null, null, null, k.handle(stats)), (k.handle(kept), null, k.handle(stats))
    for out in (y, x):
        at = k.handle(x), *before, k.handle(out)
        assert k.batch_norm_forward(k.dtype(dtype), of, *shape, *at) == 0
    same_bits(x, y)
    for out in (dx, dy):
        at = *behind, k.handle(dy), k.handle(out), null, null
        assert k.batch_norm_backward(k.dtype(dtype), of, *shape, *at) == 0
    same_bits(dy, dx)


def layers(dtype):
    """With the shapes of their inputs."""
    yield nn.BatchNorm1d(3, dtype=dtype), (5, 3)
    yield nn.BatchNorm1d(3, dtype=dtype), (4, 3, 7)
    yield nn.BatchNorm1d(4, 0.1, None, dtype=dtype), (5, 4)
    yield nn.BatchNorm2d(3, momentum=0.25, affine=False, dtype=dtype), (2, 3, 4, 5)
    yield nn.BatchNorm2d(3, momentum=1.0, dtype=dtype), (3, 3, 1, 1)
    yield nn.BatchNorm2d(2, track_running_stats=False, dtype=dtype), (3, 2, 2, 9)
    yield nn.BatchNorm1d(5, affine=False, track_running_stats=False), (6, 5)


def drawn(layer, shape, dtype):
    rng = np.random.default_rng(0)
    for array in layer.parameters().values():
        array[...] = rng.standard_normal(array.shape)
    return tuple((rng.standard_normal((2, *shape)) * 2 + 1).astype(dtype))


def test_gradients_against_central_differences(backend):
    for layer, shape in layers(np.float64):
        check_gradients(layer, *drawn(layer, shape, np.float64), backend)


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_torch(dtype, backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    tolerance = {"rtol": 2e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-12}
    for layer, shape in layers(dtype):
        x, dy = drawn(layer, shape, dtype)
        peer = torchs(torch, layer, dtype)
        for _ in range(3):
            check_torch(torch, peer, layer, x, dy, backend, tolerance)
            x = (x * 1.5 + 0.5).astype(dtype)
        buffers = dict(peer.named_buffers())
        assert [*buffers] == [*layer.buffers()]
        for name, array in layer.buffers().items():
            assert array.shape == tuple(buffers[name].shape)
            np.testing.assert_allclose(array, buffers[name].numpy(), **tolerance)
        y = nn.Sequential(layer, backend=backend).forward(x)
        expected = peer.eval()(torch.from_numpy(x)).detach().numpy()
        np.testing.assert_allclose(y, expected, **tolerance)


def test_only_training_moves_the_running_statistics(backend):
    layer = nn.BatchNorm1d(3)
    model = nn.Sequential(nn.Linear(4, 3), layer, loss=nn.MSELoss(), seed=0, backend=backend)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((8, 4), dtype=np.float32), rng.standard_normal((8, 3), dtype=np.float32)
    before = {name: array.copy() for name, array in layer.buffers().items()}
    model.forward(x), model.loss(x, y)
    assert all(np.array_equal(array, before[name]) for name, array in layer.buffers().items())
    model.loss_and_grad(x, y)
    assert layer.buffers()["num_batches_tracked"] == 1
    assert not np.array_equal(layer.buffers()["running_mean"], before["running_mean"])
    inside = model.layers[0].weight @ x.T
    inside += model.layers[0].bias[:, None]
    np.testing.assert_allclose(layer.buffers()["running_mean"], 0.1 * inside.mean(1), rtol=1e-4, atol=1e-6)
    expected = 0.9 + 0.1 * inside.var(1, ddof=1)
    np.testing.assert_allclose(layer.buffers()["running_var"], expected, rtol=1e-5)
    np.testing.assert_allclose(model.forward(x[:1]), model.forward(x)[:1], rtol=1e-5)
    layer.reset_parameters(rng)
    assert all(np.array_equal(array, before[name]) for name, array in layer.buffers().items())


def test_a_model_trains_and_its_running_statistics_serve(backend):
    rng = np.random.default_rng(0)
    x = (rng.standard_normal((64, 6)) * 30 + 100).astype(np.float32)
    y = (x[:, 0] > 100).astype(np.int64)
    layers = nn.BatchNorm1d(6), nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2)
    model = nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0, backend=backend)
    opt = fastgd.AdamW(model.named_parameters(), lr=0.01)
    for _ in range(100):
        model.train_step(x, y, opt)
    assert model.loss(x, y) < 0.1


def test_a_large_mean_does_not_spoil_the_deviation(backend):
    """float32 numbers around 1e4 with a deviation of 1, which are a thousandth apart: y is right to that."""
    x = (1e4 + np.random.default_rng(0).standard_normal((1000, 2))).astype(np.float32)
    y, _, _ = passed(nn.BatchNorm1d(2, affine=False), x, np.ones_like(x), backend)
    wide = x.astype(np.float64)
    exact = (wide - wide.mean(0)) / np.sqrt(wide.var(0) + 1e-5)
    np.testing.assert_allclose(y, exact, rtol=2e-6, atol=2e-7)


def test_a_channel_without_deviation_is_its_bias_and_its_gradient_0(backend):
    x = np.full((4, 2, 3), 3.0, np.float32)
    layer = nn.BatchNorm1d(2)
    layer.bias[...] = 0.5, -2
    y, _, dx = passed(layer, x, np.ones_like(x), backend)
    assert np.array_equal(y, np.broadcast_to(layer.bias[:, None], y.shape)) and not dx.any()


def test_one_value_per_channel_is_refused_when_training_only(backend):
    layer = nn.BatchNorm1d(3)
    model = nn.Sequential(nn.Linear(2, 3), layer, loss=nn.MSELoss(), seed=0, backend=backend)
    x, y = np.ones((1, 2), np.float32), np.ones((1, 3), np.float32)
    reason = r"expected more than 1 value per channel when training, got input size \[1, 3\]"
    with pytest.raises(ValueError, match=reason):
        model.loss_and_grad(x, y)
    assert layer.buffers()["num_batches_tracked"] == 0
    assert np.isfinite(model.forward(x)).all()


BAD = [
    (lambda: nn.BatchNorm1d(0), ValueError, "num_features must be 1 or more, not 0"),
    (lambda: nn.BatchNorm2d(3, -1.0), ValueError, "eps must be finite and at least 0, not -1.0"),
    (lambda: nn.BatchNorm2d(3, momentum=1.5), ValueError, "momentum must be at most 1, not 1.5"),
    (lambda: nn.BatchNorm2d(3, momentum="a"), TypeError, "momentum must be a number, not str"),
    (lambda: nn.BatchNorm1d(3, dtype="float16"), TypeError, "dtype must be float32 or float64"),
    (
        lambda: nn.BatchNorm1d(3).output_shape((2, 4)),
        ValueError,
        r"takes \[batch, 3\] or \[batch, 3, length\], not \[2, 4\]",
    ),
    (
        lambda: nn.BatchNorm2d(3).output_shape((2, 3, 4)),
        ValueError,
        r"takes \[batch, 3, height, width\], not \[2, 3, 4\]",
    ),
    (
        lambda: nn.Sequential(nn.BatchNorm1d(3, affine=False)).forward(np.ones((2, 3))),
        TypeError,
        "is float32, but the model computes in float64",
    ),
]


@pytest.mark.parametrize(("make", "error", "reason"), BAD)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_bad_native_calls_are_refused_before_anything_is_written():
    a, stats, count = np.full(16, 7, np.float32), np.full(8, 7.0), np.array([7])
    p, at, null = ffi.from_buffer(a), ffi.from_buffer("double[]", stats), ffi.NULL
    n = ffi.from_buffer("int64_t[]", count)
    k = kernels_of("native")
    of, by_running = (k.describe("batch_norm", running, 1e-5, 0.1) for running in (0, 1))
    forward, backward = lib.fgd_batch_norm_forward, lib.fgd_batch_norm_backward
    good = p, p, p, p, p, n, at, p
    assert forward(7, of, 4, 2, 2, *good) == lib.FGD_ERROR_DTYPE
    assert forward(0, null, 4, 2, 2, *good) == lib.FGD_ERROR_NULL
    for eps, momentum in [(-1.0, 0.1), (float("nan"), 0.1), (0.1, 1.1), (0.1, float("nan"))]:
        bad = k.describe("batch_norm", 0, eps, momentum)
        assert forward(0, bad, 4, 2, 2, *good) == lib.FGD_ERROR_OPTION
    for sizes in [(0, 2, 2), (4, 0, 2), (4, 2, -2), (2**40, 2**20, 2), (1, 2**62, 2), (1, 2, 1)]:
        assert forward(0, of, *sizes, *good) == lib.FGD_ERROR_SIZE
    for i in (0, 1, 3, 4, 5, 6, 7):
        pointers = [null if i == j else pointer for j, pointer in enumerate(good)]
        assert forward(0, of, 4, 2, 2, *pointers) == lib.FGD_ERROR_NULL
    assert forward(0, by_running, 4, 2, 2, p, p, p, null, null, null, at, p) == lib.FGD_ERROR_NULL
    for i in (0, 2, 3):
        pointers = [null if i == j else pointer for j, pointer in enumerate((p, p, at, p, p, p, p))]
        assert backward(0, of, 4, 2, 2, *pointers) == lib.FGD_ERROR_NULL
    assert backward(0, of, 4, 2, -2, p, p, at, p, p, p, p) == lib.FGD_ERROR_SIZE
    assert np.all(a == 7) and np.all(stats == 7) and count[0] == 7
