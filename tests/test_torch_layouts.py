"""Parameters and gradients of every layout and dtype that torch takes: the right elements and only those."""

import pytest
from torch_optim import (
    SHARED,
    TYPICAL,
    assert_agree,
    assert_same,
    copied,
    given,
    members,
    noise,
    ours,
    parameters,
    refusal,
    shapes,
    single,
    theirs,
    torch,
)

from fastgd.rules import RULES

# torch says once in a process that it does not look at what it makes itself
pytestmark = [pytest.mark.peer, pytest.mark.filterwarnings("ignore:Sparse invariant checks")]

#: torch has no complex form of the others, and says so
COMPLEX = [name for name in SHARED if RULES[name].elementwise and name != "adafactor"]


def beside(name, params, gradients, steps=4, **settings):
    """Some steps of both on parameters in these layouts. gradients: (parameters, step) -> gives them."""
    right = {**single(theirs(name)), **settings}
    pair = ours(name)(params, **settings), theirs(name)(twins(params), **right)
    start = [p.detach().clone() for p in params]
    for step in range(steps):
        for opt in pair:
            gradients(members(opt), step)
            opt.step()
        assert_agree(*pair, name, start)
    return pair


def twins(params):
    """Copies in C order, in which torch's own code has no layout to get wrong."""
    return [torch.nn.Parameter(p.detach().clone(memory_format=torch.contiguous_format)) for p in params]


@pytest.mark.parametrize("name", COMPLEX)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_complex_parameters(name, dtype, request):
    """Real and imaginary part are two elements."""
    if dtype is torch.complex128:
        request.getfixturevalue("counters_in_float64")
    settings = {"momentum": 0.9} if name in ("sgd", "rmsprop") else {}
    beside(name, parameters(name, dtype), given, **settings)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_complex_parameters_with_amsgrad(name):
    beside(name, parameters(name, torch.complex64), given, amsgrad=True, weight_decay=0.1)


@pytest.mark.parametrize("name", TYPICAL)
def test_complex_parameters_beside_real_ones(name):
    params = [*parameters(name), *parameters(name, torch.complex64), *parameters(name, torch.float64)]
    beside(name, params, given, **TYPICAL[name])


@pytest.mark.parametrize("name", TYPICAL)
def test_conjugated_gradients(name):
    """Those whose conjugation is still to be done. torch takes them in some rules only."""
    mine, right = (ours(name)(parameters(name, torch.complex64), **TYPICAL[name]) for _ in range(2))
    given(members(mine), 0)
    for p, q in zip(members(mine), members(right), strict=True):
        q.grad = p.grad.clone().conj_physical()
        p.grad = p.grad.conj()
        assert p.grad.is_conj()
    mine.step()
    right.step()
    for p, q in zip(members(mine), members(right), strict=True):
        assert_same(p, q)


@pytest.mark.parametrize("name", SHARED)
def test_parameters_of_no_element(name):
    empty = [(0, 3)] if RULES[name].ndim == 2 else [(0,), (3, 0), (0, 2, 2)]
    full = shapes(name)
    params = [torch.nn.Parameter(noise(shape, i)) for i, shape in enumerate([*empty, *full, *empty])]
    opt = ours(name)(params)
    alone = ours(name)([torch.nn.Parameter(noise(shape, len(empty) + i)) for i, shape in enumerate(full)])
    for step in range(3):
        given(params, step)
        for p, q in zip(params[len(empty) :], members(alone), strict=False):
            q.grad = p.grad.clone()
        opt.step()
        alone.step()
    for p, q in zip(params[len(empty) :], members(alone), strict=False):
        assert_same(p, q)
    assert all(p.shape == q.shape for p, q in zip(params, [p.grad for p in params], strict=True))


def turned(tensor):
    """With its dimensions in the opposite order."""
    return tensor.permute(tuple(reversed(range(tensor.ndim))))


def strided(shape, seed, dtype=torch.float32):
    """(what has gaps between its elements, all the memory that it lies in)."""
    base = noise((*shape[:-1], 2 * shape[-1]), seed, dtype) if shape else noise((2,), seed, dtype)
    return (base[..., ::2] if shape else base[0]), base


@pytest.mark.parametrize("name", SHARED)
def test_strided_parameters(name):
    """What lies between their elements is left alone."""
    pieces = [strided(shape, i) for i, shape in enumerate(shapes(name))]
    before = [base.clone() for _, base in pieces]
    params = [torch.nn.Parameter(view) for view, _ in pieces]
    assert not any(p.is_contiguous() for p in params if p.ndim)
    beside(name, params, given)
    for (view, base), old in zip(pieces, before, strict=True):
        gaps, kept = (base[..., 1::2], old[..., 1::2]) if view.ndim else (base[1], old[1])
        assert torch.equal(gaps, kept)
        assert not torch.equal(base, old)


