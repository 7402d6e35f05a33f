"""Pooling and Flatten: the reference's bits, gradients, torch, NaN, and refusals."""

import numpy as np
import pytest
from models import SPECIAL, check_gradients, check_torch, everywhere, numbers, passed, same_bits, torchs

from fastgd import nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES

#: (planes, height, width, out_height, out_width), kernel, stride, padding
CASES = [
    ((1, 1, 1, 1, 1), (1, 1), (1, 1), (0, 0)),
    ((5, 4, 4, 2, 2), (2, 2), (2, 2), (0, 0)),
    ((3, 28, 28, 14, 14), (2, 2), (2, 2), (0, 0)),
    ((3, 9, 65, 4, 32), (2, 2), (2, 2), (0, 0)),
    ((40, 40, 33, 20, 17), (3, 3), (2, 2), (1, 1)),
    ((2, 6, 40, 6, 40), (3, 5), (1, 1), (1, 2)),
    ((2, 11, 30, 3, 9), (5, 4), (4, 3), (2, 0)),
    ((3, 1, 200, 1, 67), (1, 3), (1, 3), (0, 1)),
    ((4, 7, 7, 1, 1), (7, 7), (7, 7), (0, 0)),
    ((2, 5, 37, 1, 1), (5, 37), (5, 37), (0, 0)),
    ((2, 4, 50, 2, 3), (2, 20), (2, 17), (0, 3)),
    ((2, 3, 4, 3, 4), (4, 6), (1, 1), (2, 3)),
    ((2, 6, 9, 3, 4), (3, 3), (3, 3), (1, 1)),  # windows that reach beyond the padding
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_max_pooling_has_the_bits_of_the_reference(dtype):
    for sizes, *windows in CASES:
        planes, height, width, *outputs = sizes
        x = numbers(planes * height * width, dtype).reshape(planes, height, width)
        x[x > 1] = 1  # many that are equal
        x[0] = -np.inf
        x[1:, ::3, ::2] = np.nan
        dy = numbers(planes * np.prod(outputs), dtype, seed=1).reshape(planes, *outputs)

        def forward(k, index, y, x=x, sizes=sizes, windows=windows):
            of = k.describe("pool", *windows, False)
            return k.max_pool_forward(k.dtype(x.dtype), of, *sizes, k.handle(x), k.handle(index), k.handle(y))

        (index, expected), (y, y_expected) = everywhere(
            forward, np.full(dy.shape, 9, np.int32), np.full_like(dy, 9)
        )
        assert np.array_equal(index, expected)
        same_bits(y, y_expected)

        def without_index(k, y, x=x, sizes=sizes, windows=windows):
            of = k.describe("pool", *windows, False)
            return k.max_pool_forward(k.dtype(x.dtype), of, *sizes, k.handle(x), k.null, k.handle(y))

        for mine, expected in everywhere(without_index, np.full_like(dy, 9)):
            same_bits(mine, expected)

        def backward(k, dx, dy=dy, index=index, sizes=sizes, windows=windows):
            of = k.describe("pool", *windows, False)
            at = (k.handle(array) for array in (index, dy, dx))
            return k.max_pool_backward(k.dtype(dx.dtype), of, *sizes, *at)

        for mine, expected in everywhere(backward, np.full_like(x, 9)):
            same_bits(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count_include_pad", [False, True])
def test_average_pooling_has_the_bits_of_the_reference(dtype, count_include_pad):
    for sizes, *windows in CASES:
        planes, height, width, *outputs = sizes
        x = numbers(planes * height * width, dtype).reshape(planes, height, width)
        dy = numbers(planes * np.prod(outputs), dtype, seed=1).reshape(planes, *outputs)
        for name, given, out in (("forward", x, dy), ("backward", dy, x)):

            def call(k, made, name=name, given=given, sizes=sizes, windows=windows):
                of = k.describe("pool", *windows, count_include_pad)
                entry = getattr(k, f"average_pool_{name}")
                return entry(k.dtype(given.dtype), of, *sizes, k.handle(given), k.handle(made))

            for mine, expected in everywhere(call, np.full_like(out, 9)):
                same_bits(mine, expected)


def layers():
    """(layer, shape of its input)."""
    image, row = (2, 3, 8, 6), (2, 3, 9)
    yield nn.MaxPool2d(2), image
    yield nn.MaxPool2d(3, 2, 1), image
    yield nn.MaxPool2d((3, 2), (3, 1), (1, 0), ceil_mode=True), image
    yield nn.MaxPool2d(3, 5, 1, ceil_mode=True), image
    yield nn.MaxPool1d(3, 2, 1), row
    yield nn.AvgPool2d(2), image
    yield nn.AvgPool2d(3, 2, 1, True), image
    yield nn.AvgPool2d(3, 2, 1, True, False), image
    yield nn.AvgPool2d((4, 5), 1, (2, 2)), image
    yield nn.AvgPool1d(3, 2, 1, True), row
    yield nn.AvgPool1d(4, ceil_mode=True, count_include_pad=False), row
    yield nn.AdaptiveAvgPool2d(1), image
    yield nn.AdaptiveAvgPool2d((4, 2)), image
    yield nn.AdaptiveAvgPool1d(3), row
    yield nn.AdaptiveMaxPool2d((1, 3)), image
    yield nn.AdaptiveMaxPool1d(1), row
    yield nn.Flatten(), image
    yield nn.Flatten(2, 3), image
    yield nn.Flatten(1, -2), image


def drawn(layer, shape, dtype):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(s).astype(dtype) for s in (shape, layer.output_shape(shape)))


def test_gradients_against_central_differences(backend):
    for layer, shape in layers():
        if isinstance(layer, nn.Flatten):
            continue  # its output is its input, of which LayerPasses keeps no copy
        check_gradients(layer, *drawn(layer, shape, np.float64), backend, 1e-6, rtol=1e-7)


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_torch(dtype, backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-13, "atol": 1e-13}
    for layer, shape in layers():
        module = torchs(torch, layer, dtype)
        x, dy = drawn(layer, shape, dtype)
        x = np.round(x * 2) / 2  # many that are equal
        assert layer.output_shape(shape) == tuple(module(torch.from_numpy(x)).shape)
        if not isinstance(layer, nn.Flatten):
            check_torch(torch, module, layer, x, dy, backend, tolerance)


@pytest.mark.peer
def test_special_numbers_are_pooled_as_torch_pools_them(backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    rng = np.random.default_rng(0)
    x = rng.choice([*SPECIAL, 1.0, 2.0], (4, 5, 12, 12)).astype(np.float32)
    for layer in (nn.MaxPool2d(2), nn.MaxPool2d(3, 1, 1), nn.AdaptiveMaxPool2d(1)):
        theirs = torch.from_numpy(x).requires_grad_()
        expected = eval(f"torch.nn.{layer}", {"torch": torch})(theirs)
        dy = rng.standard_normal(expected.shape).astype(np.float32)
        expected.backward(torch.from_numpy(dy))
        y, _, dx = passed(layer, x, dy, backend)
        same_bits(y, expected.detach().numpy())
        np.testing.assert_allclose(dx, theirs.grad.numpy(), rtol=1e-6, atol=1e-6)


def test_flatten_costs_nothing(backend):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 2, 4, 4), dtype=np.float32)
    layers = nn.Conv2d(2, 5, 3, seed=0), nn.Flatten(), nn.Linear(20, 3, seed=1)
    model = nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), backend=backend)
    assert model.forward(x).shape == (3, 3)
    assert len(model.loss_and_grad(x, np.zeros(3, np.int64))[1]) == 4
    same_bits(nn.Sequential(nn.Flatten(), backend=backend).forward(x), x.reshape(3, 32))
    same_bits(nn.Sequential(nn.Flatten(2), backend=backend).forward(x), x.reshape(3, 2, 16))
    program = next(reversed(model._programs.values())).program
    if backend == "native":
        # the labels' check, two operations forward, the loss, and two backward
        assert program.count == 6


