"""Layers that sum over rows, columns or channels on a device: softmax, norms, losses."""

import numpy as np
import pytest
from layers import loss, passes, put, same

from fastgd.nn import functional

DTYPES = [np.float32, np.float64]


@pytest.fixture
def rng():
    return np.random.default_rng(8)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(3, 5), (2, 1, 90)])
def test_softmax(name, dtype, shape, rng):
    x = (rng.standard_normal(shape) * 6).astype(dtype)
    x[0, ..., 1:3] = np.nan, -np.inf
    passes(name, x, rng=rng)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("name", "parameters"), [("layer_norm", 2), ("layer_norm", 1), ("layer_norm", 0), ("rms_norm", 1)]
)
def test_layer_norm(name, parameters, dtype, rng):
    x = rng.standard_normal((3, 2, 9)).astype(dtype)
    own = [rng.standard_normal((2, 9)).astype(dtype) for _ in range(parameters)]
    passes(name, x, (2, 9), *own, rng=rng)


def test_layer_norm_of_more_rows_than_a_block_of_sums_has(rng):
    x = rng.standard_normal((3, 16400)).astype(np.float32)[:, :3].repeat(7, axis=0)
    own = [rng.standard_normal(3).astype(np.float32) for _ in range(2)]
    passes("layer_norm", x, 3, *own, rng=rng)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 20), (3, 2, 2, 2), (40, 2)])
def test_batch_norm(shape, dtype, rng):
    x = rng.standard_normal(shape).astype(dtype)
    weight, bias, mean = (rng.standard_normal(shape[1]).astype(dtype) for _ in range(3))
    var = rng.uniform(0.5, 2, shape[1]).astype(dtype)
    passes("batch_norm", x, mean, var, weight, bias, rng=rng)
    passes("batch_norm", x, None, None, weight, rng=rng)
    passes("batch_norm", x, None, None, rng=rng)


@pytest.mark.parametrize("shape", [(5, 3), (2, 3, 20)])
def test_running_statistics_move(shape, rng):
    x = rng.standard_normal(shape).astype(np.float32)
    mean, var = rng.standard_normal(3).astype(np.float32), rng.uniform(0.5, 2, 3).astype(np.float32)
    on_device = put(mean), put(var)
    made, _ = functional.batch_norm(put(x), *on_device, training=True, momentum=0.3)
    y, _ = functional.batch_norm(x, mean, var, training=True, momentum=0.3, backend="reference")
    for found, wanted in zip((made, *on_device), (y, mean, var), strict=True):
        same(found, wanted, "batch_norm")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name", ["mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss", "binary_cross_entropy_with_logits"]
)
def test_losses_of_elements(name, dtype, rng):
    x, y = rng.standard_normal((13, 3)).astype(dtype) * 3, rng.uniform(0, 1, (13, 3)).astype(dtype)
    loss(name, x, y)
    loss(name, x[:1], y[:1], reduction="sum")


CROSS_ENTROPY = [
    {},
    {"ignore_index": 2, "reduction": "sum"},
    {"label_smoothing": 0.1},
    {"weight": [0.5, 0.0, 1.5, 2.0, 0.25], "ignore_index": 2},
    {"weight": [0.5, 0.0, 1.5, 2.0, 0.25], "label_smoothing": 0.2},
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", CROSS_ENTROPY, ids=str)
def test_cross_entropy(options, dtype, rng):
    labels = np.array([2, 0, 4])
    loss("cross_entropy", rng.standard_normal((3, 5)).astype(dtype) * 5, labels, **options)


def test_cross_entropy_of_rows_longer_than_a_pass_over_lanes(rng):
    loss("cross_entropy", rng.standard_normal((2, 1, 75)).astype(np.float32), np.array([[74], [3]]))


def test_more_rows_than_are_added_at_a_time(rng):
    x = rng.standard_normal((163, 1)).astype(np.float32)
    loss("cross_entropy", np.concatenate([x, -x], 1), rng.integers(0, 2, 163), weight=[1.0, 0.3])


def test_a_label_out_of_range_spoils_its_row(rng):
    logits = rng.standard_normal((3, 4)).astype(np.float32)
    value, grad = functional.cross_entropy(put(logits), put(np.array([0, 9, -1])), reduction="sum")
    assert np.isnan(value.host())
    assert np.isnan(grad.host()).all(axis=1).tolist() == [False, True, True]
