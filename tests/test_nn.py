"""The layers: the same bits on every path, right by central differences and torch, bad input refused."""

import math

import numpy as np
import pytest

from fastgd import gemm, nn
from fastgd._native import ffi, lib
from fastgd.nn import reference
from fastgd.nn.kernels import kernels_of

DTYPES = [np.float32, np.float64]
SIZES = [0, 1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 1000, 16384, 16385, 50001]
ACTIVATIONS = [ffi.string(lib.fgd_activation_name(i)).decode() for i in range(lib.fgd_activation_count())]
SUPPORTED = [isa for isa in range(lib.fgd_isa_count()) if lib.fgd_isa_supported(isa)]
SPECIAL = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 1e-310, 1e4, -1e4, 88.8, -103.9, 709.9, -745.5]


@pytest.fixture(params=SUPPORTED, ids=lambda isa: ffi.string(lib.fgd_isa_name(isa)).decode())
def isa(request):
    before = lib.fgd_get_isa()
    assert lib.fgd_set_isa(request.param) == 0
    yield request.param
    lib.fgd_set_isa(before)


@pytest.fixture(params=[1, 2, 3, 8])
def threads(request):
    before = lib.fgd_get_num_threads()
    assert lib.fgd_set_num_threads(request.param) == 0
    yield request.param
    lib.fgd_set_num_threads(before)


@pytest.fixture
def numpy_products():
    gemm.use("numpy")
    for dtype in ("float32", "float64"):
        gemm.ensure(dtype)
    yield
    gemm.use(None)


@pytest.fixture(params=["native", "reference"])
def backend(request):
    return request.param


def numbers(n, dtype, seed=0, special=True):
    """Of all magnitudes that matter, with the special ones spread among them."""
    rng = np.random.default_rng([seed, n])
    x = (rng.standard_normal(n) * np.exp(rng.uniform(-12, 5, n))).astype(dtype)
    with np.errstate(over="ignore"):
        for i, value in enumerate(SPECIAL if special else []):
            if n > 4 * len(SPECIAL):
                x[(i * 7919) % n] = value
    return x


def same_bits(a, b):
    """Equal bits; any NaN is as good as another."""
    assert a.dtype == b.dtype and a.shape == b.shape
    bits = np.uint32 if a.dtype == np.float32 else np.uint64
    different = (a.view(bits) != b.view(bits)) & ~(np.isnan(a) & np.isnan(b))
    assert not different.any(), (
        f"{different.sum()} of {a.size}: {a[different][:3]} against {b[different][:3]}"
    )


def both(call, *outputs):
    """What the native and the reference kernels leave in copies of `outputs` by call(kernels, *outputs)."""
    results = []
    for name in ("native", "reference"):
        mine = [array.copy() for array in outputs]
        assert call(kernels_of(name), *mine) == 0
        results.append(mine)
    return zip(*results, strict=True)


