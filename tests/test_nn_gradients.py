"""The gradients of models: against central differences in float64, and against torch."""

import copy
from functools import partial

import numpy as np
import pytest
from models import Pass, central_differences

from fastgd import nn
from fastgd.arrays import DTYPES
from fastgd.nn import activations

#: every activation, with other parameters than the usual ones
ACTIVATIONS = [
    nn.ELU(1.7), nn.GELU(), nn.GELU("tanh"), nn.Hardsigmoid(), nn.Hardswish(), nn.Hardtanh(-0.7, 0.9),
    nn.LeakyReLU(0.3), nn.LogSigmoid(), nn.Mish(), nn.ReLU(), nn.ReLU6(), nn.SELU(), nn.Sigmoid(), nn.SiLU(),
    nn.Softplus(0.6, 1.5), nn.Tanh(),
]  # fmt: skip


def test_every_activation_is_looked_at():
    kinds = {layer.kind for layer in ACTIVATIONS}
    assert kinds == {*activations.ACTIVATIONS, "gelu_tanh"}


def models(dtype, backend, loss):
    def linear(*sizes, **options):
        return nn.Linear(*sizes, dtype=dtype, **options)

    for layers in [
        (linear(5, 4),),
        (linear(5, 6), linear(6, 4)),
        (linear(5, 7), nn.ReLU(), linear(7, 4)),
        (linear(5, 7), nn.Tanh(), linear(7, 6, bias=False), nn.Sigmoid(), linear(6, 4), nn.Tanh()),
        (nn.Sigmoid(), linear(5, 7), nn.Sigmoid(), nn.Tanh(), Pass(), linear(7, 4), nn.ReLU(), nn.Sigmoid()),
    ]:
        yield nn.Sequential(*layers, loss=loss, seed=3, backend=backend)
    # behind a Linear, which does it in its own pass with and without bias, and by itself
    for activation in ACTIVATIONS:
        more = [copy.copy(activation) for _ in range(2)]
        layers = linear(5, 6), activation, linear(6, 6, bias=False), more[0], Pass(), more[1], linear(6, 4)
        yield nn.Sequential(*layers, loss=loss, seed=3, backend=backend)


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()], ids=repr)
def test_gradients_against_central_differences(loss, backend):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((6, 5))
    y = rng.integers(0, 4, 6) if isinstance(loss, nn.CrossEntropyLoss) else rng.standard_normal((6, 4))
    for model in models(np.float64, backend, loss):
        grads = [grad.copy() for grad in model.loss_and_grad(x, y)[1]]
        for (name, parameter), grad in zip(model.named_parameters(), grads, strict=True):
            numeric = central_differences(partial(model.loss, x, y), parameter)
            np.testing.assert_allclose(grad, numeric, rtol=1e-5, atol=1e-8, err_msg=f"{model}: {name}")


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()], ids=repr)
def test_agrees_with_torch(loss, dtype, backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    rng = np.random.default_rng(4)
    x = rng.standard_normal((37, 5)).astype(dtype)
    y = (
        rng.integers(0, 4, 37)
        if isinstance(loss, nn.CrossEntropyLoss)
        else rng.standard_normal((37, 4)).astype(dtype)
    )
    for model in models(dtype, backend, loss):
        # products sum in another order: some units in the last place of the terms, more where they cancel
        tolerance = {"rtol": 2e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-14}
        peers = []
        for layer in model.layers:
            if isinstance(layer, nn.Linear):
                peers.append(
                    torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
                )
            else:
                peers.append(
                    torch.nn.Identity()
                    if isinstance(layer, Pass)
                    else eval(f"torch.nn.{layer}", {"torch": torch})
                )
        peer = torch.nn.Sequential(*peers).to(torch.from_numpy(x).dtype)
        peer.load_state_dict({name: torch.from_numpy(array) for name, array in model.state_dict().items()})
        output = peer(torch.from_numpy(x))
        theirs = getattr(torch.nn, type(loss).__name__)()(output, torch.from_numpy(y))
        theirs.backward()
        if any(isinstance(layer, nn.Hardsigmoid) for layer in model.layers):
            tolerance = {"rtol": 2e-5, "atol": 1e-6}  # torch's derivative is float32's 1 / 6 in float64, too
        value, grads = model.loss_and_grad(x, y)
        np.testing.assert_allclose(model.forward(x), output.detach().numpy(), **tolerance)
        np.testing.assert_allclose(value, theirs.item(), **tolerance)
        for grad, (name, parameter) in zip(grads, peer.named_parameters(), strict=True):
            np.testing.assert_allclose(grad, parameter.grad.numpy(), **tolerance, err_msg=f"{model}: {name}")
