"""nn.functional: its documentation's example, the bits of the layers, gradients, and bad input."""

import inspect
import math
import re
import textwrap

import numpy as np
import pytest
from models import Pass, central_differences, passed, same_bits

from fastgd import nn
from fastgd.arrays import DTYPES
from fastgd.nn import functional as F
from fastgd.nn.activations import ACTIVATIONS


def test_the_example_runs_as_it_stands_and_learns():
    (block,) = re.findall(r"\n\n((?:    .*\n|\n)+)", F.__doc__)
    names = {}
    exec(textwrap.dedent(block), names)
    assert names["loss"] < 0.1


def drawn(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


def layers(dtype):
    """(a function of (x, backend), its backward pass, the layer it is, x) for every function that is one."""
    for kind, cls in ACTIVATIONS.items():
        layer = cls(*(0.3, 0.9)[: len(cls().values)])

        def activation(x, backend, kind=kind, layer=layer):
            return getattr(F, kind)(x, *layer.values, backend=backend)

        yield activation, getattr(F, f"{kind}_backward"), layer, drawn(3, 4, dtype=dtype)
    for bias in (True, False):
        layer = nn.Linear(4, 5, bias=bias, dtype=dtype, seed=0)

        def linear(x, backend, layer=layer):
            return F.linear(x, layer.weight, layer.bias, backend=backend)

        yield linear, F.linear_backward, layer, drawn(3, 2, 4, dtype=dtype)
    for layer in (nn.LayerNorm((2, 4), dtype=dtype), nn.LayerNorm(4, 0.1, elementwise_affine=False)):

        def layer_norm(x, backend, layer=layer):
            given = layer.normalized_shape, layer.weight, layer.bias, layer.eps
            return F.layer_norm(x, *given, backend=backend)

        yield layer_norm, F.layer_norm_backward, layer, drawn(3, 2, 4, dtype=dtype)
    layer = nn.RMSNorm(4, dtype=dtype)
    yield (
        (lambda x, b, w=layer.weight: F.rms_norm(x, 4, w, backend=b)),
        F.rms_norm_backward,
        layer,
        drawn(3, 4, dtype=dtype),
    )
    for layer, shape in (
        (nn.BatchNorm1d(4, 0.1, dtype=dtype), (5, 4)),
        (nn.BatchNorm2d(2, affine=False, dtype=dtype), (3, 2, 4, 2)),
    ):

        def batch_norm(x, backend, layer=layer):
            running = layer.buffers()["running_mean"].copy(), layer.buffers()["running_var"].copy()
            return F.batch_norm(x, *running, layer.weight, layer.bias, True, 0.1, layer.eps, backend=backend)

        yield batch_norm, F.batch_norm_backward, layer, drawn(*shape, dtype=dtype)
    yield (lambda x, b: F.softmax(x, backend=b)), F.softmax_backward, nn.Softmax(), drawn(3, 4, dtype=dtype)
    yield (
        (lambda x, b: F.log_softmax(x, backend=b)),
        F.log_softmax_backward,
        nn.LogSoftmax(),
        drawn(3, 4, dtype=dtype),
    )
    layer = nn.Embedding(4, 3, 1, dtype=dtype, seed=0)
    x = np.array([[0, 1, 3], [3, 3, 2]])
    yield (lambda x, b, w=layer.weight: F.embedding(x, w, 1, backend=b)), F.embedding_backward, layer, x


def named(gradients, saved):
    return dict(zip(saved.gradients, gradients if isinstance(gradients, tuple) else [gradients], strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_functions_have_the_bits_of_their_layers(dtype, backend):
    for forward, backward, layer, x in layers(dtype):
        for i, parameter in enumerate(layer.parameters().values()):
            parameter[...] = drawn(*parameter.shape, seed=i)
        y, saved = forward(x, backend)
        dy = drawn(*y.shape, dtype=dtype, seed=9)
        expected, gradients, dx = passed(layer, x, dy, backend)
        same_bits(y, expected)
        kept = dy.copy()
        mine = named(backward(dy, saved), saved)
        same_bits(dy, kept)
        assert (dx is None) == ("dx" not in mine)
        if dx is not None:
            same_bits(mine.pop("dx"), dx)
        assert {name for name, array in mine.items() if array is not None} == {
            f"d{name}" for name in gradients
        }
        for name, gradient in gradients.items():
            same_bits(mine[f"d{name}"], gradient)


def test_every_activation_has_its_functions_and_their_parameters():
    for kind, cls in ACTIVATIONS.items():
        parameters = [*inspect.signature(getattr(F, kind)).parameters]
        assert parameters == ["x", *inspect.signature(cls).parameters, "out", "backend"]
        assert getattr(F, kind).__doc__ == cls.__doc__ and callable(getattr(F, f"{kind}_backward"))
    x = drawn(3, 4)
    assert np.array_equal(F.leaky_relu(x, 0.5)[0], F.leaky_relu(x, negative_slope=0.5)[0])
    assert np.array_equal(F.gelu(x, "tanh")[0], nn.Sequential(nn.GELU("tanh")).forward(x))


@pytest.mark.parametrize("activation", ["relu", "gelu", nn.LeakyReLU(0.3), nn.GELU("tanh"), None])
def test_linear_with_an_activation(activation, backend):
    x, weight, bias, dy = drawn(5, 3), drawn(4, 3), drawn(4), drawn(5, 4, seed=1)
    given = activation
    if isinstance(activation, str):
        activation = ACTIVATIONS[activation]()
    _, saved = F.linear(x, weight, bias, activation=given, backend=backend)
    for array, grad in zip((x, weight, bias), F.linear_backward(dy, saved), strict=True):

        def f():
            z = F.linear(x, weight, bias, backend=backend)[0]
            return ((z if activation is None else nn.Sequential(activation).forward(z)) * dy).sum()

        np.testing.assert_allclose(grad, central_differences(f, array), rtol=1e-6, atol=1e-8)
    again = F.linear_backward(dy, saved)
    for mine, expected in zip(again, F.linear_backward(dy, saved), strict=True):
        same_bits(mine, expected)


def test_batch_norm_by_running_statistics(backend):
    x, mean, var, weight, bias = drawn(5, 3, 2), drawn(3), drawn(3) ** 2, drawn(3, seed=1), drawn(3, seed=2)
    dy, before = drawn(5, 3, 2, seed=1), (mean.copy(), var.copy())
    y, saved = F.batch_norm(x, mean, var, weight, bias, backend=backend)
    by = (weight / np.sqrt(var + 1e-5))[:, None]
    np.testing.assert_allclose(y, (x - mean[:, None]) * by + bias[:, None], rtol=1e-12)
    assert np.array_equal(mean, before[0]) and np.array_equal(var, before[1])
    for array, grad in zip((x, weight, bias), F.batch_norm_backward(dy, saved), strict=True):

        def f():
            return (F.batch_norm(x, mean, var, weight, bias, backend=backend)[0] * dy).sum()

        np.testing.assert_allclose(grad, central_differences(f, array), rtol=1e-6, atol=1e-8)
    F.batch_norm(x, mean, var, training=True, momentum=0.25, backend=backend)
    np.testing.assert_allclose(mean, 0.75 * before[0] + 0.25 * x.mean((0, 2)), rtol=1e-12)
    np.testing.assert_allclose(var, 0.75 * before[1] + 0.25 * x.var((0, 2), ddof=1), rtol=1e-12)


def test_dropout(backend):
    x, dy = np.ones((100, 100)), drawn(100, 100)
    y, saved = F.dropout(x, 0.25, seed=3, backend=backend)
    assert abs((y != 0).mean() - 0.75) < 0.02
    assert np.array_equal(y, np.where(y != 0, 1 / 0.75, 0))
    same_bits(F.dropout_backward(dy, saved), np.where(y != 0, dy * (1 / 0.75), 0.0))
    assert np.array_equal(F.dropout(x, 0.25, seed=3)[0], y)
    assert not np.array_equal(F.dropout(x, 0.25, seed=4)[0], y)


LOSSES = [
    (F.cross_entropy, nn.CrossEntropyLoss, {"label_smoothing": 0.1}),
    (F.cross_entropy, nn.CrossEntropyLoss, {"weight": [1, 2, 0.5, 1]}),
    (F.mse_loss, nn.MSELoss, {}),
    (F.l1_loss, nn.L1Loss, {"reduction": "sum"}),
    (F.huber_loss, nn.HuberLoss, {"delta": 0.5}),
    (F.smooth_l1_loss, nn.SmoothL1Loss, {"beta": 0.5}),
    (F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss, {"pos_weight": 2.0}),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("function", "cls", "options"), LOSSES)
def test_losses(function, cls, options, dtype, backend):
    prediction = drawn(6, 4, dtype=dtype)
    y = np.arange(6) % 4 if cls is nn.CrossEntropyLoss else np.abs(drawn(6, 4, dtype=dtype, seed=1)) % 1
    loss, grad = function(prediction, y, **options, backend=backend)
    model = nn.Sequential(Pass(), loss=cls(**options), backend=backend)
    assert loss == model.loss(prediction, y)
    if dtype == np.float64:

        def f():
            return function(prediction, y, **options, backend=backend)[0]

        np.testing.assert_allclose(grad, central_differences(f, prediction), rtol=1e-6, atol=1e-8)
    out = np.empty_like(prediction)
    assert function(prediction, y, **options, out=out, backend=backend)[1] is out
    same_bits(out, grad)
    parameters = [*inspect.signature(function).parameters]
    assert parameters == ["prediction", "y", *inspect.signature(cls).parameters, "out", "backend"]


def test_out_and_needs_dx(backend):
    x, weight, bias, dy = drawn(5, 3), drawn(4, 3), drawn(4), drawn(5, 4)
    y = np.empty((5, 4))
    expected, _ = F.linear(x, weight, bias, backend=backend)
    given, saved = F.linear(x, weight, bias, out=y, backend=backend)
    assert given is y
    same_bits(y, expected)
    expected = F.linear_backward(dy, saved)
    out = {"dweight": np.empty((4, 3)), "dx": np.empty((5, 3))}
    gradients = F.linear_backward(dy, saved, out=out)
    assert gradients[0] is out["dx"] and gradients[1] is out["dweight"]
    for mine, wanted in zip(gradients, expected, strict=True):
        same_bits(mine, wanted)
    none, dweight, _ = F.linear_backward(dy, saved, needs_dx=False)
    assert none is None
    same_bits(dweight, expected[1])
    y, saved = F.tanh(x, backend=backend)
    dy = drawn(5, 3, seed=1)
    expected = F.tanh_backward(dy, saved)
    assert F.tanh_backward(dy, saved, out=dy) is dy
    same_bits(dy, expected)
    assert F.tanh_backward(dy, saved, needs_dx=False) is None


def test_any_layout_and_shape(backend):
    x, weight = drawn(6, 3), drawn(4, 3)
    expected = F.linear(x, weight, backend=backend)[0]
    for a, w in ((np.asfortranarray(x), np.asfortranarray(weight)), (x.tolist(), weight[::-1][::-1])):
        same_bits(F.linear(a, w, backend=backend)[0], expected)
    assert F.linear(x[0], weight, backend=backend)[0].shape == (4,)
    assert F.linear(x[:0], weight, backend=backend)[0].shape == (0, 4)
    assert F.relu(np.float32(-1), backend=backend)[0] == 0
    y, saved = F.embedding(np.zeros((0, 2), np.int64), weight, backend=backend)
    assert y.shape == (0, 2, 3) and not F.embedding_backward(y, saved).any()


X, W = np.ones((2, 3)), np.ones((4, 3))
READ_ONLY = np.frombuffer(bytes(24))
INDICES = np.array([[0, 4]])
SAVED = F.linear(X, W)[1]
DY = np.ones((2, 4))
BAD = [
    (lambda: F.relu(X.astype(int)), TypeError, "x must be float32 or float64, not int64"),
    (lambda: F.relu(X, backend="gpu"), ValueError, "backend must be auto"),
    (lambda: F.relu(X, 3), TypeError, r"ReLU\(\) takes no arguments"),
    (lambda: F.leaky_relu(X, -1.0), ValueError, "negative_slope must be finite and at least 0"),
    (lambda: F.linear(X, np.ones((4, 2))), ValueError, r"weight must have shape \[out, 3\], not \[4, 2\]"),
    (lambda: F.linear(1.0, W), ValueError, r"x must have shape \[..., in\], not \[\]"),
    (lambda: F.linear(X, W.astype("f4")), TypeError, r"weight must be float64, not float32: weight.astype"),
    (lambda: F.linear(X, W, np.ones(3)), ValueError, r"bias must have shape \[4\], not \[3\]"),
    (lambda: F.linear(X, W, activation="rleu"), ValueError, "activation must be None, a layer .* not 'rleu'"),
    (lambda: F.linear(X, W, out=np.ones((2, 3))), ValueError, r"out must have shape \[2, 4\], not \[2, 3\]"),
    (lambda: F.linear(X, W, out=np.ones((2, 4), "f4")), TypeError, "out must be float64, not float32"),
    (lambda: F.linear(X, W, out=[1]), TypeError, "out must be a NumPy array, not list"),
    (
        lambda: F.linear(X, W, out=np.ones((4, 2)).T),
        ValueError,
        "out must be contiguous, aligned and writeable",
    ),
    (lambda: F.relu(X, out=X), ValueError, "out shares memory with an array that is still needed"),
    (lambda: F.relu(np.ones(3), out=READ_ONLY), ValueError, "out must be contiguous, aligned and writeable"),
    (lambda: F.layer_norm(X, 2), ValueError, r"x must have shape \[..., 2\], not \[2, 3\]"),
    (lambda: F.layer_norm(X, 3, bias=np.ones(3)), ValueError, "bias needs a weight"),
    (lambda: F.layer_norm(X, 3, eps=-1.0), ValueError, "eps must be finite and at least 0"),
    (lambda: F.rms_norm(X, 3, np.ones(2)), ValueError, r"weight must have shape \[3\], not \[2\]"),
    (lambda: F.batch_norm(X, np.ones(3)), ValueError, "running_mean needs running_var"),
    (lambda: F.batch_norm(X[0]), ValueError, r"x must have shape \[batch, channels, ...\]"),
    (lambda: F.batch_norm(X, momentum=2.0), ValueError, "momentum must be at most 1, not 2.0"),
    (lambda: F.batch_norm(X[:1], training=True), ValueError, "x must hold more than 1 value per channel"),
    (
        lambda: F.batch_norm(X, READ_ONLY, np.ones(3), training=True),
        ValueError,
        "running_mean must be contiguous, aligned and writeable",
    ),
    (
        lambda: F.batch_norm(X, [0.0] * 3, np.ones(3), training=True),
        TypeError,
        "running_mean must be a NumPy array",
    ),
    (lambda: F.embedding(X, W), TypeError, r"x must be int64, not float64: x.astype\('int64'\)"),
    (lambda: F.embedding(INDICES, W), ValueError, r"x\[0, 1\] is 4, but indices are 0 .. 3"),
    (lambda: F.embedding(INDICES, W, 4), ValueError, "padding_idx must be -4 .. 3, not 4"),
    (lambda: F.softmax(1.0), ValueError, r"x must have shape \[..., classes\], not \[\]"),
    (lambda: F.dropout(X, 1.5, seed=0), ValueError, "p must be at most 1, not 1.5"),
    (lambda: F.dropout(X, seed=-1), ValueError, r"seed must be an integer from 0 to 2\^64 - 1, not -1"),
    (lambda: F.cross_entropy(X, np.array([0, 3])), ValueError, r"y\[1\] is 3, but labels are 0 .. 2"),
    (lambda: F.cross_entropy(X, np.ones(2)), TypeError, "y must hold class labels as integers"),
    (lambda: F.cross_entropy(X.astype(int), [0, 1]), TypeError, "prediction must be float32 or float64"),
    (lambda: F.mse_loss(X, np.ones(3)), ValueError, r"y must have the prediction's shape \[2, 3\]"),
    (lambda: F.mse_loss(X, X, out=X), ValueError, "out shares memory"),
    (lambda: F.linear_backward(DY.T, SAVED), ValueError, r"dy must have shape \[2, 4\], not \[4, 2\]"),
    (lambda: F.linear_backward(DY.astype("f4"), SAVED), TypeError, "dy must be float64, not float32"),
    (lambda: F.relu_backward(DY, SAVED), TypeError, "saved must be what relu gave beside y, not linear's"),
    (lambda: F.linear_backward(DY, DY), TypeError, "saved must be what linear gave beside y, not ndarray"),
    (
        lambda: F.linear_backward(DY, SAVED, out=DY),
        TypeError,
        r"out must be a dict .*\['dx', 'dweight', 'dbias'\], not nd",
    ),
    (lambda: F.linear_backward(DY, SAVED, out={"dw": DY}), TypeError, r"not \['dw'\]"),
    (lambda: F.linear_backward(DY, SAVED, out={"dx": DY}), ValueError, r"out of dx must have shape \[2, 3\]"),
    (lambda: F.linear_backward(DY, SAVED, out={"dx": X}), ValueError, "out of dx shares memory"),
    (
        lambda: F.linear_backward(W.T.copy()[:2], SAVED, out={"dweight": W}),
        ValueError,
        "out of dweight shares memory",
    ),
]


@pytest.mark.parametrize(("call", "error", "reason"), BAD)
def test_bad_arguments_are_refused_and_nothing_changes(call, error, reason):
    with pytest.raises(error, match=reason):
        call()
    assert (X == 1).all() and (W == 1).all() and (DY == 1).all() and math.isfinite(READ_ONLY[0])