# ---- The same bits everywhere


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_have_the_bits_of_the_reference(name, dtype, isa, threads):
    for n in SIZES:
        z, dy = numbers(n, dtype), numbers(n, dtype, seed=1)

        def forward(k, y, z=z, n=n):
            return k.activation_forward(k.dtype(z.dtype), k.activation(name), n, k.handle(z), k.handle(y))

        ((y, expected),) = both(forward, np.full(n, 9, dtype))
        same_bits(y, expected)

        def backward(k, dz, y=y, dy=dy, n=n):
            arrays = (k.handle(array) for array in (y, dy, dz))
            return k.activation_backward(k.dtype(y.dtype), k.activation(name), n, *arrays)

        ((dz, expected),) = both(backward, np.full(n, 9, dtype))
        same_bits(dz, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_linear_has_the_bits_of_the_reference_around_the_same_product(
    name, dtype, bias, isa, threads, numpy_products
):
    for batch, inside, out in [(1, 1, 1), (3, 5, 1), (17, 9, 33), (2, 3, 300), (600, 2, 129), (5, 1, 20000)]:
        x = numbers(batch * inside, dtype, special=False).reshape(batch, inside)
        w = numbers(out * inside, dtype, seed=1, special=False).reshape(out, inside)
        b = numbers(out, dtype, seed=2)
        dy = numbers(batch * out, dtype, seed=3, special=False).reshape(batch, out)
        sizes = (batch, inside, out)

        def forward(k, y, x=x, w=w, b=b, sizes=sizes):
            at = k.handle(b) if bias else k.null
            codes = k.dtype(x.dtype), k.activation(name)
            return k.linear_forward(*codes, *sizes, k.handle(x), k.handle(w), at, k.handle(y))

        ((y, expected),) = both(forward, np.full((batch, out), 9, dtype))
        same_bits(y, expected)

        def backward(k, dy, dx, dw, db, x=x, w=w, y=y, sizes=sizes):
            at = (k.handle(array) for array in (x, w, y, dy, dx, dw))
            codes = k.dtype(x.dtype), k.activation(name)
            return k.linear_backward(*codes, *sizes, *at, k.handle(db) if bias else k.null)

        for mine, expected in both(backward, dy, np.full_like(x, 9), np.full_like(w, 9), np.full_like(b, 9)):
            same_bits(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_grad", [True, False])
def test_cross_entropy_has_the_bits_of_the_reference(dtype, with_grad, isa, threads):
    shapes = [(1, 1), (3, 2), (7, 10), (5, 15), (5, 16), (5, 17), (33, 65), (3, 1000), (5, 16385), (4000, 10)]
    for rows, classes in shapes:
        rng = np.random.default_rng(rows)
        logits = (rng.standard_normal((rows, classes)) * rng.choice([0.1, 3, 40], (rows, 1))).astype(dtype)
        if rows > 4:
            logits[1, 0], logits[2, 1], logits[3, 2], logits[4] = np.nan, np.inf, -np.inf, -np.inf
        labels = rng.integers(0, classes, rows)

        def call(k, grad, row_loss, loss, logits=logits, labels=labels):
            at = [k.handle(array) for array in (logits, labels, grad, row_loss, loss)]
            at[2] = at[2] if with_grad else k.null
            return k.softmax_cross_entropy(k.dtype(logits.dtype), *logits.shape, *at)

        for mine, expected in both(call, np.full_like(logits, 9), np.full(rows, 9.0), np.zeros(1)):
            same_bits(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("with_grad", [True, False])
def test_mean_squared_error_has_the_bits_of_the_reference(dtype, with_grad, isa, threads):
    for n in SIZES:
        p, t = numbers(n, dtype, special=False), numbers(n, dtype, seed=1, special=False)

        def call(k, grad, loss, p=p, t=t, n=n):
            scratch = np.zeros(k.mean_squared_error_scratch(n))
            at = [k.handle(array) for array in (p, t, grad, scratch, loss)]
            at[2] = at[2] if with_grad else k.null
            return k.mean_squared_error(k.dtype(p.dtype), n, *at)

        for mine, expected in both(call, np.full_like(p, 9), np.zeros(1)):
            same_bits(mine, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_may_be_inputs(dtype, isa):
    n, code, at = 1001, lib.FGD_F32 if dtype == np.float32 else lib.FGD_F64, ffi.from_buffer
    for name in ACTIVATIONS:
        i = lib.fgd_activation_find(name.encode())
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
    lib.fgd_softmax_cross_entropy(code, 77, 13, at(logits), *rest)
    lib.fgd_softmax_cross_entropy(code, 77, 13, at(logits), rest[0], at(logits), *rest[2:])
    same_bits(logits, grad)


def test_a_model_has_the_bits_of_the_reference(numpy_products):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((33, 20), dtype=np.float32), rng.integers(0, 7, 33)
    results = []
    for backend in ("native", "reference"):
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


# ---- Accuracy


def ulp_error(y, exact):
    with np.errstate(over="ignore", invalid="ignore"):
        return np.abs(y.astype(exact.dtype) - exact) / np.spacing(np.abs(exact.astype(y.dtype))).astype(
            exact.dtype
        )


# Measured over every fifth float32, and 1.5 million float64 against 80-bit extended precision:
# exp 1.01 and 0.95, tanh 2.50 and 2.50, sigmoid 2.41 and 2.24 units in the last place. The logarithm: 1.98.
BOUNDS = {"exp": 1.1, "tanh": 2.6, "sigmoid": 2.5}
EXACT = {"exp": np.exp, "tanh": np.tanh, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", BOUNDS)
def test_accuracy_in_units_in_the_last_place(name, dtype):
    wide = np.float64 if dtype == np.float32 else np.longdouble
    if dtype == np.float64 and np.finfo(wide).nmant < 60:
        pytest.skip("long double is no wider than double here")
    low, high = (-104, 88.7) if dtype == np.float32 else (-746, 709.7)
    rng = np.random.default_rng(0)
    x = np.concatenate([
        np.linspace(-1, 1, 100001), np.linspace(-10, 10, 200003), rng.uniform(low, high, 200000),
        np.exp(rng.uniform(-80, 3, 50000)) * rng.choice([-1, 1], 50000),
    ]).astype(dtype)  # fmt: skip
    forward = {"exp": reference.exp, "tanh": reference.tanh_forward, "sigmoid": reference.sigmoid_forward}[
        name
    ]
    with np.errstate(all="ignore"):
        y = forward(x)
    assert np.max(ulp_error(y, EXACT[name](x.astype(wide)))) <= BOUNDS[name]


def test_accuracy_of_the_logarithm():
    x = np.concatenate(
        [np.linspace(1, 4, 300001), np.exp(np.linspace(0, 40, 100001)), 1 + 2.0 ** -np.arange(1, 53)]
    )
    exact = np.log(x.astype(np.longdouble))
    assert (
        np.max(np.abs(reference.log(x) - exact)[exact > 0] / np.spacing(exact[exact > 0].astype(float)))
        <= 2.5
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_limits_of_the_activations(dtype, backend):
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1e4, -1e4], dtype)[None]
    for layer, expected in [
        (nn.Tanh(), [1, -1, np.nan, 0.0, -0.0, 1, -1]),
        (nn.Sigmoid(), [1, 0, np.nan, 0.5, 0.5, 1, 0]),
        (nn.ReLU(), [np.inf, 0, np.nan, 0.0, -0.0, 1e4, 0]),
    ]:
        same_bits(nn.Sequential(layer, backend=backend).forward(x), np.array(expected, dtype)[None])
    assert math.copysign(1, nn.Sequential(nn.Tanh(), backend=backend).forward(x)[0, 4]) == -1


def test_cross_entropy_of_extreme_logits(backend):
    model = nn.Sequential(Pass(), loss=nn.CrossEntropyLoss(), backend=backend)

    def loss(row, label):
        return model.loss(np.array([row], np.float32), [label])

    assert loss([1e4, 0, -1e4], 0) == 0
    assert loss([1e4, 0, -1e4], 2) == 2e4
    assert loss([3e38, -3e38], 1) == pytest.approx(6e38, rel=1e-6)
    assert loss([0, -np.inf], 1) == np.inf
    assert loss([0, -np.inf], 0) == 0
    for row in ([np.nan, 0], [np.inf, 0], [-np.inf, -np.inf]):
        assert math.isnan(loss(row, 0))
    # far below float32's unit in the last place of 1: kept, because rows are summed in double
    assert loss([0, -30], 0) == pytest.approx(math.log1p(math.exp(-30)), rel=1e-6)


def test_the_gradient_of_a_sure_label_does_not_cancel(backend):
    k = kernels_of(backend)
    logits = np.array([[0, -20]], np.float32)
    grad, labels = np.empty_like(logits), np.array([0])
    at = [k.handle(array) for array in (logits, labels, grad, np.empty(1), np.empty(1))]
    assert k.softmax_cross_entropy(k.dtype(logits.dtype), 1, 2, *at) == 0
    p = math.exp(-20) / (1 + math.exp(-20))
    np.testing.assert_allclose(grad, [[-p, p]], rtol=1e-6)


# ---- Gradients


class Pass(nn.Layer):
    """A layer from outside the package, y = x: tests the interface, and reaches losses directly."""

    def output_shape(self, shape):
        return shape

    def bind(self, kernels, shape, dtype, gradients, needs_dx, activation):
        return Through(kernels, np.empty(shape, dtype))


class Through(nn.Pass):
    def __init__(self, kernels, output):
        self.output, self.kernels = output, kernels
        self.args = kernels.dtype(output.dtype), kernels.activation("identity"), output.size
        self.y = kernels.handle(output)

    def forward(self, x, training):
        self.kernels.check(self.kernels.activation_forward(*self.args, x, self.y))
        return self.y

    def backward(self, dy):
        return dy


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


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()], ids=repr)
def test_gradients_against_central_differences(loss, backend):
    rng = np.random.default_rng(4)
    x = rng.standard_normal((6, 5))
    y = rng.integers(0, 4, 6) if isinstance(loss, nn.CrossEntropyLoss) else rng.standard_normal((6, 4))
    for model in models(np.float64, backend, loss):
        grads = [grad.copy() for grad in model.loss_and_grad(x, y)[1]]
        for (name, parameter), grad in zip(model.named_parameters(), grads, strict=True):
            numeric = np.empty_like(parameter)
            for i in np.ndindex(parameter.shape):
                before, step = parameter[i], 1e-6
                parameter[i] = before + step
                up = model.loss(x, y)
                parameter[i] = before - step
                numeric[i] = (up - model.loss(x, y)) / (2 * step)
                parameter[i] = before
            np.testing.assert_allclose(grad, numeric, rtol=1e-5, atol=1e-8, err_msg=f"{model}: {name}")


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss(), nn.MSELoss()], ids=repr)
def test_agrees_with_torch(loss, dtype, backend):
    torch = pytest.importorskip("torch")
    # products sum in another order: some units in the last place of the terms, more where they cancel
    tolerance = {"rtol": 2e-5, "atol": 1e-6} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-14}
    rng = np.random.default_rng(4)
    x = rng.standard_normal((37, 5)).astype(dtype)
    y = (
        rng.integers(0, 4, 37)
        if isinstance(loss, nn.CrossEntropyLoss)
        else rng.standard_normal((37, 4)).astype(dtype)
    )
    for model in models(dtype, backend, loss):
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
                    else getattr(torch.nn, type(layer).__name__)()
                )
        peer = torch.nn.Sequential(*peers).to(torch.from_numpy(x).dtype)
        peer.load_state_dict({name: torch.from_numpy(array) for name, array in model.state_dict().items()})
        output = peer(torch.from_numpy(x))
        theirs = getattr(torch.nn, type(loss).__name__)()(output, torch.from_numpy(y))
        theirs.backward()
        value, grads = model.loss_and_grad(x, y)
        np.testing.assert_allclose(model.forward(x), output.detach().numpy(), **tolerance)
        np.testing.assert_allclose(value, theirs.item(), **tolerance)
        for grad, (name, parameter) in zip(grads, peer.named_parameters(), strict=True):
            np.testing.assert_allclose(grad, parameter.grad.numpy(), **tolerance, err_msg=f"{model}: {name}")


