"""Initial parameters: their bounds, means and deviations, orthogonality, torch's gains, and bad input."""

import math
from functools import partial

import numpy as np
import pytest

from fastgd import nn
from fastgd.arrays import DTYPES
from fastgd.nn import init

#: a Linear's, and a convolution's
SHAPES = [(300, 200), (60, 30, 5, 7)]
LEAKY = math.sqrt(2 / (1 + 0.2**2))

#: a call, and its deviation from (fan_in, fan_out)
UNIFORM = [
    (init.xavier_uniform_, lambda i, o: math.sqrt(2 / (i + o))),
    (partial(init.xavier_uniform_, gain=5 / 3), lambda i, o: 5 / 3 * math.sqrt(2 / (i + o))),
    (init.kaiming_uniform_, lambda i, o: math.sqrt(2 / i)),
    (partial(init.kaiming_uniform_, a=0.2, mode="fan_out"), lambda i, o: LEAKY / math.sqrt(o)),
    (partial(init.kaiming_uniform_, nonlinearity="tanh"), lambda i, o: 5 / 3 / math.sqrt(i)),
    (init.lecun_uniform_, lambda i, o: 1 / math.sqrt(i)),
    (partial(init.uniform_, a=-0.5, b=0.5), lambda i, o: 0.5 / math.sqrt(3)),
]
NORMAL = [
    (init.xavier_normal_, lambda i, o: math.sqrt(2 / (i + o))),
    (partial(init.xavier_normal_, gain=0.5), lambda i, o: 0.5 * math.sqrt(2 / (i + o))),
    (init.kaiming_normal_, lambda i, o: math.sqrt(2 / i)),
    (partial(init.kaiming_normal_, a=0.2, mode="fan_out"), lambda i, o: LEAKY / math.sqrt(o)),
    (partial(init.kaiming_normal_, nonlinearity="selu"), lambda i, o: 0.75 / math.sqrt(i)),
    (init.lecun_normal_, lambda i, o: 1 / math.sqrt(i)),
    (partial(init.normal_, std=0.3), lambda i, o: 0.3),
]


def fans(shape):
    return shape[1] * math.prod(shape[2:]), shape[0] * math.prod(shape[2:])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES)
def test_deviations(shape, dtype):
    """Of 60 000 numbers or more: four deviations of the mean, and of the deviation."""
    for is_normal, cases in ((False, UNIFORM), (True, NORMAL)):
        for call, deviation in cases:
            array, std = np.empty(shape, dtype), deviation(*fans(shape))
            assert call(array, rng=1) is array and array.dtype == dtype
            assert abs(array.mean()) < 4 * std / math.sqrt(array.size)
            # the variance of squares: 2 std^4 of normal, 0.8 std^4 of uniform numbers
            spread = math.sqrt((2 if is_normal else 0.8) / array.size) / 2
            assert abs(array.std() / std - 1) < 4 * spread
            largest = np.abs(array).max() / std
            assert (
                (largest > 3.5)
                if is_normal
                else (0.999 * math.sqrt(3) < largest <= math.sqrt(3) * (1 + 1e-6))
            )
            assert np.array_equal(array, call(np.empty(shape, dtype), rng=1))
            assert not np.array_equal(array, call(np.empty(shape, dtype), rng=2))
            assert not np.array_equal(array, call(np.empty(shape, dtype)))


def test_a_mean_and_bounds():
    array = init.normal_(np.empty(40_000), 3.0, 0.5, rng=0)
    assert abs(array.mean() - 3) < 0.01 and abs(array.std() - 0.5) < 0.01
    array = init.uniform_(np.empty(40_000), 2.0, 3.0, rng=0)
    assert 2 <= array.min() < 2.001 and 2.999 < array.max() <= 3
    assert not init.zeros_(np.ones(3)).any()
    assert (init.ones_(np.zeros(3)) == 1).all()
    assert (init.constant_(np.zeros((3, 2)), -2.5) == -2.5).all()


def density(x):
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def share(x):
    return (1 + math.erf(x / math.sqrt(2))) / 2


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [
        (0, 1, -2, 2),
        (0, 0.02, -2, 2),
        (1, 2, 0, 1.5),
        (0, 1, 1.9, 3),
        (0, 1, 1.5, 9),
        (5, 1, 2, 3.5),
        (0, 1, -9, 0),
    ],
)
def test_the_truncated_normal_distribution(mean, std, a, b):
    array = init.trunc_normal_(np.empty((200, 250)), mean, std, a, b, rng=0)
    assert a <= array.min() and array.max() <= b
    low, high = (a - mean) / std, (b - mean) / std
    mass = share(high) - share(low)
    shift = (density(low) - density(high)) / mass
    variance = 1 + (low * density(low) - high * density(high)) / mass - shift * shift
    deviation = std * math.sqrt(variance)
    assert abs(array.mean() - (mean + std * shift)) < 4 * deviation / math.sqrt(array.size)
    assert abs(array.std() / deviation - 1) < 0.02


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(30, 30), (20, 50), (50, 20), (6, 2, 3, 3), (1, 9), (9, 1)])
def test_orthogonality(shape, dtype):
    array = init.orthogonal_(np.empty(shape, dtype), 0.5, rng=0)
    matrix = array.reshape(shape[0], -1).astype(np.float64)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    np.testing.assert_allclose(matrix @ matrix.T, 0.25 * np.eye(len(matrix)), atol=4 * np.finfo(dtype).eps)
    assert np.array_equal(array, init.orthogonal_(np.empty(shape, dtype), 0.5, rng=0))


