"""LayerNorm and RMSNorm: the reference's bits, gradients, torch, and large means."""

import numpy as np
import pytest
from models import check_gradients, check_torch, everywhere, numbers, passed, same_bits, torchs

from fastgd import nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES

SHAPES = [(1, 1), (3, 2), (1, 15), (5, 16), (7, 17), (33, 65), (700, 129), (3, 16384), (9, 20001)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("centered", [True, False])
@pytest.mark.parametrize("affine", ["none", "weight", "both"])
def test_bits_of_the_reference(dtype, centered, affine):
    for rows, cols in SHAPES:
        x = numbers(rows * cols, dtype).reshape(rows, cols)
        dy = numbers(rows * cols, dtype, seed=1).reshape(rows, cols)
        w, b = (numbers(cols, dtype, seed=s, special=False) for s in (2, 3))

        def given(k, w=w, b=b):
            return (
                k.null if affine == "none" else k.handle(w),
                k.handle(b) if affine == "both" else k.null,
            )

        def forward(k, stats, y, x=x, given=given):
            at = (k.handle(x), *given(k), k.handle(stats), k.handle(y))
            return k.layer_norm_forward(
                k.dtype(x.dtype), k.describe("layer_norm", centered, 1e-5), *x.shape, *at
            )

        (stats, expected), (y, y_expected) = everywhere(forward, np.full((rows, 2), 9.0), np.full_like(x, 9))
        same_bits(stats, expected)
        same_bits(y, y_expected)

        def backward(k, dx, dw, db, x=x, dy=dy, stats=stats, given=given):
            scratch = np.empty(k.layer_norm_scratch(*x.shape))
            w, b = given(k)
            after = (k.null if w is k.null else k.handle(dw), k.null if b is k.null else k.handle(db))
            at = (k.handle(x), w, k.handle(stats), k.handle(dy), k.handle(dx), *after, k.handle(scratch))
            return k.layer_norm_backward(
                k.dtype(x.dtype), k.describe("layer_norm", centered, 1e-5), *x.shape, *at
            )

        for mine, expected in everywhere(
            backward, np.full_like(x, 9), np.full_like(w, 9), np.full_like(b, 9)
        ):
            same_bits(mine, expected)


def layers(dtype):
    yield nn.LayerNorm(6, dtype=dtype)
    yield nn.LayerNorm((6,), 0.1, bias=False, dtype=dtype)
    yield nn.LayerNorm([3, 6], elementwise_affine=False)
    yield nn.LayerNorm((4, 3, 6), dtype=dtype)
    yield nn.RMSNorm(6, dtype=dtype)
    yield nn.RMSNorm((3, 6), 0.1, dtype=dtype)
    yield nn.RMSNorm(6, elementwise_affine=False)


def drawn(layer, dtype):
    rng = np.random.default_rng(0)
    for array in layer.parameters().values():
        array[...] = rng.standard_normal(array.shape)
    return tuple(rng.standard_normal((2, 5, 4, 3, 6)).astype(dtype))


def test_gradients_against_central_differences(backend):
    for layer in layers(np.float64):
        check_gradients(layer, *drawn(layer, np.float64), backend)


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_torch(dtype, backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    tolerance = {"rtol": 2e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-12}
    for layer in layers(dtype):
        x, dy = drawn(layer, dtype)
        check_torch(torch, torchs(torch, layer, dtype), layer, x, dy, backend, tolerance)


def test_a_large_mean_does_not_spoil_the_deviation(backend):
    """float32 numbers around 1e4 with a deviation of 1, which are a thousandth apart: y is right to that."""
    x = (1e4 + np.random.default_rng(0).standard_normal((2, 1000))).astype(np.float32)
    y = nn.Sequential(nn.LayerNorm(1000, elementwise_affine=False), backend=backend).forward(x)
    wide = x.astype(np.float64)
    exact = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, exact, rtol=2e-6, atol=2e-7)


def test_a_row_without_deviation_is_0_and_its_gradient_finite(backend):
    x = np.full((2, 8), 3.0, np.float32)
    y, _, dx = passed(nn.LayerNorm(8), x, np.ones_like(x), backend)
    assert not y.any() and not dx.any()


BAD = [
    (lambda: nn.LayerNorm(0), ValueError, "normalized_shape must be 1 or more, not 0"),
    (lambda: nn.LayerNorm(()), ValueError, "normalized_shape must have at least one dimension"),
    (lambda: nn.LayerNorm(3.0), TypeError, "normalized_shape must be an integer, not float"),
    (lambda: nn.RMSNorm(3, -1.0), ValueError, "eps must be finite and at least 0, not -1.0"),
    (lambda: nn.RMSNorm(3, dtype="float16"), TypeError, "dtype must be float32 or float64"),
    (
        lambda: nn.Sequential(nn.LayerNorm((3, 4))).forward(np.ones((2, 4), np.float32)),
        ValueError,
        r"takes \[batch, ..., 3, 4\], not \[2, 4\]",
    ),
]


@pytest.mark.parametrize(("make", "error", "reason"), BAD)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_bad_native_calls_are_refused_before_anything_is_written():
    a, stats = np.full(16, 7, np.float32), np.full(8, 7.0)
    p, at, null = ffi.from_buffer(a), ffi.from_buffer("double[]", stats), ffi.NULL
    of, negative = (ffi.new("fgd_layer_norm *", [1, eps]) for eps in (1e-5, -1.0))
    assert lib.fgd_layer_norm_forward(7, of, 4, 4, p, p, p, at, p) == lib.FGD_ERROR_DTYPE
    assert lib.fgd_layer_norm_forward(0, null, 4, 4, p, p, p, at, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_layer_norm_forward(0, negative, 4, 4, p, p, p, at, p) == lib.FGD_ERROR_OPTION
    assert lib.fgd_layer_norm_forward(0, of, 4, 0, p, p, p, at, p) == lib.FGD_ERROR_SIZE
    assert lib.fgd_layer_norm_forward(0, of, -4, 4, p, p, p, at, p) == lib.FGD_ERROR_SIZE
    assert lib.fgd_layer_norm_forward(0, of, 4, 4, p, null, p, at, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_layer_norm_forward(0, of, 4, 4, p, p, p, null, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_layer_norm_backward(0, of, 4, 4, p, p, at, p, p, p, p, null) == lib.FGD_ERROR_NULL
    assert lib.fgd_layer_norm_backward(0, of, 2**40, 2**40, p, p, at, p, p, p, p, at) == lib.FGD_ERROR_SIZE
    assert np.all(a == 7) and np.all(stats == 7)
    assert lib.fgd_layer_norm_forward(0, of, 0, 4, null, null, null, null, null) == 0
