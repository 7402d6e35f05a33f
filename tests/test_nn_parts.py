"""Batches in parts: the gradients of all rows, the same for any number of threads, and what has no parts."""

import copy
import pickle

import numpy as np
import pytest

import fastgd
from fastgd import nn
from fastgd.nn.parts import LEAST_ROWS, rows_of_parts

BACKENDS = ["native", "reference"]


def perceptron(parts, backend="native", dtype=np.float32, **loss):
    layers = nn.Linear(7, 11, dtype=dtype), nn.Tanh(), nn.Linear(11, 4, dtype=dtype)
    of = nn.CrossEntropyLoss(reduction="sum", **loss)
    return nn.Sequential(*layers, loss=of, seed=0, backend=backend, parts=parts)


@pytest.fixture
def restored_threads():
    before = fastgd.get_num_threads()
    yield
    fastgd.set_num_threads(before)


def rows(count, dtype=np.float32):
    rng = np.random.default_rng(count)
    return rng.standard_normal((count, 7)).astype(dtype), rng.integers(0, 4, count)


@pytest.mark.parametrize("count", [1, LEAST_ROWS - 1, LEAST_ROWS, 2 * LEAST_ROWS, 3 * LEAST_ROWS + 5, 1000])
@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_parts_are_all_rows_once_and_none_is_small(count, parts):
    found = rows_of_parts(count, parts)
    assert [i for part in found for i in range(count)[part]] == list(range(count))
    sizes = [part.stop - part.start for part in found]
    assert len(found) <= parts and max(sizes) - min(sizes) <= 1
    assert len(found) == 1 or min(sizes) >= LEAST_ROWS
    assert len(found) == parts or count < parts * LEAST_ROWS


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("count", [20, 130, 201])
def test_gradients_are_those_of_all_rows(count, backend):
    """In float64, for sums are made in another order."""
    x, y = rows(count, np.float64)
    loss, gradients = perceptron(1, backend, np.float64).loss_and_grad(x, y)
    for parts in (2, 3):
        own, found = perceptron(parts, backend, np.float64).loss_and_grad(x, y)
        assert own == pytest.approx(loss, rel=1e-14)
        for a, b in zip(found, gradients, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_bits_are_those_of_any_number_of_threads(dtype, restored_threads):
    x, y = rows(200, dtype)
    steps = []
    for count in (1, 2, 3):
        fastgd.set_num_threads(count)
        model = perceptron(3, dtype=dtype)
        opt = fastgd.AdamW(model.named_parameters(), lr=0.1)
        losses = [model.train_step(x, y, opt, clip_norm=1.0).loss for _ in range(5)]
        steps.append((losses, [p.tobytes() for p in model.parameters()]))
    assert steps[0] == steps[1] == steps[2]


def test_gradients_are_added_in_the_order_of_the_rows():
    x, y = rows(3 * LEAST_ROWS)
    total = [np.zeros_like(p) for p in perceptron(1).parameters()]
    for first in range(0, len(x), LEAST_ROWS):
        part = slice(first, first + LEAST_ROWS)
        _, gradients = perceptron(1).loss_and_grad(x[part], y[part])
        total = [a + b for a, b in zip(total, gradients, strict=True)]
    _, found = perceptron(3).loss_and_grad(x, y)
    for a, b in zip(found, total, strict=True):
        assert a.tobytes() == b.tobytes()


def test_sequences_of_other_lengths_are_cut_with_their_rows():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2 * LEAST_ROWS, 5, 3))
    lengths = rng.integers(1, 6, len(x))
    y = rng.standard_normal((len(x), 5, 4))
    found = []
    for parts in (1, 2):
        layers = [nn.GRU(3, 4, dtype=np.float64)]
        model = nn.Sequential(*layers, loss=nn.MSELoss(reduction="sum"), seed=1, parts=parts)
        loss, gradients = model.loss_and_grad(nn.Sequences(x, lengths), y)
        found.append((loss, [g.copy() for g in gradients]))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-13)
    for a, b in zip(found[0][1], found[1][1], strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_wrong_is_told_of_the_whole_batch(backend):
    model = perceptron(2, backend)
    opt = fastgd.SGD(model.named_parameters(), lr=1.0)
    before = [p.tobytes() for p in model.parameters()]
    x, y = rows(100)
    y[70] = 4
    for call in (lambda: model.loss_and_grad(x, y), lambda: model.train_step(x, y, opt)):
        with pytest.raises(ValueError, match=r"y\[70\] is 4, but labels are 0 .. 3"):
            call()
    assert [p.tobytes() for p in model.parameters()] == before
    with pytest.raises(ValueError, match=r"y must have shape \[100\]"):
        model.train_step(x, y[:50], opt)


def test_ids_out_of_range_are_told_of_the_whole_batch():
    model = nn.Sequential(
        nn.Embedding(10, 3), nn.Flatten(), nn.Linear(6, 4), loss=nn.CrossEntropyLoss(reduction="sum"), parts=2
    )
    ids, y = np.zeros((80, 2), np.int64), np.zeros(80, np.int64)
    ids[77, 1] = 10
    with pytest.raises(ValueError, match=r"\[77, 1\] is 10"):
        model.loss_and_grad(ids, y)


@pytest.mark.parametrize(
    ("layers", "loss", "reason"),
    [
        ([nn.Linear(3, 2)], nn.MSELoss(), 'is no sum over rows; give it reduction="sum"'),
        ([nn.Linear(3, 2), nn.BatchNorm1d(2)], nn.MSELoss(reduction="sum"), "parts: layer 1, BatchNorm1d"),
        (
            [nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False)],
            nn.MSELoss(reduction="sum"),
            "depends on others",
        ),
        (
            [nn.Residual(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False))],
            nn.MSELoss(reduction="sum"),
            "depends on others",
        ),
        ([nn.GRU(3, 3, carry=True)], nn.MSELoss(reduction="sum"), "parts: layer 0, GRU.* share"),
        (
            [nn.Residual(nn.GRU(3, 3, carry=True))],
            nn.MSELoss(reduction="sum"),
            "parts: layer 0, Residual.* share",
        ),
        ([nn.Linear(3, 2), nn.Dropout(0.5)], nn.MSELoss(reduction="sum"), "parts: layer 1, Dropout"),
        (
            [nn.Residual(nn.Linear(3, 3), nn.Dropout(0.5))],
            nn.MSELoss(reduction="sum"),
            "parts: layer 0, Residual",
        ),
    ],
)
def test_rows_that_have_to_do_with_each_other_have_no_parts(layers, loss, reason):
    with pytest.raises(ValueError, match=reason):
        nn.Sequential(*layers, loss=loss, parts=2)
    nn.Sequential(*layers, loss=loss, parts=1)


@pytest.mark.parametrize("parts", [0, -1, 1.5, "2", True, None])
def test_parts_are_counted(parts):
    with pytest.raises((TypeError, ValueError), match="parts must be"):
        nn.Sequential(nn.Linear(3, 2), loss=nn.MSELoss(reduction="sum"), parts=parts)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_have_as_many_parts(how):
    x, y = rows(100)
    model = perceptron(3)
    other = how(model)
    model.loss_and_grad(x, y)
    other.loss_and_grad(x, y)
    assert other.memory_bytes(x, y) == model.memory_bytes(x, y) > perceptron(1).memory_bytes(x, y)
    assert [g.tobytes() for g in other.gradients()] == [g.tobytes() for g in model.gradients()]
