"""Softmax and LogSoftmax: the reference's bits, gradients, torch, and numbers of any size."""

import numpy as np
import pytest
from models import central_differences, everywhere, numbers, passed, same_bits

from fastgd import nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES
from fastgd.nn.kernels import kernels_of

SHAPES = [(1, 1), (3, 2), (1, 15), (5, 16), (7, 17), (33, 65), (700, 129), (3, 16384), (9, 20001)]
LAYERS = [nn.Softmax, nn.LogSoftmax]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("log", [False, True])
def test_bits_of_the_reference(dtype, log):
    for rows, cols in SHAPES:
        x = numbers(rows * cols, dtype).reshape(rows, cols)
        usual = np.random.default_rng(cols).standard_normal((rows, cols)) * 10
        x[::2] = usual[::2]
        dy = numbers(rows * cols, dtype, seed=1).reshape(rows, cols)
        dy[::3] = usual[::3]

        def forward(k, y, x=x):
            of = k.describe("softmax", log)
            return k.softmax_forward(k.dtype(x.dtype), of, *x.shape, k.handle(x), k.handle(y))

        ((y, expected),) = everywhere(forward, np.full_like(x, 9))
        same_bits(y, expected)

        def backward(k, dx, y=y, dy=dy):
            at = (k.handle(array) for array in (y, dy, dx))
            return k.softmax_backward(k.dtype(y.dtype), k.describe("softmax", log), *y.shape, *at)

        ((dx, expected),) = everywhere(backward, np.full_like(x, 9))
        same_bits(dx, expected)


@pytest.mark.parametrize("layer", LAYERS)
def test_gradients_against_central_differences(layer, backend):
    x, dy = np.random.default_rng(0).standard_normal((2, 3, 2, 5))
    _, _, dx = passed(layer(), x, dy, backend)
    numeric = central_differences(lambda: (passed(layer(), x, dy, backend)[0] * dy).sum(), x, 1e-5)
    np.testing.assert_allclose(dx, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
def test_agrees_with_torch(layer, dtype, backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    tolerance = {"rtol": 5e-6, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-14}
    x, dy = (np.random.default_rng(0).standard_normal((2, 4, 3, 50)) * 3).astype(dtype)
    theirs = torch.from_numpy(x).requires_grad_()
    expected = eval(f"torch.nn.{layer()}", {"torch": torch})(theirs)
    expected.backward(torch.from_numpy(dy))
    y, _, dx = passed(layer(), x, dy, backend)
    np.testing.assert_allclose(y, expected.detach().numpy(), **tolerance)
    np.testing.assert_allclose(dx, theirs.grad.numpy(), **tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_of_any_size(dtype, backend):
    """Neither overflows, and the logarithm is exact where the probability is 0."""
    x = np.array([[1e30, 0, -1e30], [-1e30, -1e30, -1e30], [0, -np.inf, 0], [1e4, 1e4 - 1, 0]], dtype)
    p = nn.Sequential(nn.Softmax(), backend=backend).forward(x)
    half = 1 / (1 + np.exp(-1))
    expected = [[1, 0, 0], [1 / 3] * 3, [0.5, 0, 0.5], [half, 1 - half, 0]]
    np.testing.assert_allclose(p, expected, rtol=4 * np.finfo(dtype).eps)
    logs = nn.Sequential(nn.LogSoftmax(), backend=backend).forward(x)
    third, one = np.log(1 / 3), np.log1p(np.exp(-1))
    expected = [
        [0, dtype.type(-1e30), dtype.type(-2e30)],
        [third] * 3,
        [-np.log(2), -np.inf, -np.log(2)],
        [-one, -1 - one, -1e4 - one],
    ]
    np.testing.assert_allclose(logs, expected, rtol=4 * np.finfo(dtype).eps)
    for layer in LAYERS:
        y = nn.Sequential(layer(), backend=backend).forward(
            np.array([[np.nan, 1], [-np.inf, -np.inf]], dtype)
        )
        assert np.isnan(y).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_bad_arguments_are_refused(layer):
    with pytest.raises(ValueError, match="dim must be -1, the last dimension, not 1"):
        layer(dim=1)
    with pytest.raises(TypeError, match="float"):
        layer(1.0)
    with pytest.raises(ValueError, match=r"\(dim=-1\) takes \[batch, ..., classes\], not \[3\]"):
        layer().output_shape((3,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_may_be_inputs(dtype, isa):
    k = kernels_of("native")
    for log in (0, 1):
        of, x = k.describe("softmax", log), numbers(7 * 33, dtype).reshape(7, 33)
        y, dy = np.empty_like(x), numbers(7 * 33, dtype, seed=1).reshape(7, 33)
        assert k.softmax_forward(k.dtype(dtype), of, *x.shape, k.handle(x), k.handle(y)) == 0
        assert k.softmax_forward(k.dtype(dtype), of, *x.shape, k.handle(x), k.handle(x)) == 0
        same_bits(x, y)
        assert k.softmax_backward(k.dtype(dtype), of, *x.shape, k.handle(y), k.handle(dy), k.handle(x)) == 0
        assert k.softmax_backward(k.dtype(dtype), of, *x.shape, k.handle(y), k.handle(dy), k.handle(dy)) == 0
        same_bits(x, dy)


def test_bad_native_calls_are_refused_before_anything_is_written():
    a = np.full(16, 7, np.float32)
    p, of, null = ffi.from_buffer(a), ffi.new("fgd_softmax *", [1]), ffi.NULL
    assert lib.fgd_softmax_forward(7, of, 4, 4, p, p) == lib.FGD_ERROR_DTYPE
    assert lib.fgd_softmax_forward(0, null, 4, 4, p, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_softmax_forward(0, of, -4, 4, p, p) == lib.FGD_ERROR_SIZE
    assert lib.fgd_softmax_forward(0, of, 2**40, 2**40, p, p) == lib.FGD_ERROR_SIZE
    assert lib.fgd_softmax_forward(0, of, 4, 4, null, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_softmax_forward(0, of, 4, 4, p, null) == lib.FGD_ERROR_NULL
    for pointers in ((null, p, p), (p, null, p), (p, p, null)):
        assert lib.fgd_softmax_backward(0, of, 4, 4, *pointers) == lib.FGD_ERROR_NULL
    assert lib.fgd_softmax_backward(0, of, 4, -4, p, p, p) == lib.FGD_ERROR_SIZE
    assert np.all(a == 7)
    assert lib.fgd_softmax_forward(0, of, 0, 4, null, null) == 0
    assert lib.fgd_softmax_backward(0, of, 4, 0, null, null, null) == 0