# ---- The model


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


def test_training_lowers_the_loss(backend):
    model = classifier(backend)
    x, y = batch(200)
    opt = Descent(model.parameters(), 1.0)
    first = model.train_step(x, y, opt, clip_norm=1.0)
    assert first.report == {"clip_norm": 1.0}
    for _ in range(200):
        last = model.train_step(x, y, opt)
    assert isinstance(last.loss, float) and last.loss < first.loss / 5
    assert np.mean(np.argmax(model.forward(x), axis=1) == y) > 0.95


def test_gradients_are_the_same_objects_every_time():
    model = classifier()
    gradients = model.gradients()
    inside = list(gradients)
    for n in (12, 5, 12, 1, 2, 3, 4, 7):
        assert model.loss_and_grad(*batch(n))[1] is gradients
        assert all(a is b for a, b in zip(gradients, inside, strict=True))
    assert [g.shape for g in gradients] == [p.shape for p in model.parameters()]


def test_shapes_may_alternate_and_only_a_few_plans_are_kept():
    model, x, y = classifier(), *batch(40)
    expected = {n: model.loss(x[:n], y[:n]) for n in range(1, 40)}
    for n in [*range(1, 40), 32, 8, 32, 8]:
        assert model.loss(x[:n], y[:n]) == expected[n]
    assert len(model._plans) == 4
    kept = model._plans[(32, 6), np.dtype(np.float32)]
    for n in range(1, 20):
        model.loss_and_grad(x[:n], y[:n])
        model.loss_and_grad(x[:32], y[:32])
    assert model._plans[(32, 6), np.dtype(np.float32)] is kept


