"""MultiheadAttention: the reference's bits, gradients, torch, what is not seen, and scores of any size."""

import numpy as np
import pytest
from models import both, central_differences, check_gradients, everywhere, numbers, passed, same_bits

import fastgd
from fastgd import gemm, nn
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES

#: batch, time, dim, heads; csrc/attention.c takes 64 queries at a time
SIZES = [(1, 1, 1, 1), (2, 1, 6, 2), (1, 2, 6, 6), (3, 17, 34, 2), (2, 64, 16, 1), (1, 65, 15, 3)]
SIZES += [(2, 130, 12, 4), (40, 40, 8, 2)]


def drawn_lengths(batch, time):
    return np.random.default_rng(time).integers(1, time + 1, batch)


def given(batch, time, dim, dtype):
    """qkv and dy, usual numbers in the first row and those of all magnitudes behind it."""
    qkv, dy = (
        numbers(batch * time * n * dim, dtype, seed=n, special=False).reshape(batch, time, n * dim)
        for n in (3, 1)
    )
    for array in (qkv, dy):
        array[0] = np.random.default_rng(time).standard_normal(array.shape[1:])
    return qkv, dy


def close(a, b, part):
    """Within this part of the largest: sums of hundreds of products of both signs have errors of theirs."""
    np.testing.assert_allclose(a, b, rtol=0, atol=part * abs(b).max())


def attended(compared, sizes, heads, causal, lengths, qkv, dy):
    """(y, the reference's), (dqkv, the reference's), by `both` or by `everywhere`."""

    def call(k, name, out, *arrays):
        of, backward = k.describe("attention", heads, causal), name == "attention_backward"
        size = k.attention_scratch(k.dtype(out.dtype), of, *sizes, backward)
        scratch = np.full(size + 8, 7.0)
        given = arrays[0], lengths, *arrays[1:], out, scratch
        at = [k.null if array is None else k.handle(array) for array in given]
        code = getattr(k, name)(k.dtype(out.dtype), of, *sizes, *at)
        assert (scratch[size:] == 7).all()
        return code

    (y,) = compared(lambda k, y: call(k, "attention_forward", y, qkv), np.full_like(dy, 9))
    (dqkv,) = compared(lambda k, dqkv: call(k, "attention_backward", dqkv, qkv, dy), np.full_like(qkv, 9))
    return y, dqkv


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("with_lengths", [False, True])
def test_bits_of_the_reference(dtype, causal, with_lengths, numpy_products):
    for *sizes, heads in SIZES:
        lengths = drawn_lengths(*sizes[:2]) if with_lengths else None
        for mine, expected in attended(everywhere, sizes, heads, causal, lengths, *given(*sizes, dtype)):
            same_bits(mine, expected)
            assert np.isfinite(mine).all()
            for row, length in enumerate([] if lengths is None else lengths):
                assert not mine[row, length:].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("causal", [False, True])
def test_heads_over_threads(dtype, causal, threads):
    """With the product in use otherwise: where it nests, each thread computes those of its own heads."""
    sizes, part = (4, 150, 12), 1e-4 if dtype == np.float32 else 1e-12
    qkv, dy = (np.random.default_rng(n).standard_normal((4, 150, 12 * n)).astype(dtype) for n in (3, 1))
    for lengths in (None, np.array([150, 3, 70, 128])):
        for mine, expected in attended(both, sizes, 2, causal, lengths, qkv, dy):
            close(mine, expected, part)


def layers(dtype):
    for options in [{}, {"causal": True}, {"bias": False}]:
        yield nn.MultiheadAttention(6, 2, dtype=dtype, seed=3, **options)
    yield nn.MultiheadAttention(6, 6, dtype=dtype, seed=3)
    yield nn.MultiheadAttention(6, 1, dtype=dtype, seed=3, causal=True)


def drawn(layer, seed=4):
    rng = np.random.default_rng(seed)
    for array in layer.parameters().values():
        array[...] = rng.standard_normal(array.shape) / 2
    return layer


def test_gradients_against_central_differences(backend):
    x, dy = np.random.default_rng(0).standard_normal((2, 2, 5, 6))
    for layer in map(drawn, layers(np.float64)):
        check_gradients(layer, x, dy, backend, 1e-6)


