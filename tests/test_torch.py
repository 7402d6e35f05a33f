"""Agreement with torch.optim, nn.utils and amp, and cases in which torch 2.13's fused CPU path is wrong."""

import inspect
import math

import numpy as np
import pytest

import fastgd
from fastgd import lenders, verification
from fastgd.averaging import lerp_
from fastgd.rules import RULES

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
pytestmark = pytest.mark.peer

#: as from the oracle, but torch rounds in float32 too, in another order
TOLERANCE = {np.float32: 2e-6, np.float64: 4e-15}


#: what fastgd adds to torch's rules; their defaults change nothing
ADDED = ["maximize", "decouple_lr", "max_lr"]

#: of how far parameters move, where torch computes in bfloat16: some of its roundings, 2^-9 each
COARSE = 0.02


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.in_torch])
def test_every_rule_and_setting(rule, dtype, counters_in_float64):
    theirs = inspect.signature(getattr(torch.optim, RULES[rule].title)).parameters
    single = {"foreach": False} if "foreach" in theirs else {}
    for case in verification.cases(rule, dtype):
        if case.settings.keys() - theirs.keys():
            continue
        if not RULES[rule].elementwise:  # torch divides by the number of elements, 0 or not
            full = [i for i, p in enumerate(case.params) if p.size]
            of = [[arrays[i] for i in full] for arrays in (case.params, *case.grads)]
            case = case._replace(params=of[0], grads=of[1:])
        outcome = verification.compute(case, verification.Runner("native"))
        params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in case.params]
        opt = getattr(torch.optim, RULES[rule].title)(params, **single, **case.settings)
        for grads, report in zip(case.grads, outcome.reports, strict=True):
            for p, g in zip(params, grads, strict=True):
                p.grad = torch.from_numpy(g.copy())
            if case.clip_norm is not None:
                norm = torch.nn.utils.clip_grad_norm_(params, case.clip_norm)
                assert report.grad_norm == pytest.approx(float(norm), rel=1e-5)
            opt.step()
        for p, q, start in zip(outcome.params, params, case.params, strict=True):
            moved = 0.0 if RULES[rule].exact else float(np.abs(p - start).max())
            atol = TOLERANCE[dtype] * 5 + COARSE * moved
            np.testing.assert_allclose(p, q.detach().numpy(), rtol=0, atol=atol)
        for entry, q in zip((e for e in outcome.state if e), opt.state.values(), strict=True):
            for name in entry.keys() & q.keys():
                np.testing.assert_allclose(entry[name], q[name], rtol=0, atol=TOLERANCE[dtype] * 5)


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.in_torch])
def test_names_order_and_defaults_are_torchs(rule):
    theirs = inspect.signature(getattr(torch.optim, RULES[rule].title)).parameters
    added = [name for name in RULES[rule].defaults if name not in theirs]
    assert added == ADDED[len(ADDED) - len(added) :]
    assert list(RULES[rule].defaults)[len(RULES[rule].defaults) - len(added) :] == added
    for name, default in RULES[rule].defaults.items():
        assert name in added or theirs[name].default == default, name
    positional = [n for n, p in theirs.items() if n != "params" and p.kind is p.POSITIONAL_OR_KEYWORD]
    mine = [n for n in RULES[rule].defaults if n in positional]
    assert mine == [n for n in positional if n in mine]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("weight", [0.0, 0.3, 0.5, 1.0, 1.5, -0.2, -2.0])
def test_lerp(weight, dtype):
    a, t = (np.random.default_rng(i).standard_normal(1000).astype(dtype) for i in (0, 1))
    right = torch.from_numpy(a.copy()).lerp_(torch.from_numpy(t), weight).numpy()
    lerp_([a], [t], weight)
    np.testing.assert_allclose(a, right, rtol=0, atol=TOLERANCE[dtype] * 5)


def torch_clipped(grads, max_norm=1.0, norm_type=2.0):
    """torch's norm of the gradients, and what it makes of them."""
    params = [torch.nn.Parameter(torch.zeros(g.shape)) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = torch.from_numpy(g.copy())
    norm = float(torch.nn.utils.clip_grad_norm_(params, max_norm, norm_type))
    return norm, [p.grad.numpy() for p in params]


@pytest.mark.parametrize("norm_type", [2.0, math.inf])
def test_clip_grad_norm(norm_type):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(n).astype(np.float32) for n in (3, 1000, 20000)]
    norm, theirs = torch_clipped(grads, 1.5, norm_type)
    assert fastgd.clip_grad_norm_(grads, 1.5, norm_type) == pytest.approx(norm, rel=1e-6)
    for g, t in zip(grads, theirs, strict=True):
        np.testing.assert_allclose(g, t, rtol=1e-6)


def test_torch_tensors_are_updated_in_place():
    """Any owner that lends its memory through DLPack."""
    param, grad = torch.ones(5), torch.full((5,), 2.0)
    fastgd.SGD([param], lr=0.5).step([grad])
    assert param.tolist() == [0.0] * 5


def test_a_tensor_that_requires_grad_is_refused_with_the_remedy():
    with pytest.raises(TypeError, match=r"parameter 0 of group 0 does not lend its memory.*detach"):
        fastgd.SGD([torch.ones(3, requires_grad=True)])


def strided_column(step):
    base = np.ones((50, 2), np.float32)
    step(base[:, 0], np.ones(50, np.float32))
    return base


def torch_fused(param, grad):
    p = torch.nn.Parameter(torch.from_numpy(param))
    p.grad = torch.from_numpy(grad)
    torch.optim.AdamW([p], lr=0.1, fused=True).step()


def fastgd_step(param, grad):
    fastgd.AdamW([param], lr=0.1).step([grad])