def test_forward_gives_an_array_of_the_users_own():
    model, (x, _) = classifier(), batch()
    first = model.forward(x)
    kept = first.copy()
    model.forward(-x)
    assert np.array_equal(first, kept)
    out = np.empty_like(first)
    assert model.forward(x, out=out) is out
    assert np.array_equal(out, kept)
    with pytest.raises(ValueError, match=r"out must be float32 of shape \[12, 3\]"):
        model.forward(x, out=np.empty((3, 3), np.float32))
    with pytest.raises(TypeError, match="out must be float32"):
        model.forward(x, out=np.empty((12, 3)))


def test_any_layout_of_x_and_y():
    model, (x, y) = classifier(), batch(12)
    value, grads = model.loss_and_grad(x, y)
    grads = [grad.copy() for grad in grads]
    shifted = np.zeros(x.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    shifted[...] = x
    frozen = x.copy()
    frozen.flags.writeable = False
    every_other = np.repeat(y, 2)[::2]
    for other in (
        np.asfortranarray(x),
        np.repeat(x, 2, axis=1)[:, ::2],
        x[::-1][::-1],
        shifted,
        frozen,
        x.tolist(),
    ):
        other = other if isinstance(other, np.ndarray) else np.array(other, np.float32)
        for labels in (y, y.tolist(), y.astype(np.int8), y.astype(np.uint64), y.astype(">i4"), every_other):
            assert model.loss_and_grad(other, labels)[0] == value
            for grad, expected in zip(model.gradients(), grads, strict=True):
                same_bits(grad, expected)


def test_initial_parameters():
    layer = nn.Linear(100, 300, seed=1)
    for parameter in (layer.weight, layer.bias):
        assert parameter.dtype == np.float32
        assert np.abs(parameter).max() <= 0.1
        assert np.abs(parameter).max() > 0.098
        assert abs(parameter.std() - 0.1 / math.sqrt(3)) < 0.003
    assert np.array_equal(layer.weight, nn.Linear(100, 300, seed=1).weight)
    assert not np.array_equal(layer.weight, nn.Linear(100, 300).weight)
    assert nn.Linear(3, 2, bias=False).bias is None
    before = layer.weight.copy()
    nn.Sequential(layer)
    assert np.array_equal(layer.weight, before)
    nn.Sequential(layer, seed=5)
    assert not np.array_equal(layer.weight, before)
    with pytest.raises(AttributeError):
        layer.weight = before


def test_names_and_state():
    model = classifier()
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(a is b for (_, a), b in zip(model.named_parameters(), model.parameters(), strict=True))
    x, y = batch()
    state, value = model.state_dict(), model.loss(x, y)
    for parameter in model.parameters():
        parameter += 1
    assert model.loss(x, y) != value
    bad = [
        ({"0.bias": None}, KeyError, "lacks the parameters \\['0.bias'\\]"),
        ({"9.bias": np.zeros(1)}, KeyError, "9.bias"),
        ({"2.bias": np.zeros(4, np.float32)}, ValueError, r"2.bias has shape \[4\] in state but \[3\]"),
        ({"2.bias": np.zeros(3)}, TypeError, "2.bias is float64 in state but float32"),
    ]
    before = model.state_dict()
    for change, error, match in bad:
        changed = {name: array for name, array in {**state, **change}.items() if array is not None}
        with pytest.raises(error, match=match):
            model.load_state_dict(changed)
        assert all(np.array_equal(a, before[name]) for name, a in model.named_parameters())
    model.load_state_dict(state)
    assert model.loss(x, y) == value


# ---- Bad input


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            lambda x, y: (x[:, :5], y),
            ValueError,
            r"layer 0 does not take: Linear\(6, 16.*\[batch, 6\], not \[12, 5\]",
        ),
        (lambda x, y: (x[0], y), ValueError, r"x must have shape \[batch, ...\], not \[6\]"),
        (lambda x, y: (x[None], y), ValueError, "layer 0 does not take"),
        (
            lambda x, y: (x.astype(np.float64), y),
            TypeError,
            r"x is float64 .* float32: x.astype\('float32'\)",
        ),
        (lambda x, y: (x.astype(np.int64), y), TypeError, "x is int64"),
        (lambda x, y: (x.astype(">f4"), y), TypeError, "x is >f4"),
        (lambda x, y: (x[:0], y[:0]), ValueError, "x holds no rows"),
        (lambda x, y: (x, y[:-1]), ValueError, r"y must have shape \[12\]"),
        (lambda x, y: (x, y[:, None]), ValueError, r"y must have shape \[12\]"),
        (
            lambda x, y: (x, y.astype(np.float32)),
            TypeError,
            "y must hold class labels as integers, not float32",
        ),
        (lambda x, y: (x, y == 0), TypeError, "y must hold class labels as integers, not bool"),
        (
            lambda x, y: (x, np.where(np.arange(12) == 7, 3, y)),
            ValueError,
            r"y\[7\] is 3, but labels are 0 .. 2",
        ),
        (lambda x, y: (x, np.where(np.arange(12) == 7, -1, y)), ValueError, r"y\[7\] is -1"),
        (lambda x, y: (x, np.full(12, 2**64 - 1, np.uint64)), ValueError, r"y\[0\] is 18446744073709551615"),
    ],
)
def test_bad_batches_are_refused_and_change_nothing(change, error, match, backend):
    model, (x, y) = classifier(backend), batch()
    opt = Descent(model.parameters(), 1.0)
    model.loss_and_grad(x, y)
    before = [array.copy() for array in model.parameters() + model.gradients()]
    with pytest.raises(error, match=match):
        model.train_step(*change(x, y), opt)
    for array, kept in zip(model.parameters() + model.gradients(), before, strict=True):
        same_bits(array, kept)


