"""Clipping in the reference, against plain loops: by units, by norms of every scope, and of arrays alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
from handmade import BF16, F16, F32, F64, FLOATS, Training, close, norm, random

from fastgd import backends
from fastgd.backends.base import UNMEASURED, Options
from fastgd.storage import arithmetic, load, store

REFERENCE = backends.get("reference")
MEASURE = Options(measure=True)


# ---- Clipping unit by unit --------------------------------------------------------------------------


def units_of(array):
    return list(array) if array.ndim >= 2 else [array]


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("shape", [(7, 3, 4), (40,), (3, 20000), (), (5, 1)], ids=str)
def test_clipping_by_units_is_the_papers_formula(shape, maximize):
    """Brock et al. 2021, equation 3: rows of matrices, output channels of convolutions, vectors whole."""
    param, grad = random(0, shape), random(1, shape, scale=8)
    before = param.copy()
    if len(shape) == 3:
        param[2] *= 1e-6
        before[2] *= 1e-6
        grad[4] = 0
        grad[5] *= 1e-5
    training = Training("sgd", [param, np.ones(2)], lr=1.0, maximize=maximize)
    report = training.step([grad, np.zeros(2)], clip_unit=0.1, unit_eps=1e-2, clip_value=9.0, grad_scale=2.0)
    coefs = []
    for after, x, g in zip(units_of(param), units_of(before), units_of(grad), strict=True):
        g = np.clip(g / 2, -9, 9)
        limit = 0.1 * max(norm(x), 1e-2)
        coefs.append(1.0 if norm(g) <= limit else limit / norm(g))
        close(after, x + g * coefs[-1] if maximize else x - g * coefs[-1])
    if len(shape) == 3:
        assert coefs[4:6] == [1.0, 1.0]
    assert min(coefs) < 1
    assert report.clip_coef == pytest.approx(min(coefs), rel=1e-14)
    assert math.isnan(report.norm)
    assert (report.nonfinite, report.skipped) == (None, False)


def test_units_that_are_within_the_limit_are_left_as_they_are():
    outcomes = []
    for options in ({}, {"clip_unit": 10.0}):
        training = Training("adam", [random(0, (4, 5), F32)])
        report = training.step([random(1, (4, 5), F32)], grad_scale=3.0, **options)
        outcomes.append(training.bytes())
        assert report.clip_coef == 1
    assert outcomes[0] == outcomes[1]


def test_units_of_zero_limit_what_is_not_zero():
    """Nothing is divided by 0."""
    param, grad = np.zeros((3, 2)), np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1e-9]])
    report = Training("sgd", [param], lr=1.0).step([grad], clip_unit=0.5, unit_eps=0.0)
    np.testing.assert_array_equal(param, 0)
    assert report.clip_coef == 0


def test_units_are_of_the_whole_parameter_where_rounding_has_kept_a_rest():
    """A bfloat16 of 1 with a residual: its norm is that of both."""
    training = Training("sgd", [np.ones((2, 3), BF16)], rounding="kahan", lr=1.0)
    training.residuals[0][...] = 2.0**-9
    report = training.step([np.full((2, 3), 8.0, F32)], clip_unit=1.0)
    assert report.clip_coef == pytest.approx((1 + 2.0**-9) / 8, rel=1e-12)


# ---- Clipping by norms ------------------------------------------------------------------------------

SHAPES = ((5, 4), (17,), (), (20000,), (0,), (3,))
GROUPS = [0, 0, 1, 1, 2, 2]


def clipped(grads, coefs):
    """What SGD with lr 1 makes of parameters of 0."""
    return [-(g * coef) for g, coef in zip(grads, coefs, strict=True)]


def coef_of(norm, limit, normalize):
    if normalize:
        return limit / (norm + 1e-6) if norm else 1.0
    return min(1.0, limit / (norm + 1e-6))


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("norm_type", [2.0, math.inf])
@pytest.mark.parametrize("scope", ["all", "group", "tensor"])
def test_each_scope_has_its_own_norm(scope, norm_type, normalize):
    grads = [random(k, shape, scale=10.0 ** (k - 3)) for k, shape in enumerate(SHAPES)]
    grads[-1][...] = 0
    of = {"all": [0] * 6, "group": GROUPS, "tensor": range(6)}[scope]

    def together(indices):
        values = np.concatenate([grads[i].reshape(-1) for i in indices])
        return norm(values) if norm_type == 2 else float(np.abs(values).max(initial=0))

    norms = [together([i for i in range(6) if of[i] == of[k]]) for k in range(6)]
    coefs = [coef_of(n, 2.0, normalize) for n in norms]
    training = Training("sgd", [np.zeros(s) for s in SHAPES], groups=GROUPS, lr=1.0)
    report = training.step(grads, clip_norm=2.0, norm=norm_type, scope=scope, normalize=normalize)
    for p, expected in zip(training.params, clipped(grads, coefs), strict=True):
        close(p, expected)
    assert report.norm == pytest.approx(together(range(6)), rel=1e-14)
    assert report.clip_coef == pytest.approx(min(coefs), rel=1e-12)


def test_the_scope_of_a_tensor_is_the_tensor_alone():
    """The same bits as tensors trained one by one."""
    grads = [random(k, 20000, F32) * F32.type(10.0**k) for k in range(3)]
    together = Training("adam", [np.zeros(20000, F32) for _ in grads])
    together.step(grads, clip_norm=0.5, scope="tensor", clip_value=2.0)
    for k, grad in enumerate(grads):
        alone = Training("adam", [np.zeros(20000, F32)])
        alone.step([grad], clip_norm=0.5, clip_value=2.0)
        assert alone.params[0].tobytes() == together.params[k].tobytes()


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_what_is_not_finite_spoils_its_scope_only_and_is_reported(backend, bad):
    """Wherever it stands among the others, the coefficient in the report is NaN."""
    grads = [np.ones(3), np.ones(4), np.ones(2)]
    grads[bad][1] = np.nan
    for options in ({"clip_norm": 1.0, "scope": "tensor"}, {"clip_unit": 0.1, "measure": True}):
        training = Training("sgd", [np.zeros(g.shape) for g in grads], lr=1.0, backend=backend)
        report = training.step(grads, **options)
        assert [bool(np.isfinite(p).all()) for p in training.params] == [i != bad for i in range(3)]
        assert math.isnan(report.norm)
        assert math.isnan(report.clip_coef)
        assert report.nonfinite == bad


def test_normalizing_brings_small_gradients_up_and_leaves_none_alone():
    param = np.zeros(4)
    report = Training("sgd", [param], lr=1.0).step([np.full(4, 1e-3)], clip_norm=3.0, normalize=True)
    assert norm(param) == pytest.approx(3 * 2e-3 / (2e-3 + 1e-6), rel=1e-12)
    assert report.clip_coef > 1000
    report = Training("sgd", [param]).step([np.zeros(4)], clip_norm=3.0, normalize=True)
    assert (report.norm, report.clip_coef) == (0.0, 1.0)


def test_a_total_norm_that_is_given_stands_for_the_measured_one():
    grads = [random(0, 5), random(1, 20000)]
    training = Training("sgd", [np.zeros(5), np.zeros(20000)], lr=1.0)
    report = training.step(grads, clip_norm=2.0, total_norm=8.0)
    assert report == (8.0, 2.0 / (8.0 + 1e-6), None, False)
    for p, expected in zip(training.params, clipped(grads, [report.clip_coef] * 2), strict=True):
        close(p, expected)
    measured = Training("sgd", [np.zeros(5), np.zeros(20000)], lr=1.0)
    total = measured.step(grads, clip_norm=2.0).norm
    same = Training("sgd", [np.zeros(5), np.zeros(20000)], lr=1.0)
    assert same.step(grads, clip_norm=2.0, total_norm=total, skip_nonfinite=True).norm == total
    assert same.bytes() == measured.bytes()


@pytest.mark.parametrize("total", [math.nan, math.inf, 1.0])
@pytest.mark.parametrize("bad", [False, True])
def test_a_step_is_skipped_for_a_total_or_a_gradient_that_is_not_finite(total, bad):
    grads = [np.ones(2), np.array([1.0, math.inf if bad else 2.0])]
    training = Training("sgd", [np.zeros(2), np.zeros(2)])
    report = training.step(grads, total_norm=total, skip_nonfinite=True)
    assert report.skipped == (bad or not math.isfinite(total))
    assert report.nonfinite == (1 if bad else None)
    assert training.steps.tolist() == [0 if report.skipped else 1] * 2


def test_nothing_is_measured_that_nobody_needs():
    training = Training("sgd", [np.zeros(2)])
    assert training.step([np.array([np.nan, 1.0])]) is UNMEASURED
    assert training.step([np.array([np.nan, 1.0])], clip_norm=1.0, total_norm=1.0).nonfinite is None


# ---- Arrays on their own ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_norms_and_clipping_of_arrays_in_any_dtype(dtype):
    arrays = [random(k, shape, dtype) for k, shape in enumerate(((30, 7), (0,), (), (20000,)))]
    arrays[0] = arrays[0].T
    values = [load(a, F64) for a in arrays]
    right = [norm(v) for v in values]
    assert REFERENCE.norms(arrays, MEASURE) == pytest.approx(right, rel=1e-14)
    total = REFERENCE.measure(arrays, MEASURE).norm
    assert total == pytest.approx(norm(np.array(right)), rel=1e-14)
    real = arithmetic(np.dtype(dtype))
    for options, coefs in [
        (Options(clip_norm=2.0), [2 / (total + 1e-6)] * 4),
        (Options(clip_norm=2.0, scope="tensor", normalize=True), [coef_of(r, 2.0, True) for r in right]),
        (Options(clip_value=0.5), [1.0] * 4),
    ]:
        mine = [a.copy() for a in arrays]
        REFERENCE.clip(mine, options)
        for new, old, coef in zip(mine, arrays, coefs, strict=True):
            limited = np.clip(load(old, real), -options.clip_value, options.clip_value)
            np.testing.assert_array_equal(
                load(new, real), load(store(limited * real(coef), np.dtype(dtype)), real)
            )


def test_norms_are_summed_in_the_order_of_memory():
    """So that one pass over memory takes them; any other order has other roundings."""
    arrays = [random(k, (300, 70)) for k in range(8)]
    across = [np.asfortranarray(a) for a in arrays]
    in_memory = [a.T.reshape(-1) for a in arrays]
    assert REFERENCE.norms(across, MEASURE) == REFERENCE.norms(in_memory, MEASURE)
    assert REFERENCE.norms(across, MEASURE) != REFERENCE.norms(arrays, MEASURE)


@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_the_norm_of_16_bits_is_summed_in_64(dtype):
    ones = np.ones(200_000, F32).astype(dtype)
    assert REFERENCE.measure([ones], MEASURE).norm == 200_000**0.5
    huge = np.full(4, np.finfo(F16).max, F32).astype(dtype)
    assert REFERENCE.measure([huge], MEASURE).norm == 2 * float(load(huge[:1], F64)[0])
