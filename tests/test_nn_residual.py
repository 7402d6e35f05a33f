"""Residual: the reference's bits of the sum, gradients, torch, names, and what is refused."""

import copy

import numpy as np
import pytest
from models import Pass, central_differences, everywhere, numbers, passed, same_bits

import fastgd
from fastgd import nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES
from fastgd.nn.activations import ACTIVATIONS
from fastgd.nn.kernels import kernels_of
from fastgd.nn.reference_activations import FUNCTIONS

SIZES = [0, 1, 7, 15, 16, 17, 33, 1000, 16384, 16385, 50001]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_sum_has_the_bits_of_the_reference(name, dtype):
    for n in SIZES:
        a, b = numbers(n, dtype), numbers(n, dtype, seed=1)

        def call(k, z, y, a=a, b=b, n=n):
            at = (k.handle(array) for array in (a, b, z, y))
            return k.add_forward(k.dtype(a.dtype), k.activation(name, 0.7, 1.1), n, *at)

        (z, z_expected), (y, expected) = everywhere(call, np.full(n, 9, dtype), np.full(n, 9, dtype))
        same_bits(y, expected)
        same_bits(z, z_expected)
        if FUNCTIONS[name].saves_input:
            with np.errstate(all="ignore"):
                same_bits(z, a + b)


def residuals(dtype):
    """Bodies without an activation behind them; all take [batch, 4]."""

    def linear(*sizes):
        return nn.Linear(*sizes, dtype=dtype, seed=1)

    yield nn.Residual(linear(4, 4))
    yield nn.Residual(linear(4, 6), nn.Tanh(), linear(6, 4))
    yield nn.Residual(linear(4, 5), nn.ReLU(), linear(5, 3), shortcut=linear(4, 3))
    yield nn.Residual(nn.Tanh(), nn.Sigmoid())
    yield nn.Residual(Pass(), shortcut=Pass())
    yield nn.Residual(nn.Tanh(), linear(4, 4), shortcut=[linear(4, 2), nn.Sigmoid(), linear(2, 4)])
    yield nn.Residual(nn.LayerNorm(4, dtype=dtype), nn.Residual(linear(4, 4), nn.Tanh()), nn.Softmax())


def models(dtype, backend, loss):
    rng = np.random.default_rng(2)
    for around in (), (nn.Tanh,), (nn.GELU,), (Pass, nn.Sigmoid):
        for before in (False, True):
            for residual in residuals(dtype):
                first = [nn.Linear(4, 4, dtype=dtype)] if before else []
                behind = [make() for make in around]
                width = residual.output_shape((1, 4))[1]
                layers = *first, residual, *behind, nn.Linear(width, 2, dtype=dtype)
                yield nn.Sequential(*layers, loss=loss, seed=rng, backend=backend)


def test_gradients_against_central_differences(backend):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((5, 4)), rng.standard_normal((5, 2))
    for model in models(np.float64, backend, nn.MSELoss()):
        grads = [grad.copy() for grad in model.loss_and_grad(x, y)[1]]
        for (name, parameter), grad in zip(model.named_parameters(), grads, strict=True):
            numeric = central_differences(lambda model=model: model.loss(x, y), parameter)
            np.testing.assert_allclose(grad, numeric, rtol=1e-5, atol=1e-8, err_msg=f"{model}: {name}")


def test_the_derivative_with_respect_to_x(backend):
    x, dy = np.random.default_rng(0).standard_normal((2, 3, 4))
    for residual in residuals(np.float64):
        y = residual.output_shape((3, 4))
        own = np.ascontiguousarray(dy[:, : y[1]])
        _, _, dx = passed(residual, x, own, backend)

        def f(residual=residual, own=own):
            return (passed(residual, x, own, backend)[0] * own).sum()

        np.testing.assert_allclose(dx, central_differences(f, x), rtol=1e-6, atol=1e-8, err_msg=str(residual))


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_torch(dtype, backend):
    """A block as in He et al. 2016, figure 2, with batch normalisation and a projection."""
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    tolerance = {"rtol": 2e-5, "atol": 2e-5} if dtype == np.float32 else {"rtol": 1e-10, "atol": 1e-12}
    inside = [
        nn.Linear(6, 8, dtype=dtype),
        nn.BatchNorm1d(8, dtype=dtype),
        nn.ReLU(),
        nn.Linear(8, 5, dtype=dtype),
    ]
    shortcut = nn.Linear(6, 5, bias=False, dtype=dtype)
    block = nn.Residual(*inside, shortcut=shortcut)
    model = nn.Sequential(block, nn.ReLU(), loss=nn.MSELoss(), seed=0, backend=backend)

    class Block(torch.nn.Sequential):
        def forward(self, x):
            y = x
            for layer in list(self)[:-1]:
                y = layer(y)
            return y + self[-1](x)

    t = torch.nn
    peers = [t.Linear(6, 8), t.BatchNorm1d(8), t.ReLU(), t.Linear(8, 5)]
    own = Block(*peers)
    own.add_module("shortcut", t.Linear(6, 5, bias=False))
    peer = t.Sequential(own, t.ReLU()).to(getattr(torch, np.dtype(dtype).name))
    named = dict(model.named_parameters())
    assert [*named] == [name for name, _ in peer.named_parameters()]
    state = {**named, **{f"0.{name}": array for name, array in block.buffers().items()}}
    peer.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((9, 6)).astype(dtype), rng.standard_normal((9, 5)).astype(dtype)
    loss = t.functional.mse_loss(peer(torch.from_numpy(x)), torch.from_numpy(y))
    loss.backward()
    value, grads = model.loss_and_grad(x, y)
    np.testing.assert_allclose(value, loss.item(), **tolerance)
    for grad, parameter in zip(grads, peer.parameters(), strict=True):
        np.testing.assert_allclose(grad, parameter.grad.numpy(), **tolerance)
    expected = peer.eval()(torch.from_numpy(x)).detach().numpy()
    np.testing.assert_allclose(model.forward(x), expected, **tolerance)


