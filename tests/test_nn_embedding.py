"""Embedding: the reference's bits, gradients, torch, and indices out of range."""

import numpy as np
import pytest
from models import Descent, central_differences, everywhere, numbers, passed, same_bits

import fastgd
from fastgd import nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES

#: positions, rows of the table, columns
SIZES = [(1, 1, 1), (5, 3, 2), (9, 4, 15), (40, 7, 16), (33, 100, 17), (700, 50, 65), (2000, 3, 300)]
SIZES += [(3, 2, 20001)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("padding", [-1, 2])
def test_bits_of_the_reference(dtype, padding):
    for n, rows, dim in SIZES:
        indices = np.random.default_rng(n).integers(0, rows, n)
        weight = numbers(rows * dim, dtype).reshape(rows, dim)
        dy = numbers(n * dim, dtype, seed=1).reshape(n, dim)
        sizes = n, rows, dim

        def forward(k, y, indices=indices, weight=weight, sizes=sizes):
            at = (k.handle(array) for array in (indices, weight, y))
            return k.embedding_forward(k.dtype(y.dtype), k.describe("embedding", padding), *sizes, *at)

        ((y, expected),) = everywhere(forward, np.full_like(dy, 9))
        same_bits(y, expected)
        same_bits(y, weight[indices])

        def backward(k, dweight, indices=indices, dy=dy, sizes=sizes):
            at = (k.handle(array) for array in (indices, dy, dweight))
            return k.embedding_backward(k.dtype(dy.dtype), k.describe("embedding", padding), *sizes, *at)

        ((dweight, expected),) = everywhere(backward, np.full_like(weight, 9))
        same_bits(dweight, expected)
        if 0 <= padding < rows:
            assert not dweight[padding].any()


@pytest.mark.parametrize("padding_idx", [None, 1])
def test_gradients_against_central_differences(padding_idx, backend):
    layer = nn.Embedding(4, 3, padding_idx, dtype=np.float64, seed=0)
    x = np.array([[0, 1, 3], [3, 3, 1]])
    dy = np.random.default_rng(0).standard_normal((2, 3, 3))
    _, gradients, dx = passed(layer, x, dy, backend)
    numeric = central_differences(lambda: (passed(layer, x, dy, backend)[0] * dy).sum(), layer.weight)
    if padding_idx is not None:
        numeric[padding_idx] = 0
    np.testing.assert_allclose(gradients["weight"], numeric, rtol=1e-6, atol=1e-9)
    assert dx is None


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("padding_idx", [None, 3, -1])
def test_agrees_with_torch(padding_idx, dtype, backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    layer = nn.Embedding(20, 7, padding_idx, dtype=dtype, seed=0)
    rng = np.random.default_rng(0)
    x, dy = rng.integers(0, 20, (6, 5)), rng.standard_normal((6, 5, 7)).astype(dtype)
    peer = eval(f"torch.nn.{layer}", {"torch": torch}).to(torch.from_numpy(dy).dtype)
    peer.load_state_dict({"weight": torch.from_numpy(layer.weight.copy())})
    expected = peer(torch.from_numpy(x))
    expected.backward(torch.from_numpy(dy))
    y, gradients, _ = passed(layer, x, dy, backend)
    same_bits(y, expected.detach().numpy())
    tolerance = {"rtol": 1e-6, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-14, "atol": 1e-14}
    np.testing.assert_allclose(gradients["weight"], peer.weight.grad.numpy(), **tolerance)


def test_initial_parameters():
    layer = nn.Embedding(300, 100, -2, seed=1)
    assert layer.padding_idx == 298 and not layer.weight[298].any()
    others = np.delete(layer.weight, 298, axis=0)
    assert abs(others.mean()) < 0.02 and abs(others.std() - 1) < 0.02
    assert np.array_equal(layer.weight, nn.Embedding(300, 100, -2, seed=1).weight)
    nn.Sequential(layer, seed=5)
    assert not np.array_equal(others[0], layer.weight[0]) and not layer.weight[298].any()


def model(backend):
    layers = nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 2)
    return nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0, backend=backend)


