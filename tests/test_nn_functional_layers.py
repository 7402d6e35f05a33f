"""nn.functional's convolutions, pooling, recurrent functions and attention: as its other tests have it."""

import inspect

import numpy as np
import pytest
from models import central_differences, passed, same_bits

from fastgd import nn
from fastgd.arrays import DTYPES
from fastgd.nn import functional as F


def drawn(*shape, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(dtype)


#: a function's name, its x's shape, its arguments behind the parameters, and a layer that is the same
CASES = {
    "conv1d": ("conv1d", (2, 4, 9), (2, 1, 2, 2), lambda d: nn.Conv1d(4, 6, 3, 2, 1, 2, 2, dtype=d)),
    "conv2d": (
        "conv2d",
        (2, 3, 6, 5),
        (1, "same"),
        lambda d: nn.Conv2d(3, 4, (3, 2), padding="same", dtype=d),
    ),
    "max_pool1d": ("max_pool1d", (2, 3, 7), (3, 2, 1), lambda d: nn.MaxPool1d(3, 2, 1)),
    "max_pool2d": ("max_pool2d", (2, 3, 6, 5), (2,), lambda d: nn.MaxPool2d(2)),
    "avg_pool1d": ("avg_pool1d", (2, 3, 7), (3, 2, 1, True), lambda d: nn.AvgPool1d(3, 2, 1, True)),
    "avg_pool2d": (
        "avg_pool2d",
        (2, 3, 6, 5),
        ((2, 3), 1, 1, False, False),
        lambda d: nn.AvgPool2d((2, 3), 1, 1, count_include_pad=False),
    ),
    "adaptive_max_pool1d": ("adaptive_max_pool1d", (2, 3, 8), (2,), lambda d: nn.AdaptiveMaxPool1d(2)),
    "adaptive_max_pool2d": ("adaptive_max_pool2d", (2, 3, 4, 6), (2,), lambda d: nn.AdaptiveMaxPool2d(2)),
    "adaptive_avg_pool1d": ("adaptive_avg_pool1d", (2, 3, 8), (), lambda d: nn.AdaptiveAvgPool1d()),
    "adaptive_avg_pool2d": (
        "adaptive_avg_pool2d",
        (2, 3, 4, 6),
        ((2, 3),),
        lambda d: nn.AdaptiveAvgPool2d((2, 3)),
    ),
    "rnn": ("rnn", (3, 4, 2), ("relu",), lambda d: nn.RNN(2, 3, nonlinearity="relu", dtype=d)),
    "lstm": ("lstm", (3, 4, 2), (), lambda d: nn.LSTM(2, 3, dtype=d)),
    "gru": ("gru", (3, 4, 2), (), lambda d: nn.GRU(2, 3, dtype=d)),
    "attention": ("multi_head_attention", (2, 3, 4), (), lambda d: nn.MultiheadAttention(4, 2, dtype=d)),
    "positions": ("positional_embedding", (2, 3, 4), (), lambda d: nn.PositionalEmbedding(5, 4, dtype=d)),
}


def case(name, dtype):
    """(a function of (x, *parameters, **options), its backward pass, the layer, x) of a case."""
    function, shape, behind, make = CASES[name]
    layer = make(dtype)
    for i, parameter in enumerate(layer.parameters().values()):
        parameter[...] = drawn(*parameter.shape, seed=i)

    def forward(x, *parameters, **options):
        heads = (layer.num_heads,) if name == "attention" else ()
        return getattr(F, function)(x, *heads, *parameters, *behind, **options)

    return forward, getattr(F, f"{function}_backward"), layer, drawn(*shape, dtype=dtype)


def listed(gradients):
    return gradients if isinstance(gradients, tuple) else (gradients,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_functions_have_the_bits_of_their_layers(name, dtype, backend):
    forward, backward, layer, x = case(name, dtype)
    parameters = layer.parameters().values()
    before = [array.copy() for array in (x, *parameters)]
    y, saved = forward(x, *parameters, backend=backend)
    dy = drawn(*y.shape, dtype=dtype, seed=9)
    kept = dy.copy()
    expected, gradients, dx = passed(layer, x, dy, backend)
    same_bits(y, expected)
    for _ in range(2):  # a backward pass leaves what the next one needs
        for mine, wanted in zip(listed(backward(dy, saved)), (dx, *gradients.values()), strict=True):
            same_bits(mine, wanted)
    for array, was in zip((x, *parameters, y, dy), (*before, expected, kept), strict=True):
        same_bits(array, was)
    out = np.empty_like(y)
    given, saved = forward(x, *parameters, out=out, backend=backend)
    assert given is out
    same_bits(out, expected)
    places = {name: np.empty(shape, dtype) for name, shape in saved.gradients.items()}
    made = listed(backward(dy, saved, out=places if parameters else places["dx"]))
    for mine, place, wanted in zip(made, places.values(), (dx, *gradients.values()), strict=True):
        assert mine is place
        same_bits(mine, wanted)
    without = listed(backward(dy, saved, needs_dx=False))
    assert without[0] is None
    for mine, wanted in zip(without[1:], gradients.values(), strict=True):
        same_bits(mine, wanted)


@pytest.mark.parametrize("name", CASES)
def test_gradients(name, backend):
    forward, backward, layer, x = case(name, np.float64)
    arrays = [x, *layer.parameters().values()]
    y, saved = forward(*arrays, backend=backend)
    dy = drawn(*y.shape, seed=9)

    def f():
        return (forward(*arrays, backend=backend)[0] * dy).sum()

    for array, grad in zip(arrays, listed(backward(dy, saved)), strict=True):
        np.testing.assert_allclose(grad, central_differences(f, array), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(("name", "weights"), [("conv2d", [0]), ("gru", [0, 1]), ("attention", [0, 2])])
def test_without_biases(name, weights, backend):
    forward, backward, layer, x = case(name, np.float64)
    arrays = [a if i in weights else None for i, a in enumerate(layer.parameters().values())]
    zeros = [np.zeros_like(a) if i not in weights else a for i, a in enumerate(layer.parameters().values())]
    y, saved = forward(x, *arrays, backend=backend)
    expected, of_zeros = forward(x, *zeros, backend=backend)
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    for array, mine, wanted in zip(
        [x, *arrays], backward(y, saved), backward(expected, of_zeros), strict=True
    ):
        assert (mine is None) == (array is None)
        if mine is not None:
            np.testing.assert_allclose(mine, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru", "attention"])
def test_lengths(name, backend):
    forward, backward, layer, x = case(name, np.float64)
    parameters, lengths = layer.parameters().values(), [x.shape[1], 2, 1][: len(x)]
    y, saved = forward(x, *parameters, lengths=lengths, backend=backend)
    same_bits(y, nn.Sequential(layer, backend=backend).forward(nn.Sequences(x, lengths)))
    dy = drawn(*y.shape, seed=9)
    kept = dy.copy()
    dx, *gradients = backward(dy, saved)
    same_bits(dy, kept)
    sums = [np.zeros_like(parameter) for parameter in parameters]
    for i, steps in enumerate(lengths):
        alone, saved = forward(x[i : i + 1, :steps], *parameters, backend=backend)
        np.testing.assert_allclose(y[i, :steps], alone[0], rtol=1e-10)
        mine, *others = backward(dy[i : i + 1, :steps], saved)
        np.testing.assert_allclose(dx[i, :steps], mine[0], rtol=1e-9, atol=1e-12)
        assert not y[i, steps:].any() and not dx[i, steps:].any()
        sums = [a + b for a, b in zip(sums, others, strict=True)]
    for mine, wanted in zip(gradients, sums, strict=True):
        np.testing.assert_allclose(mine, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
def test_a_state_begins_sequences_and_is_what_they_end_with(name, backend):
    forward, backward, layer, x = case(name, np.float64)
    parameters = layer.parameters().values()
    whole, _ = forward(x, *parameters, backend=backend)
    states = {state: np.zeros((3, 3)) for state in layer.states}
    first, _ = forward(x[:, :1], *parameters, **states, backend=backend)
    same_bits(states["h"], first[:, -1].copy())
    between = {state: array.copy() for state, array in states.items()}
    rest, saved = forward(x[:, 1:], *parameters, **states, backend=backend)
    np.testing.assert_allclose(np.concatenate([first, rest], 1), whole, rtol=1e-12)
    last, _ = forward(x, *parameters, output="last", backend=backend)
    np.testing.assert_allclose(last, states["h"], rtol=1e-12)
    part, dy = x[:, 1:].copy(), drawn(*rest.shape, seed=9)

    def f():
        begin = {state: array.copy() for state, array in between.items()}
        return (forward(part, *parameters, **begin, backend=backend)[0] * dy).sum()

    dx, _, dweight_hh, *_ = backward(dy, saved)
    np.testing.assert_allclose(dx, central_differences(f, part), rtol=1e-5, atol=1e-8)
    numeric = central_differences(f, layer.parameters()["weight_hh_l0"])
    np.testing.assert_allclose(dweight_hh, numeric, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("activation", ["relu", "gelu", nn.LeakyReLU(0.3)])
def test_a_convolution_with_an_activation(activation, backend):
    x, weight, bias = drawn(2, 3, 5), drawn(4, 3, 2), drawn(4)
    y, saved = F.conv1d(x, weight, bias, activation=activation, backend=backend)
    z, of_z = F.conv1d(x, weight, bias, backend=backend)
    if isinstance(activation, str):
        wanted, of_wanted = getattr(F, activation)(z, backend=backend)
        dz = getattr(F, f"{activation}_backward")(dy := drawn(*y.shape, seed=9), of_wanted)
    else:
        wanted, of_wanted = F.leaky_relu(z, 0.3, backend=backend)
        dz = F.leaky_relu_backward(dy := drawn(*y.shape, seed=9), of_wanted)
    np.testing.assert_allclose(y, wanted, rtol=1e-12)
    for mine, expected in zip(F.conv1d_backward(dy, saved), F.conv1d_backward(dz, of_z), strict=True):
        np.testing.assert_allclose(mine, expected, rtol=1e-10, atol=1e-12)


def test_causal_attention(backend):
    _, _, layer, x = case("attention", np.float64)
    parameters = layer.parameters().values()
    y, _ = F.multi_head_attention(x, 2, *parameters, causal=True, backend=backend)
    first, _ = F.multi_head_attention(x[:, :1], 2, *parameters, backend=backend)
    np.testing.assert_allclose(y[:, :1], first, rtol=1e-12)


def test_any_layout(backend):
    for name in CASES:
        forward, _, layer, x = case(name, np.float64)
        parameters = layer.parameters().values()
        expected, _ = forward(x, *parameters, backend=backend)
        fortran = [np.asfortranarray(array) for array in (x, *parameters)]
        same_bits(forward(*fortran, backend=backend)[0], expected)
        x.flags.writeable = False
        same_bits(forward(x, *parameters, backend=backend)[0], expected)


def test_pooling_shows_the_parameters_of_its_layers():
    for name, (function, *_) in CASES.items():
        if "pool" in name:
            cls = type(CASES[name][3](np.float64))
            parameters = [*inspect.signature(getattr(F, function)).parameters]
            assert parameters == ["x", *inspect.signature(cls).parameters, "out", "backend"]
            assert getattr(F, function).__doc__ == cls.__doc__


def test_gradients_share_no_memory_with_what_is_still_needed():
    y, saved = F.conv1d(X, K)
    dy = np.ones_like(y)
    for name, array in {"dx": X, "dweight": K}.items():
        with pytest.raises(ValueError, match=f"out of {name} shares memory"):
            F.conv1d_backward(dy, saved, out={name: array})
    square = np.ones((1, 3, 3))
    y, saved = F.conv1d(square, np.ones((3, 3, 1)))
    with pytest.raises(ValueError, match="out of dx shares memory"):
        F.conv1d_backward(np.ones_like(y), saved, out={"dx": y})
    dy = drawn(1, 3, 3)
    expected = F.conv1d_backward(dy, saved)
    dx, dweight, _ = F.conv1d_backward(dy, saved, out={"dx": dy})
    assert dx is dy
    same_bits(dx, expected[0])
    same_bits(dweight, expected[1])


X, W, K = np.ones((2, 3, 4)), np.ones((5, 4)), np.ones((5, 3, 2))
H, HH, IN = np.ones((2, 5)), np.ones((5, 5)), np.ones((12, 4))
B, OUT = np.ones(5), np.ones((4, 4))
READ_ONLY = np.frombuffer(bytes(80)).reshape(2, 5)
SAVED = F.rnn(X, W, HH)[1]
BAD = [
    (lambda: F.conv1d(X[0], K), ValueError, r"x must have shape \[batch, channels, length\], not \[3, 4\]"),
    (lambda: F.conv2d(X, K), ValueError, r"x must have shape \[batch, channels, height, width\]"),
    (lambda: F.conv1d(X, W), ValueError, r"weight must have shape \[out, channels / groups, length\]"),
    (lambda: F.conv1d(X, K.astype("f4")), TypeError, "weight must be float64, not float32: weight.astype"),
    (lambda: F.conv1d(X, np.ones((5, 2, 2))), ValueError, r"weight must have shape \[5, 3, 2\]"),
    (lambda: F.conv1d(X, K, groups=2), ValueError, "in_channels must be a multiple of groups, 2, not 3"),
    (lambda: F.conv1d(X, K, np.ones(4)), ValueError, r"bias must have shape \[5\], not \[4\]"),
    (lambda: F.conv1d(X, K, stride=0), ValueError, "stride must be 1 or more, not 0"),
    (lambda: F.conv1d(X, K, activation="rleu"), ValueError, "activation must be None, a layer .* not 'rleu'"),
    (
        lambda: F.conv1d(X, K, dilation=4),
        ValueError,
        "x has a shape that conv1d does not take: .* looks at 5",
    ),
    (lambda: F.conv1d(X[:0], K), ValueError, r"x holds nothing \(shape \[0, 3, 4\]\)"),
    (lambda: F.conv1d(X, K, out=X), ValueError, r"out must have shape \[2, 5, 3\], not \[2, 3, 4\]"),
    (lambda: F.conv1d(X, K, backend="gpu"), ValueError, "backend must be auto"),
    (lambda: F.max_pool1d(X.astype(int), 2), TypeError, "x must be float32 or float64, not int64"),
    (lambda: F.max_pool1d(X, 0), ValueError, "kernel_size must be 1 or more, not 0"),
    (lambda: F.max_pool2d(X, 2), ValueError, "x has a shape that max_pool2d does not take: .* height, width"),
    (lambda: F.max_pool2d(1.0, 2), ValueError, "x has a shape that max_pool2d does not take"),
    (lambda: F.avg_pool1d(X, 2, padding=2), ValueError, "padding must be at most half of kernel_size"),
    (lambda: F.adaptive_avg_pool1d(X, 3), ValueError, "x has a shape that adaptive_avg_pool1d does not take"),
    (lambda: F.avg_pool1d(X, 1, out=X), ValueError, "out shares memory"),
    (lambda: F.rnn(X[0], W, HH), ValueError, r"x must have shape \[batch, time, features\], not \[3, 4\]"),
    (lambda: F.rnn(X[:, :0], W, HH), ValueError, "x holds nothing"),
    (lambda: F.rnn(X, None, HH), TypeError, "weight_ih must be float64, not object"),
    (lambda: F.rnn(X, W, W), ValueError, r"weight_ih must have shape \[4, 4\], not \[5, 4\]"),
    (lambda: F.lstm(X, W, HH), ValueError, r"weight_ih must have shape \[20, 4\], not \[5, 4\]"),
    (lambda: F.rnn(X, W, HH, B), ValueError, "bias_ih and bias_hh must both be given, or neither"),
    (lambda: F.rnn(X, W, HH, nonlinearity="x"), ValueError, "nonlinearity must be 'tanh' or 'relu', not 'x'"),
    (lambda: F.rnn(X, W, HH, output="x"), ValueError, "output must be 'sequence' or 'last', not 'x'"),
    (lambda: F.rnn(X, W, HH, lengths=[1, 4]), ValueError, r"lengths\[1\] is 4, but .* 1 to 3 steps"),
    (lambda: F.rnn(X, W, HH, h=H[:1]), ValueError, r"h must have shape \[2, 5\], not \[1, 5\]"),
    (lambda: F.rnn(X, W, HH, h=[[0.0] * 5] * 2), TypeError, "h must be a NumPy array, not list"),
    (lambda: F.rnn(X, W, HH, h=READ_ONLY), ValueError, "h must be contiguous, aligned and writeable"),
    (lambda: F.rnn(X, W, HH, h=HH[:2]), ValueError, "h shares memory"),
    (lambda: F.lstm(X, np.ones((20, 4)), np.ones((20, 5)), h=H), ValueError, "h and c must both be given"),
    (lambda: F.lstm(X, np.ones((20, 4)), np.ones((20, 5)), h=H, c=H), ValueError, "c shares memory"),
    (lambda: F.rnn(X, W, HH, h=H, output="last", out=H), ValueError, "out shares memory"),
    (lambda: F.gru_backward(X, SAVED), TypeError, "saved must be what gru gave beside y, not rnn's"),
    (
        lambda: F.multi_head_attention(X, 3, IN, None, OUT, None),
        ValueError,
        "num_heads must divide embed_dim",
    ),
    (
        lambda: F.multi_head_attention(X, 2, IN, None, None, None),
        TypeError,
        "out_proj_weight must be float64",
    ),
    (
        lambda: F.multi_head_attention(X, 2, IN, np.ones(12), OUT, None),
        ValueError,
        "in_proj_bias and out_proj_bias must both be given, or neither",
    ),
    (
        lambda: F.multi_head_attention(X, 2, IN[:9], None, OUT, None),
        ValueError,
        r"in_proj_weight must have shape \[12, 4\], not \[9, 4\]",
    ),
    (lambda: F.positional_embedding(X, W[:2]), ValueError, r"x has .* takes \[batch, 1 to 2, 4\], not"),
    (
        lambda: F.positional_embedding(X, HH),
        ValueError,
        r"weight must have shape \[max_time, 4\], not \[5, 5\]",
    ),
]


@pytest.mark.parametrize(("call", "error", "reason"), BAD)
def test_bad_arguments_are_refused_and_nothing_changes(call, error, reason):
    with pytest.raises(error, match=reason):
        call()
    assert all((array == 1).all() for array in (X, W, K, H, HH, IN, OUT))
