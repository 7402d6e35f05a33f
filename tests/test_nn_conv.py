"""Conv1d and Conv2d: the reference's bits, gradients, torch, and refusals."""

import numpy as np
import pytest
from models import (
    central_differences,
    check_gradients,
    check_torch,
    everywhere,
    numbers,
    passed,
    same_bits,
    torchs,
)

from fastgd import gemm, nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES
from fastgd.nn import reference_conv
from fastgd.nn.kernels import kernels_of

#: (sizes, stride, padding, dilation, groups): batch, in, out, height, width, kernel height and width
CASES = [
    ((1, 1, 1, 1, 1, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((5, 1, 16, 9, 8, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((37, 4, 6, 5, 17, 3, 2), (1, 1), ((1, 1), (0, 1)), (1, 1), 2),
    ((3, 4, 8, 9, 33, 3, 3), (2, 3), ((1, 1), (2, 2)), (1, 1), 1),
    ((2, 6, 6, 11, 16, 3, 3), (1, 1), ((2, 2), (4, 4)), (2, 4), 6),
    ((2, 3, 4, 1, 40, 1, 5), (1, 2), ((0, 0), (3, 3)), (1, 2), 1),
    ((34, 4, 6, 5, 7, 1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 2),
    ((3, 4, 6, 5, 7, 1, 1), (2, 1), ((0, 0), (1, 1)), (1, 1), 1),
    ((2, 2, 3, 2, 3, 2, 3), (3, 3), ((3, 2), (5, 4)), (1, 1), 1),
    ((2, 8, 20, 16, 64, 3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    ((2, 64, 2, 17, 40, 5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1), 1),
]


def described(k, case, activation):
    _, stride, padding, dilation, groups = case
    return k.describe("conv", stride, padding, dilation, groups, k.activation(activation))


def arrays_of(case, dtype):
    """x, weight, bias and dy."""
    (batch, inside, out, height, width, kernel_h, kernel_w), *_, groups = case
    plan = reference_conv.Plan(reference_conv.Conv(*case[1:], None), *case[0][:3], case[0][3:5], case[0][5:])
    shapes = (
        (batch, inside, height, width),
        (out, inside // groups, kernel_h, kernel_w),
        (out,),
        plan.y_shape,
    )
    return (numbers(np.prod(s), dtype, seed=i, special=False).reshape(s) for i, s in enumerate(shapes))


def scratch_of(k, dtype, of, sizes, backward):
    return np.full(k.conv_scratch(k.dtype(dtype), of, *sizes, backward), np.nan)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("activation", "with_bias"), [("identity", False), ("relu", True), ("gelu", True)])
def test_bits_of_the_reference(dtype, activation, with_bias, numpy_products):
    saves_input = activation == "gelu"
    for case in CASES:
        x, w, b, dy = arrays_of(case, dtype)

        def forward(k, z, y, case=case, x=x, w=w, b=b):
            of = described(k, case, activation)
            scratch = scratch_of(k, x.dtype, of, case[0], False)
            bias = k.handle(b) if with_bias else k.null
            at = (k.handle(x), k.handle(w), bias, k.handle(z), k.handle(y), k.handle(scratch))
            return k.conv_forward(k.dtype(x.dtype), of, *case[0], *at)

        (z, z_expected), (y, y_expected) = everywhere(forward, *np.full((2, *dy.shape), 9, dtype))
        same_bits(y, y_expected)
        same_bits(z, z_expected)

        def backward(k, dy, dx, dw, db, case=case, x=x, w=w, saved=z if saves_input else y):
            of = described(k, case, activation)
            scratch = scratch_of(k, x.dtype, of, case[0], True)
            arrays = (x, w, saved, dy, dx, dw)
            at = [*map(k.handle, arrays), k.handle(db) if with_bias else k.null, k.handle(scratch)]
            return k.conv_backward(k.dtype(x.dtype), of, *case[0], *at)

        for mine, expected in everywhere(
            backward, dy, np.full_like(x, 9), np.full_like(w, 9), np.full_like(b, 9)
        ):
            same_bits(mine, expected)

        def without_dx(k, dy, dw, case=case, x=x, w=w, saved=y):
            of = described(k, case, "identity")
            scratch = scratch_of(k, x.dtype, of, case[0], True)
            at = [*map(k.handle, (x, w, saved, dy)), k.null, k.handle(dw), k.null, k.handle(scratch)]
            return k.conv_backward(k.dtype(x.dtype), of, *case[0], *at)

        for mine, expected in everywhere(without_dx, dy, np.full_like(w, 9)):
            same_bits(mine, expected)


def test_the_cases_reach_bands_blocks_and_turned_products():
    plans = []
    for case in CASES:
        sizes = case[0]
        of = reference_conv.Conv(*case[1:], None)
        plans.append(reference_conv.Plan(of, *sizes[:3], sizes[3:5], sizes[5:]))
    assert any(p.band < p.out_size[0] and p.out_size[0] % p.band for p in plans)
    assert {1, 2} <= {p.block for p in plans}
    assert {p.tall for p in plans} == {p.pointwise for p in plans} == {False, True}


def layers(dtype):
    """(layer, shape of its input)."""
    image, row = (3, 4, 7, 6), (3, 4, 9)
    yield nn.Conv2d(4, 6, 3, dtype=dtype, seed=0), image
    yield nn.Conv2d(4, 6, (3, 2), (2, 1), (1, 0), dtype=dtype, seed=0), image
    yield nn.Conv2d(4, 6, 3, padding="same", dilation=2, groups=2, bias=False, dtype=dtype, seed=0), image
    yield nn.Conv2d(4, 20, 2, padding="same", dtype=dtype, seed=0), image
    yield nn.Conv2d(4, 4, 3, padding=1, groups=4, dtype=dtype, seed=0), image
    yield nn.Conv2d(4, 8, 1, dtype=dtype, seed=0), image
    yield nn.Conv2d(4, 8, 1, 2, dtype=dtype, seed=0), image
    yield nn.Conv2d(4, 3, 2, padding="valid", dtype=dtype, seed=0), image
    yield nn.Conv1d(4, 6, 3, dtype=dtype, seed=0), row
    yield nn.Conv1d(4, 6, 3, 2, 2, 2, 2, dtype=dtype, seed=0), row
    yield nn.Conv1d(4, 6, 4, padding="same", dtype=dtype, seed=0), row


def drawn(layer, shape, dtype):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(s).astype(dtype) for s in (shape, layer.output_shape(shape)))


def test_gradients_against_central_differences(backend):
    for layer, shape in layers(np.float64):
        check_gradients(layer, *drawn(layer, shape, np.float64), backend)


@pytest.mark.peer
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch's own copy of the input
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_torch(dtype, backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    tolerance = {"rtol": 2e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-12}
    for layer, shape in layers(dtype):
        x, dy = drawn(layer, shape, dtype)
        check_torch(torch, torchs(torch, layer, dtype), layer, x, dy, backend, tolerance)


def network(backend, dtype=np.float64):
    layers = (
        nn.Conv2d(2, 4, 3, padding=1, dtype=dtype),
        nn.Tanh(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 3, 2, dtype=dtype),
        nn.SiLU(),
        nn.AvgPool2d(2, 1),
        nn.Flatten(),
        nn.Linear(12, 3, dtype=dtype),
    )
    return nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0, backend=backend)


def test_gradients_of_a_network_with_activations_in_the_convolutions(backend):
    model = network(backend)
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((3, 2, 8, 8)), rng.integers(0, 3, 3)
    gradients = [g.copy() for g in model.loss_and_grad(x, y)[1]]
    for array, grad in zip(model.parameters(), gradients, strict=True):
        numeric = central_differences(lambda: model.loss(x, y), array)
        np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-8)


def test_gradients_have_the_same_bits_with_any_number_of_threads():
    rng = np.random.default_rng(0)
    x, dy = (rng.standard_normal((70, c, 14, 14), dtype=np.float32) for c in (16, 32))
    layer, results = nn.Conv2d(16, 32, 3, padding=1, seed=0), []
    before = lib.fgd_get_num_threads()
    try:
        # products themselves may differ between one thread and several: both runs have several
        for threads in (2, 3, 16):
            lib.fgd_set_num_threads(threads)
            y, gradients, dx = passed(layer, x, dy, "native")
            results.append([array.copy() for array in (y, dx, *gradients.values())])
    finally:
        lib.fgd_set_num_threads(before)
    for other in results[1:]:
        for mine, expected in zip(results[0], other, strict=True):
            same_bits(mine, expected)


def test_parameters_start_as_torch_s_do():
    layer = nn.Conv2d(8, 64, 3, groups=2, seed=0)
    assert layer.weight.shape == (64, 4, 3, 3) and layer.bias.shape == (64,)
    for parameter in layer.parameters().values():
        assert 0.9 / 6 < abs(parameter).max() <= 1 / 6
    assert nn.Conv1d(3, 4, 5, bias=False).parameters().keys() == {"weight"}


def test_nan_and_infinity_reach_the_outputs_that_see_them(backend):
    x = np.zeros((1, 1, 5, 5), np.float32)
    x[0, 0, 1, 1], x[0, 0, 4, 4] = np.nan, np.inf
    layer = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    layer.weight[...] = 1
    y = nn.Sequential(layer, backend=backend).forward(x)[0, 0]
    assert np.isnan(y[:3, :3]).all() and np.isnan(y).sum() == 9
    assert np.isinf(y[3:, 3:]).all() and np.isinf(y).sum() == 4


BAD = [
    (lambda: nn.Conv2d(0, 1, 1), ValueError, "in_channels must be 1 or more, not 0"),
    (lambda: nn.Conv2d(1, 1.5, 1), TypeError, "out_channels must be an integer, not float"),
    (lambda: nn.Conv2d(1, 1, (3, 0)), ValueError, "kernel_size must be 1 or more, not 0"),
    (lambda: nn.Conv2d(1, 1, (3, 3, 3)), ValueError, "kernel_size must be an integer or 2 of them"),
    (lambda: nn.Conv1d(1, 1, 3, stride=0), ValueError, "stride must be 1 or more, not 0"),
    (lambda: nn.Conv1d(1, 1, 3, padding=-1), ValueError, "padding must be 0 or more, not -1"),
    (lambda: nn.Conv2d(1, 1, 3, padding="full"), ValueError, "padding must be 'same', 'valid' or sizes"),
    (lambda: nn.Conv2d(1, 1, 3, 2, padding="same"), ValueError, "padding 'same' needs a stride of 1"),
    (lambda: nn.Conv2d(1, 1, 3, dilation=0), ValueError, "dilation must be 1 or more, not 0"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "in_channels must be a multiple of groups, 2, not 3"),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "out_channels must be a multiple of groups, 2, not 3"),
    (
        lambda: nn.Conv2d(4, 4, 3, padding_mode="circular"),
        ValueError,
        "padding_mode must be 'zeros', the only",
    ),
    (lambda: nn.Conv2d(4, 4, 3, dtype="float16"), TypeError, "dtype must be float32 or float64"),
    (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3)).forward(np.ones((2, 4, 5, 5), np.float32)),
        ValueError,
        r"takes \[batch, 3, height, width\], not \[2, 4, 5, 5\]",
    ),
    (
        lambda: nn.Sequential(nn.Conv1d(3, 4, 3)).forward(np.ones((2, 3, 5, 5), np.float32)),
        ValueError,
        r"takes \[batch, 3, length\], not \[2, 3, 5, 5\]",
    ),
    (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, dilation=3)).forward(np.ones((2, 3, 9, 6), np.float32)),
        ValueError,
        r"looks at 7 elements at once, which \[2, 3, 9, 6\] does not have",
    ),
]


