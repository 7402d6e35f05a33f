"""fastgd.jax.function: models under jit have the bits of nn.Sequential, forward and backward."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastgd import gemm, nn
from fastgd._native import ffi, lib
from fastgd.nn import functional as F
from fastgd.nn.compiled import LayerPasses
from fastgd.nn.kernels import kernels_of

jax = pytest.importorskip("jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
fgd = pytest.importorskip("fastgd.jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
from fastgd.jax._passes import bind  # noqa: E402  # below, as it needs JAX
from fastgd.jax.models import _as_int64  # noqa: E402

jnp = jax.numpy
pytestmark = pytest.mark.peer

SEQUENCE, IMAGE = (5, 6), (4, 8, 8)

#: layers, and the shape of a row of their input
MODELS = {
    "perceptron": ([nn.Linear(7, 12), nn.ReLU(), nn.Linear(12, 5)], (7,)),
    "activations": (
        [nn.GELU(), nn.Linear(7, 9), nn.SiLU(), nn.Tanh(), nn.Linear(9, 4, bias=False), nn.Softplus()],
        (7,),
    ),
    "convolutions": (
        [
            nn.Conv2d(4, 6, 3, padding=1),
            nn.GELU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 4, 3, groups=2),
            nn.BatchNorm2d(4, track_running_stats=False),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4, 3),
        ],
        IMAGE,
    ),
    "one dimension": (
        [nn.Conv1d(5, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool1d(2), nn.Flatten(), nn.Unflatten(1, (2, 4))],
        SEQUENCE,
    ),
    "residual": (
        [
            nn.Residual(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()),
            nn.Residual(nn.Conv2d(4, 6, 1), shortcut=nn.Conv2d(4, 6, 1)),
            nn.Mish(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        ],
        IMAGE,
    ),
    "attention": (
        [
            nn.PositionalEmbedding(9, 6),
            nn.Residual(nn.LayerNorm(6), nn.MultiheadAttention(6, 2, causal=True)),
            nn.RMSNorm(6),
            nn.Linear(6, 4),
            nn.LogSoftmax(),
        ],
        SEQUENCE,
    ),
    "lstm": ([nn.LSTM(6, 4, 2, bidirectional=True), nn.Linear(8, 3), nn.Softmax()], SEQUENCE),
    "gru": ([nn.GRU(6, 4, output="last")], SEQUENCE),
    "rnn": ([nn.RNN(6, 4, nonlinearity="relu"), nn.RNN(4, 3)], SEQUENCE),
    "no parameters": ([nn.Sigmoid(), nn.MaxPool2d(2)], IMAGE),
    "nothing": ([nn.Flatten()], SEQUENCE),
}


def normal(shape, dtype=np.float32, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def model_of(name, seed=0):
    layers, row = MODELS[name]
    return nn.Sequential(*layers, seed=seed), row


def backward_of(model, x, dy):
    """(the gradients by name, dx), by the passes of one layer at a time."""
    inputs = [x]
    for layer in model.layers:
        inputs.append(nn.Sequential(layer).forward(inputs[-1]))
    gradients = {}
    for i in range(len(model.layers) - 1, -1, -1):
        given = inputs[i]
        passes = LayerPasses(model.layers[i], kernels_of("native"), (given.shape, given.dtype), dy.dtype)
        passes.bind(given, dy.copy())
        passes.run()
        gradients |= {f"{i}.{name}": array for name, array in passes.gradients.items()}
        dy = passes.dx
    return gradients, dy


def assert_same_bits(mine, theirs):
    mine = np.asarray(mine)
    assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
    assert mine.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", MODELS)
def test_bits_of_the_model(name, compiled):
    model, row = model_of(name)
    apply, params = fgd.function(model)
    run = jax.jit(apply) if compiled else apply

    def pulled(params, x, dy):
        y, back = jax.vjp(apply, params, x)
        return y, back(dy)

    for batch in (3, 4, 3):
        x = normal((batch, *row), seed=batch)
        y = model.forward(x)
        dy = normal(y.shape, seed=1)
        assert_same_bits(run(params, x), y)
        again, (gradients, dx) = (jax.jit(pulled) if compiled else pulled)(params, x, dy)
        wanted, wanted_dx = backward_of(model, x, dy)
        assert_same_bits(again, y)
        assert_same_bits(dx, wanted_dx)
        assert gradients.keys() == wanted.keys()
        for key, gradient in gradients.items():
            assert_same_bits(gradient, wanted[key])


def test_a_training_step_beside_the_model_s_own():
    layers = nn.Linear(20, 16), nn.ReLU(), nn.Linear(16, 4)
    model = nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0)
    apply, params = fgd.function(model)
    x, y = normal((32, 20)), np.arange(32) % 4
    value, own = model.loss_and_grad(x, y)
    _, dy = F.cross_entropy(model.forward(x), y)
    (gradients,) = jax.vjp(lambda p: apply(p, x), params)[1](dy)
    for (name, _), gradient in zip(model.named_parameters(), own, strict=True):
        assert_same_bits(gradients[name], gradient)

    def loss(params):
        return -jnp.take_along_axis(jax.nn.log_softmax(apply(params, x)), y[:, None], 1).mean()

    opt = fgd.adamw(0.01)
    state, step = opt.init(params), jax.jit(lambda p, s: opt.step(p, jax.grad(loss)(p), s))
    assert np.isclose(loss(params), value)
    for _ in range(20):
        params, state = step(params, state)
    assert loss(params) < 0.5 * value
    model.load_state_dict(params)
    assert np.isclose(model.loss(x, y), loss(params))


def test_bits_in_float64():
    with jax.enable_x64(True):
        model = nn.Sequential(nn.Linear(6, 5, dtype=np.float64), nn.GELU(), nn.LayerNorm(5, dtype=np.float64))
        apply, params = fgd.function(model)
        x, dy = normal((3, 6), np.float64), normal((3, 5), np.float64)
        y, back = jax.vjp(apply, params, x)
        gradients, dx = back(dy)
        wanted, wanted_dx = backward_of(model, x, dy)
        assert_same_bits(y, model.forward(x))
        assert_same_bits(dx, wanted_dx)
        for key, gradient in gradients.items():
            assert_same_bits(gradient, wanted[key])


@pytest.mark.parametrize("x64", [False, True])
def test_sequences_of_different_lengths(x64):
    layers = nn.LSTM(6, 4, bidirectional=True), nn.MultiheadAttention(8, 2), nn.Linear(8, 3)
    model = nn.Sequential(*layers, loss=nn.MSELoss(), seed=0)
    x, lengths = normal((4, 5, 6)), np.array([5, 1, 3, 4])
    given = nn.Sequences(x, lengths)
    y, target = model.forward(given), np.zeros((4, 5, 3), np.float32)
    _, own = model.loss_and_grad(given, target)
    with jax.enable_x64(x64):
        apply, params = fgd.function(model)
        assert_same_bits(jax.jit(apply)(params, x, lengths), y)
        back = jax.jit(lambda p, x, n, dy: jax.vjp(lambda p, x: apply(p, x, n), p, x)[1](dy))
        gradients, dx = back(params, x, lengths, F.mse_loss(y, target)[1])
        for (name, _), gradient in zip(model.named_parameters(), own, strict=True):
            assert_same_bits(gradients[name], gradient)
        assert all((np.asarray(dx[i, n:]) == 0).all() for i, n in enumerate(lengths))
        with pytest.raises(jax.errors.JaxRuntimeError, match="size"):
            jax.block_until_ready(apply(params, x, [5, 6, 1, 1]))
        for wrong in ([5, 1, 3], [5.0, 1.0, 3.0, 4.0]):
            with pytest.raises(ValueError, match=r"lengths must be integers of shape \[4\]"):
                apply(params, x, wrong)


def embedded():
    layers = nn.Embedding(10, 6, padding_idx=0), nn.GRU(6, 4, output="last"), nn.Linear(4, 3)
    return nn.Sequential(*layers, seed=0)


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint8])
def test_indices_have_no_gradient(dtype, x64):
    model, indices = embedded(), np.array([[1, 2, 0], [9, 2, 2]])
    with jax.enable_x64(x64):
        apply, params = fgd.function(model)
        x = jnp.array(indices.astype(dtype))
        gradients = jax.jit(jax.grad(lambda p: apply(p, x).sum()))(params)
        assert_same_bits(jax.jit(apply)(params, x), model.forward(indices))
        wanted, _ = backward_of(model, indices, np.ones((2, 3), np.float32))
        for key, gradient in gradients.items():
            assert_same_bits(gradient, wanted[key])


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint32])
def test_integers_are_handed_over_as_int64(dtype):
    numbers = np.array([0, 1, np.iinfo(dtype).min, np.iinfo(dtype).max], dtype)
    halves = np.asarray(_as_int64(jnp.array(numbers)))
    assert halves.view(np.int64).reshape(-1).tolist() == numbers.tolist()


@pytest.mark.parametrize("wrong", [-1, 10])
def test_an_index_out_of_range_is_refused(wrong):
    apply, params = fgd.function(embedded())
    with pytest.raises(jax.errors.JaxRuntimeError, match="an index is outside"):
        jax.block_until_ready(jax.jit(apply)(params, jnp.array([[1, wrong]])))


def natives(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text().count('custom_call_target="fastgd_passes"')


def test_one_call_forward_and_one_back():
    model, row = model_of("attention")
    apply, params = fgd.function(model)
    x = normal((2, *row))
    assert natives(apply, params, x) == 1
    assert natives(jax.grad(lambda p: apply(p, x).sum()), params) == 2


def test_no_derivative_of_x_is_computed_that_nobody_asks_for():
    model, row = model_of("perceptron")
    apply, params = fgd.function(model)
    x = normal((53, *row))

    def total(p, x):
        return apply(p, x).sum()

    texts = [jax.jit(jax.grad(total, argnums=n)).lower(params, x).compile().as_text() for n in (0, (0, 1))]
    back = [
        next(line for line in text.splitlines() if "transpose" in line and "custom-call(" in line)
        for text in texts
    ]
    results = [line.split("custom-call(")[0].count("f32[53,7]") for line in back]
    assert results == [0, 1]


def test_checkpoint_scan_vmap_and_threads():
    model, row = model_of("convolutions")
    apply, params = fgd.function(model)
    x = normal((6, 2, *row))
    wanted = [model.forward(part) for part in x]

    def total(p, x, apply=apply):
        return (apply(p, x) ** 2).sum()

    gradient = jax.jit(jax.grad(total))
    one = [gradient(params, part) for part in x]
    again = jax.jit(jax.grad(lambda p, x: total(p, x, jax.checkpoint(apply))))
    _, scanned = jax.lax.scan(lambda c, part: (c, (apply(params, part), gradient(params, part))), 0, x)
    mapped = jax.jit(jax.vmap(lambda part: (apply(params, part), gradient(params, part))))(x)
    stacked = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
    ensemble = jax.vmap(gradient, in_axes=(0, None))(stacked, x[0])
    jax.tree.map(lambda a, b: assert_same_bits(a[0], np.asarray(b)), ensemble, one[0])
    with ThreadPoolExecutor(4) as pool:
        threaded = list(pool.map(lambda part: gradient(params, part), [*x, *x]))
    for i, part in enumerate(x):
        for y, gradients in (scanned, mapped):
            assert_same_bits(y[i], wanted[i])
            jax.tree.map(lambda a, b, i=i: assert_same_bits(a[i], np.asarray(b)), gradients, one[i])
        for gradients in (again(params, part), threaded[i], threaded[i + len(x)]):
            jax.tree.map(lambda a, b: assert_same_bits(a, np.asarray(b)), gradients, one[i])


def test_products_of_numpy_s():
    model, row = model_of("perceptron")
    apply, params = fgd.function(model)
    x = normal((4, *row))
    gemm.use("numpy")
    try:
        assert_same_bits(jax.jit(apply)(params, x), model.forward(x))
    finally:
        gemm.use(None)


def test_denormal_numbers_are_numbers():
    """XLA's threads take them for 0."""
    model = nn.Sequential(nn.LeakyReLU(0.5))
    apply, params = fgd.function(model)
    x = np.full((2, 3), -1e-40, np.float32)
    y = np.asarray(jax.jit(apply)(params, x))
    assert (y != 0).all()
    assert_same_bits(y, model.forward(x))