@pytest.mark.parametrize("name", SHARED)
def test_transposed_parameters(name):
    params = [torch.nn.Parameter(turned(noise(shape[::-1], i))) for i, shape in enumerate(shapes(name))]
    assert any(not p.is_contiguous() for p in params)
    beside(name, params, given)


@pytest.mark.parametrize("name", [name for name in SHARED if RULES[name].ndim is None])
def test_channels_last(name):
    """Gradients of a convolution come in either layout."""
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)

    def gradients(params, step):
        given(params, step)
        if step % 2:
            for p in params:
                p.grad = p.grad.contiguous(memory_format=torch.channels_last) if p.ndim == 4 else p.grad

    beside(name, list(conv.parameters()), gradients)


@pytest.mark.parametrize("name", SHARED)
def test_gradients_with_other_strides(name):
    """Transposed ones, those with gaps, and one number for all elements."""

    def gradients(params, step):
        given(params, step)
        for i, p in enumerate(params):
            value = p.grad
            if (i + step) % 3 == 0:
                p.grad = turned(turned(value).contiguous())
            elif (i + step) % 3 == 1 and value.ndim:
                p.grad = torch.stack([value, value], -1)[..., 0]
            else:
                p.grad = torch.tensor(0.25 * (step + 1)).expand(p.shape)

    beside(name, parameters(name), gradients)


@pytest.mark.parametrize("name", TYPICAL)
def test_gradients_that_start_anywhere(name):
    """In the middle of another tensor, at an address that is no multiple of a vector's width."""

    def gradients(params, step):
        for i, p in enumerate(params):
            flat = noise((p.numel() + 3,), 100 * step + i)
            p.grad = flat[3:].view(p.shape)

    base = noise((103,), 5)
    beside(name, [torch.nn.Parameter(base[1:101]), *parameters(name)], gradients, **TYPICAL[name])


@pytest.mark.parametrize("name", TYPICAL)
def test_parameters_in_one_flat_buffer(name):
    """As in FSDP and in gradient buckets of DDP: views beside each other."""
    flat, grads = noise((64,), 0), noise((64,), 1)
    params = [torch.nn.Parameter(part) for part in flat.split([1, 15, 16, 32])]
    for p, g in zip(params, grads.split([1, 15, 16, 32]), strict=True):
        p.grad = g
    whole = torch.nn.Parameter(noise((64,), 0))
    whole.grad = noise((64,), 1)
    for opt in (ours(name)(params, **TYPICAL[name]), ours(name)([whole], **TYPICAL[name])):
        opt.step()
        opt.step()
    assert_same(flat, whole)
    assert torch.equal(grads, noise((64,), 1))


