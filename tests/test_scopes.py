"""Clipping by groups, tensors and units, to a norm, and by norms that were measured elsewhere."""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap

import numpy as np
import pytest
from snapshots import check_step, contents, random, unchanged

import fastgd
from fastgd import verification
from fastgd.arrays import CODES, dtype_named

RUNNERS = verification.runners()
SHAPES = [(3, 4), (7,), (2, 3, 5), ()]


def norm(*arrays):
    return math.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays))


def scaled(factors, seed=0, dtype=np.float64):
    """Arrays of the SHAPES, multiplied by the factors."""
    arrays = [random(s, seed + i, np.float64) for i, s in enumerate(SHAPES)]
    return [np.asarray(a * f, dtype) for a, f in zip(arrays, factors, strict=True)]


def moved(backend, **options):
    """(gradients, what SGD with lr 1 moved two groups of two parameters by in float64, the report)."""
    grads = scaled([10.0**-i for i in range(4)])
    params = [np.zeros(s) for s in SHAPES]
    opt = fastgd.SGD([{"params": params[:2]}, {"params": params[2:]}], lr=1.0, backend=backend)
    report = opt.step(grads, **options)
    return grads, [-p for p in params], report


def check(grads, seen, coefs):
    for g, p, coef in zip(grads, seen, coefs, strict=True):
        np.testing.assert_allclose(p, g * coef, rtol=1e-13)


def test_each_group_has_its_own_limit(backend):
    grads, seen, report = moved(backend, clip_norm=0.2, clip_scope="group")
    coefs = [min(1.0, 0.2 / (norm(*part) + 1e-6)) for part in (grads[:2], grads[2:])]
    assert coefs[1] == 1 or coefs[0] < coefs[1]
    check(grads, seen, np.repeat(coefs, 2))
    assert report.grad_norm == pytest.approx(norm(*grads), rel=1e-14)
    assert report.clip_coef == pytest.approx(min(coefs), rel=1e-14)


def test_each_tensor_has_its_own_limit(backend):
    grads, seen, report = moved(backend, clip_norm=0.05, clip_scope="tensor")
    coefs = [min(1.0, 0.05 / (norm(g) + 1e-6)) for g in grads]
    assert len(set(coefs)) > 2
    check(grads, seen, coefs)
    assert report.clip_coef == pytest.approx(min(coefs), rel=1e-14)


@pytest.mark.parametrize(("scope", "cuts"), [("all", [0, 4]), ("group", [0, 2, 4]), ("tensor", range(5))])
def test_gradients_are_brought_to_a_norm_from_both_sides(backend, scope, cuts):
    grads, seen, _ = moved(backend, clip_norm=0.3, clip_scope=scope, normalize=True)
    parts = [grads[a:b] for a, b in itertools.pairwise(cuts)]
    check(grads, seen, [0.3 / (norm(*part) + 1e-6) for part in parts for _ in part])


def test_what_is_zero_stays_zero_when_it_is_normalized(backend):
    params = [np.ones(3), np.ones(2)]
    opt = fastgd.SGD(params, lr=1.0, backend=backend)
    grads = [np.zeros(3), np.array([3.0, 4.0])]
    assert opt.step([grads[0], None], clip_norm=1.0, normalize=True) == (0.0, 1.0, False, None)
    opt.step(grads, clip_norm=1.0, normalize=True, clip_scope="tensor")
    assert params[0].tolist() == [1, 1, 1]
    assert params[1] == pytest.approx([0.4, 0.2], rel=1e-6)


def unit_coefs(param, grad, factor, eps):
    """Brock et al. 2021, equation 3, unit by unit."""
    if param.ndim < 2:
        return min(1.0, factor * max(norm(param), eps) / norm(grad))
    coefs = [min(1.0, factor * max(norm(p), eps) / norm(g)) for p, g in zip(param, grad, strict=True)]
    return np.reshape(coefs, (-1, *[1] * (param.ndim - 1)))