def test_bad_targets_of_the_mean_squared_error(backend):
    model = nn.Sequential(nn.Linear(6, 1), loss=nn.MSELoss(), backend=backend)
    x = batch()[0]
    with pytest.raises(ValueError, match=r"y must have the prediction's shape \[12, 1\], not \[12\]"):
        model.loss_and_grad(x, np.zeros(12, np.float32))
    with pytest.raises(TypeError, match="y is float64 but the model computes in float32"):
        model.loss_and_grad(x, np.zeros((12, 1)))


def test_bad_models_are_refused():
    with pytest.raises(RuntimeError, match="the model has no loss"):
        nn.Sequential(nn.Linear(6, 3)).loss_and_grad(*batch())
    with pytest.raises(ValueError, match="at least one layer"):
        nn.Sequential()
    with pytest.raises(TypeError, match=r"layer 1 must be a Layer such as nn.ReLU\(\), not <class"):
        nn.Sequential(nn.Linear(6, 3), nn.ReLU)
    with pytest.raises(TypeError, match=r"loss must be a Loss such as nn.MSELoss\(\), not <class"):
        nn.Sequential(nn.Linear(6, 3), loss=nn.MSELoss)
    with pytest.raises(TypeError, match="one dtype"):
        nn.Sequential(nn.Linear(6, 3), nn.Linear(3, 3, dtype=np.float64))
    shared = nn.Linear(3, 3)
    with pytest.raises(ValueError, match=r"layer 1, .* is in the model twice"):
        nn.Sequential(shared, shared)
    with pytest.raises(ValueError, match="backend must be auto"):
        nn.Sequential(shared, backend="tpu")
    with pytest.raises(ValueError, match="layer 1 does not take"):
        nn.Sequential(nn.Linear(6, 3), nn.Linear(4, 3)).forward(batch()[0])
    with pytest.raises(ValueError, match="in_features must be 1 or more, not 0"):
        nn.Linear(0, 3)
    with pytest.raises(TypeError, match="out_features must be an integer, not float"):
        nn.Linear(3, 3.0)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, not float16"):
        nn.Linear(3, 3, dtype=np.float16)


