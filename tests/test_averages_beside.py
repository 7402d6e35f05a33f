"""Averages beside an optimizer: stochastic weight averaging and Lookahead, against plain loops in float64."""

import copy

import ml_dtypes
import numpy as np
import pytest
from snapshots import contents, random

import fastgd
from fastgd.averaging import Lookahead, StochasticWeightAverage

F32, F64, BF16 = np.dtype(np.float32), np.dtype(np.float64), np.dtype(ml_dtypes.bfloat16)
SHAPES = ((3, 5), (7,), ())


def made(dtype, backend, **settings):
    params = [np.array(random(shape, i), dtype) for i, shape in enumerate(SHAPES)]
    return params, fastgd.SGD(params, lr=0.1, momentum=0.5, backend=backend, **settings)


def grads(t, dtype=F32):
    return [np.array(random(shape, 100 * t + i), dtype) for i, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("dtype", [F32, F64, BF16], ids=str)
def test_the_mean_of_the_moments_of_update(dtype, backend):
    params, opt = made(dtype, backend)
    swa, seen = StochasticWeightAverage(opt), []
    for t in range(6):
        opt.step(grads(t))
        if t % 2:
            swa.update()
            seen.append([p.astype(F64) for p in params])
    tolerance = 1e-6 if dtype != F64 else 1e-15
    for k, average in enumerate(swa.averages):
        assert average.dtype == (F64 if dtype == F64 else F32)
        np.testing.assert_allclose(average, np.mean([s[k] for s in seen], axis=0), rtol=0, atol=tolerance)
    assert swa.count == 3


def test_the_mean_is_applied_and_taken_back(backend):
    params, opt = made(BF16, backend, rounding="split")
    swa = StochasticWeightAverage(opt)
    with pytest.raises(ValueError, match="no mean yet"), swa.applied():
        pass
    for t in range(3):
        opt.step(grads(t))
        swa.update()
    before = contents(opt)
    with swa.applied():
        for p, average in zip(params, swa.averages, strict=True):
            assert p.tobytes() == average.astype(BF16).tobytes()
        with pytest.raises(RuntimeError, match="leave it first"):
            opt.step(grads(9))
        with pytest.raises(RuntimeError, match="leave it first"):
            swa.update()
    assert contents(opt) == before


@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_lookahead_is_the_papers_loop(dtype, backend):
    params, opt = made(dtype, backend)
    twin, plain = made(F64, "reference")
    slow = [p.astype(F64) for p in twin]
    look = Lookahead(opt, k=3, alpha=0.25)
    for t in range(8):
        look.step(grads(t, dtype))
        plain.step(grads(t, F64))
        if t % 3 == 2:
            for s, p in zip(slow, twin, strict=True):
                s[...] = s + 0.25 * (p - s)
                p[...] = s
        for p, q in zip(params, twin, strict=True):
            np.testing.assert_allclose(p, q, rtol=0, atol=2e-6 if dtype == F32 else 1e-14)
    assert look.count == 2


def test_lookahead_brings_residuals_along(backend):
    """So that a split parameter is the slow one in all its bits."""
    params, opt = made(BF16, backend, rounding="split")
    look = Lookahead(opt, k=1, alpha=0.5)
    look.step(grads(0))
    residuals = [opt.state_dict()["state"][i]["residual"] for i in range(len(params))]
    for p, residual, slow in zip(params, residuals, look.slow, strict=True):
        whole = (p.view(np.uint16).astype(np.uint32) << 16) + residual.astype(np.uint32)
        assert whole.view(np.float32).tobytes() == slow.tobytes()


def test_a_skipped_step_counts_for_nothing(backend):
    _, opt = made(F32, backend)
    look = Lookahead(opt, k=1)
    before, slow = contents(opt), [s.tobytes() for s in look.slow]
    bad = grads(0)
    bad[0][1, 2] = np.nan
    assert look.step(bad, skip_nonfinite=True).skipped
    assert contents(opt) == before and [s.tobytes() for s in look.slow] == slow and look.count == 0


def updated(swa, t):
    swa.opt.step(grads(t))
    swa.update()


KINDS = {
    "swa": (StochasticWeightAverage, updated),
    "lookahead": (lambda opt: Lookahead(opt, k=4), lambda look, t: look.step(grads(t))),
}


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_over(kind, backend):
    make, advance = KINDS[kind]
    params, opt = made(F32, backend)
    one = make(opt)
    for t in range(6):
        advance(one, t)
    twins = [p.copy() for p in params]
    other = make(fastgd.SGD(twins, lr=0.3, backend=backend))
    other.opt.load_state_dict(opt.state_dict())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for t in range(6, 10):
        advance(one, t)
        advance(other, t)
    assert [p.tobytes() for p in params] == [p.tobytes() for p in twins]
    assert one.count == other.count
    kept = [x.averages if kind == "swa" else x.slow for x in (one, other)]
    assert all(a.tobytes() == b.tobytes() for a, b in zip(*kept, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": -1}, "count must be"),
        ({"count": 1.5}, "count must be a whole number"),
        ({"averages": []}, "the state has 0 arrays"),
        ({"averages": [np.zeros(1)] * 3}, "average 0 is float64"),
    ],
)
def test_a_state_that_does_not_fit_changes_nothing(change, message):
    _, opt = made(F32, "native")
    swa = StochasticWeightAverage(opt)
    swa.update()
    good = swa.state_dict()
    with pytest.raises((TypeError, ValueError), match=message):
        swa.load_state_dict({**good, **change})
    for name in good:
        with pytest.raises(ValueError, match=f"no '{name}'"):
            swa.load_state_dict({k: v for k, v in good.items() if k != name})
    with pytest.raises(TypeError, match="not a dict"):
        swa.load_state_dict([])
    assert swa.count == 1


@pytest.mark.parametrize("bad", [{"k": 0}, {"k": 1.5}, {"alpha": -0.1}, {"alpha": 1.1}, {"alpha": "x"}])
def test_lookahead_refuses(bad):
    with pytest.raises((TypeError, ValueError), match=next(iter(bad))):
        Lookahead(made(F32, "native")[1], **bad)