def test_units_have_limits_of_their_own(backend):
    params, grads = scaled([0.1**i for i in range(4)], 9), scaled([1.0] * 4)
    before = [p.copy() for p in params]
    opt = fastgd.SGD(params, lr=1.0, backend=backend)
    report = opt.step(grads, clip_adaptive=0.9, clip_adaptive_eps=0.02, clip_value=1.5, grad_scale=2.0)
    clamped = [np.clip(g / 2, -1.5, 1.5) for g in grads]
    coefs = [unit_coefs(p, g, 0.9, 0.02) for p, g in zip(before, clamped, strict=True)]
    assert {bool(c < 1) for each in coefs for c in np.ravel(each)} == {True, False}
    check(clamped, [b - p for b, p in zip(before, params, strict=True)], coefs)
    assert report == (None, pytest.approx(min(np.min(c) for c in coefs), rel=1e-14), False, None)


@pytest.mark.parametrize("runner", RUNNERS, ids=str)
def test_clipping_units_in_place_is_what_the_step_does(runner):
    """With lr 1 and parameters of 0, up to eps, the parameter is minus the clipped gradient."""
    shapes = [(40, 1000), (5, 3, 2), (20000,), (), (0, 3), (3, 0)]
    grads = [random(s, i) for i, s in enumerate(shapes)]
    scaled = [g.copy() for g in grads]
    params = [np.zeros(s, np.float32) for s in shapes]
    with runner.active():
        coef = fastgd.clip_grad_adaptive_(params, scaled, 0.5, 2.0, backend=runner.backend)
        opt = fastgd.SGD(params, lr=1.0, backend=runner.backend)
        report = opt.step(grads, clip_adaptive=0.5, clip_adaptive_eps=2.0)
    assert report.clip_coef == coef < 1
    for p, g in zip(params, scaled, strict=True):
        np.testing.assert_array_equal(p, -g)


@pytest.mark.parametrize("dtype", CODES)
def test_clipping_units_in_every_dtype(backend, dtype):
    params = [random(s, i).astype(dtype_named(dtype)) for i, s in enumerate(SHAPES)]
    grads = [random(s, 5 + i).astype(dtype_named(dtype)).T for i, s in enumerate(s[::-1] for s in SHAPES)]
    before = [g.copy() for g in grads]
    coef = fastgd.clip_grad_adaptive_(params, grads, 0.6, backend=backend)
    coefs = [
        unit_coefs(p.astype(np.float64), g.astype(np.float64), 0.6, 1e-3)
        for p, g in zip(params, before, strict=True)
    ]
    assert coef == pytest.approx(min(np.min(c) for c in coefs), rel=1e-14)
    epsilon = {"float64": 1e-15, "float32": 1e-6, "float16": 1e-3, "bfloat16": 8e-3}[dtype]
    for g, old, c in zip(grads, before, coefs, strict=True):
        np.testing.assert_allclose(g.astype(np.float64), old.astype(np.float64) * c, rtol=epsilon)
        untouched = np.broadcast_to(c == 1, g.shape)
        assert (g[untouched] == old[untouched]).all()


def test_gradients_within_their_limits_are_not_written(backend):
    """Their pages may only be read."""
    grad = np.frombuffer(mmap.mmap(-1, 2 * mmap.PAGESIZE), np.float32).reshape(2, -1)
    grad[:] = 1e-6
    grad[1] = 1
    locked = ctypes.c_void_p(grad.ctypes.data), ctypes.c_size_t(mmap.PAGESIZE)
    assert ctypes.CDLL(None).mprotect(*locked, 1) == 0
    assert fastgd.clip_grad_adaptive_([np.ones(grad.shape)], [grad], 0.1, backend=backend) < 1.0
    assert grad[1, 0] < 1
    assert fastgd.clip_grad_adaptive_([], [], backend=backend) == 1.0


