"""fastgd.torch.functional on tensors in 16 bits: float32's results, rounded once."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
pytestmark = pytest.mark.peer

from torch_numbers import drawn, leaf  # noqa: E402

import fastgd.torch.functional as F  # noqa: E402  (needs torch)

NARROW = (torch.bfloat16, torch.float16)

LABELS = torch.arange(6) % 5


#: losses of single elements, which give no gradient to the target
OF_TARGETS = [name for name in F.__all__ if name.endswith(("_loss", "logits"))]


def weights(gates):
    return [drawn(4 * gates, *more) / 4 for more in ((5,), (4,), (), ())]


#: name -> arguments behind an input [6, 5]; what is not here has none
ARGUMENTS = {
    "layer_norm": lambda: [(5,), drawn(5), drawn(5, seed=1)],
    "rms_norm": lambda: [(5,), drawn(5)],
    "softmax": lambda: [-1],
    "log_softmax": lambda: [0],
    "cross_entropy": lambda: [LABELS, drawn(5).abs()],
    "lstm": lambda: [None, weights(4)],
    "gru": lambda: [drawn(1, 4), weights(3)],
    "rnn_tanh": lambda: [None, weights(1)],
    "rnn_relu": lambda: [None, weights(1)],
    **{
        name: lambda: [drawn(6, 5, seed=2).sigmoid()]
        for name in F.__all__
        if name.endswith(("_loss", "logits"))
    },
}


def cast(value, dtype):
    if isinstance(value, (list, tuple)):
        return type(value)(cast(v, dtype) for v in value)
    return value.to(dtype) if torch.is_tensor(value) and value.is_floating_point() else value


def leaves(x, arguments):
    found = [x, *arguments, *(arguments[1] if len(arguments) > 1 and isinstance(arguments[1], list) else [])]
    return [a for a in found if torch.is_tensor(a) and a.is_floating_point()]


def outputs(result):
    return list(result) if isinstance(result, tuple) else [result]


@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize("name", F.__all__)
def test_results_and_gradients_are_rounded_once(name, dtype):
    function = getattr(F, name)
    narrow = [cast(3 * drawn(6, 5), dtype), *cast(ARGUMENTS.get(name, list)(), dtype)]
    wide = cast(narrow, torch.float32)
    sides = []
    for x, *arguments in (narrow, wide):
        asked = [
            a.requires_grad_()
            for a in leaves(x, arguments)
            if not name.endswith(("_loss", "logits")) or a is x
        ]
        results = outputs(function(x, *arguments))
        scalar = sum(r.float().to(dtype).float().square().sum() for r in results)
        sides.append((results, torch.autograd.grad(scalar, asked, allow_unused=True)))
    for mine, right in zip(*(results for results, _ in sides), strict=True):
        assert mine.dtype == dtype
        assert torch.equal(mine, right.to(dtype))
    for mine, right in zip(*(grads for _, grads in sides), strict=True):
        assert (mine is None) == (right is None)
        if mine is not None:
            assert mine.dtype == dtype
            # gradients of results are rounded to their dtype on the way
            tolerance = 4 * torch.finfo(dtype).eps
            torch.testing.assert_close(
                mine.float(), right, rtol=tolerance, atol=tolerance * float(right.abs().max())
            )


@pytest.mark.parametrize("name", ["relu", "silu", "hardtanh"])
def test_in_place(name):
    x = leaf(drawn(5, 7)).bfloat16()
    right = getattr(F, name)(x)
    own = x.clone()
    made = getattr(F, name)(own, inplace=True)
    assert made is own
    assert torch.equal(made, right)


def test_dtypes_of_results_are_torchs():
    x, target = drawn(6, 5).bfloat16(), drawn(6, 5, seed=1).float()
    N = torch.nn.functional
    for call in (
        lambda f: f.mse_loss(x, target),
        lambda f: f.mse_loss(x, target.bfloat16()),
        lambda f: f.l1_loss(x, target),
        lambda f: f.softmax(x, -1, dtype=torch.float32),
        lambda f: f.log_softmax(x, -1, dtype=torch.float64),
        lambda f: f.cross_entropy(x, LABELS),
        lambda f: f.layer_norm(x, (5,), drawn(5).float(), drawn(5).float()),
    ):
        assert call(F).dtype == call(N).dtype
    with torch.autocast("cpu", torch.bfloat16):
        assert F.layer_norm(x, (5,)).dtype == torch.float32


def test_compiled():
    x = leaf(drawn(6, 5).bfloat16())

    def model(z):
        return F.gelu(F.layer_norm(z, (5,)))

    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_arguments_that_there_are_not(dtype):
    x = drawn(3, 4).to(dtype)
    for wrong in (
        lambda: F.relu(x, False, 1),
        lambda: F.gelu(x, "tanh", approximate="none"),
        lambda: F.gelu(x, nonsense=1),
    ):
        with pytest.raises(TypeError):
            wrong()