def test_orthogonal_matrices_are_uniformly_distributed():
    """Each element is as often above 0 as below, and determinants are as often 1 as -1."""
    rng = np.random.default_rng(0)
    drawn = np.array([init.orthogonal_(np.empty((3, 3)), rng=rng) for _ in range(1000)])
    assert (np.abs((drawn > 0).mean(0) - 0.5) < 0.07).all()
    assert abs((np.linalg.det(drawn) > 0).mean() - 0.5) < 0.07


@pytest.mark.peer
def test_gains_and_fans_are_torch_s():
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    for name in ("linear", "sigmoid", "tanh", "relu", "selu", "leaky_relu"):
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert init.calculate_gain("leaky_relu", 0.3) == pytest.approx(
        torch.nn.init.calculate_gain("leaky_relu", 0.3)
    )
    for shape in SHAPES:
        assert init.fans(shape) == torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


def test_the_forget_gate_s_bias():
    bias = np.zeros(12, np.float32)
    assert init.forget_gate_bias_(bias) is bias
    assert bias.tolist() == [0] * 3 + [1] * 3 + [0] * 6
    assert init.forget_gate_bias_(bias, 2.0).tolist() == [0] * 3 + [2] * 3 + [0] * 6


def test_parameters_of_a_layer():
    layer = nn.Linear(20, 30, seed=0)
    weight, model = layer.weight, nn.Sequential(layer)
    init.kaiming_normal_(layer.weight, nonlinearity="relu", rng=0)
    init.zeros_(layer.bias)
    assert layer.weight is weight
    x = np.random.default_rng(0).standard_normal((3, 20), dtype=np.float32)
    np.testing.assert_allclose(model.forward(x), x @ weight.T, rtol=1e-5, atol=1e-6)


def frozen():
    array = np.zeros((2, 2))
    array.flags.writeable = False
    return array


W = np.ones((3, 4))
BAD = [
    (
        lambda: init.zeros_([1.0]),
        TypeError,
        "array must be a NumPy array of floating point numbers, not list",
    ),
    (lambda: init.normal_(np.zeros(3, int)), TypeError, "not of int64"),
    (lambda: init.ones_(frozen()), ValueError, "array is read-only"),
    (lambda: init.constant_(W, math.inf), ValueError, "val must be finite"),
    (lambda: init.uniform_(W, 2.0, 1.0), ValueError, "a must be at most b, not 2.0 and 1.0"),
    (lambda: init.normal_(W, 0.0, -1.0), ValueError, "std must be finite and at least 0, not -1.0"),
    (lambda: init.trunc_normal_(W, std=0.0), ValueError, "std must be finite and above 0"),
    (lambda: init.trunc_normal_(W, a=1.0, b=1.0), ValueError, "a must be below b, not 1.0 and 1.0"),
    (lambda: init.trunc_normal_(W, 5.0), ValueError, r"mean must be at most 2 std outside a .. b, not 5.0"),
    (
        lambda: init.xavier_uniform_(np.ones(3)),
        ValueError,
        r"array must have 2 dimensions or more, .* not \[3\]",
    ),
    (lambda: init.xavier_normal_(W, -1.0), ValueError, "gain must be finite and at least 0, not -1.0"),
    (
        lambda: init.kaiming_uniform_(W, mode="fan"),
        ValueError,
        "mode must be 'fan_in' or 'fan_out', not 'fan'",
    ),
    (
        lambda: init.kaiming_normal_(W, nonlinearity="x"),
        ValueError,
        "nonlinearity must be one of .*, not 'x'",
    ),
    (lambda: init.lecun_normal_(np.ones(3)), ValueError, "array must have 2 dimensions or more"),
    (lambda: init.orthogonal_(np.ones(3)), ValueError, "array must have 2 dimensions or more"),
    (lambda: init.orthogonal_(W, math.nan), ValueError, "gain must be finite"),
    (lambda: init.calculate_gain("leaky_relu", "a"), TypeError, "param must be a number, not str"),
    (
        lambda: init.forget_gate_bias_(np.zeros(6)),
        ValueError,
        r"bias must have shape \[4 hidden\], not \[6\]",
    ),
    (lambda: init.forget_gate_bias_(np.zeros((4, 1))), ValueError, r"bias must have shape"),
]


@pytest.mark.parametrize(("call", "error", "reason"), BAD)
def test_bad_arguments_are_refused_and_nothing_changes(call, error, reason):
    with pytest.raises(error, match=reason):
        call()
    assert (W == 1).all()