def test_names_and_initial_parameters():
    inner = nn.Residual(nn.BatchNorm1d(3), nn.Dropout())
    block = nn.Residual(nn.Linear(3, 3), nn.ReLU(), inner, shortcut=nn.Linear(3, 3, bias=False))
    names = ["0.weight", "0.bias", "2.0.weight", "2.0.bias", "shortcut.weight"]
    assert [*block.parameters()] == names
    statistics = [f"2.0.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")]
    assert [*block.buffers()] == [*statistics, "2.1.counter"]
    assert block.parameters()["2.0.weight"] is inner.layers[0].weight
    several = nn.Residual(nn.Linear(3, 2), shortcut=(nn.Linear(3, 2), nn.Tanh()))
    assert [*several.parameters()] == ["0.weight", "0.bias", "shortcut.0.weight", "shortcut.0.bias"]
    before = {name: array.copy() for name, array in block.parameters().items()}
    block.reset_parameters(np.random.default_rng(0))
    assert not np.array_equal(before["0.weight"], block.parameters()["0.weight"])
    assert not np.array_equal(before["shortcut.weight"], block.parameters()["shortcut.weight"])
    assert str(several) == ("Residual(Linear(3, 2, bias=True), shortcut=[Linear(3, 2, bias=True), Tanh()])")
    assert nn.Residual(nn.Embedding(3, 2)).input_dtype == np.int64
    assert nn.Residual(nn.Linear(3, 2)).input_dtype is None


def test_the_activation_behind_it_is_done_with_the_sum():
    for kind in ACTIVATIONS.values():
        fused = nn.Sequential(nn.Residual(nn.Linear(3, 3)), kind(), seed=0)
        apart = nn.Sequential(nn.Residual(nn.Linear(3, 3)), Pass(), kind(), seed=0)
        x = np.random.default_rng(0).standard_normal((4, 3), dtype=np.float32)
        same_bits(fused.forward(x), apart.forward(x))
        (program,) = fused._programs.values()
        assert [op.entry for op in program.ops] == ["linear_forward", "add_forward"]


def test_a_model_trains_and_is_copied(backend):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 6), dtype=np.float32)
    y = (x[:, 0] * x[:, 1] > 0).astype(np.int64)
    block = nn.Residual(nn.Linear(16, 32), nn.Dropout(0.1), nn.ReLU(), nn.Linear(32, 16))
    layers = nn.Linear(6, 16), block, nn.ReLU(), nn.Linear(16, 2)
    model = nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0, backend=backend)
    opt = fastgd.AdamW(model.named_parameters(), lr=0.01)
    for _ in range(150):
        model.train_step(x, y, opt)
    assert model.loss(x, y) < 0.1
    again, own = copy.deepcopy((model, opt))
    assert again.train_step(x, y, own).loss == model.train_step(x, y, opt).loss


def test_bad_arguments_are_refused():
    linear = nn.Linear(3, 3)
    x = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="a Residual needs at least one layer"):
        nn.Residual()
    with pytest.raises(
        TypeError, match=r"layer 0 of a Residual must be a Layer such as nn.ReLU\(\), not <class"
    ):
        nn.Residual(nn.ReLU)
    with pytest.raises(TypeError, match="shortcut 0 of a Residual must be a Layer"):
        nn.Residual(linear, shortcut=3)
    with pytest.raises(ValueError, match="is in a Residual twice; make a layer for each place"):
        nn.Residual(linear, shortcut=linear)
    with pytest.raises(ValueError, match=r"1\.0\.weight is 0\.weight: a layer is in the model twice"):
        nn.Sequential(linear, nn.Residual(linear))
    with pytest.raises(
        ValueError, match=r"cannot add \[2, 2\] and the shortcut's \[2, 3\]; a shortcut such as nn.Lin"
    ):
        nn.Sequential(nn.Residual(nn.Linear(3, 2))).forward(x)
    with pytest.raises(ValueError, match=r"cannot add \[2, 3\] and the shortcut's \[2, 1\]$"):
        nn.Sequential(nn.Residual(nn.Linear(3, 3), shortcut=nn.Linear(3, 1))).forward(x)
    with pytest.raises(ValueError, match=r"layer 0 does not take: Linear\(4, 3"):
        nn.Sequential(nn.Residual(nn.Linear(3, 4), nn.Linear(4, 3), nn.Linear(4, 3))).forward(x)


def test_bad_native_calls_are_refused_before_anything_is_written():
    a = np.full(16, 7, np.float32)
    p, null = ffi.from_buffer(a), ffi.NULL
    relu, gelu = map(kernels_of("native").activation, ("relu", "gelu"))
    assert lib.fgd_add_forward(7, relu, 4, p, p, p, p) == lib.FGD_ERROR_DTYPE
    assert lib.fgd_add_forward(0, null, 4, p, p, p, p) == lib.FGD_ERROR_ACTIVATION
    assert lib.fgd_add_forward(0, relu, -4, p, p, p, p) == lib.FGD_ERROR_SIZE
    for pointers in [(null, p, p, p), (p, null, p, p), (p, p, null, p), (p, p, p, null)]:
        assert lib.fgd_add_forward(0, gelu, 4, *pointers) == lib.FGD_ERROR_NULL
    assert np.all(a == 7)
    assert lib.fgd_add_forward(0, relu, 0, null, null, null, null) == 0