def test_gradients_of_several_blocks_and_lengths_against_central_differences(backend):
    """dx is seen in the gradients of the layers before."""
    rng = np.random.default_rng(0)
    for causal in (False, True):
        layers = (
            nn.Linear(2, 4, dtype=np.float64),
            nn.PositionalEmbedding(70, 4, dtype=np.float64),
            nn.MultiheadAttention(4, 2, causal=causal, dtype=np.float64),
        )
        for layer in layers:
            drawn(layer)
        model = nn.Sequential(*layers, loss=nn.MSELoss(), backend=backend)
        x, y = rng.standard_normal((3, 67, 2)), rng.standard_normal((3, 67, 4))
        batch = nn.Sequences(x, [67, 1, 65])
        grads = [grad.copy() for grad in model.loss_and_grad(batch, y)[1]]
        for (name, parameter), grad in zip(model.named_parameters(), grads, strict=True):
            some = np.s_[63:69] if name == "1.weight" else np.s_[:]
            numeric = central_differences(
                lambda model=model, batch=batch, y=y: model.loss(batch, y), parameter[some]
            )
            np.testing.assert_allclose(grad[some], numeric, rtol=1e-5, atol=1e-8, err_msg=name)


def torchs(layer, dtype):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    of = layer.embed_dim, layer.num_heads
    peer = torch.nn.MultiheadAttention(*of, bias=layer.bias, batch_first=True)
    peer = peer.to(torch.from_numpy(np.empty(0, dtype)).dtype)
    state = {name: torch.from_numpy(array.copy()) for name, array in layer.parameters().items()}
    peer.load_state_dict(state)
    return torch, peer


@pytest.mark.peer
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("time", [1, 7, 130])
def test_agrees_with_torch(dtype, time, backend):
    part = 1e-5 if dtype == np.float32 else 1e-13
    for options in [{}, {"causal": True}, {"bias": False}]:
        layer = drawn(nn.MultiheadAttention(12, 3, dtype=dtype, **options))
        torch, peer = torchs(layer, dtype)
        x, dy = np.random.default_rng(0).standard_normal((2, 3, time, 12)).astype(dtype)
        theirs = torch.from_numpy(x).requires_grad_()
        mask = torch.ones(time, time, dtype=torch.bool).triu(1) if layer.causal else None
        expected, _ = peer(theirs, theirs, theirs, attn_mask=mask, need_weights=False)
        expected.backward(torch.from_numpy(dy))
        y, gradients, dx = passed(layer, x, dy, backend)
        close(y, expected.detach().numpy(), part)
        close(dx, theirs.grad.numpy(), part)
        for name, parameter in peer.named_parameters():
            close(gradients[name], parameter.grad.numpy(), part)


@pytest.mark.peer
@pytest.mark.parametrize("causal", [False, True])
def test_agrees_with_torch_where_sequences_have_lengths(causal, backend):
    layer = drawn(nn.MultiheadAttention(12, 3, causal=causal, dtype=np.float64))
    torch, peer = torchs(layer, np.float64)
    lengths = np.array([5, 1, 70, 66])
    x, target = np.random.default_rng(0).standard_normal((2, 4, 70, 12))
    outside = np.arange(70) >= lengths[:, None]
    masks = {"key_padding_mask": torch.from_numpy(outside)}
    if causal:
        masks["attn_mask"] = torch.ones(70, 70, dtype=torch.bool).triu(1)
    theirs = torch.from_numpy(x)
    expected, _ = peer(theirs, theirs, theirs, **masks, need_weights=False)
    expected = expected.masked_fill(torch.from_numpy(outside)[:, :, None], 0)
    torch.nn.functional.mse_loss(expected, torch.from_numpy(target)).backward()
    model = nn.Sequential(layer, loss=nn.MSELoss(), backend=backend)
    batch = nn.Sequences(x, lengths)
    close(model.forward(batch), expected.detach().numpy(), 1e-13)
    _, gradients = model.loss_and_grad(batch, target)
    for (name, _), grad in zip(model.named_parameters(), gradients, strict=True):
        close(grad, peer.get_parameter(name[2:]).grad.numpy(), 1e-13)


