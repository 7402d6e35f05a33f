"""The losses: their values and gradients against central differences, against torch, and in their limits."""

import math
from functools import partial

import numpy as np
import pytest
from models import Pass, central_differences

from fastgd import nn
from fastgd.arrays import DTYPES

WEIGHTS = [0.5, 0.0, 2.0, 1.25]

#: what each is for torch as well, where `pos_weight` and `weight` are tensors
LOSSES = [
    nn.MSELoss(),
    nn.MSELoss(reduction="sum"),
    nn.L1Loss(),
    nn.L1Loss(reduction="sum"),
    nn.HuberLoss(),
    nn.HuberLoss(0.3, reduction="sum"),
    nn.SmoothL1Loss(),
    nn.SmoothL1Loss(0.3, reduction="sum"),
    nn.SmoothL1Loss(0.0),
    nn.BCEWithLogitsLoss(),
    nn.BCEWithLogitsLoss(2.5, reduction="sum"),
    nn.CrossEntropyLoss(),
    nn.CrossEntropyLoss(reduction="sum"),
    nn.CrossEntropyLoss(WEIGHTS),
    nn.CrossEntropyLoss(WEIGHTS, reduction="sum"),
    nn.CrossEntropyLoss(label_smoothing=0.1),
    nn.CrossEntropyLoss(WEIGHTS, label_smoothing=0.3, ignore_index=2),
    nn.CrossEntropyLoss(label_smoothing=1.0, ignore_index=0, reduction="sum"),
]

losses = pytest.mark.parametrize("loss", LOSSES, ids=repr)


def example(loss, dtype, rows=7, classes=4):
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((rows, classes)).astype(dtype)
    if isinstance(loss, nn.CrossEntropyLoss):
        labels = rng.integers(0, classes, rows)
        labels[:2] = loss.ignore_index, 2
        return logits, labels
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return logits, rng.uniform(0, 1, logits.shape).astype(dtype)
    return logits, rng.standard_normal(logits.shape).astype(dtype)


def value_and_slope(loss, x, y, backend):
    """By a layer that does nothing: its input's gradient is found behind a Linear of the identity."""
    eye = nn.Linear(x.shape[1], x.shape[1], bias=False, dtype=x.dtype)
    eye.weight[...] = np.eye(x.shape[1])
    model = nn.Sequential(eye, loss=loss, backend=backend)
    value, (dweight,) = model.loss_and_grad(x, y)
    return value, dweight


@losses
def test_gradients_against_central_differences(loss, backend):
    x, y = example(loss, np.float64)
    model = nn.Sequential(nn.Linear(4, 4, dtype=np.float64), loss=loss, seed=1, backend=backend)
    grads = [grad.copy() for grad in model.loss_and_grad(x, y)[1]]
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        numeric = central_differences(partial(model.loss, x, y), parameter)
        np.testing.assert_allclose(grad, numeric, rtol=1e-5, atol=1e-8)


def peer_of(loss, torch, dtype):
    def tensor(values):
        return None if values is None else torch.tensor(values, dtype=dtype)

    rest = {"reduction": loss.reduction}
    if isinstance(loss, nn.CrossEntropyLoss):
        rest |= {"ignore_index": loss.ignore_index, "label_smoothing": loss.label_smoothing}
        return torch.nn.CrossEntropyLoss(tensor(loss.weight), **rest)
    if isinstance(loss, nn.BCEWithLogitsLoss):
        return torch.nn.BCEWithLogitsLoss(pos_weight=tensor(loss.values[0]), **rest)
    names = {nn.HuberLoss: "delta", nn.SmoothL1Loss: "beta"}
    rest |= {names[type(loss)]: loss.values[0]} if loss.values else {}
    return getattr(torch.nn, type(loss).__name__)(**rest)


@pytest.mark.peer
@losses
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("scale", [1, 30])
def test_agrees_with_torch(loss, dtype, scale, backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    x, y = example(loss, dtype)
    x *= dtype.type(scale)
    theirs = torch.from_numpy(x).requires_grad_()
    expected = peer_of(loss, torch, theirs.dtype)(theirs, torch.from_numpy(y))
    expected.backward()
    value, dweight = value_and_slope(loss, x, y, backend)
    # torch sums in the dtype of the logits
    tolerance = {"rtol": 2e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(value, expected.item(), **tolerance)
    np.testing.assert_allclose(dweight, (theirs.grad.T @ torch.from_numpy(x)).numpy(), **tolerance)


def test_extreme_logits_of_the_binary_cross_entropy(backend):
    model = nn.Sequential(Pass(), loss=nn.BCEWithLogitsLoss(reduction="sum"), backend=backend)
    for z, y, expected in [(1e4, 1, 0), (1e4, 0, 1e4), (-1e4, 1, 1e4), (-1e4, 0, 0), (0, 0.5, math.log(2))]:
        assert model.loss(np.full((1, 1), z, np.float32), np.full((1, 1), y, np.float32)) == pytest.approx(
            expected
        )


def test_where_every_label_is_ignored_the_mean_is_nan_and_the_sum_0(backend):
    x, y = np.ones((3, 4), np.float32), np.full(3, -100)
    for reduction, expected in [("mean", math.nan), ("sum", 0.0)]:
        value, dweight = value_and_slope(nn.CrossEntropyLoss(reduction=reduction), x, y, backend)
        assert value == expected or (math.isnan(value) and math.isnan(expected))
        assert not dweight.any()


BAD = [
    (lambda: nn.MSELoss(reduction="none"), ValueError, "reduction must be 'mean' or 'sum', not 'none'"),
    (lambda: nn.HuberLoss(0), ValueError, "delta must be finite and above 0, not 0"),
    (lambda: nn.SmoothL1Loss(-1), ValueError, "beta must be finite and at least 0, not -1"),
    (lambda: nn.BCEWithLogitsLoss("1"), TypeError, "pos_weight must be a number, not str"),
    (lambda: nn.CrossEntropyLoss([[1.0]]), ValueError, r"weight must have shape \[classes\], not \[1, 1\]"),
    (lambda: nn.CrossEntropyLoss([1.0, -1.0]), ValueError, "weight must be finite and 0 or above"),
    (
        lambda: nn.CrossEntropyLoss(label_smoothing=1.1),
        ValueError,
        "label_smoothing must be at most 1, not 1.1",
    ),
    (lambda: nn.CrossEntropyLoss(ignore_index=0.5), TypeError, "float"),
]


@pytest.mark.parametrize(("make", "error", "reason"), BAD)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_weights_are_one_for_each_class(backend):
    model = nn.Sequential(Pass(), loss=nn.CrossEntropyLoss(WEIGHTS), backend=backend)
    with pytest.raises(ValueError, match="has 4 weights, but the model gives 3 classes"):
        model.loss(np.ones((2, 3), np.float32), [0, 1])
    model = nn.Sequential(Pass(), loss=nn.CrossEntropyLoss(ignore_index=7), backend=backend)
    with pytest.raises(ValueError, match=r"y\[1\] is -100, but labels are 0 .. 2"):
        model.loss(np.ones((2, 3), np.float32), [7, -100])