def test_clipping_units_refuses_what_does_not_fit(backend):
    a, b = np.ones((2, 3)), np.ones((3, 2))
    for params, grads, error, reason in [
        ([a], [b], ValueError, r"gradient 0 has shape \(3, 2\), the parameter \(2, 3\)"),
        ([a, a], [b], ValueError, "got 1 gradients for 2 parameters"),
        ([a.astype(int)], [b], TypeError, "parameter 0 has dtype int64"),
        ([a, a], [b, b], ValueError, "gradient 0 and gradient 1 share memory"),
    ]:
        with pytest.raises(error, match=reason):
            fastgd.clip_grad_adaptive_(params, grads, backend=backend)
    for options in ({"clip_factor": -1}, {"eps": math.nan}):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must be at least 0"):
            fastgd.clip_grad_adaptive_([a], [a + 0], **options, backend=backend)
    with pytest.raises(ValueError, match="norm must be at least 0"):
        fastgd.normalize_grads_([a], -1.0, backend=backend)
    assert (a == 1).all()
    assert (b == 1).all()


@pytest.mark.parametrize("dtype", CODES)
def test_gradients_normalized_in_place(backend, dtype):
    for size in (0.01, 100.0):
        grads = scaled([size] * 4, dtype=dtype_named(dtype))
        before = fastgd.global_norm(grads, backend=backend)
        assert fastgd.normalize_grads_(grads, 3.0, backend=backend) == before
        assert fastgd.global_norm(grads, backend=backend) == pytest.approx(3, rel=1e-3)
    zeros = [np.zeros(3, dtype_named(dtype))]
    assert fastgd.normalize_grads_(zeros, backend=backend) == 0
    assert not zeros[0].any()


# ---- norms measured elsewhere ----


def pair(backend, dtype=np.float32):
    """Two optimizers over equal parameters, and gradients in other layouts and dtypes than theirs."""
    shapes = [(30, 40), (7,), (20000,)]
    opts = [
        fastgd.AdamW([np.asfortranarray(random(s, i, dtype)) for i, s in enumerate(shapes)], backend=backend)
        for _ in range(2)
    ]
    return opts, [random((30, 40), 5, dtype), random(7, 6, dtype), random(20000, 7, dtype)]


@pytest.mark.parametrize("param", ["float32", "float64"])
def test_sums_of_gradients_in_other_dtypes_than_their_parameters(backend, param):
    """Each in the precision of its own, as global_norm takes them."""
    opt = fastgd.SGD([np.zeros(999, param) for _ in CODES], backend=backend)
    grads = [random(999, i).astype(dtype_named(name)) for i, name in enumerate(CODES)]
    assert opt.sumsq(grads) == fastgd.global_norm(grads, backend="reference") ** 2


