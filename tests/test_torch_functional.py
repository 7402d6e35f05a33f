"""fastgd.torch.functional beside torch.nn.functional: values, gradients, layouts, tracing, refusals."""

import inspect

import pytest

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
pytestmark = pytest.mark.peer

from torch_numbers import assert_same, drawn, leaf  # noqa: E402

import fastgd.torch.functional as F  # noqa: E402  (needs torch)

N = torch.nn.functional
DTYPES = (torch.float32, torch.float64)

#: name -> arguments behind the input
ACTIVATIONS = {
    "relu": [{}],
    "tanh": [{}],
    "sigmoid": [{}],
    "leaky_relu": [{}, {"negative_slope": 0.3}],
    "elu": [{}, {"alpha": 0.5}],
    "selu": [{}],
    "gelu": [{}, {"approximate": "tanh"}],
    "silu": [{}],
    "mish": [{}],
    "softplus": [{}, {"beta": 2, "threshold": 3}],
    "logsigmoid": [{}],
    "hardtanh": [{}, {"min_val": -0.5, "max_val": 2.0}],
    "relu6": [{}],
    "hardsigmoid": [{}],
    "hardswish": [{}],
}
CALLS = [(name, arguments) for name, cases in ACTIVATIONS.items() for arguments in cases]

#: the same elements otherwise in memory
LAYOUTS = {
    "contiguous": lambda x: x,
    "transposed": lambda x: x.transpose(-1, 0).contiguous().transpose(-1, 0),
    "strided": lambda x: torch.stack([x, x], -1)[..., 0],
    "offset": lambda x: torch.cat([x.new_zeros(1), x.reshape(-1)])[1:].reshape(x.shape),
    "expanded": lambda x: x[..., :1].expand(x.shape),
    "channels_last": lambda x: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x,
}


# ---- Activations -------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_activations_of_all_shapes_and_layouts(name, arguments, dtype):
    ours, theirs = getattr(F, name), getattr(N, name)
    for shape in ((), (0,), (1,), (17,), (3, 0), (5, 7), (2, 3, 5, 4), (16385,)):
        for place in LAYOUTS.values() if len(shape) > 1 and 0 not in shape else [LAYOUTS["contiguous"]]:
            x = leaf(place(3 * drawn(*shape, dtype=dtype)))
            assert_same(ours(x, **arguments), theirs(x, **arguments), [x])
            assert ours(x, **arguments).stride() == torch.empty_like(x).stride()


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_activations_of_gradients_in_any_layout(name, arguments):
    x = leaf(drawn(2, 3, 5, 4).to(memory_format=torch.channels_last))
    y, z = getattr(F, name)(x, **arguments), getattr(N, name)(x, **arguments)
    for place in LAYOUTS.values():
        dy = place(drawn(2, 3, 5, 4, seed=1))
        found, wanted = (torch.autograd.grad(out, x, dy, retain_graph=True) for out in (y, z))
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(("name", "arguments"), CALLS)
def test_gradients_of_activations_by_differences(name, arguments):
    x = leaf(drawn(11))
    assert torch.autograd.gradcheck(lambda z: getattr(F, name)(z, **arguments), x)
    assert torch.autograd.gradgradcheck(lambda z: getattr(F, name)(z, **arguments), x)


@pytest.mark.parametrize(
    "name", [n for n in ACTIVATIONS if "inplace" in inspect.signature(getattr(F, n)).parameters]
)
def test_in_place(name):
    x = leaf(drawn(5, 7))
    ours, theirs = x.clone(), x.clone()
    made = getattr(F, name)(ours, inplace=True)
    assert made is ours
    assert_same(made, getattr(N, name)(theirs, inplace=True), [x])


def test_special_numbers():
    x = torch.tensor([0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e30, -1e30])
    for name in ("tanh", "sigmoid", "relu"):
        torch.testing.assert_close(getattr(F, name)(x), getattr(N, name)(x), equal_nan=True)
    # torch's gelu of infinities is NaN or not by the number of elements, and its silu of -inf is NaN
    wanted = torch.tensor([0.0, -0.0, float("inf"), 0.0, float("nan"), 1e30, 0.0])
    for name in ("gelu", "silu"):
        torch.testing.assert_close(getattr(F, name)(x), wanted, equal_nan=True)