@pytest.mark.parametrize("name", SHARED)
def test_dtypes_in_any_mixture(name):
    """float64 beside float32, in one call. torch's counters are float32, which float64 parameters show."""
    params = [*parameters(name), *parameters(name, torch.float64)]
    mine = ours(name)(params)
    apart = [ours(name)(copied(params[: len(params) // 2])), ours(name)(copied(params[len(params) // 2 :]))]
    for step in range(3):
        given(members(mine), step)
        for p, q in zip(members(mine), [q for opt in apart for q in members(opt)], strict=True):
            q.grad = p.grad.clone()
        for opt in (mine, *apart):
            opt.step()
    for p, q in zip(members(mine), [q for opt in apart for q in members(opt)], strict=True):
        assert_same(p, q)


def sparse(params, step):
    """Gradients of two rows, one of them twice, and now and then of none."""
    for i, p in enumerate(params):
        rows = torch.tensor([[1, 3, 1]]) if (step + i) % 3 else torch.zeros((1, 0), dtype=torch.long)
        values = noise((rows.shape[1], *p.shape[1:]), 100 * step + i)
        p.grad = torch.sparse_coo_tensor(rows, values, p.shape, check_invariants=True)


SPARSE = [
    ("sgd", {}),
    ("sgd", {"lr": 0.1, "maximize": True}),
    ("sgd", {"momentum": 0.9}),
    ("sgd", {"momentum": 0.9, "nesterov": True}),
    ("sgd", {"weight_decay": 0.1}),
    ("adagrad", {}),
    ("adagrad", {"lr": 0.1, "lr_decay": 0.1, "initial_accumulator_value": 0.1}),
    ("adagrad", {"maximize": True}),
    ("adagrad", {"weight_decay": 0.1}),
]


@pytest.mark.parametrize(("name", "settings"), SPARSE)
def test_sparse_gradients(name, settings):
    """SGD and Adagrad take them, beside dense ones; what torch refuses is refused in its words."""

    def gradients(params, step):
        sparse(params[:2], step)
        given(params[2:], step)

    params = [torch.nn.Parameter(noise(shape, i)) for i, shape in enumerate([(5, 3), (4,), (6, 2)])]

    def steps(cls, settings):
        opt = cls(copied(params), **settings)
        gradients(members(opt), 1)
        opt.step()

    refused = refusal(lambda: steps(theirs(name), {**settings, "foreach": False}))
    mine = refusal(lambda: steps(ours(name), settings))
    if refused is None:
        assert mine is None
        beside(name, params, gradients, **settings)
    else:  # SGD's in words of Adagrad's; torch's own are of an addition that is not there
        assert mine[0] is refused[0]
        assert mine[1] in (refused[1], "weight_decay option is not compatible with sparse gradients")


def test_rows_of_an_embedding():
    embedding = torch.nn.Embedding(10, 4, sparse=True)
    right = torch.nn.Embedding(10, 4, sparse=True)
    right.load_state_dict(embedding.state_dict())
    pair = ours("adagrad")(embedding.parameters(), lr=0.1), theirs("adagrad")(right.parameters(), lr=0.1)
    for step in range(3):
        for module, opt in zip((embedding, right), pair, strict=True):
            opt.zero_grad()
            module(torch.tensor([step, 2 * step, 9, 9])).square().sum().backward()
            opt.step()
        assert_agree(*pair, "adagrad")


@pytest.mark.parametrize("name", [name for name in RULES if name not in ("sgd", "adagrad")])
def test_sparse_gradients_are_refused(name):
    """In torch's words where it has the rule; nothing has changed then."""
    messages = []
    for cls in (ours(name), theirs(name)) if name in SHARED else (ours(name),):
        p = torch.nn.Parameter(torch.ones(5, 3))
        sparse([p], 1)
        opt = cls([p])
        messages.append(refusal(opt.step))
        assert torch.equal(p, torch.ones(5, 3))
    assert messages[0] == messages[-1]
    assert messages[0][0] is RuntimeError and "sparse" in messages[0][1]


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("shape", [(1,), (), (3, 4), (0,)])
def test_gradients_that_are_lazily_negated(shape, clip_norm):
    """In turns with others that lie as they do."""
    pair = []
    for is_lazy in (False, True):
        params = [torch.nn.Parameter(noise(shape, 1)), torch.nn.Parameter(noise((5,), 2))]
        opt = ours("adamw")(params, lr=0.1, clip_norm=clip_norm)
        for step in range(6):
            given(params, step)
            numbers = torch.complex(noise(shape, 10 + step), noise(shape, 20 + step))
            grad = numbers.conj().imag if step % 2 else numbers.imag
            assert grad.is_neg() == step % 2
            params[0].grad = grad if is_lazy else grad.resolve_neg().clone()
            opt.step()
        pair.append(opt)
    for p, q in zip(*map(members, pair), strict=True):
        assert_same(p.detach(), q.detach())


def test_what_most_models_have_is_looked_at_in_the_native_call():
    """Parameters of one element and of none among them."""
    params = [torch.nn.Parameter(noise(shape, 1)) for shape in ((4, 3), (1,), (), (0,))]
    opt = ours("adamw")(params, clip_norm=1.0)
    for step in range(70):
        given(params, step)
        opt.step()
    assert opt.planner.as_seen(opt.param_groups).fetch


class Doubled(torch.nn.Parameter):
    """Whose gradient is made when it is asked for."""

    @property
    def grad(self):
        kept = getattr(self, "kept", None)
        return kept if kept is None else 2 * kept

    @grad.setter
    def grad(self, value):
        self.kept = value


class Found(torch.nn.Parameter):
    """Whose attributes are found in a way of its own."""

    def __getattribute__(self, name):
        found = super().__getattribute__(name)
        return 2 * found if name == "grad" and found is not None else found


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("kind", [Doubled, Found])
def test_classes_that_find_the_gradient_themselves(kind, clip_norm):
    """In turns with others that do not, and for a while without a gradient."""
    pair = []
    for own in (torch.nn.Parameter, kind):
        params = [(own if k % 2 else torch.nn.Parameter)(noise((4, 3), k)) for k in range(5)]
        opt = ours("adamw")(params, lr=0.1, clip_norm=clip_norm)
        for step in range(60):
            for k, p in enumerate(params):
                p.grad = noise((4, 3), 10 * step + k) * (2 if k % 2 and own is not kind else 1)
                if step == 50 and k == 3:
                    p.grad = None
            opt.step()
        pair.append(opt)
    for p, q in zip(*map(members, pair), strict=True):
        assert_same(p.detach(), q.detach())
