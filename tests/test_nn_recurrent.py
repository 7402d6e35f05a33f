"""RNN, LSTM and GRU: gradients, torch, lengths, carried states, and bad input."""

import copy

import numpy as np
import pytest
from models import central_differences, same_bits

from fastgd import Adam, gemm, nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES
from fastgd.nn.kernels import kernels_of
from fastgd.nn.program import Builder
from fastgd.nn.reference_recurrent import CELLS

SIZES = {"in": 2, "hidden": 3, "batch": 4, "time": 4}
LENGTHS = np.array([2, 4, 1, 4])


def layers(dtype):
    """Of every kind with every option, for x [batch, time, 2]."""
    size = {"input_size": SIZES["in"], "hidden_size": SIZES["hidden"], "dtype": dtype}
    for cls in (nn.LSTM, nn.GRU, nn.RNN):
        yield cls(**size)
        yield cls(**size, num_layers=2, bidirectional=True)
        yield cls(**size, num_layers=2, bias=False, output="last")
        yield cls(**size, output="last", bidirectional=True)
    yield nn.RNN(**size, num_layers=2, nonlinearity="relu")


class Passes:
    """A layer's passes with lengths, as one program."""

    def __init__(self, layer, x, lengths, backend):
        self.gradients = {name: np.full_like(array, 9) for name, array in layer.parameters().items()}
        pairs = zip(layer.parameters().values(), self.gradients.values(), strict=True)
        kernels = kernels_of(backend)
        to = Builder(kernels, x.dtype, training=True, gradients={id(p): g for p, g in pairs})
        if lengths is not None:
            to.lengths = to.input("lengths", lengths.shape, np.int64)
        self._y, backward = layer.bind(to, to.input("x", x.shape, x.dtype))
        self._dx = backward(to.input("dy", self._y.shape, x.dtype), True)
        to.keep(self._y), to.keep(self._dx)
        to.allocate()
        self._program = kernels.program(to.ops, [(0, 0)] * len(to.ops))
        self._program.bind("x", x)
        self._program.bind("lengths", lengths)

    def run(self, dy):
        """(y, gradients of the parameters by name, dx)."""
        self._program.bind("dy", dy)
        self._program.run()
        return self._y.array.copy(), self.gradients, self._dx.array.copy()


def drawn(layer, dtype, batch=SIZES["batch"]):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, SIZES["time"], SIZES["in"])).astype(dtype)
    return x, rng.standard_normal(layer.output_shape(x.shape)).astype(dtype)


def check_gradients(layer, passes, x, dy):
    _, gradients, dx = passes.run(dy)
    gradients = {name: grad.copy() for name, grad in gradients.items()}
    for array, grad in [(x, dx), *((layer.parameters()[name], g) for name, g in gradients.items())]:
        numeric = central_differences(lambda: (passes.run(dy)[0] * dy).sum(), array, 1e-5)
        np.testing.assert_allclose(grad, numeric, rtol=1e-6, atol=1e-8, err_msg=str(layer))


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all", "lengths"])
def test_gradients_against_central_differences(lengths):
    """Of the native kernels, whose bits the slower reference has: test_nn_recurrent_bits.py."""
    for layer in layers(np.float64):
        x, dy = drawn(layer, np.float64)
        check_gradients(layer, Passes(layer, x, lengths, "native"), x, dy)


def theirs_of(torch, layer):
    options = {name: getattr(layer, name) for name in ("num_layers", "bias", "bidirectional")}
    if isinstance(layer, nn.RNN):
        options["nonlinearity"] = layer.nonlinearity
    peer = vars(torch.nn)[type(layer).__name__](
        layer.input_size, layer.hidden_size, batch_first=True, **options
    )
    peer.to(getattr(torch, layer.dtype.name))
    peer.load_state_dict({name: torch.from_numpy(array) for name, array in layer.parameters().items()})
    return peer