BAD = [
    (lambda: nn.MaxPool2d(0), ValueError, "kernel_size must be 1 or more, not 0"),
    (lambda: nn.MaxPool2d((2, 2, 2)), ValueError, "kernel_size must be an integer or 2 of them"),
    (lambda: nn.MaxPool1d(2, 0), ValueError, "stride must be 1 or more, not 0"),
    (lambda: nn.AvgPool2d(3, 1, 2), ValueError, "padding must be at most half of kernel_size, 3, not 2"),
    (lambda: nn.AvgPool2d(3.0), TypeError, "kernel_size must be an integer, not float"),
    (lambda: nn.AdaptiveAvgPool2d(0), ValueError, "output_size must be 1 or more, not 0"),
    (lambda: nn.Flatten(0), ValueError, "start_dim must not be 0, the batch's dimension"),
    (lambda: nn.Flatten(1, "a"), TypeError, "end_dim must be an integer, not str"),
    (
        lambda: nn.MaxPool2d(2).output_shape((2, 3, 4)),
        ValueError,
        r"takes \[batch, channels, height, width\], not \[2, 3, 4\]",
    ),
    (lambda: nn.MaxPool2d(5).output_shape((2, 3, 4, 9)), ValueError, r"windows of 5, which \[2, 3, 4, 9\]"),
    (
        lambda: nn.AdaptiveAvgPool1d(3).output_shape((2, 3, 4)),
        ValueError,
        r"multiples of its output's, not \[",
    ),
    (lambda: nn.Flatten(3).output_shape((2, 3, 4)), ValueError, r"have these dimensions.*not \[2, 3, 4\]"),
    (lambda: nn.Flatten(-1, 1).output_shape((2, 3, 4)), ValueError, r"in this order, not \[2, 3, 4\]"),
]


