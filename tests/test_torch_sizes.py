"""fastgd.torch at sizes around vectors and blocks, in gaps and in 16 bits: against torch and fastgd."""

import math

import pytest
from snapshots import fitted
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
    raw,
    run,
    single,
    theirs,
    torch,
)

import fastgd
from fastgd.rules import RULES
from fastgd.settings import ROUNDINGS

pytestmark = pytest.mark.peer

#: around the lanes of sums and vectors (16), the block of codes and buffers (256) and pages
SIZES = [0, 1, 15, 16, 17, 255, 256, 257, 4095, 4096, 4097]

#: the size from which threads share the work
LARGE = [65535, 65536, 65537]
LOW = [
    (dtype, rounding)
    for dtype in (torch.bfloat16, torch.float16)
    for rounding in ROUNDINGS
    if rounding != "split" or dtype is torch.bfloat16
]
STEPS = 4


def sized(name, dtype=torch.float32, gaps=False, sizes=SIZES):
    """A parameter of each size, in the number of dimensions that the rule is for."""
    params = []
    for i, size in enumerate(sizes):
        shape = fitted(name, (size,))
        if not RULES[name].elementwise and not size:
            continue  # torch divides by the number of elements
        base = noise((*shape, 2) if gaps else shape, i, dtype)
        params.append(torch.nn.Parameter(base[..., 0] if gaps else base))
    return params


def core(opt, name, **settings):
    """fastgd's optimizer over copies of the parameters, as tensors that lend their memory."""
    return getattr(fastgd, RULES[name].title)([p.detach().clone() for p in members(opt)], **settings)


def assert_same_bits(opt, plain):
    """Parameters and state of fastgd.torch's optimizer and of fastgd's."""
    state = plain.state_dict()["state"]
    for i, (p, q) in enumerate(zip(members(opt), plain.parameters(), strict=True)):
        assert_same(p.detach(), q, f"parameter {i}")
        for key, array in state.get(i, {}).items():
            if hasattr(array, "dtype"):
                # fastgd has codes under the slot's own name
                key = f"{key}_codes" if f"{key}_scales" in state[i] else key
                assert raw(opt.state[p][key]).numpy().tobytes() == array.tobytes(), f"{key} of parameter {i}"


@pytest.mark.parametrize("sizes", [SIZES[1:], LARGE], ids=["small", "large"])
@pytest.mark.parametrize("name", SHARED)
def test_every_size_agrees_with_torch(name, sizes):
    """In float32, within its roundings."""
    start = sized(name, sizes=sizes)
    mine, right = ours(name)(copied(start)), theirs(name)(copied(start), **single(theirs(name)))
    run(mine, right, steps=STEPS)
    assert_agree(mine, right, name, start)


@pytest.mark.parametrize("name", SHARED)
def test_every_size_agrees_with_torch_in_float64(name, counters_in_float64):
    start = sized(name, torch.float64, sizes=SIZES[1:])
    mine, right = ours(name)(copied(start)), theirs(name)(copied(start), **single(theirs(name)))
    run(mine, right, steps=STEPS)
    assert_agree(mine, right, name, start)


@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "gaps"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_every_size_has_the_bits_of_fastgd(name, dtype, gaps):
    """Where parameters lie in gaps, what lies between is left alone."""
    params = sized(name, dtype, gaps)
    between = [torch.as_strided(p.detach(), p.shape, p.stride(), 1) for p in params if gaps and p.numel()]
    before = [b.clone() for b in between]
    opt = ours(name)(params, clip_norm=3.0)
    plain = core(opt, name)
    for step in range(STEPS):
        given(params, step)
        opt.step()
        report = plain.step([p.grad for p in params], clip_norm=3.0)
        assert report == opt.report
    assert_same_bits(opt, plain)
    assert all(torch.equal(b, old) for b, old in zip(between, before, strict=True))


@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "gaps"])
@pytest.mark.parametrize("name", TYPICAL)
def test_large_sizes_have_the_bits_of_fastgd(name, gaps):
    """On several threads where there are."""
    opt = ours(name)(sized(name, gaps=gaps, sizes=LARGE), **TYPICAL[name], skip_nonfinite=True)
    plain = core(opt, name, **TYPICAL[name])
    for step in range(STEPS):
        given(members(opt), step)
        opt.step()
        assert plain.step([p.grad for p in members(opt)], skip_nonfinite=True) == opt.report
    assert_same_bits(opt, plain)