def test_parameters_are_copies():
    model, row = model_of("perceptron")
    apply, params = fgd.function(model)
    x = normal((2, *row))
    before = np.asarray(apply(params, x))
    for array in model.parameters():
        array[...] = 0
    assert_same_bits(apply(params, x), before)


@pytest.mark.parametrize(
    ("layer", "kept"),
    [
        (nn.Dropout(0.5), r"Dropout\(p=0.5\), keeps counter"),
        (nn.BatchNorm1d(4), r"BatchNorm1d\(4.*keeps running_mean, running_var, num_batches_tracked"),
        (nn.LSTM(4, 4, carry=True), r"LSTM\(4, 4, carry=True\), keeps h, c"),
        (nn.Residual(nn.Linear(4, 4), nn.Dropout(0.1)), r"layer 1, Dropout\(p=0.1\), keeps counter"),
    ],
)
def test_layers_that_keep_something_are_refused(layer, kept):
    with pytest.raises(TypeError, match=kept):
        fgd.function(nn.Sequential(nn.Linear(4, 4), layer))


class Hidden(nn.Layer):
    """Adds an array that it tells nobody about."""

    own = np.ones(8, np.float32)

    def output_shape(self, shape):
        return shape

    def bind(self, to, x, activation=None):
        y = to.value(x.shape)
        to.emit("add_forward", to.kernels.activation("identity"), (x.size,), (x, self.own, None, y))
        return y, lambda dy, needs_dx: dy