@pytest.mark.parametrize(("make", "error", "reason"), BAD)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_bad_native_calls_are_refused_before_anything_is_written():
    a, index = np.full(256, 7, np.float32), np.full(256, 7, np.int32)
    p, at, null = ffi.from_buffer(a), ffi.from_buffer("int32_t[]", index), ffi.NULL

    def of(kernel=(2, 2), stride=(2, 2), padding=(0, 0)):
        return ffi.new("fgd_pool *", [kernel, stride, padding, 0])

    good = (2, 4, 4, 2, 2)
    calls = [
        lambda of, sizes=good, dtype=0, x=p: lib.fgd_max_pool_forward(dtype, of, *sizes, x, at, p),
        lambda of, sizes=good, dtype=0, x=p: lib.fgd_max_pool_backward(dtype, of, *sizes, at, x, p),
        lambda of, sizes=good, dtype=0, x=p: lib.fgd_average_pool_forward(dtype, of, *sizes, x, p),
        lambda of, sizes=good, dtype=0, x=p: lib.fgd_average_pool_backward(dtype, of, *sizes, x, p),
    ]
    for call in calls:
        assert call(of(), dtype=3) == lib.FGD_ERROR_DTYPE
        assert call(null) == call(of(), x=null) == lib.FGD_ERROR_NULL
        for option in ({"kernel": (0, 2)}, {"stride": (2, 0)}, {"padding": (2, 0)}, {"padding": (0, -1)}):
            assert call(of(**option)) == lib.FGD_ERROR_OPTION
        for i, size in [(0, -1), (1, 0), (2, 0), (3, 0), (3, 3), (4, 3), (0, 2**60), (2, 2**40)]:
            assert call(of(), (*good[:i], size, *good[i + 1 :])) == lib.FGD_ERROR_SIZE
        assert call(of(), (2, 2**16, 2**16, 2, 2)) == lib.FGD_ERROR_SIZE
        assert call(of(), (0, 4, 4, 2, 2), x=null) == 0
    assert lib.fgd_max_pool_backward(0, of(), *good, null, p, p) == lib.FGD_ERROR_NULL
    assert np.all(a == 7) and np.all(index == 7)
