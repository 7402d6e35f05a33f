"""Agreement with torch.optim and torch.nn.utils, and cases in which torch 2.13's fused CPU path is wrong."""

import inspect
import math

import numpy as np
import pytest

import fastgd
from fastgd import verification
from fastgd.rules import RULES

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
pytestmark = pytest.mark.peer

#: as from the oracle, but torch rounds in float32 too, in another order
TOLERANCE = {np.float32: 2e-6, np.float64: 4e-15}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_and_setting(rule, dtype):
    for case in verification.cases(rule, dtype):
        outcome = verification.compute(case, verification.Runner("native"))
        params = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in case.params]
        opt = getattr(torch.optim, RULES[rule].title)(params, foreach=False, **case.settings)
        for grads, report in zip(case.grads, outcome.reports, strict=True):
            for p, g in zip(params, grads, strict=True):
                p.grad = torch.from_numpy(g.copy())
            if case.clip_norm is not None:
                norm = torch.nn.utils.clip_grad_norm_(params, case.clip_norm)
                assert report.grad_norm == pytest.approx(float(norm), rel=1e-5)
            opt.step()
        for p, q in zip(outcome.params, params, strict=True):
            np.testing.assert_allclose(p, q.detach().numpy(), rtol=0, atol=TOLERANCE[dtype] * 5)


@pytest.mark.parametrize("rule", RULES)
def test_names_order_and_defaults_are_torchs(rule):
    theirs = inspect.signature(getattr(torch.optim, RULES[rule].title)).parameters
    for name, default in RULES[rule].defaults.items():
        assert theirs[name].default == default, name
    positional = [n for n, p in theirs.items() if n != "params" and p.kind is p.POSITIONAL_OR_KEYWORD]
    mine = [n for n in RULES[rule].defaults if n in positional]
    assert mine == [n for n in positional if n in mine]


@pytest.mark.parametrize("norm_type", [2.0, math.inf])
def test_clip_grad_norm(norm_type):
    rng = np.random.default_rng(0)
    grads = [rng.standard_normal(n).astype(np.float32) for n in (3, 1000, 20000)]
    params = [torch.nn.Parameter(torch.zeros(len(g))) for g in grads]
    for p, g in zip(params, grads, strict=True):
        p.grad = torch.from_numpy(g.copy())
    theirs = torch.nn.utils.clip_grad_norm_(params, 1.5, norm_type)
    assert fastgd.clip_grad_norm_(grads, 1.5, norm_type) == pytest.approx(float(theirs), rel=1e-6)
    for p, g in zip(params, grads, strict=True):
        np.testing.assert_allclose(g, p.grad.numpy(), rtol=1e-6)


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