@pytest.mark.peer
@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all", "lengths"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_agrees_with_torch(dtype, lengths, backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    from torch.nn.utils import rnn

    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-11, "atol": 1e-12}
    for layer in layers(dtype):
        x, dy = drawn(layer, dtype)
        peer = theirs_of(torch, layer)
        theirs = torch.from_numpy(x).requires_grad_()
        given = torch.full((len(x),), x.shape[1]) if lengths is None else torch.from_numpy(lengths)
        packed = rnn.pack_padded_sequence(theirs, given, batch_first=True, enforce_sorted=False)
        expected, state = peer(packed)
        expected, _ = rnn.pad_packed_sequence(expected, batch_first=True)
        if layer.output == "last":
            h = state[0] if isinstance(layer, nn.LSTM) else state
            expected = torch.cat(list(h[-layer.directions :]), 1)
        expected.backward(torch.from_numpy(dy))
        y, gradients, dx = Passes(layer, x, lengths, backend).run(dy)
        np.testing.assert_allclose(y, expected.detach().numpy(), **tolerance)
        np.testing.assert_allclose(dx, theirs.grad.numpy(), **tolerance)
        assert [*gradients] == [name for name, _ in peer.named_parameters()]
        for name, parameter in peer.named_parameters():
            np.testing.assert_allclose(gradients[name], parameter.grad.numpy(), **tolerance, err_msg=name)


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_what_is_behind_the_end_is_not_read(cls, backend):
    layer = cls(SIZES["in"], SIZES["hidden"], bidirectional=True, seed=0)
    x, dy = drawn(layer, np.float32)
    behind = np.arange(x.shape[1]) >= LENGTHS[:, None]
    y, gradients, dx = Passes(layer, x, LENGTHS, backend).run(np.where(behind[..., None], 0, dy))
    gradients = {name: grad.copy() for name, grad in gradients.items()}
    x[behind] = dy[behind] = np.nan
    y2, gradients2, dx2 = Passes(layer, x, LENGTHS, backend).run(dy)
    same_bits(y, y2)
    same_bits(dx, dx2)
    assert not y[behind].any() and not dx[behind].any()
    for name, grad in gradients.items():
        same_bits(grad, gradients2[name])


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU, nn.RNN])
def test_extremes(cls, backend):
    """Huge numbers give finite outputs and gradients; a row of NaN leaves the others alone."""
    layer = cls(SIZES["in"], SIZES["hidden"], seed=0)
    x, dy = drawn(layer, np.float32)
    y, _, _ = Passes(layer, x, None, backend).run(dy)
    spoiled = x.copy()
    spoiled[1] = np.nan
    y2, _, dx = Passes(layer, spoiled, None, backend).run(dy)
    np.testing.assert_array_equal(y2[2:], y[2:])
    assert np.isnan(y2[1]).all() and np.isnan(dx[1]).any() and np.isfinite(dx[[0, 2, 3]]).all()
    y, gradients, dx = Passes(layer, 1e30 * x, None, backend).run(dy)
    assert np.isfinite(y).all() and np.abs(y).max() <= 1
    assert np.isfinite(dx).all() and all(np.isfinite(grad).all() for grad in gradients.values())


# ---- Carried states


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["all", "lengths"])
def test_a_carried_state_is_where_the_next_batch_begins(lengths, backend):
    for cls in (nn.LSTM, nn.GRU, nn.RNN):
        layer = cls(SIZES["in"], SIZES["hidden"], num_layers=2, carry=True, dtype=np.float64, seed=0)
        whole = copy.deepcopy(layer)
        x, _ = drawn(layer, np.float64)
        steps = np.full(len(x), x.shape[1]) if lengths is None else lengths
        # each row's first `steps`, and then all of another batch
        more = np.random.default_rng(1).standard_normal(x.shape)
        joined = np.zeros((len(x), 2 * x.shape[1], x.shape[2]))
        for row, n in enumerate(steps):
            joined[row, :n], joined[row, n : n + x.shape[1]] = x[row, :n], more[row]
        expected = nn.Sequential(whole, backend=backend).forward(nn.Sequences(joined, steps + x.shape[1]))
        model = nn.Sequential(layer, backend=backend)
        first = model.forward(x if lengths is None else nn.Sequences(x, lengths))
        second = model.forward(more)
        for row, n in enumerate(steps):
            np.testing.assert_allclose(first[row, :n], expected[row, :n], rtol=1e-12, atol=1e-14)
            following = expected[row, n : n + x.shape[1]]
            np.testing.assert_allclose(second[row], following, rtol=1e-12, atol=1e-14)
        assert [*model.state_dict()] == [f"0.{name}" for name in layer.parameters()]


def test_carried_states_are_for_one_number_of_rows_until_they_are_reset(backend):
    layer = nn.LSTM(SIZES["in"], SIZES["hidden"], carry=True, seed=0)
    model = nn.Sequential(layer, backend=backend)
    x, _ = drawn(layer, np.float32)
    first, second = model.forward(x), model.forward(x)
    assert not np.array_equal(first, second)
    few = model.forward(x[:2])
    np.testing.assert_allclose(few, first[:2], rtol=1e-5, atol=1e-6)
    assert not np.array_equal(few, model.forward(x[:2]))
    layer.reset_state()
    np.testing.assert_array_equal(model.forward(x), first)
    copied = copy.deepcopy(model)
    np.testing.assert_array_equal(copied.forward(x), second)
    np.testing.assert_array_equal(model.forward(x), second)
    layer.reset_state()
    np.testing.assert_array_equal(model.forward(x[:2]), few)


