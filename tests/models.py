"""Small models and batches for the tests of fastgd.nn, and what they are compared with."""

import numpy as np
from snapshots import BACKENDS

from fastgd import nn
from fastgd.nn.compiled import LayerPasses, copied
from fastgd.nn.kernels import kernels_of
from fastgd.verification import runners

#: ways to run the native kernels
WAYS = [runner for runner in runners() if runner.backend == "native"]

SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-310, 1e4, -1e4, 88.8, -103.9, 709.9, -745.5]


def same_bits(a, b, runner=""):
    """Equal bits; any NaN is as good as another."""
    assert a.dtype == b.dtype and a.shape == b.shape
    bits = f"u{a.dtype.itemsize}"
    different = (a.view(bits) != b.view(bits)) & ~(np.isnan(a) & np.isnan(b))
    assert not different.any(), (
        f"{runner} {different.sum()} of {a.size}: {a[different][:3]} against {b[different][:3]}"
    )


class Pass(nn.Layer):
    """A layer from outside the package, y = x: tests the interface, and reaches losses directly."""

    def output_shape(self, shape):
        return shape

    def bind(self, to, x, activation=None):
        return copied(to, x), lambda dy, needs_dx: dy


class Descent:
    """A stand-in for an optimizer."""

    def __init__(self, params, lr):
        self.params, self.lr = params, lr

    def step(self, grads, **options):
        for parameter, grad in zip(self.params, grads, strict=True):
            parameter -= self.lr * grad
        return options


def classifier(backend="auto", dtype=np.float32):
    layers = nn.Linear(6, 16, dtype=dtype), nn.Tanh(), nn.Linear(16, 3, dtype=dtype)
    return nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0, backend=backend)


def batch(n=12, dtype=np.float32):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 6)).astype(dtype)
    return x, np.argmax(x[:, :3], axis=1)


def numbers(n, dtype, seed=0, special=True):
    """Of all magnitudes that matter, with the special ones spread among them."""
    rng = np.random.default_rng([seed, n])
    x = (rng.standard_normal(n) * np.exp(rng.uniform(-12, 5, n))).astype(dtype)
    with np.errstate(over="ignore"):
        for i, value in enumerate(SPECIAL if special else []):
            if n > 4 * len(SPECIAL):
                x[(i * 7919) % n] = value
    return x


def both(call, *outputs):
    """What the native and the reference kernels leave in copies of `outputs` by call(kernels, *outputs)."""
    results = []
    for name in BACKENDS:
        mine = [array.copy() for array in outputs]
        assert call(kernels_of(name), *mine) == 0
        results.append(mine)
    return zip(*results, strict=True)


def everywhere(call, *outputs):
    """`both`, after every instruction set and number of threads has given the reference's bits."""
    expected = [array.copy() for array in outputs]
    assert call(kernels_of("reference"), *expected) == 0
    for runner in WAYS:
        mine = [array.copy() for array in outputs]
        with runner.active():
            assert call(kernels_of("native"), *mine) == 0
        for array, wanted in zip(mine, expected, strict=True):
            same_bits(array, wanted, runner)
    return zip(mine, expected, strict=True)


def passes_of(layer, x, dy, backend):
    """Those of one layer, which have run for x [batch, ...] and a copy of dy."""
    passes = LayerPasses(layer, kernels_of(backend), (x.shape, x.dtype), dy.dtype)
    passes.bind(x, dy.copy())
    passes.run()
    return passes


def passed(layer, x, dy, backend):
    """(y, gradients of the parameters by name, dx) of one layer for x [batch, ...]."""
    passes = passes_of(layer, x, dy, backend)
    return passes.y, passes.gradients, passes.dx


def central_differences(f, array, step=1e-6):
    """The derivative of f() with respect to every element of a float64 array that it depends on."""
    numeric = np.empty_like(array)
    for i in np.ndindex(array.shape):
        before = array[i]
        array[i] = before + step
        up = f()
        array[i] = before - step
        numeric[i] = (up - f()) / (2 * step)
        array[i] = before
    return numeric


def check_gradients(layer, x, dy, backend, step=1e-5, rtol=1e-6):
    """The gradients of a float64 layer, of its input and its parameters, against central differences."""
    passes = passes_of(layer, x, dy, backend)
    # the next pass fills the same arrays
    pairs = [(x, passes.dx.copy())]
    pairs += [(layer.parameters()[name], grad.copy()) for name, grad in passes.gradients.items()]

    def product():
        passes.bind(x, dy.copy())
        passes.run()
        return (passes.y * dy).sum()

    for array, grad in pairs:
        numeric = central_differences(product, array, step)
        np.testing.assert_allclose(grad, numeric, rtol=rtol, atol=1e-8, err_msg=str(layer))


def torchs(torch, layer, dtype):
    """torch's module of the same name, arguments and state."""
    module = eval(f"torch.nn.{layer}", {"torch": torch}).to(getattr(torch, np.dtype(dtype).name))
    state = {**layer.parameters(), **layer.torch_buffers()}
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in state.items()})
    return module


def check_torch(torch, module, layer, x, dy, backend, tolerance):
    """Output and gradients of a layer against those of torch's module."""
    theirs = torch.from_numpy(x).requires_grad_()
    module.zero_grad()
    expected = module(theirs)
    expected.backward(torch.from_numpy(dy))
    y, gradients, dx = passed(layer, x, dy, backend)
    np.testing.assert_allclose(y, expected.detach().numpy(), **tolerance)
    np.testing.assert_allclose(dx, theirs.grad.numpy(), **tolerance)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), **tolerance)
