"""Bad models, batches and calls are refused before anything changes; empty ones are no error."""

import math

import numpy as np
import pytest
from models import Descent, batch, classifier, same_bits

from fastgd import gemm, nn
from fastgd._native import ffi, lib
from fastgd.nn.kernels import kernels_of


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            lambda x, y: (x[:, :5], y),
            ValueError,
            r"layer 0 does not take: Linear\(6, 16.*\[batch, \.\.\., 6\], not \[12, 5\]",
        ),
        (lambda x, y: (x[0], y), ValueError, r"x must have shape \[batch, ...\], not \[6\]"),
        (lambda x, y: (x[None], y), ValueError, r"y must have shape \[1, 12\], a label for each row"),
        (
            lambda x, y: (x.astype(np.float64), y),
            TypeError,
            r"x is float64 .* float32: x.astype\('float32'\)",
        ),
        (lambda x, y: (x.astype(np.int64), y), TypeError, "x is int64"),
        (lambda x, y: (x.astype(">f4"), y), TypeError, "x is >f4"),
        (lambda x, y: (x[:0], y[:0]), ValueError, "x holds no rows"),
        (lambda x, y: (x, y[:-1]), ValueError, r"y must have shape \[12\]"),
        (lambda x, y: (x, y[:, None]), ValueError, r"y must have shape \[12\]"),
        (
            lambda x, y: (x, y.astype(np.float32)),
            TypeError,
            "y must hold class labels as integers, not float32",
        ),
        (lambda x, y: (x, y == 0), TypeError, "y must hold class labels as integers, not bool"),
        (
            lambda x, y: (x, np.where(np.arange(12) == 7, 3, y)),
            ValueError,
            r"y\[7\] is 3, but labels are 0 .. 2",
        ),
        (lambda x, y: (x, np.where(np.arange(12) == 7, -1, y)), ValueError, r"y\[7\] is -1"),
        (lambda x, y: (x, np.full(12, 2**64 - 1, np.uint64)), ValueError, r"y\[0\] is 18446744073709551615"),
    ],
)
def test_bad_batches_are_refused_and_change_nothing(change, error, match, backend):
    model, (x, y) = classifier(backend), batch()
    opt = Descent(model.parameters(), 1.0)
    model.loss_and_grad(x, y)
    before = [array.copy() for array in model.parameters() + model.gradients()]
    with pytest.raises(error, match=match):
        model.train_step(*change(x, y), opt)
    for array, kept in zip(model.parameters() + model.gradients(), before, strict=True):
        same_bits(array, kept)


def test_bad_targets_of_the_mean_squared_error(backend):
    model = nn.Sequential(nn.Linear(6, 1), loss=nn.MSELoss(), backend=backend)
    x = batch()[0]
    with pytest.raises(ValueError, match=r"y must have the prediction's shape \[12, 1\], not \[12\]"):
        model.loss_and_grad(x, np.zeros(12, np.float32))
    with pytest.raises(TypeError, match="y is float64 but the model computes in float32"):
        model.loss_and_grad(x, np.zeros((12, 1)))


def test_bad_models_are_refused():
    with pytest.raises(RuntimeError, match="the model has no loss"):
        nn.Sequential(nn.Linear(6, 3)).loss_and_grad(*batch())
    with pytest.raises(ValueError, match="at least one layer"):
        nn.Sequential()
    with pytest.raises(TypeError, match=r"layer 1 must be a Layer such as nn.ReLU\(\), not <class"):
        nn.Sequential(nn.Linear(6, 3), nn.ReLU)
    with pytest.raises(TypeError, match=r"loss must be a Loss such as nn.MSELoss\(\), not <class"):
        nn.Sequential(nn.Linear(6, 3), loss=nn.MSELoss)
    with pytest.raises(TypeError, match="one dtype"):
        nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3, dtype=np.float64))
    shared = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"layer 1, .* is in the model twice"):
        nn.Sequential(shared, shared)
    with pytest.raises(ValueError, match="backend must be auto"):
        nn.Sequential(shared, backend="tpu")
    with pytest.raises(ValueError, match="layer 1 does not take"):
        nn.Sequential(nn.Linear(6, 3), nn.Linear(4, 3)).forward(batch()[0])
    with pytest.raises(ValueError, match="in_features must be 1 or more, not 0"):
        nn.Linear(0, 3)
    with pytest.raises(TypeError, match="out_features must be an integer, not float"):
        nn.Linear(3, 3.0)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, not float16"):
        nn.Linear(3, 3, dtype=np.float16)