# ---- Norms and softmax -------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("given", ["nothing", "weight", "bias", "both"])
@pytest.mark.parametrize(
    ("shape", "normalized"), [((5, 7), (7,)), ((1, 1), (1,)), ((0, 3), (3,)), ((2, 3, 5, 4), (5, 4))]
)
def test_layer_norm(shape, normalized, given, dtype):
    for place in LAYOUTS.values() if 0 not in shape else [LAYOUTS["contiguous"]]:
        x = leaf(place(drawn(*shape, dtype=dtype)))
        weight = leaf(drawn(*normalized, dtype=dtype)) if given in ("weight", "both") else None
        bias = leaf(drawn(*normalized, dtype=dtype)) if given in ("bias", "both") else None
        inputs = [x, *(a for a in (weight, bias) if a is not None)]
        ours, theirs = (package.layer_norm(x, normalized, weight, bias, 1e-3) for package in (F, N))
        # torch sums the rows of float32 in float32; with one element x - mean is 0 but for that
        rough = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {}
        assert_same(ours, theirs, inputs, **rough)


@pytest.mark.parametrize("weighted", [False, True])
def test_rms_norm(weighted):
    x, weight = leaf(drawn(3, 5, 7)), leaf(drawn(7, seed=1)) if weighted else None
    for eps in (None, 1e-2):
        inputs = [x, *([weight] if weighted else [])]
        assert_same(F.rms_norm(x, (7,), weight, eps), N.rms_norm(x, (7,), weight, eps), inputs)


@pytest.mark.parametrize("wanted", range(1, 8))
def test_layer_norm_computes_what_is_asked_for(wanted):
    given = [drawn(5, 7), drawn(7, seed=1), drawn(7, seed=2)]
    asked = [leaf(a) if wanted >> i & 1 else a for i, a in enumerate(given)]
    x, weight, bias = asked
    inputs = [a for a in asked if a.requires_grad]
    assert_same(F.layer_norm(x, (7,), weight, bias), N.layer_norm(x, (7,), weight, bias), inputs)


def test_gradients_of_norms_by_differences():
    x, weight, bias = leaf(drawn(3, 5)), leaf(drawn(5, seed=1)), leaf(drawn(5, seed=2))
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda *a: F.layer_norm(a[0], (5,), *a[1:]), (x, weight, bias))
        assert check(lambda *a: F.rms_norm(a[0], (5,), a[1]), (x, weight))
        assert check(lambda a: F.softmax(a, 0), x)
        assert check(lambda a: F.log_softmax(a, 1), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_softmax(name, dtype):
    for shape, dims in (((), [0]), ((7,), [0]), ((3, 0), [1]), ((0, 3), [1]), ((2, 3, 5), [0, 1, -1])):
        for dim in dims:
            x = leaf(20 * drawn(*shape, dtype=dtype))
            assert_same(getattr(F, name)(x, dim), getattr(N, name)(x, dim), [x])
    half = drawn(3, 5).bfloat16()
    torch.testing.assert_close(*(getattr(p, name)(half, 1, dtype=dtype) for p in (F, N)))
    with pytest.warns(UserWarning, match="Implicit dimension"):
        getattr(F, name)(drawn(2, 3))


# ---- Losses ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy(reduction, smoothing, dtype):
    for shape in ((7,), (1, 1), (6, 9), (2, 5, 3), (2, 5, 3, 4), (0, 4)):
        classes = shape[min(1, len(shape) - 1)]
        rows = shape[:1] + shape[2:] if len(shape) > 1 else ()
        labels = torch.randint(0, classes, rows, generator=torch.Generator().manual_seed(1))
        if labels.numel() > 4:
            labels.view(-1)[1] = 3 if classes > 3 else -100
        for weight in (None, drawn(classes, dtype=dtype).abs()):
            for ignored in (-100, 3):
                x = leaf(drawn(*shape, dtype=dtype))
                options = {"ignore_index": ignored, "reduction": reduction, "label_smoothing": smoothing}
                assert_same(*(p.cross_entropy(x, labels, weight, **options) for p in (F, N)), [x])


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_of_probabilities(reduction):
    for shape in ((7,), (6, 9), (2, 5, 3)):
        x, p = leaf(drawn(*shape)), leaf(torch.softmax(drawn(*shape, seed=1), min(1, len(shape) - 1)))
        weight = drawn(shape[min(1, len(shape) - 1)]).abs()
        for options in ({}, {"weight": weight}, {"label_smoothing": 0.1, "weight": weight}):
            ours, theirs = (q.cross_entropy(x, p, reduction=reduction, **options) for q in (F, N))
            assert_same(ours, theirs, [x, p])


def test_cross_entropy_backward_more_than_once():
    x, labels = leaf(drawn(6, 9)), torch.arange(6)
    wanted = torch.autograd.grad(N.cross_entropy(x, labels), x)[0]
    loss = F.cross_entropy(x, labels)
    for times in (1, 2, 3):
        loss.backward(retain_graph=True)
        torch.testing.assert_close(x.grad, times * wanted)
    (2 * loss).backward()
    torch.testing.assert_close(x.grad, 5 * wanted)
    with torch.no_grad():
        assert F.cross_entropy(x, labels).grad_fn is None


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "huber_loss", "smooth_l1_loss"])
def test_losses_of_elements(name, reduction):
    for shape in ((), (0,), (5, 7)):
        x, y = leaf(2 * drawn(*shape)), leaf(drawn(*shape, seed=1))
        assert_same(*(getattr(p, name)(x, y, reduction=reduction) for p in (F, N)), [x, y])
        assert_same(*(getattr(p, name)(x.detach(), y, reduction=reduction) for p in (F, N)), [y])