@pytest.mark.parametrize("runner", RUNNERS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_process_that_sums_alone_steps_as_without(runner, dtype):
    (plain, summing), grads = pair(runner.backend, dtype)
    options = {"clip_value": 1.5, "grad_scale": 3.0}
    with runner.active():
        for _ in range(3):
            expected = plain.step(grads, clip_norm=0.5, **options)
            with unchanged(summing):
                total = summing.sumsq(grads, **options)
            report = summing.step(grads, clip_norm=0.5, total_norm=math.sqrt(total), **options)
            assert report == expected
    assert contents(plain) == contents(summing)


def test_several_processes_clip_by_the_norm_of_all(backend):
    """Each holds some of the parameters."""
    grads = [random(5, i, np.float64) for i in range(3)]
    together = [np.zeros(5) for _ in grads]
    expected = fastgd.SGD(together, lr=1.0, backend=backend).step(grads, clip_norm=1.0)
    apart = [np.zeros(5) for _ in grads]
    opts = [fastgd.SGD([p], lr=1.0, backend=backend) for p in apart]
    total = sum(opt.sumsq([g]) for opt, g in zip(opts, grads, strict=True))
    for opt, g in zip(opts, grads, strict=True):
        report = opt.step([g], clip_norm=1.0, total_norm=math.sqrt(total))
        assert report.grad_norm == pytest.approx(expected.grad_norm, rel=1e-15)
    np.testing.assert_allclose(apart, together, rtol=1e-14)


def test_sums_of_what_is_not_finite_or_not_there(backend):
    opt = fastgd.SGD([np.ones(2), np.ones(3, np.float32)], backend=backend)
    assert opt.sumsq([None, None]) == 0.0
    assert opt.sumsq([np.array([3.0, 4.0]), None]) == 25.0
    assert opt.sumsq([np.full(2, 1e200), None]) == math.inf
    assert opt.sumsq([None, np.full(3, math.inf, np.float32)]) == math.inf
    assert math.isnan(opt.sumsq([None, np.full(3, math.nan, np.float32)]))
    rows = fastgd.Rows(np.array([1, 1]), np.array([3.0, 4.0]))
    assert opt.sumsq([rows, None]) == pytest.approx(49, rel=1e-15)
    with pytest.raises(ValueError, match="has shape"):
        opt.sumsq([np.ones(3), None])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_total_that_is_not_finite_skips_the_step(backend, bad):
    opt = fastgd.SGD([np.ones(2)], backend=backend)
    with unchanged(opt):
        report = opt.step([np.ones(2)], clip_norm=1.0, total_norm=bad, skip_nonfinite=True)
    assert report.skipped
    assert report.nonfinite is None
    assert str(report.grad_norm) == str(bad)
    with unchanged(opt):
        report = opt.step([np.array([1, math.nan])], total_norm=1.0, skip_nonfinite=True)
    assert (report.skipped, report.nonfinite.element) == (True, (1,))
    assert opt.step([np.ones(2)], total_norm=1.0, skip_nonfinite=True) == (1.0, 1.0, False, None)


def test_without_skipping_a_total_that_is_not_finite_does_what_it_says(backend):
    """As torch's: nothing is left of gradients by an infinite norm, and NaN spoils all."""
    param = np.ones(2)
    opt = fastgd.SGD([param], lr=1.0, backend=backend)
    assert opt.step([np.ones(2)], clip_norm=1.0, total_norm=math.inf) == (math.inf, 0.0, False, None)
    assert param.tolist() == [1, 1]
    report = opt.step([np.ones(2)], clip_norm=1.0, total_norm=math.nan)
    assert math.isnan(report.grad_norm)
    assert math.isnan(report.clip_coef)
    assert np.isnan(param).all()


REFUSED = [
    ({"clip_scope": "rows"}, "clip_scope must be one of all, group, tensor, not 'rows'"),
    ({"clip_scope": 2}, "clip_scope must be one of all, group, tensor, not int"),
    ({"normalize": True}, "normalize needs clip_norm"),
    ({"normalize": 1, "clip_norm": 1.0}, "normalize must be True or False"),
    ({"total_norm": 1.0}, "total_norm is for clip_norm or skip_nonfinite"),
    ({"total_norm": -1.0, "clip_norm": 1.0}, "total_norm must not be negative, not -1.0"),
    ({"total_norm": "1", "clip_norm": 1.0}, "total_norm must be a number, not '1'"),
    ({"total_norm": 1.0, "clip_norm": 1.0, "clip_scope": "group"}, "total_norm is the norm of all gradients"),
    ({"clip_adaptive": 0.1, "clip_norm": 1.0}, "clip_adaptive and clip_norm are two ways to clip"),
    ({"clip_adaptive": -0.1}, "clip_adaptive must be at least 0, not -0.1"),
    (
        {"clip_adaptive": 0.1, "clip_adaptive_eps": math.inf},
        "clip_adaptive_eps must be at least 0 and finite",
    ),
]


@pytest.mark.parametrize(("options", "reason"), REFUSED, ids=lambda v: v if isinstance(v, str) else "")
def test_options_that_do_not_go_together(backend, options, reason):
    opt = fastgd.SGD([np.ones(2)], backend=backend)
    for _ in range(2):
        with unchanged(opt), pytest.raises((TypeError, ValueError), match=f"^{reason}"):
            opt.step([np.ones(2)], **options)
    opt.step([np.ones(2)], clip_norm=1.0)


def test_ways_of_clipping_take_turns_over_any_layout(backend):
    """Units are counted in C order and other elements in that of memory: the plan knows which it is for."""
    param = np.asfortranarray(random((50, 60), 0))
    grad = random((50, 60), 1)
    opt = fastgd.AdamW([param], backend=backend)
    for options in ({}, {"clip_adaptive": 0.1}, {"clip_norm": 0.1}, {"clip_adaptive": 0.2}, {}):
        check_step(opt, [grad], **options)