@pytest.mark.parametrize("bad", [5, -1, 2**62])
def test_an_index_out_of_range_is_named_and_nothing_changes(bad, backend):
    trained = model(backend)
    x, y = np.arange(6).reshape(2, 3) % 5, np.array([[0, 1, 0], [1, 1, 1]])
    trained.loss_and_grad(x, y)
    before = [array.copy() for array in trained.parameters() + trained.gradients()]
    x[1, 2] = bad
    for opt in (Descent(trained.parameters(), 0.1), fastgd.SGD(trained.named_parameters())):
        with pytest.raises(ValueError, match=rf"^x\[1, 2\] is {bad}, but indices are 0 .. 4$"):
            trained.train_step(x, y, opt)
    for run in (trained.loss, trained.loss_and_grad, lambda x, y: trained.forward(x)):
        with pytest.raises(ValueError, match=rf"^x\[1, 2\] is {bad}, but indices are 0 .. 4$"):
            run(x, y)
    for array, kept in zip(trained.parameters() + trained.gradients(), before, strict=True):
        same_bits(array, kept)


def test_a_label_out_of_range_is_still_the_loss_s(backend):
    x, y = np.zeros((2, 3), np.int64), np.array([[0, 1, 0], [1, 7, 1]])
    with pytest.raises(ValueError, match=r"y\[1, 1\] is 7, but labels are 0 .. 1"):
        model(backend).loss_and_grad(x, y)


def test_training(backend):
    trained = model(backend)
    x = np.random.default_rng(0).integers(0, 5, (40, 2))
    y = x % 2
    opt = fastgd.AdamW(trained.named_parameters(), lr=0.05)
    first = trained.train_step(x, y, opt).loss
    for _ in range(100):
        last = trained.train_step(x, y, opt).loss
    assert last < first / 10


BAD = [
    (lambda: nn.Embedding(0, 3), ValueError, "num_embeddings must be 1 or more, not 0"),
    (lambda: nn.Embedding(3, 2.0), TypeError, "embedding_dim must be an integer, not float"),
    (lambda: nn.Embedding(3, 2, 3), ValueError, "padding_idx must be -3 .. 2, not 3"),
    (lambda: nn.Embedding(3, 2, 1.0), TypeError, "padding_idx must be an integer or None, not float"),
    (lambda: nn.Embedding(3, 2, dtype="float16"), TypeError, "dtype must be float32 or float64"),
    (
        lambda: nn.Sequential(nn.Embedding(3, 2)).forward(np.ones((2, 4), np.float32)),
        TypeError,
        r"x is float32 but the model computes in int64",
    ),
    (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Embedding(3, 2)).forward(np.ones((2, 4), np.float32)),
        TypeError,
        r"Embedding\(3, 2\) takes indices of int64, not float32: it must be the first layer",
    ),
]


@pytest.mark.parametrize(("make", "error", "reason"), BAD)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_bad_native_calls_are_refused_before_anything_is_written():
    a, indices = np.full(16, 7, np.float32), np.array([0, 1, 2, 3])
    p, of, null = ffi.from_buffer(a), ffi.new("fgd_embedding *", [-1]), ffi.NULL
    at = ffi.from_buffer("int64_t[]", indices)
    for entry in (lib.fgd_embedding_forward, lib.fgd_embedding_backward):
        assert entry(7, of, 4, 4, 4, at, p, p) == lib.FGD_ERROR_DTYPE
        assert entry(0, null, 4, 4, 4, at, p, p) == lib.FGD_ERROR_NULL
        assert entry(0, of, 4, 4, 4, null, p, p) == lib.FGD_ERROR_NULL
        assert entry(0, of, 4, 4, 4, at, null, p) == lib.FGD_ERROR_NULL
        assert entry(0, of, 4, 4, 4, at, p, null) == lib.FGD_ERROR_NULL
        assert entry(0, of, -4, 4, 4, at, p, p) == lib.FGD_ERROR_SIZE
        assert entry(0, of, 4, 2**40, 2**40, at, p, p) == lib.FGD_ERROR_SIZE
        assert entry(0, of, 4, 3, 4, at, p, p) == lib.FGD_ERROR_LABEL
        indices[2] = -1
        assert entry(0, of, 4, 4, 4, at, p, p) == lib.FGD_ERROR_LABEL
        indices[2] = 2
    assert np.all(a == 7)
    assert lib.fgd_embedding_forward(0, of, 0, 4, 4, null, null, null) == 0
    assert lib.fgd_embedding_backward(0, of, 0, 4, 4, null, null, p) == 0
    assert not a.any()