def test_gradients_end_where_a_batch_begins(backend):
    for cls in (nn.LSTM, nn.GRU, nn.RNN):
        layer = cls(SIZES["in"], SIZES["hidden"], num_layers=2, carry=True, dtype=np.float64, seed=0)
        x, dy = drawn(layer, np.float64)
        passes = Passes(layer, x, LENGTHS, backend)
        passes.run(dy)
        held = copy.deepcopy(layer._carried)

        class FromThere:
            def run(self, dy, layer=layer, held=held, passes=passes):
                for rows, by_layer in held.items():
                    for states, mine in zip(by_layer, layer._carried[rows], strict=True):
                        for name, array in states.items():
                            mine[name][...] = array
                return passes.run(dy)

        check_gradients(layer, FromThere(), x, dy)


# ---- In a model


@pytest.mark.parametrize("with_lengths", [False, True])
def test_trains_in_a_model(with_lengths, backend):
    """Tells whether a sequence's first number is above 0, which the state must keep to its end."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 12, 2)).astype(np.float32)
    given = nn.Sequences(x, rng.integers(5, 13, 64)) if with_lengths else x
    for cls in (nn.LSTM, nn.GRU):
        layer = cls(2, 16, output="last")
        model = nn.Sequential(layer, nn.Linear(16, 2), loss=nn.CrossEntropyLoss(), seed=0, backend=backend)
        opt = Adam(model.named_parameters(), lr=0.02)
        losses = [model.train_step(given, (x[:, 0, 0] > 0).astype(np.int64), opt).loss for _ in range(80)]
        assert losses[0] > 0.6 and losses[-1] < 0.1, (cls, losses[::10])


def test_parameters_are_torchs_and_start_as_they_do():
    layer = nn.LSTM(300, 100, num_layers=2, bidirectional=True, seed=0)
    shapes = {name: array.shape for name, array in layer.parameters().items()}
    assert shapes["weight_ih_l0"] == (400, 300) and shapes["weight_ih_l1_reverse"] == (400, 200)
    assert shapes["weight_hh_l0_reverse"] == (400, 100) and shapes["bias_hh_l1"] == (400,)
    for array in layer.parameters().values():
        assert 0.099 < np.abs(array).max() <= 0.1 and abs(array.mean()) < 0.01
    layer = nn.LSTM(3, 5, num_layers=2, forget_bias=1.0, seed=0)
    for name, array in layer.parameters().items():
        if name.startswith("bias"):
            assert np.all(array[5:10] == (1 if name.startswith("bias_ih") else 0))
            assert np.abs(array[:5]).max() < 1 and np.abs(array[10:]).min() > 0
    again = nn.LSTM(3, 5, num_layers=2, forget_bias=1.0, seed=0)
    assert all(np.array_equal(a, again.parameters()[name]) for name, a in layer.parameters().items())


REPRESENTATIONS = [
    (nn.LSTM(3, 4), "LSTM(3, 4)"),
    (nn.GRU(3, 4, 2, False, output="last"), "GRU(3, 4, num_layers=2, bias=False, output='last')"),
    (nn.RNN(3, 4, nonlinearity="relu", carry=True), "RNN(3, 4, carry=True, nonlinearity='relu')"),
    (nn.LSTM(3, 4, bidirectional=True, forget_bias=1), "LSTM(3, 4, bidirectional=True, forget_bias=1.0)"),
]


@pytest.mark.parametrize(("layer", "expected"), REPRESENTATIONS)
def test_repr(layer, expected):
    assert repr(layer) == expected


BAD = [
    (lambda: nn.LSTM(0, 4), ValueError, "input_size must be 1 or more, not 0"),
    (lambda: nn.GRU(3, 4.0), TypeError, "hidden_size must be an integer, not float"),
    (lambda: nn.RNN(3, 4, 0), ValueError, "num_layers must be 1 or more, not 0"),
    (lambda: nn.RNN(3, 4, 1, "sigmoid"), ValueError, "nonlinearity must be 'tanh' or 'relu', not 'sigmoid'"),
    (lambda: nn.LSTM(3, 4, output="all"), ValueError, "output must be 'sequence' or 'last', not 'all'"),
    (
        lambda: nn.GRU(3, 4, bidirectional=True, carry=True),
        ValueError,
        "carry must be False where bidirectional is True",
    ),
    (lambda: nn.LSTM(3, 4, forget_bias="1"), TypeError, "forget_bias must be a number, not str"),
    (lambda: nn.LSTM(3, 4, bias=False, forget_bias=1.0), ValueError, "forget_bias must be None where bias"),
    (lambda: nn.LSTM(3, 4, dtype="float16"), TypeError, "dtype must be float32 or float64"),
    (
        lambda: nn.Sequential(nn.LSTM(3, 4)).forward(np.ones((2, 4), np.float32)),
        ValueError,
        r"LSTM\(3, 4\) takes \[batch, time, 3\], not \[2, 4\]",
    ),
    (
        lambda: nn.Sequential(nn.GRU(3, 4)).forward(np.ones((2, 0, 3), np.float32)),
        ValueError,
        r"takes \[batch, time, 3\], not \[2, 0, 3\]",
    ),
    (
        lambda: nn.Sequential(nn.RNN(3, 4)).forward(nn.Sequences(np.ones((2, 5, 3), np.float32), [1, 6])),
        ValueError,
        r"lengths\[1\] is 6, but sequences have 1 to 5 steps",
    ),
]


@pytest.mark.parametrize(("make", "error", "reason"), BAD)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_bad_native_calls_are_refused_before_anything_is_written():
    gemm.ensure("float32")
    a, room = np.full(400, 7, np.float32), np.full(400, 7.0)
    p, s, null = ffi.from_buffer(a), ffi.from_buffer(room), ffi.NULL
    lengths = [ffi.new("int64_t[]", values) for values in ([1, 3], [0, 3], [1, 4])]
    lstm = lib.fgd_cell_find(b"lstm")

    def forward(of=(lstm, 0, 1, 0, 0), dtype=0, sizes=(2, 3, 2, 3), n=lengths[0], missing=None):
        pointers = [p, n, p, p, p, p, p, p, p, p, p, p, s]
        if missing is not None:
            pointers[missing] = null
        of = null if of is None else ffi.new("fgd_recurrent *", of)
        return lib.fgd_recurrent_forward(dtype, of, *sizes, *pointers)

    def backward(of=(lstm, 0, 1, 0, 0), dtype=0, sizes=(2, 3, 2, 3), n=lengths[0], missing=None):
        pointers = [n, p, p, p, p, p, p, p, p, p, s]
        if missing is not None:
            pointers[missing] = null
        of = null if of is None else ffi.new("fgd_recurrent *", of)
        return lib.fgd_recurrent_backward(dtype, of, *sizes, *pointers)

    for call in (forward, backward):
        assert call(dtype=2) == lib.FGD_ERROR_DTYPE
        assert call(of=None) == lib.FGD_ERROR_NULL
        for of in [(-1, 0, 1, 0, 0), (len(CELLS), 0, 1, 0, 0), (lstm, 0, 0, 0, 0), (lstm, 0, 3, 0, 0)]:
            assert call(of=of) == lib.FGD_ERROR_OPTION
        for sizes in [(0, 3, 2, 3), (2, 0, 2, 3), (2, 3, 0, 3), (2, 3, 2, -1), (2**40, 2**20, 2, 3)]:
            assert call(sizes=sizes) == lib.FGD_ERROR_SIZE
        assert call(sizes=(2, 2**62, 2**62, 3), n=null) == lib.FGD_ERROR_SIZE
        for bad in lengths[1:]:
            assert call(n=bad) == lib.FGD_ERROR_SIZE
    for cell, given in (b"gru", (p, null, null)), (b"rnn_tanh", (null, null, p)):
        of = ffi.new("fgd_recurrent *", (lib.fgd_cell_find(cell), 0, 1, 0, 0))
        dcn, dh0, dc0 = given
        pointers = [lengths[0], p, p, p, dcn, p, p, p, p, p, dh0, dc0, p, s]
        assert lib.fgd_recurrent_backward_states(0, of, 2, 3, 2, 3, *pointers) == lib.FGD_ERROR_OPTION
    for missing in (0, 2, 3, 4, 5, 8, 11, 12):
        assert forward(missing=missing) == lib.FGD_ERROR_NULL
    for missing in (1, 2, 3, 5, 6, 7, 8, 9, 10):
        assert backward(missing=missing) == lib.FGD_ERROR_NULL
    assert np.all(a == 7) and np.all(room == 7)
    of = ffi.new("fgd_recurrent *", (lstm, 0, 1, 0, 0))
    assert lib.fgd_recurrent_saved(of, 2**40, 2**20, 2, 3) == 0
    assert lib.fgd_recurrent_scratch(2, of, 2, 3, 3) == lib.fgd_recurrent_scratch(0, null, 2, 3, 3) == 0