def test_bad_native_calls_are_refused_before_anything_is_written():
    a = np.full(16, 7, np.float32)
    row, loss = np.full(4, 7.0), ffi.new("double *", 7)
    p, null, rows = ffi.from_buffer(a), ffi.NULL, ffi.from_buffer("double[]", row)
    labels = np.array([0, 1, 2, 4])
    at = ffi.from_buffer("int64_t[]", labels)
    gemm.ensure("float32")
    relu, gelu = map(kernels_of("native").activation, ("relu", "gelu"))
    of, squared = (
        kernels_of("native").describe("labels", None, 0.0, 0.0, -1),
        kernels_of("native").loss("squared"),
    )
    none = ffi.new("fgd_activation *", {"kind": 99})
    assert lib.fgd_softmax_cross_entropy(0, of, 4, 4, p, at, p, rows, loss) == lib.FGD_ERROR_LABEL
    labels[3] = -2
    assert lib.fgd_softmax_cross_entropy(0, of, 4, 4, p, at, p, rows, loss) == lib.FGD_ERROR_LABEL
    labels[3] = 3
    assert lib.fgd_softmax_cross_entropy(5, of, 4, 4, p, at, p, rows, loss) == lib.FGD_ERROR_DTYPE
    assert lib.fgd_softmax_cross_entropy(0, of, -4, 4, p, at, p, rows, loss) == lib.FGD_ERROR_SIZE
    assert lib.fgd_softmax_cross_entropy(0, of, 2**40, 2**40, p, at, p, rows, loss) == lib.FGD_ERROR_SIZE
    assert lib.fgd_softmax_cross_entropy(0, of, 4, 4, null, at, p, rows, loss) == lib.FGD_ERROR_NULL
    assert lib.fgd_softmax_cross_entropy(0, of, 4, 4, p, at, p, null, loss) == lib.FGD_ERROR_NULL
    assert lib.fgd_loss_and_grad(0, squared, 4, p, null, p, rows, loss) == lib.FGD_ERROR_NULL
    assert lib.fgd_loss_and_grad(0, squared, -1, p, p, p, rows, loss) == lib.FGD_ERROR_SIZE
    no_loss = ffi.new("fgd_loss *", {"kind": 99})
    assert lib.fgd_loss_and_grad(0, no_loss, 4, p, p, p, rows, loss) == lib.FGD_ERROR_LOSS
    beyond = kernels_of("native").describe("labels", None, 1.5, 0.0, -1)
    assert lib.fgd_softmax_cross_entropy(0, beyond, 4, 4, p, at, p, rows, loss) == lib.FGD_ERROR_OPTION
    assert lib.fgd_activation_forward(0, none, 4, p, p) == lib.FGD_ERROR_ACTIVATION
    assert lib.fgd_activation_forward(0, relu, -1, p, p) == lib.FGD_ERROR_SIZE
    assert lib.fgd_activation_backward(0, relu, 4, p, p, null) == lib.FGD_ERROR_NULL
    assert lib.fgd_linear_forward(0, none, 4, 4, 4, p, p, p, p, p) == lib.FGD_ERROR_ACTIVATION
    assert lib.fgd_linear_forward(0, relu, 4, 4, 4, null, p, p, p, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_linear_forward(0, gelu, 4, 4, 4, p, p, p, null, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_linear_backward(0, relu, 4, 4, 4, p, p, null, p, p, p, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_linear_backward(0, relu, 4, 4, -4, p, p, p, p, p, p, p) == lib.FGD_ERROR_SIZE
    assert lib.fgd_set_gemm(0, lib.FGD_GEMM_NONE, null) == 0
    try:
        assert lib.fgd_linear_backward(0, relu, 4, 4, 4, p, p, p, p, p, p, p) == lib.FGD_ERROR_GEMM
    finally:
        gemm.use(None)
    assert np.all(a == 7) and np.all(row == 7) and loss[0] == 7


def test_empty_native_calls():
    loss = ffi.new("double *")
    of = kernels_of("native").describe("labels", None, 0.0, 0.0, -1)
    assert lib.fgd_softmax_cross_entropy(0, of, 0, 3, ffi.NULL, ffi.NULL, ffi.NULL, ffi.NULL, loss) == 0
    assert math.isnan(loss[0])
    gemm.ensure("float32")
    bias, weight = np.array([1, -2], np.float32), np.full((2, 3), 9, np.float32)
    y = np.zeros((4, 2), np.float32)
    at = ffi.from_buffer
    relu = kernels_of("native").activation("relu")
    assert lib.fgd_linear_forward(0, relu, 4, 0, 2, ffi.NULL, ffi.NULL, at(bias), ffi.NULL, at(y)) == 0
    assert np.array_equal(y, np.tile(np.float32([1, 0]), (4, 1)))
    null = ffi.NULL
    assert lib.fgd_linear_backward(0, relu, 0, 3, 2, null, null, null, null, null, at(weight), at(bias)) == 0
    assert not weight.any() and not bias.any()
