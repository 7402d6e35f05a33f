"""A Sequential's passes on a device, with the reference's bits."""

import numpy as np
import pytest
from layers import put, same

import fastgd
from fastgd import nn
from fastgd.cuda.simulation import SIMULATED

#: on a GPU; a step of Adam's may be another one where a gradient is next to 0
CLOSE = 0.03


def number(value, wanted):
    found = float(value.host())
    assert found == wanted if SIMULATED else abs(found - wanted) < CLOSE


def mlp(seed=3):
    layers = [nn.Linear(5, 4), nn.BatchNorm1d(4), nn.GELU(), nn.Dropout(0.3, seed=1), nn.Linear(4, 3)]
    return nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=seed, backend="reference")


def sequences(seed=3):
    layers = [
        nn.Embedding(7, 4),
        nn.PositionalEmbedding(3, 4),
        nn.LSTM(4, 3, bidirectional=True, num_layers=2),
    ]
    layers += [nn.LayerNorm(6), nn.Residual(nn.Linear(6, 6), nn.Tanh()), nn.Flatten(), nn.Linear(18, 2)]
    return nn.Sequential(*layers, loss=nn.MSELoss(), seed=seed, backend="reference")


def batch(name, rng):
    if name == "mlp":
        return rng.standard_normal((6, 5)).astype(np.float32), rng.integers(0, 3, 6)
    return rng.integers(0, 7, (2, 3)), rng.standard_normal((2, 2)).astype(np.float32)


MODELS = {"mlp": mlp, "sequences": sequences}


@pytest.mark.parametrize("name", MODELS)
def test_training_steps(name):
    rng = np.random.default_rng(4)
    own, model = MODELS[name](), MODELS[name]()
    on_device = nn.OnDevice(own)
    opt = fastgd.AdamW(on_device.named_parameters(), lr=0.01)
    of_host = fastgd.AdamW(model.named_parameters(), lr=0.01, backend="reference")
    for _ in range(2):
        x, y = batch(name, rng)
        step = on_device.train_step(put(x), put(y), opt, clip_norm=1.0)
        wanted = model.train_step(x, y, of_host, clip_norm=1.0)
        number(step.loss, wanted.loss)
        for a, b in zip(on_device.gradients(), model.gradients(), strict=True):
            same(a, b, "gradient", close=CLOSE)
    same(on_device.forward(put(x)), model.forward(x), "forward", close=CLOSE)
    number(on_device.loss(put(x), put(y)), model.loss(x, y))
    assert on_device.to_model() is own
    for key, value in model.state_dict().items():
        np.testing.assert_allclose(
            own.state_dict()[key], value, atol=0 if SIMULATED else CLOSE, rtol=0, err_msg=key
        )


def test_lengths():
    rng = np.random.default_rng(5)
    model = nn.Sequential(nn.GRU(2, 3, output="last"), nn.Linear(3, 1), loss=nn.L1Loss(), backend="reference")
    x, y = rng.standard_normal((3, 4, 2)).astype(np.float32), np.ones((3, 1), np.float32)
    on_device, lengths = nn.OnDevice(model), [4, 1, 2]
    found, gradients = on_device.loss_and_grad(nn.Sequences(put(x), lengths), put(y))
    wanted, of_host = model.loss_and_grad(nn.Sequences(x, lengths), y)
    number(found, wanted)
    for a, b in zip(gradients, of_host, strict=True):
        same(a, b, "gradient", close=CLOSE)


def test_what_is_refused_has_changed_nothing():
    x, y = batch("mlp", np.random.default_rng(6))
    model = mlp()
    on_device = nn.OnDevice(model)
    counters = {name: array.copy() for name, array in model.named_buffers()}
    cases = [
        (ValueError, "x is on host, the model on cuda:0", x, put(y)),
        (ValueError, "y is on host, the model on cuda:0", put(x), y),
        (TypeError, "x is float64", put(x.astype(np.float64)), put(y)),
        (ValueError, "x has a shape that layer 0", put(x[:, :4]), put(y)),
        (TypeError, "y must be int64", put(x), put(y.astype(np.int32))),
        (ValueError, r"y must have shape \[6\]", put(x), put(y[:5])),
    ]
    for error, match, a, b in cases:
        with pytest.raises(error, match=match):
            on_device.loss_and_grad(a, b)
    assert all(array.tobytes() == counters[name].tobytes() for name, array in model.named_buffers())
    with pytest.raises(ValueError, match="does not hold these parameters"):
        on_device.train_step(put(x), put(y), fastgd.SGD(model.named_parameters()))


def test_layers_without_kernels_are_refused_by_name():
    layers = nn.BatchNorm2d(1), nn.Conv2d(1, 1, 2)
    model = nn.Sequential(*layers, backend="reference")
    on_device = nn.OnDevice(model)
    with pytest.raises(NotImplementedError, match=r"conv_\w+ has no kernel for arrays on CUDA"):
        on_device.forward(put(np.ones((2, 1, 3, 3), np.float32)))


@pytest.mark.parametrize(("error", "arguments"), [(TypeError, (3,)), (ValueError, (None, "cpu"))])
def test_bad_arguments(error, arguments):
    model = mlp() if arguments[0] is None else arguments[0]
    with pytest.raises(error, match="must be"):
        nn.OnDevice(model, *arguments[1:])
    with pytest.raises(RuntimeError, match="no loss"):
        nn.OnDevice(nn.Sequential(nn.ReLU())).loss_and_grad(put(np.ones((1, 1), np.float32)), None)