def test_binary_cross_entropy_with_logits():
    x, y = leaf(drawn(5, 7)), torch.rand(5, 7, dtype=torch.float64)
    for pos_weight in (None, torch.tensor(3.0, dtype=torch.float64)):
        ours, theirs = (p.binary_cross_entropy_with_logits(x, y, pos_weight=pos_weight) for p in (F, N))
        assert_same(ours, theirs, [x])


# ---- Refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (TypeError, "input must be float32 or float64, not int64", lambda x: F.tanh(x.long())),
        (TypeError, "input must be float32 or float64, not int64", lambda x: F.gelu(x.long())),
        (TypeError, "weight must be float64 as input is", lambda x: F.layer_norm(x, (4,), torch.ones(4))),
        (RuntimeError, "weight must have shape", lambda x: F.layer_norm(x, (4,), x)),
        (RuntimeError, "input must have shape", lambda x: F.layer_norm(x, (3,))),
        (RuntimeError, "normalized_shape", lambda x: F.layer_norm(x, ())),
        (ValueError, "eps", lambda x: F.layer_norm(x, (4,), eps=-1)),
        (RuntimeError, "approximate", lambda x: F.gelu(x, approximate="erf")),
        (ValueError, "negative_slope", lambda x: F.leaky_relu(x, -1.0)),
        (ValueError, "min_val", lambda x: F.hardtanh(x, 1, 0)),
        (IndexError, "Target 4 is out of bounds", lambda x: F.cross_entropy(x, torch.tensor([0, 4, 1]))),
        (ValueError, "target must have shape", lambda x: F.cross_entropy(x, torch.tensor([0, 1]))),
        (TypeError, "target must be int64", lambda x: F.cross_entropy(x, torch.zeros(3, dtype=torch.int32))),
        (RuntimeError, "weight", lambda x: F.cross_entropy(x, torch.zeros(3, dtype=torch.int64), x[0, :2])),
        (ValueError, "reduction", lambda x: F.cross_entropy(x, x, reduction="max")),
        (RuntimeError, "label_smoothing", lambda x: F.cross_entropy(x, x, label_smoothing=2.0)),
        (ValueError, "target must have input's shape", lambda x: F.mse_loss(x, x[0])),
        (ValueError, "take torch.nn.functional", lambda x: F.mse_loss(x, x, reduction="none")),
        (ValueError, "params must hold 4 tensors", lambda x: F.gru(x, None, [x])),
        (RuntimeError, "weight_ih_l0 must have shape", lambda x: F.gru(x, None, [x, x, x, x])),
        (RuntimeError, "h of hx", lambda x: F.rnn_tanh(x, x, [drawn(2, 4), drawn(2, 2)], False)),
        (
            ValueError,
            "lengths must be 1 to 3",
            lambda x: F.rnn_tanh(x, None, [drawn(2, 4), drawn(2, 2)], False, lengths=torch.tensor([9])),
        ),
    ],
)
def test_refusals_name_the_argument(error, text, call):
    with pytest.raises(error, match=text):
        call(drawn(3, 4))


def test_signatures_are_torchs():
    for name in F.__all__:
        try:
            theirs = inspect.signature(getattr(N, name, None) or getattr(torch, name)).parameters
        except ValueError:  # a builtin, which tells none
            continue
        ours = inspect.signature(getattr(F, name)).parameters
        assert [*ours] == [*theirs], name
        assert [p.default for p in ours.values()] == [p.default for p in theirs.values()], name