def test_what_does_not_fit_is_refused():
    apply, params = fgd.function(nn.Sequential(nn.Linear(4, 2)))
    x = normal((3, 4))
    with pytest.raises(TypeError, match=r"model must be an nn\.Sequential, not Linear"):
        fgd.function(nn.Linear(4, 2))
    with pytest.raises(TypeError, match="float64, which JAX has only with"):
        fgd.function(nn.Sequential(nn.Linear(4, 2, dtype=np.float64)))
    with pytest.raises(TypeError, match="params must be arrays by name, not list"):
        apply([params], x)
    with pytest.raises(KeyError, match=r"lack \['0.bias'\] and have \['b'\]"):
        apply({"0.weight": params["0.weight"], "b": params["0.bias"]}, x)
    with pytest.raises(TypeError, match=r"params\['0.bias'\] is bfloat16, .* float32"):
        apply({**params, "0.bias": params["0.bias"].astype(jnp.bfloat16)}, x)
    with pytest.raises(ValueError, match=r"params\['0.bias'\] must have shape"):
        apply({**params, "0.bias": jnp.zeros(3)}, x)
    with pytest.raises(TypeError, match="x is float16 but the model computes in float32"):
        apply(params, x.astype(np.float16))
    with pytest.raises(TypeError, match="x is int32 but"):
        apply(params, np.ones((3, 4), np.int32))
    with pytest.raises(ValueError, match="x has a shape that layer 0 does not take"):
        apply(params, normal((3, 5)))
    with pytest.raises(ValueError, match="x holds no rows"):
        apply(params, x[:0])
    with pytest.raises(TypeError, match="add_forward uses an array of a layer that is none"):
        fgd.function(nn.Sequential(Hidden()))[0]({}, x[:2])


def test_second_derivatives_and_forward_mode_are_refused():
    apply, params = fgd.function(nn.Sequential(nn.Linear(4, 1), nn.Tanh()))
    x = normal((3, 4))

    def total(x):
        return apply(params, x).sum()

    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.grad(lambda x: (jax.grad(total)(x) ** 2).sum())(x)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(total, (x,), (x,))


def test_other_devices_and_versions_refuse_in_words():
    names = "fgd_run", "fgd_error_text"
    _, refusal = bind(*(int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in names))
    jax.ffi.register_ffi_target("fastgd_passes_refused", refusal, platform="cpu")
    fgd.function(nn.Sequential(nn.ReLU()))[0]({}, normal((2, 3)))  # registers the handler
    for target, words in (
        ("fastgd_passes_refused", r"fastgd\.jax work on CPU"),
        ("fastgd_passes", "compiled for another version of fastgd"),
    ):
        call = jax.ffi.ffi_call(target, jax.ShapeDtypeStruct((), jnp.float32))
        with pytest.raises(Exception, match=words):
            jax.block_until_ready(call(program=np.full(6, -1, np.int64)))
