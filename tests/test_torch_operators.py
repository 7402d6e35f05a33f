"""fastgd's functions as operators of torch: registration, tracing, autocast, what is refused on the way."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
pytestmark = pytest.mark.peer

from torch_numbers import assert_same, drawn, leaf  # noqa: E402

import fastgd.torch.functional as F  # noqa: E402  (needs torch)

N = torch.nn.functional


def recurrent(title):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(torch.nn, title)(5, 7, dtype=torch.float64)


def small(a, weight):
    return F.layer_norm(F.gelu(F.tanh(a)), (4,), weight) * F.softmax(a, 0)


def test_operators_are_registered_as_torch_wants():
    ops, x, w = torch.ops.fastgd, leaf(drawn(3, 4)), leaf(drawn(4, seed=1))
    labels = torch.tensor([0, 3, 1])
    torch.library.opcheck(ops.tanh.default, (x, 0.0, 0.0))
    torch.library.opcheck(ops.silu.default, (x, 0.0, 0.0))
    torch.library.opcheck(ops.tanh_backward.default, (x.detach(), x.detach(), 0.0, 0.0))
    torch.library.opcheck(ops.softmax.default, (x, True))
    torch.library.opcheck(ops.layer_norm.default, (x, 4, w, w, 1e-5, True))
    torch.library.opcheck(ops.cross_entropy.default, (x, labels, None, "mean", -100, 0.1, True))
    torch.library.opcheck(ops.element_loss.default, (x, x.detach() + 1, "squared", 0.0, "mean", True))
    parameters = [leaf(drawn(*shape)) for shape in ((8, 4), (8, 2), (8,), (8,))]
    states = [leaf(drawn(2, 2)), leaf(drawn(2, 2, seed=1))]
    given = leaf(drawn(2, 3, 4)), *parameters, *states, None, "lstm", False
    # the backward pass changes the third result, which is its own; compiled it is tried below
    tried = "test_schema", "test_autograd_registration", "test_faketensor"
    torch.library.opcheck(ops.recurrent.default, given, test_utils=tried)


@pytest.mark.parametrize("backend", ["aot_eager"])
def test_compiled(backend):
    x, w = leaf(drawn(3, 4)), leaf(drawn(4, seed=1))
    labels, module = torch.tensor([0, 3, 1]), recurrent("LSTM")
    compiled = torch.compile(small, fullgraph=True, backend=backend)
    assert_same(compiled(x, w), small(x, w), [x, w])

    def loss(a):
        return F.cross_entropy(a, labels) + F.mse_loss(a, a.detach() + 1)

    assert_same(torch.compile(loss, fullgraph=True, backend=backend)(x), loss(x), [x])

    def layer(a, parameters):
        return F.lstm(a, None, parameters)

    parameters, a = list(module.parameters()), leaf(drawn(4, 3, 5))
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    assert_same(compiled(a, parameters), layer(a, parameters), [a, *parameters])


def test_exported():
    class Model(torch.nn.Module):
        def forward(self, a):
            return F.log_softmax(F.silu(a), 1)

    x = drawn(3, 4)
    program = torch.export.export(Model(), (x,), dynamic_shapes=({0: torch.export.Dim("rows", min=2)},))
    assert "fastgd.silu" in str(program.graph)
    y = drawn(5, 4)
    torch.testing.assert_close(program.module()(y), Model()(y))


def test_autocast_computes_in_float32():
    x, w = leaf(drawn(3, 4).bfloat16()), drawn(4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        y = F.layer_norm(F.tanh(x), (4,), w)
        loss = F.cross_entropy(x, torch.tensor([0, 3, 1]))
    assert y.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(y, N.layer_norm(torch.tanh(x.float()), (4,), w.float()))
    (y.sum() + loss).backward()
    assert x.grad.dtype == torch.bfloat16


def test_views_that_are_negated_and_other_modes():
    x = torch.complex(drawn(3, 4), drawn(3, 4, seed=1)).conj().imag
    assert x.is_neg()
    torch.testing.assert_close(F.tanh(x), torch.tanh(x))
    with torch.inference_mode():
        torch.testing.assert_close(F.tanh(x), torch.tanh(x))
    meta = F.tanh(torch.empty(3, 4, device="meta"))
    assert meta.device.type == "meta"
    assert meta.shape == (3, 4)


def test_what_cannot_be_differentiated_twice_says_so():
    x, module = leaf(drawn(3, 4)), recurrent("GRU")
    a = leaf(drawn(2, 3, 5))
    for of, y in (
        (x, F.cross_entropy(x, torch.tensor([0, 1, 2]))),
        (x, F.mse_loss(x, x.detach() + 1)),
        (a, F.gru(a, None, list(module.parameters()))[0].sum()),
    ):
        (gradient,) = torch.autograd.grad(y, of, create_graph=True)
        with pytest.raises(RuntimeError, match="once only"):
            gradient.sum().backward()