def test_a_strided_parameter_is_updated_where_it_lies():
    mine = strided_column(fastgd_step)
    assert (mine[:, 0] != 1).all()
    assert (mine[:, 1] == 1).all()
    theirs = strided_column(torch_fused)
    assert (theirs[:, 1] != 1).any(), "torch writes the neighbouring column: has it been mended?"


def test_a_gradient_with_other_strides_is_read_where_it_lies():
    grad = np.arange(6, dtype=np.float32).reshape(3, 2).T - 2.5
    expected = np.ones((2, 3), np.float32)
    fastgd.SGD([expected], lr=0.1).step([grad.copy()])
    param = np.ones((2, 3), np.float32)
    fastgd.SGD([param], lr=0.1).step([grad])
    np.testing.assert_array_equal(param, expected)
    np.testing.assert_allclose(param, 1 - 0.1 * grad, rtol=1e-6)
    mine, theirs = (np.ones((2, 3), np.float32) for _ in range(2))
    fastgd_step(mine, grad)
    torch_fused(theirs, grad)
    assert (np.sign(mine - 1) == -np.sign(grad)).all()
    assert (np.sign(theirs - 1) != -np.sign(grad)).any(), "torch reads other elements: has it been mended?"


def test_torchs_norm_of_thirty_million_floats_is_off():
    """fastgd's is in test_clip.py."""
    x = np.random.default_rng(0).random(30_000_000, np.float32)
    assert abs(torch_clipped([x])[0] / fastgd.global_norm([x]) - 1) > 5e-4, "has torch been mended?"


def test_torch_zeroes_gradients_of_1e20():
    """fastgd scales them, in test_clip.py."""
    norm, theirs = torch_clipped([np.full(1, 1e20, np.float32) for _ in range(4)])
    assert math.isinf(norm) and not np.any(theirs), "has torch been mended?"


def torch_scaled(scaler, opt, param, finite):
    """One step of torch's through its scaler, with a gradient of the loss `sum(param)`, or of NaN."""
    param.grad = scaler.scale(torch.ones(())) * torch.full((2,), 1.0 if finite else math.nan)
    scaler.step(opt)


@pytest.mark.parametrize(
    ("settings", "chance"),
    [
        ({}, 0.3),
        ({"init_scale": 8.0, "growth_interval": 1}, 0.5),
        ({"init_scale": 2.0**30, "growth_factor": 8.0, "backoff_factor": 0.25, "growth_interval": 4}, 0.25),
        ({"init_scale": 2.0**120, "growth_interval": 3}, 0.1),
    ],
)
@pytest.mark.parametrize("optimizers", [1, 3])
def test_the_scale_goes_torchs_way(settings, chance, optimizers):
    """Scales and parameters after each of 300 iterations in which gradients are not finite by chance."""
    rng = np.random.default_rng(len(settings) + optimizers)
    theirs = torch.amp.GradScaler("cpu", **settings)
    mine = fastgd.LossScaler(**settings, min_scale=2.0**-126, patience=None)
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(optimizers)]
    arrays = [np.zeros(2, np.float32) for _ in range(optimizers)]
    torch_opts = [torch.optim.SGD([p], lr=0.5) for p in params]
    opts = [fastgd.SGD([a], lr=0.5) for a in arrays]
    scales = set()
    for _ in range(300):
        for i in range(optimizers):
            finite = rng.random() > chance / optimizers
            torch_scaled(theirs, torch_opts[i], params[i], finite)
            grad = np.full(2, mine.scale if finite else math.nan, np.float32)
            mine.step(opts[i], [grad], update=False)
        theirs.update()
        mine.update()
        assert mine.scale == theirs.get_scale()
        assert mine.state_dict()["good_steps"] == theirs.state_dict()["_growth_tracker"]
        assert all(np.array_equal(a, p.detach().numpy()) for a, p in zip(arrays, params, strict=True))
        scales.add(mine.scale)
    assert len(scales) > 4


def test_scaler_names_order_and_defaults_are_torchs():
    theirs = inspect.signature(torch.amp.GradScaler).parameters
    mine = inspect.signature(fastgd.LossScaler).parameters
    shared = {name: p.default for name, p in theirs.items() if name != "device"}
    assert list(mine)[: len(shared)] == list(shared)
    assert {name: mine[name].default for name in shared} == shared


def test_scaled_tensors_keep_their_graph_and_dtype():
    loss = torch.ones((), dtype=torch.bfloat16, requires_grad=True)
    fastgd.LossScaler().scale_loss(loss).backward()
    assert (loss.grad.item(), loss.grad.dtype) == (65536.0, torch.bfloat16)
    with pytest.raises(TypeError, match="loss is float16"):
        fastgd.LossScaler().scale_loss(loss.half())


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_what_tensors_say_of_themselves_is_read_as_torch_means_it(device, dtype):
    """On CUDA it is read by torch's own names; here those of tensors on the host."""
    tensor = torch.randn(3, 4).to(getattr(torch, dtype)).t().requires_grad_()
    found = lenders._from_torch(tensor, "tensor")
    assert (found.pointer, found.shape, found.dtype.name) == (tensor.data_ptr(), (4, 3), dtype)
    assert found.strides == tuple(s * tensor.element_size() for s in tensor.stride())
    pointer = tensor.data_ptr()
    tensor.data = torch.zeros_like(tensor)
    assert found.owner.data_ptr() == pointer != tensor.data_ptr()
    assert lenders.is_torch(tensor)
    assert lenders.on_device(tensor, "tensor") is None
    for strange in (torch.ones(3).to_sparse(), torch.complex(torch.ones(3), torch.ones(3)).conj().imag):
        with pytest.raises(TypeError, match=r"does not lend its memory|lazily negated"):
            lenders._from_torch(strange, "tensor")
