"""The kernels of the layers: the same bits on every instruction set, thread count and backend."""

import inspect

import numpy as np
import pytest
from models import everywhere, numbers, same_bits
from snapshots import BACKENDS

from fastgd import nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPE_CODES, DTYPES
from fastgd.nn.activations import ACTIVATIONS as LAYERS
from fastgd.nn.kernels import kernels_of
from fastgd.nn.losses import ElementLoss
from fastgd.nn.reference_activations import FUNCTIONS
from fastgd.nn.reference_losses import LOSSES

SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 1000, 16384, 16385, 50001]
INFOS = [lib.fgd_activation_at(i) for i in range(lib.fgd_activation_count())]
ACTIVATIONS = [ffi.string(info.name).decode() for info in INFOS]
#: parameters of those that have some
VALUES = {"leaky_relu": (0.3,), "elu": (1.7,), "softplus": (0.6, 5.0), "hardtanh": (-0.7, 1.9)}


def activation(kernels, name):
    return kernels.activation(name, *VALUES.get(name, ()))


def test_the_layers_and_the_reference_have_every_activation_of_the_table():
    assert [*FUNCTIONS] == ACTIVATIONS
    assert {"identity", *LAYERS, nn.GELU("tanh").kind} == set(ACTIVATIONS)
    for info, (name, function) in zip(INFOS, FUNCTIONS.items(), strict=True):
        assert info.saves_input == function.saves_input
        parameters = [ffi.string(p).decode() for p in (info.a, info.b) if p != ffi.NULL]
        assert len(parameters) == len(VALUES.get(name, ()))
        if name in LAYERS:
            assert [*inspect.signature(LAYERS[name]).parameters][: len(parameters)] == parameters


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_the_bits_of_the_reference(name, dtype):
    for n in SIZES:
        z, dy = numbers(n, dtype), numbers(n, dtype, seed=1)

        def forward(k, y, z=z, n=n):
            return k.activation_forward(k.dtype(z.dtype), activation(k, name), n, k.handle(z), k.handle(y))

        ((y, expected),) = everywhere(forward, np.full(n, 9, dtype))
        same_bits(y, expected)

        def backward(k, dz, saved=z if FUNCTIONS[name].saves_input else y, dy=dy, n=n):
            arrays = (k.handle(array) for array in (saved, dy, dz))
            return k.activation_backward(k.dtype(saved.dtype), activation(k, name), n, *arrays)

        ((dz, expected),) = everywhere(backward, np.full(n, 9, dtype))
        same_bits(dz, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_has_the_bits_of_the_reference_around_the_same_product(name, dtype, bias, numpy_products):
    for batch, inside, out in [(1, 1, 1), (3, 5, 1), (17, 9, 33), (2, 3, 300), (600, 2, 129), (5, 1, 20000)]:
        x = numbers(batch * inside, dtype, special=False).reshape(batch, inside)
        w = numbers(out * inside, dtype, seed=1, special=False).reshape(out, inside)
        b = numbers(out, dtype, seed=2)
        dy = numbers(batch * out, dtype, seed=3, special=False).reshape(batch, out)
        sizes = (batch, inside, out)

        def forward(k, z, y, x=x, w=w, b=b, sizes=sizes):
            at = k.handle(b) if bias else k.null
            codes = k.dtype(x.dtype), activation(k, name)
            return k.linear_forward(*codes, *sizes, k.handle(x), k.handle(w), at, k.handle(z), k.handle(y))

        (z, z_expected), (y, expected) = everywhere(forward, *np.full((2, batch, out), 9, dtype))
        same_bits(y, expected)
        same_bits(z, z_expected)
        saved = z if FUNCTIONS[name].saves_input else y

        def backward(k, dy, dx, dw, db, x=x, w=w, saved=saved, sizes=sizes):
            at = (k.handle(array) for array in (x, w, saved, dy, dx, dw))
            codes = k.dtype(x.dtype), activation(k, name)
            return k.linear_backward(*codes, *sizes, *at, k.handle(db) if bias else k.null)

        for mine, expected in everywhere(
            backward, dy, np.full_like(x, 9), np.full_like(w, 9), np.full_like(b, 9)
        ):
            same_bits(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_has_the_bits_of_the_reference(dtype, with_grad, smoothing, weighted):
    shapes = [(1, 1), (3, 2), (7, 10), (5, 15), (5, 16), (5, 17), (33, 65), (3, 1000), (5, 16385), (4000, 10)]
    for rows, classes in shapes:
        rng = np.random.default_rng(rows)
        logits = (rng.standard_normal((rows, classes)) * rng.choice([0.1, 3, 40], (rows, 1))).astype(dtype)
        if rows > 4:
            logits[1, 0], logits[2, 1], logits[3, 2], logits[4] = np.nan, np.inf, -np.inf, -np.inf
        labels = rng.integers(0, classes, rows)
        labels[5::7] = -100
        weights = rng.uniform(0, 2, classes).astype(dtype) if weighted else None

        def call(k, grad, row_loss, loss, logits=logits, labels=labels, weights=weights):
            at = [k.handle(array) for array in (logits, labels, grad, row_loss, loss)]
            at[2] = at[2] if with_grad else k.null
            of = k.describe("labels", weights, smoothing, 0.0, -100)
            return k.softmax_cross_entropy(k.dtype(logits.dtype), of, *logits.shape, *at)

        for mine, expected in everywhere(call, np.full_like(logits, 9), np.full(rows, 9.0), np.zeros(1)):
            same_bits(mine, expected)


def test_the_reference_has_every_loss_of_the_table():
    infos = [lib.fgd_loss_at(i) for i in range(lib.fgd_loss_count())]
    assert [ffi.string(info.name).decode() for info in infos] == [*LOSSES]
    classes = {cls.kind: cls for cls in ElementLoss.__subclasses__()}
    assert {*classes} == {*LOSSES}
    for info, kind in zip(infos, LOSSES, strict=True):
        names = [name for name in inspect.signature(classes[kind]).parameters if name != "reduction"]
        assert names == ([] if info.a == ffi.NULL else [ffi.string(info.a).decode()])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("with_grad", [True, False])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_have_the_bits_of_the_reference(name, dtype, with_grad):
    for n in SIZES:
        p, t = numbers(n, dtype), numbers(n, dtype, seed=1, special=False)

        def call(k, grad, loss, p=p, t=t, n=n):
            scratch = np.zeros(k.loss_scratch(n))
            at = [k.handle(array) for array in (p, t, grad, scratch, loss)]
            at[2] = at[2] if with_grad else k.null
            return k.loss_and_grad(k.dtype(p.dtype), k.loss(name, 0.7, float(n)), n, *at)

        for mine, expected in everywhere(call, np.full_like(p, 9), np.zeros(1)):
            same_bits(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_outputs_may_be_inputs(dtype, isa):
    n, code, at = 1001, DTYPE_CODES[dtype], ffi.from_buffer
    for name in ACTIVATIONS:
        i = activation(kernels_of("native"), name)
        z, dy = numbers(n, dtype), numbers(n, dtype, seed=1)
        y, dz = np.empty_like(z), np.empty_like(z)
        lib.fgd_activation_forward(code, i, n, at(z), at(y))
        lib.fgd_activation_forward(code, i, n, at(z), at(z))
        same_bits(z, y)
        lib.fgd_activation_backward(code, i, n, at(y), at(dy), at(dz))
        lib.fgd_activation_backward(code, i, n, at(y), at(dy), at(dy))
        same_bits(dy, dz)
    logits, labels = numbers(77 * 13, dtype).reshape(77, 13), np.arange(77) % 13
    grad, rows, loss = np.empty_like(logits), np.empty(77), ffi.new("double *")
    rest = ffi.from_buffer("int64_t[]", labels), at(grad), ffi.from_buffer("double[]", rows), loss
    of = kernels_of("native").describe("labels", None, 0.0, 0.0, -1)
    lib.fgd_softmax_cross_entropy(code, of, 77, 13, at(logits), *rest)
    lib.fgd_softmax_cross_entropy(code, of, 77, 13, at(logits), rest[0], at(logits), *rest[2:])
    same_bits(logits, grad)


def test_a_model_has_the_bits_of_the_reference(numpy_products):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((33, 20), dtype=np.float32), rng.integers(0, 7, 33)
    results = []
    for backend in BACKENDS:
        layers = (
            nn.Linear(20, 30),
            nn.Tanh(),
            nn.Linear(30, 30, bias=False),
            nn.ReLU(),
            nn.Sigmoid(),
            nn.Linear(30, 7),
        )
        model = nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=1, backend=backend)
        results.append((model.forward(x), *model.loss_and_grad(x, y)))
    (forward, loss, grads), (forward2, loss2, grads2) = results
    same_bits(forward, forward2)
    assert loss == loss2
    for mine, expected in zip(grads, grads2, strict=True):
        same_bits(mine, expected)
