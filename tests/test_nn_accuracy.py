"""The elements of the layers: right to a few units in the last place, in their limits and beyond."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from models import Pass, same_bits

from fastgd import nn
from fastgd.arrays import DTYPES
from fastgd.nn import elementary, reference
from fastgd.nn.kernels import kernels_of


def ulp_error(y, exact):
    with np.errstate(over="ignore", invalid="ignore"):
        return np.abs(y.astype(exact.dtype) - exact) / np.spacing(np.abs(exact.astype(y.dtype))).astype(
            exact.dtype
        )


def logistic(x):
    return 1 / (1 + np.exp(-x))


def mish(x):
    n = np.exp(np.minimum(x, 30)) * (np.exp(np.minimum(x, 30)) + 2)
    return x * np.where(x > 30, 1, n / (n + 2))


def erfc(x):
    """To float64's accuracy, at x itself though it may be wider."""
    near = x.astype(np.float64)
    rest = (x - near) * x.dtype.type(2 / math.sqrt(math.pi)) * np.exp(-x * x)
    return np.array([math.erfc(v) for v in near.tolist()]).astype(x.dtype) - rest


def gelu_tanh(x):
    root = np.sqrt(x.dtype.type(2) / np.arccos(x.dtype.type(-1)))
    return x * logistic(2 * root * (x + x.dtype.type(44715) / 10**6 * x**3))


def selu(x):
    alpha, scale = (x.dtype.type(v) for v in ("1.6732632423543772848", "1.0507009873554804934"))
    return scale * np.where(x < 0, alpha * np.expm1(np.minimum(x, 0)), x)


class Accuracy(NamedTuple):
    exact: Callable
    #: units in the last place: in float32, and in float64
    bounds: tuple[float, float]
    values: tuple[float, ...] = ()
    #: where the bounds hold
    low: float = -math.inf
    high: float = math.inf


# Measured over every fifth float32, and 1.5 million float64 against 80-bit extended precision:
# exp 1.01 and 0.95, tanh 2.50 and 2.50, sigmoid 2.41 and 2.24 units in the last place; the logarithm 1.98. Of
# the others over the numbers below. GELU by tanh has an argument that grows as z^3, and with it the error of
# its exponential: 13 units at -3, 170 where it falls below the normal numbers of float32.
ACCURACY = {
    "tanh": Accuracy(np.tanh, (2.6, 2.6)),
    "sigmoid": Accuracy(logistic, (2.5, 2.5)),
    "elu": Accuracy(lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x), (2.5, 2.5), (1.0,)),
    "selu": Accuracy(selu, (4, 4)),
    "gelu": Accuracy(lambda x: x * erfc(-x / np.sqrt(x.dtype.type(2))) / 2, (7, 7.5), low=-13, high=20),
    "gelu_tanh": Accuracy(gelu_tanh, (14, 16), low=-3, high=20),
    "silu": Accuracy(lambda x: x * logistic(x), (3.5, 3.5), low=-87),
    "mish": Accuracy(mish, (5, 5), low=-87),
    "softplus": Accuracy(lambda x: np.logaddexp(x.dtype.type(0), x), (3, 3), (1.0, 1e9), low=-87),
    "logsigmoid": Accuracy(lambda x: -np.logaddexp(x.dtype.type(0), -x), (3, 3), high=87),
    "hardsigmoid": Accuracy(lambda x: np.clip(x + 3, 0, 6) / 6, (1.5, 1.5), low=-2),
    "hardswish": Accuracy(lambda x: x * np.clip(x + 3, 0, 6) / 6, (2.5, 2.5), low=-2),
}


def judged(dtype, low, high):
    rng = np.random.default_rng(0)
    least, most = (-104, 88.7) if dtype == np.float32 else (-746, 709.7)
    x = np.concatenate([
        np.linspace(-1, 1, 40001), np.linspace(-10, 10, 80003), rng.uniform(least, most, 100000),
        np.exp(rng.uniform(-80, 3, 50000)) * rng.choice([-1, 1], 50000),
    ]).astype(dtype)  # fmt: skip
    return x[(x >= low) & (x <= high)]