@pytest.mark.parametrize(("make", "error", "reason"), BAD)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_bad_native_calls_are_refused_before_anything_is_written():
    kernels = kernels_of("native")
    kernels.dtype(np.dtype(np.float32))
    a, scratch = np.full(4096, 7, np.float32), np.full(4096, 7.0)
    p, at, null = ffi.from_buffer(a), ffi.from_buffer("double[]", scratch), ffi.NULL
    relu, gelu, none = (ffi.new("fgd_activation *", {"kind": i}) for i in (1, 7, 99))
    zeros = [[0, 0], [0, 0]]

    def of(stride=(1, 1), padding=zeros, dilation=(1, 1), groups=1, activation=relu):
        return ffi.new("fgd_conv *", [stride, padding, dilation, groups, activation])

    def forward(of, sizes=(2, 2, 2, 4, 4, 3, 3), x=p, w=p, z=p, y=p, s=at, dtype=0):
        return lib.fgd_conv_forward(dtype, of, *sizes, x, w, null, z, y, s)

    def backward(of, sizes=(2, 2, 2, 4, 4, 3, 3), x=p, w=p, saved=p, dy=p, dx=p, dw=p, s=at, dtype=0):
        return lib.fgd_conv_backward(dtype, of, *sizes, x, w, saved, dy, dx, dw, null, s)

    for call in (forward, backward):
        assert call(of(), dtype=2) == lib.FGD_ERROR_DTYPE
        assert call(null) == lib.FGD_ERROR_NULL
        assert call(of(activation=none)) == call(of(activation=null)) == lib.FGD_ERROR_ACTIVATION
        options = [
            {"stride": (0, 1)},
            {"stride": (1, 2**31)},
            {"padding": [[0, -1], [0, 0]]},
            {"padding": [[0, 0], [2**31, 0]]},
            {"dilation": (1, 0)},
            {"groups": 3},
            {"groups": 0},
        ]
        for option in options:
            assert call(of(**option)) == lib.FGD_ERROR_OPTION
        good = (2, 2, 2, 4, 4, 3, 3)
        for i, size in [(0, -1), (1, 0), (2, 0), (3, 0), (4, 2), (5, 5), (6, 0), (0, 2**60), (3, 2**40)]:
            assert call(of(), (*good[:i], size, *good[i + 1 :])) == lib.FGD_ERROR_SIZE
        assert call(of(), (2**30, 2**30, 2**30, 4, 4, 3, 3)) == lib.FGD_ERROR_SIZE
        assert call(of(), x=null) == call(of(), s=null) == lib.FGD_ERROR_NULL
    assert forward(of(), w=null) == forward(of(), y=null) == lib.FGD_ERROR_NULL
    assert forward(of(activation=gelu), z=null) == lib.FGD_ERROR_NULL
    for missing in ("w", "saved", "dy", "dw"):
        assert backward(of(), **{missing: null}) == lib.FGD_ERROR_NULL
    assert lib.fgd_set_gemm(0, lib.FGD_GEMM_NONE, null) == 0
    try:
        assert forward(of()) == backward(of()) == lib.FGD_ERROR_GEMM
    finally:
        gemm.use(None)
    assert np.all(a == 7) and np.all(scratch == 7)
    assert lib.fgd_conv_scratch(0, of(groups=3), 2, 2, 2, 4, 4, 3, 3, 1) == 0


def test_an_empty_native_batch_has_gradients_of_0():
    kernels = kernels_of("native")
    kernels.dtype(np.dtype(np.float32))
    of = described(kernels, CASES[1], "relu")
    sizes, null, at = (0, 2, 2, 4, 4, 3, 3), ffi.NULL, ffi.from_buffer
    dw, db = np.full((2, 2, 3, 3), 9, np.float32), np.full(2, 9, np.float32)
    assert lib.fgd_conv_forward(0, of, *sizes, *[null] * 6) == 0
    assert lib.fgd_conv_backward(0, of, *sizes, *[null] * 5, at(dw), at(db), null) == 0
    assert not dw.any() and not db.any()