@pytest.mark.peer
@pytest.mark.parametrize("bias", [True, False])
def test_state_is_exchanged_with_torch(bias):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    peer = torch.nn.Sequential(torch.nn.MultiheadAttention(8, 2, bias=bias, batch_first=True))
    model = nn.Sequential(nn.MultiheadAttention(8, 2, bias=bias))
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in peer.named_parameters()]
    model.load_torch_state_dict(peer.state_dict())
    for name, array in model.named_parameters():
        same_bits(array, peer.state_dict()[name].numpy())
    model.parameters()[0][...] = 3
    peer.load_state_dict(model.to_torch_state_dict())
    assert (peer[0].in_proj_weight == 3).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_is_not_seen_has_no_influence(dtype, backend):
    """Not even a bit: neither later steps nor those behind the end."""
    x = np.random.default_rng(0).standard_normal((2, 100, 8)).astype(dtype)
    other = x.copy()
    other[:, 70:] = 1e3
    causal = nn.Sequential(drawn(nn.MultiheadAttention(8, 2, causal=True, dtype=dtype)), backend=backend)
    y, changed = causal.forward(x), causal.forward(other)
    same_bits(y[:, :70], changed[:, :70])
    assert not np.allclose(y[:, 70:], changed[:, 70:])
    plain = nn.Sequential(drawn(nn.MultiheadAttention(8, 2, dtype=dtype)), backend=backend)
    ended = plain.forward(nn.Sequences(x, [70, 100]))
    same_bits(ended[0], plain.forward(nn.Sequences(other, [70, 100]))[0])
    assert not ended[0, 70:].any() and ended[1, 99].all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_scores_of_any_size(dtype, backend):
    """With scores of 1e4 and more, a step takes the value of that with the largest."""
    layer = nn.MultiheadAttention(2, 1, dtype=dtype)
    for name, array in layer.parameters().items():
        array[...] = 0 if name.endswith("bias") else np.concatenate([np.eye(2)] * (len(array) // 2))
    layer.parameters()["in_proj_weight"][:2] *= 1e6
    x = np.array([[[3, 0], [0, 5], [2, 2]]], dtype)
    y, gradients, dx = passed(layer, x, np.ones_like(x), backend)
    np.testing.assert_array_equal(y[0], [[3, 0], [0, 5], [0, 5]])
    assert np.isfinite(dx).all() and all(np.isfinite(grad).all() for grad in gradients.values())


def test_one_step_is_the_value_itself(backend):
    layer = drawn(nn.MultiheadAttention(6, 3, dtype=np.float64))
    x = np.random.default_rng(0).standard_normal((4, 1, 6))
    p = layer.parameters()
    value = x @ p["in_proj_weight"][12:].T + p["in_proj_bias"][12:]
    y = nn.Sequential(layer, backend=backend).forward(x)
    np.testing.assert_allclose(y, value @ p["out_proj.weight"].T + p["out_proj.bias"], rtol=1e-12)


def test_memory_grows_with_time_and_not_its_square():
    def memory(time):
        model = nn.Sequential(nn.MultiheadAttention(16, 2), loss=nn.MSELoss())
        x = np.zeros((16, time, 16), np.float32)
        return model.memory_bytes(x, x)

    assert memory(4096) < 2.5 * memory(2048)


TEXT = "the quick brown fox jumps over the lazy dog. "


@pytest.mark.parametrize("attention", [True, False])
def test_a_causal_model_of_characters_learns_a_text(attention):
    """With six letters seen, the next one is certain; from the last one and its position it is not."""
    letters, width = sorted(set(TEXT)), 32
    codes = np.array([letters.index(letter) for letter in TEXT * 2])
    windows = np.lib.stride_tricks.sliding_window_view(codes, 13)[: len(TEXT)]
    x, y = windows[:, :-1], windows[:, 1:]
    heads = nn.Residual(nn.LayerNorm(width), nn.MultiheadAttention(width, 4, causal=True))
    model = nn.Sequential(
        nn.Embedding(len(letters), width),
        nn.PositionalEmbedding(12, width),
        *[heads][:attention],
        nn.Residual(nn.LayerNorm(width), nn.Linear(width, 64), nn.GELU(), nn.Linear(64, width)),
        nn.LayerNorm(width),
        nn.Linear(width, len(letters)),
        loss=nn.CrossEntropyLoss(),
        seed=0,
    )
    opt = fastgd.AdamW(model.named_parameters(), lr=0.01)
    for _ in range(120):
        model.train_step(x, y, opt)
    right = model.forward(x).argmax(-1) == y
    assert right[:, 5:].all() == attention


def test_initial_parameters():
    layer = nn.MultiheadAttention(100, 4, seed=1)
    p = layer.parameters()
    assert list(p) == ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"]
    assert 0.99 < abs(p["in_proj_weight"]).max() / np.sqrt(6 / 400) <= 1
    assert 0.99 < abs(p["out_proj.weight"]).max() / 0.1 <= 1
    assert not p["in_proj_bias"].any() and not p["out_proj.bias"].any()
    other = nn.MultiheadAttention(100, 4, seed=1).parameters()
    assert all(np.array_equal(array, other[name]) for name, array in p.items())
    assert str(layer) == "MultiheadAttention(100, 4, bias=True)"


ONES = np.ones((2, 5, 6), np.float32)
BAD = [
    (lambda: nn.MultiheadAttention(0, 1), ValueError, "embed_dim must be 1 or more, not 0"),
    (lambda: nn.MultiheadAttention(6, 2.0), TypeError, "num_heads must be an integer, not float"),
    (
        lambda: nn.MultiheadAttention(6, 4),
        ValueError,
        "num_heads must divide embed_dim, but 4 does not divide 6",
    ),
    (lambda: nn.MultiheadAttention(6, 2, dtype="float16"), TypeError, "dtype must be float32 or float64"),
    (
        lambda: nn.Sequential(nn.MultiheadAttention(4, 2)).forward(ONES),
        ValueError,
        r"takes \[batch, time, 4\], not \[2, 5, 6\]",
    ),
    (
        lambda: nn.Sequential(nn.MultiheadAttention(6, 2)).forward(ONES[0]),
        ValueError,
        r"takes \[batch, time, 6\], not \[5, 6\]",
    ),
]


@pytest.mark.parametrize(("make", "error", "reason"), BAD)
def test_bad_arguments_are_refused(make, error, reason):
    with pytest.raises(error, match=reason):
        make()


def test_bad_native_calls_are_refused_before_anything_is_written():
    a, long = np.full(64, 7, np.float32), np.full(4096, 7.0)
    p, s, null = ffi.from_buffer(a), ffi.from_buffer("double[]", long), ffi.NULL
    of, uneven, no = (ffi.new("fgd_attention *", [heads, 0]) for heads in (2, 3, 0))
    gemm.ensure("float32")
    lengths = np.array([2, 3])
    at = ffi.from_buffer("int64_t[]", lengths)
    sizes = 2, 2, 4

    def forward(dtype=0, of=of, sizes=sizes, lengths=null, pointers=(p, p, s)):
        qkv, y, scratch = pointers
        return lib.fgd_attention_forward(dtype, of, *sizes, qkv, lengths, y, scratch)

    def backward(dtype=0, of=of, sizes=sizes, lengths=null, pointers=(p, p, p, s)):
        qkv, dy, dqkv, scratch = pointers
        return lib.fgd_attention_backward(dtype, of, *sizes, qkv, lengths, dy, dqkv, scratch)

    for call in (forward, backward):
        assert call(dtype=7) == lib.FGD_ERROR_DTYPE
        assert call(of=null) == lib.FGD_ERROR_NULL
        assert call(of=uneven) == call(of=no) == lib.FGD_ERROR_OPTION
        for bad in [(-1, 2, 4), (2, -1, 4), (2, 2, 0), (2**40, 2, 4), (2**30, 2**30, 2**30)]:
            assert call(sizes=bad) == lib.FGD_ERROR_SIZE
        for bad in (0, -1, 3):
            lengths[1] = bad
            assert call(lengths=at) == lib.FGD_ERROR_SIZE
    for i in range(3):
        assert forward(pointers=[null if k == i else (p, p, s)[k] for k in range(3)]) == lib.FGD_ERROR_NULL
    for i in range(4):
        assert (
            backward(pointers=[null if k == i else (p, p, p, s)[k] for k in range(4)]) == lib.FGD_ERROR_NULL
        )
    assert np.all(a == 7) and np.all(long == 7)
    assert forward(sizes=(0, 2, 4), pointers=[null] * 3) == 0
    assert backward(sizes=(2, 0, 4), pointers=[null] * 4) == 0
    assert lib.fgd_attention_scratch(7, of, *sizes, 0) == lib.fgd_attention_scratch(0, uneven, *sizes, 1) == 0
