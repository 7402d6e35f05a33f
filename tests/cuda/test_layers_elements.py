"""Layers of single elements on a device: activations, linear layers, dropout, embedding, positions."""

import numpy as np
import pytest
from layers import passes, put, same

from fastgd.nn import functional
from fastgd.nn.activations import ACTIVATIONS

DTYPES = [np.float32, np.float64]


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name, dtype, rng):
    x = (rng.standard_normal(70) * 6).astype(dtype)
    x[:8] = [np.nan, np.inf, -np.inf, 0, -0.0, np.finfo(dtype).tiny / 2, 100, -1000]
    passes(name, x, rng=rng)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_elements_that_are_not_aligned_are_computed_one_by_one(at, rng):
    from fastgd.cuda.layers.launching import part

    values = rng.standard_normal(140).astype(np.float32)
    x = part(put(values), at, 130)
    y, _ = functional.silu(x)
    same(y, functional.silu(values[at : at + 130], backend="reference")[0], "silu")


def test_a_result_goes_where_it_is_told(rng):
    x, dy = (rng.standard_normal(9).astype(np.float32) for _ in range(2))
    on_device, out = put(x), put(np.zeros_like(x))
    y, saved = functional.tanh(on_device, out=out)
    assert y.pointer == out.pointer
    same(out, functional.tanh(x, backend="reference")[0], "y")
    slope = put(dy)
    dx = functional.tanh_backward(slope, saved, out=slope)
    assert dx.pointer == slope.pointer
    _, of_host = functional.tanh(x, backend="reference")
    same(slope, functional.tanh_backward(dy, of_host), "dx in the place of dy")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "relu", "gelu"])
def test_linear(activation, dtype, rng):
    x, weight = rng.standard_normal((3, 7)).astype(dtype), rng.standard_normal((5, 7)).astype(dtype)
    bias = rng.standard_normal(5).astype(dtype)
    passes("linear", x, weight, bias, rng=rng, products=True, activation=activation)
    passes("linear", x[None], weight, rng=rng, products=True, activation=activation)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_dropout(p, dtype, rng):
    passes("dropout", rng.standard_normal((5, 27)).astype(dtype), p, rng=rng, seed=2**63 + 7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [4, 5])
def test_embedding(dim, dtype, rng):
    weight = rng.standard_normal((6, dim)).astype(dtype)
    passes("embedding", rng.integers(0, 6, (3, 17)), weight, rng=rng, padding_idx=2)


def test_an_index_out_of_range_gives_nan_and_has_no_gradient(rng):
    weight, dy = rng.standard_normal((3, 2)).astype(np.float32), np.ones((4, 2), np.float32)
    y, saved = functional.embedding(put(np.array([0, 3, -1, 2])), put(weight))
    assert np.isnan(y.host()).all(axis=1).tolist() == [False, True, True, False]
    same(functional.embedding_backward(put(dy), saved), np.float32([[1, 1], [0, 0], [1, 1]]), "dweight")


@pytest.mark.parametrize("dtype", DTYPES)
def test_positions(dtype, rng):
    x, weight = rng.standard_normal((2, 3, 4)).astype(dtype), rng.standard_normal((5, 4)).astype(dtype)
    passes("positional_embedding", x, weight, rng=rng)