def test_bad_native_calls_are_refused_before_anything_is_written():
    a = np.full(16, 7, np.float32)
    row, loss = np.full(4, 7.0), ffi.new("double *", 7)
    p, null, rows = ffi.from_buffer(a), ffi.NULL, ffi.from_buffer("double[]", row)
    labels = np.array([0, 1, 2, 4])
    at = ffi.from_buffer("int64_t[]", labels)
    gemm.ensure("float32")
    assert lib.fgd_softmax_cross_entropy(0, 4, 4, p, at, p, rows, loss) == lib.FGD_ERROR_LABEL
    labels[3] = -1
    assert lib.fgd_softmax_cross_entropy(0, 4, 4, p, at, p, rows, loss) == lib.FGD_ERROR_LABEL
    labels[3] = 3
    assert lib.fgd_softmax_cross_entropy(5, 4, 4, p, at, p, rows, loss) == lib.FGD_ERROR_DTYPE
    assert lib.fgd_softmax_cross_entropy(0, -4, 4, p, at, p, rows, loss) == lib.FGD_ERROR_SIZE
    assert lib.fgd_softmax_cross_entropy(0, 2**40, 2**40, p, at, p, rows, loss) == lib.FGD_ERROR_SIZE
    assert lib.fgd_softmax_cross_entropy(0, 4, 4, null, at, p, rows, loss) == lib.FGD_ERROR_NULL
    assert lib.fgd_softmax_cross_entropy(0, 4, 4, p, at, p, null, loss) == lib.FGD_ERROR_NULL
    assert lib.fgd_mean_squared_error(0, 4, p, null, p, rows, loss) == lib.FGD_ERROR_NULL
    assert lib.fgd_mean_squared_error(0, -1, p, p, p, rows, loss) == lib.FGD_ERROR_SIZE
    assert lib.fgd_activation_forward(0, 99, 4, p, p) == lib.FGD_ERROR_ACTIVATION
    assert lib.fgd_activation_forward(0, 1, -1, p, p) == lib.FGD_ERROR_SIZE
    assert lib.fgd_activation_backward(0, 1, 4, p, p, null) == lib.FGD_ERROR_NULL
    assert lib.fgd_linear_forward(0, 99, 4, 4, 4, p, p, p, p) == lib.FGD_ERROR_ACTIVATION
    assert lib.fgd_linear_forward(0, 1, 4, 4, 4, null, p, p, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_linear_backward(0, 1, 4, 4, 4, p, p, null, p, p, p, p) == lib.FGD_ERROR_NULL
    assert lib.fgd_linear_backward(0, 1, 4, 4, -4, p, p, p, p, p, p, p) == lib.FGD_ERROR_SIZE
    assert lib.fgd_set_gemm(0, lib.FGD_GEMM_NONE, null) == 0
    try:
        assert lib.fgd_linear_backward(0, 1, 4, 4, 4, p, p, p, p, p, p, p) == lib.FGD_ERROR_GEMM
    finally:
        gemm.use(None)
    assert np.all(a == 7) and np.all(row == 7) and loss[0] == 7


def test_empty_native_calls():
    loss = ffi.new("double *")
    assert lib.fgd_softmax_cross_entropy(0, 0, 3, ffi.NULL, ffi.NULL, ffi.NULL, ffi.NULL, loss) == 0
    assert math.isnan(loss[0])
    gemm.ensure("float32")
    bias, weight = np.array([1, -2], np.float32), np.full((2, 3), 9, np.float32)
    y = np.zeros((4, 2), np.float32)
    at = ffi.from_buffer
    relu = lib.fgd_activation_find(b"relu")
    assert lib.fgd_linear_forward(0, relu, 4, 0, 2, ffi.NULL, ffi.NULL, at(bias), at(y)) == 0
    assert np.array_equal(y, np.tile(np.float32([1, 0]), (4, 1)))
    null = ffi.NULL
    assert lib.fgd_linear_backward(0, relu, 0, 3, 2, null, null, null, null, null, at(weight), at(bias)) == 0
    assert not weight.any() and not bias.any()