@pytest.mark.parametrize(("dtype", "rounding"), LOW)
@pytest.mark.parametrize("name", RULES)
def test_parameters_in_16_bits_have_the_bits_of_fastgd(name, dtype, rounding):
    opt = ours(name)(sized(name, dtype), rounding=rounding, seed=3)
    plain = core(opt, name, rounding=rounding, seed=3)
    for step in range(STEPS):
        given(members(opt), step)
        opt.step()
        plain.step([p.grad for p in members(opt)])
    assert_same_bits(opt, plain)


@pytest.mark.parametrize(
    "settings",
    [
        {"state_dtype": "8bit"},
        {"state_dtype": "bfloat16", "state_rounding": "stochastic"},
        {"state_dtype": "float16"},
        {"ema_decay": 0.9},
    ],
    ids=["8bit", "bfloat16", "float16", "average"],
)
@pytest.mark.parametrize("gaps", [False, True], ids=["dense", "gaps"])
@pytest.mark.parametrize("name", RULES)
def test_settings_have_the_bits_of_fastgd(name, gaps, settings):
    opt = ours(name)(sized(name, gaps=gaps), **settings)
    plain = core(opt, name, **settings)
    for step in range(STEPS):
        given(members(opt), step)
        opt.step()
        plain.step([p.grad for p in members(opt)])
    assert_same_bits(opt, plain)


@pytest.mark.parametrize("name", [name for name, rule in RULES.items() if rule.whole is None])
def test_cautious_steps_have_the_bits_of_fastgd(name):
    opt = ours(name)(sized(name), cautious=True)
    plain = core(opt, name, cautious=True)
    for step in range(STEPS):
        given(members(opt), step)
        opt.step()
        plain.step([p.grad for p in members(opt)])
    assert_same_bits(opt, plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHARED)
def test_parameters_in_16_bits_are_nearer_to_the_truth_than_torchs(name, dtype):
    """A step of fastgd rounds once; torch rounds after every operation. The truth is torch's in float64."""
    wide = parameters(name, dtype)
    right = theirs(name)([torch.nn.Parameter(p.detach().double()) for p in wide], **single(theirs(name)))
    pair = [ours(name)(copied(wide)), theirs(name)(copied(wide), **single(theirs(name)))]
    off = []
    for opt in (right, *pair):
        for step in range(STEPS):
            given(members(opt), step)
            for p in members(opt):
                p.grad = p.grad.to(dtype).to(p.dtype)
            opt.step()
        off.append(
            max(
                float((p - q).detach().abs().max()) for p, q in zip(members(opt), members(right), strict=True)
            )
        )
    largest = max(float(p.detach().abs().max()) for p in members(right))
    unit = torch.finfo(dtype).eps * max(1.0, largest)
    # each of the steps rounds by half a unit at most, and the state's roundings move a step a little
    assert off[1] <= max(STEPS * unit, 1.01 * off[2])
    assert math.isfinite(off[1])


@pytest.mark.parametrize("name", TYPICAL)
def test_a_rate_too_small_for_bfloat16(name):
    """Steps of 2^-12 of a parameter: rounding to nearest loses all of them, the others none."""
    lr = {"sgd": 2.0**-12, "adamw": 2.0**-12, "rmsprop": 2.0**-13}[name]
    moved = {}
    for rounding in ROUNDINGS:
        p = torch.nn.Parameter(torch.full((4096,), 1.0, dtype=torch.bfloat16))
        opt = ours(name)([p], lr=lr, rounding=rounding)
        for _ in range(64):
            p.grad = torch.ones_like(p)
            opt.step()
        moved[rounding] = float((1 - p.detach().float()).mean())
    assert moved.pop("nearest") == 0.0
    assert all(2.0**-7 < way < 2.0**-3 for way in moved.values()), moved
    assert max(moved.values()) < 1.2 * min(moved.values()), moved