def wider(dtype):
    wide = np.float64 if dtype == np.float32 else np.longdouble
    if dtype == np.float64 and np.finfo(wide).nmant < 60:
        pytest.skip("long double is no wider than double here")
    return wide


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ACCURACY)
def test_accuracy_in_units_in_the_last_place(name, dtype):
    case = ACCURACY[name]
    x = judged(dtype, case.low, case.high)
    with np.errstate(all="ignore"):
        y = reference.bound(name, *case.values).forward(x)
        error = ulp_error(y, case.exact(x.astype(wider(dtype))))
    assert np.max(error) <= case.bounds[dtype == np.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy_of_the_exponential(dtype):
    x = judged(dtype, -np.inf, np.inf)
    with np.errstate(all="ignore"):
        assert np.max(ulp_error(elementary.exp(x), np.exp(x.astype(wider(dtype))))) <= 1.1


def test_accuracy_of_the_logarithm():
    x = np.concatenate(
        [np.linspace(1, 4, 300001), np.exp(np.linspace(0, 40, 100001)), 1 + 2.0 ** -np.arange(1, 53)]
    )
    exact = np.log(x.astype(np.longdouble))
    assert (
        np.max(np.abs(elementary.log(x) - exact)[exact > 0] / np.spacing(exact[exact > 0].astype(float)))
        <= 2.5
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_limits_of_the_activations(dtype, backend):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e4, -1e4], dtype)[None]
    log2 = 0.6931471805599453
    for layer, expected in [
        (nn.Tanh(), [1, -1, np.nan, 0.0, -0.0, 1, -1]),
        (nn.Sigmoid(), [1, 0, np.nan, 0.5, 0.5, 1, 0]),
        (nn.ReLU(), [np.inf, 0, np.nan, 0.0, -0.0, 1e4, 0]),
        (nn.LeakyReLU(0.5), [np.inf, -np.inf, np.nan, 0.0, -0.0, 1e4, -5e3]),
        (nn.ELU(2.0), [np.inf, -2, np.nan, 0.0, -0.0, 1e4, -2]),
        (nn.GELU(), [np.inf, -0.0, np.nan, 0.0, -0.0, 1e4, -0.0]),
        (nn.GELU("tanh"), [np.inf, -0.0, np.nan, 0.0, -0.0, 1e4, -0.0]),
        (nn.SiLU(), [np.inf, -0.0, np.nan, 0.0, -0.0, 1e4, -0.0]),
        (nn.Mish(), [np.inf, -0.0, np.nan, 0.0, -0.0, 1e4, -0.0]),
        (nn.Softplus(), [np.inf, 0, np.nan, log2, log2, 1e4, 0]),
        (nn.LogSigmoid(), [-0.0, -np.inf, np.nan, -log2, -log2, -0.0, -1e4]),
        (nn.Hardtanh(-2, 3), [3, -2, np.nan, 0.0, -0.0, 3, -2]),
        (nn.ReLU6(), [6, 0, np.nan, 0.0, -0.0, 6, 0]),
        (nn.Hardsigmoid(), [1, 0, np.nan, 0.5, 0.5, 1, 0]),
        (nn.Hardswish(), [np.inf, -0.0, np.nan, 0.0, -0.0, 1e4, -0.0]),
    ]:
        same_bits(nn.Sequential(layer, backend=backend).forward(x), np.array(expected, dtype)[None])
    assert math.copysign(1, nn.Sequential(nn.Tanh(), backend=backend).forward(x)[0, 4]) == -1


def test_cross_entropy_of_extreme_logits(backend):
    model = nn.Sequential(Pass(), loss=nn.CrossEntropyLoss(), backend=backend)

    def loss(row, label):
        return model.loss(np.array([row], np.float32), [label])

    assert loss([1e4, 0, -1e4], 0) == 0
    assert loss([1e4, 0, -1e4], 2) == 2e4
    assert loss([3e38, -3e38], 1) == pytest.approx(6e38, rel=1e-6)
    assert loss([0, -np.inf], 1) == np.inf
    assert loss([0, -np.inf], 0) == 0
    for row in ([np.nan, 0], [np.inf, 0], [-np.inf, -np.inf]):
        assert math.isnan(loss(row, 0))
    # far below float32's unit in the last place of 1: kept, because rows are summed in double
    assert loss([0, -30], 0) == pytest.approx(math.log1p(math.exp(-30)), rel=1e-6)


def test_the_gradient_of_a_sure_label_does_not_cancel(backend):
    k = kernels_of(backend)
    logits = np.array([[0, -20]], np.float32)
    grad, labels = np.empty_like(logits), np.array([0])
    at = [k.handle(array) for array in (logits, labels, grad, np.empty(1), np.empty(1))]
    assert (
        k.softmax_cross_entropy(k.dtype(logits.dtype), k.describe("labels", None, 0.0, 0.0, -1), 1, 2, *at)
        == 0
    )
    p = math.exp(-20) / (1 + math.exp(-20))
    np.testing.assert_allclose(grad, [[-p, p]], rtol=1e-6)
