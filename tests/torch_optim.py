"""What tests of fastgd.torch share: torch's optimizer beside ours, on one set of gradients, and agreement."""

import importlib
import inspect
import io
import math

import pytest

from fastgd.rules import RULES

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
fgt = importlib.import_module("fastgd.torch")

#: the rules that torch has too
SHARED = [name for name, rule in RULES.items() if rule.in_torch]

#: those that some tests are content with: one without state, one with momentum, Adam's kin
TYPICAL = {"sgd": {"momentum": 0.9}, "adamw": {}, "rmsprop": {"momentum": 0.9}}

#: largest difference accepted, in units of the dtype's last place of the largest number, or of 1: torch
#: rounds about as often as we do, in another order, and a step's roundings are smaller than a parameter's
ROUNDINGS = 16

#: of how far parameters move, where torch computes in bfloat16: some of its roundings, 2^-9 each
COARSE = 0.06

#: all but ASGD, whose rate follows a new lr at once here and at the step after in torch (docs/design.md)
FOLLOWING = [name for name in SHARED if name != "asgd"]

SHAPES = [(4, 3), (5,), (), (2, 3, 2)]


def ours(name):
    return getattr(fgt, RULES[name].title)


def theirs(name):
    return getattr(torch.optim, RULES[name].title)


def takes(cls, flag):
    return flag in inspect.signature(cls).parameters


def single(cls):
    """What makes a class of torch's work on one tensor after the other, by the formula."""
    return {"foreach": False} if takes(cls, "foreach") else {}


def noise(shape, seed, dtype=torch.float32):
    """Normal numbers that depend on the seed alone, whatever the dtype is."""
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


def shapes(name):
    """Shapes of parameters for which the rule is meant."""
    ndim = RULES[name].ndim
    return [(4, 3), (2, 6), (3, 3)] if ndim == 2 else SHAPES


def parameters(name, dtype=torch.float32):
    return [torch.nn.Parameter(noise(shape, i, dtype)) for i, shape in enumerate(shapes(name))]


def copied(params):
    """Parameters with the same contents in the same layout."""
    return [torch.nn.Parameter(p.detach().clone(), p.requires_grad) for p in params]


def given(params, step, scale=1.0):
    """Gives each parameter a gradient that depends on its number and the step alone."""
    for i, p in enumerate(params):
        p.grad = noise(p.shape, 1000 * (step + 1) + i, p.dtype) * scale


def members(opt):
    return [p for group in opt.param_groups for p in group["params"]]


def run(*opts, steps=5, first=0):
    """Some steps of each, all with the same gradients."""
    for step in range(first, first + steps):
        for opt in opts:
            given(members(opt), step)
            opt.step()


def assert_close(mine, right, what="", atol=0.0):
    assert mine.dtype == right.dtype, what
    assert mine.shape == right.shape, what
    if right.is_complex():
        mine, right = torch.view_as_real(mine.resolve_conj()), torch.view_as_real(right.resolve_conj())
    largest = float(right.abs().max()) if right.numel() else 0.0
    if right.is_floating_point():
        atol = max(atol, ROUNDINGS * torch.finfo(right.dtype).eps * max(1.0, largest))
    torch.testing.assert_close(mine, right, rtol=0.0, atol=atol, msg=lambda text: f"{what}: {text}")


def assert_same(mine, right, what=""):
    """Every bit."""
    assert (mine.dtype, mine.shape) == (right.dtype, right.shape), what
    assert torch.equal(raw(mine), raw(right)), what


def raw(tensor):
    """The bytes of a tensor's elements, in C order."""
    plain = tensor.detach().clone(memory_format=torch.contiguous_format)
    return plain.reshape(-1).view(torch.uint8)


def assert_agree(mine, right, name, start=None):
    """Parameters and every entry of the state agree, the entries' names and dtypes too.

    name: the rule. start: the parameters before the first step; None: `parameters(name)`."""
    exact = RULES[name].exact
    start = start or parameters(name)
    for i, (p, q) in enumerate(zip(members(mine), members(right), strict=True)):
        moved = 0.0 if exact else float((q - start[i]).detach().abs().max())
        assert_close(p.detach(), q.detach(), f"parameter {i}", atol=COARSE * moved)
        assert mine.state[p].keys() == right.state[q].keys(), f"parameter {i}"
        slots = [slot.name for slot in RULES[name].slots]
        for key, value in right.state[q].items():
            what = f"{key} of parameter {i}"
            assert isinstance(mine.state[p][key], torch.Tensor), what
            if key in slots:
                assert_close(*(t.to_dense() if t.is_sparse else t for t in (mine.state[p][key], value)), what)
            else:  # torch keeps counters in the default dtype, fastgd what is carried in float64
                assert math.isclose(mine.state[p][key], value, rel_tol=1e-6), what


def contents(opt):
    """Parameters, state and settings as bytes and numbers, comparable with `==`."""

    def plain(value):
        if isinstance(value, torch.Tensor):
            return str(value.dtype), tuple(value.shape), raw(value).numpy().tobytes()
        return value

    def known(group):
        return {key: plain(value) for key, value in group.items() if key != "params"}

    kept = [{k: plain(v) for k, v in opt.state.get(p, {}).items()} for p in members(opt)]
    return [plain(p) for p in members(opt)], kept, [known(group) for group in opt.param_groups]


def refusal(action):
    """Type and text of what an action raises; None when it raises nothing."""
    try:
        action()
    except Exception as error:
        return type(error), str(error)
    return None


def through_a_file(state):
    """As torch.load gives it back, which unpickles weights alone."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
