"""fastgd.torch.functional's lstm, gru and rnn beside torch.nn's layers."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
pytestmark = pytest.mark.peer

from torch_numbers import assert_same, drawn, leaf  # noqa: E402

import fastgd.torch.functional as F  # noqa: E402  (needs torch)
from fastgd._native import ffi, lib  # noqa: E402
from fastgd.torch import recurrent as kernels  # noqa: E402

MODULES = {
    "lstm": ("LSTM", {}),
    "gru": ("GRU", {}),
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"nonlinearity": "relu"}),
}


def recurrent(cell, **options):
    title, own = MODULES[cell]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return getattr(torch.nn, title)(5, 7, dtype=torch.float64, **own, **options)


def run(module, cell, x, states, **more):
    """(ours, torch's) outputs, flat."""
    hx = None if states is None else tuple(states) if cell == "lstm" else states[0]
    given = module.bias, module.num_layers, 0.0, False, module.bidirectional, module.batch_first
    ours = getattr(F, cell)(x, hx, dict(module.named_parameters()), *given, **more)
    y, ends = module(x, hx)
    return ours, (y, *(ends if cell == "lstm" else [ends]))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize("cell", MODULES)
def test_recurrent_layers(cell, bidirectional, batch_first, bias):
    module = recurrent(cell, num_layers=2, bidirectional=bidirectional, batch_first=batch_first, bias=bias)
    x = leaf(drawn(4, 3, 5))
    shape = 2 * (1 + bidirectional), 4 if batch_first else 3, 7
    states = [leaf(drawn(*shape, seed=i)) for i in (1, 2)][: 1 + (cell == "lstm")]
    assert_same(*run(module, cell, x, states), [x, *states, *module.parameters()])
    assert_same(*run(module, cell, x, None), [x, *module.parameters()])
    single = [leaf(s[:, 0]) for s in states]
    assert_same(*run(module, cell, leaf(x[0]), single), [*single, *module.parameters()])


@pytest.mark.parametrize("cell", MODULES)
def test_recurrent_layers_of_sequences_that_end(cell):
    module = recurrent(cell, bidirectional=True, batch_first=True)
    x, lengths = leaf(drawn(4, 6, 5)), torch.tensor([3, 6, 1, 6])
    states = [leaf(drawn(2, 4, 7, seed=i)) for i in (1, 2)][: 1 + (cell == "lstm")]
    hx = tuple(states) if cell == "lstm" else states[0]
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    y, ends = module(packed, hx)
    theirs = (
        torch.nn.utils.rnn.pad_packed_sequence(y, batch_first=True)[0],
        *(ends if cell == "lstm" else [ends]),
    )
    given = True, 1, 0.0, False, True, True
    ours = getattr(F, cell)(x, hx, list(module.parameters()), *given, lengths=lengths)
    assert_same(ours, theirs, [x, *states, *module.parameters()])


def test_recurrent_gradients_that_are_asked_for():
    module = recurrent("lstm")
    x, (w_ih, w_hh, b_ih, b_hh) = drawn(4, 3, 5), module.parameters()
    for asked in ([w_hh], [b_ih], [b_hh, w_ih]):
        for p in module.parameters():
            p.requires_grad_(any(p is a for a in asked))
        assert_same(*run(module, "lstm", x, None), asked)
    ours, theirs = run(module, "lstm", x, None)
    for i in range(3):
        found, wanted = (torch.autograd.grad(y[i].sum(), asked, retain_graph=True) for y in (ours, theirs))
        torch.testing.assert_close(found, wanted)


def test_recurrent_backward_again_and_dropout():
    module = recurrent("gru")
    x = leaf(drawn(4, 3, 5))
    y = F.gru(x, None, list(module.parameters()))[0]
    first, second = (torch.autograd.grad(y.sum(), x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)
    deep = recurrent("gru", num_layers=2)
    outputs = [F.gru(x, None, list(deep.parameters()), True, 2, 0.5, train)[0] for train in (False, True)]
    assert not torch.equal(*outputs)


def test_what_is_saved_is_as_large_as_the_library_says():
    for cell, row in kernels.CELLS.items():
        of = ffi.new("fgd_recurrent *", [row.number, 0, 1, 0, 0])
        for sizes in ((1, 1, 1, 1), (3, 4, 5, 6), (2, 7, 1, 3)):
            assert kernels.saved_size(cell, *sizes) == lib.fgd_recurrent_saved(of, *sizes)
