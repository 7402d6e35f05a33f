"""Norms and clipping, alone and inside the step: right to float64's accuracy and the same on all backends."""

import math

import numpy as np
import pytest
from snapshots import BACKENDS

import fastgd
from fastgd import verification

RUNNERS = verification.runners()


def exact_norm(arrays):
    """Sum of squares without rounding error, in units of the largest element."""
    largest = max(float(np.abs(a).max()) for a in arrays if a.size)
    if largest == 0:
        return 0.0
    squares = [(float(x) / largest) ** 2 for a in arrays for x in a.reshape(-1)]
    return largest * math.sqrt(math.fsum(squares))


def random_arrays(dtype, shapes=((3, 5), (0,), (), (20000,), (17,)), scale=1.0):
    rng = np.random.default_rng(3)
    return [np.asarray(rng.standard_normal(s) * scale, dtype) for s in shapes]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("runner", RUNNERS, ids=str)
def test_norms_are_right_and_have_the_same_bits_everywhere(runner, dtype):
    for scale in (1.0, 1e-20, 1e20):
        arrays = random_arrays(dtype, scale=scale)
        with runner.active():
            two = fastgd.global_norm(arrays, backend=runner.backend)
            most = fastgd.global_norm(arrays, math.inf, backend=runner.backend)
            each = fastgd.tensor_norms(arrays, backend=runner.backend)
        assert two == pytest.approx(exact_norm(arrays), rel=1e-14)
        assert most == max(float(np.abs(a).max()) for a in arrays if a.size)
        assert each == pytest.approx([exact_norm([a]) if a.size else 0.0 for a in arrays], rel=1e-14)
        assert two == fastgd.global_norm(arrays, backend="reference")
        assert each == fastgd.tensor_norms(arrays, backend="reference")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_norm_beyond_float64_is_an_error_where_that_is_asked_for(backend):
    grads = [np.full(4, 1.7e308)]
    with pytest.raises(ValueError, match="the global norm is inf: all gradients are finite"):
        fastgd.clip_grad_norm_(grads, 1.0, error_if_nonfinite=True, backend=backend)
    assert (grads[0] == 1.7e308).all()
    report = fastgd.SGD([np.ones(4)], backend=backend).step(grads, clip_norm=1.0, skip_nonfinite=True)
    assert report == (math.inf, 0.0, True, None)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [1e200, 1e-200, 5e-324, 1.7e308])
def test_float64_squares_neither_overflow_nor_vanish(backend, value):
    arrays = [np.full(3, value), np.full(1, value)]
    assert fastgd.global_norm(arrays, backend=backend) == pytest.approx(2 * value, rel=1e-15)
    assert fastgd.tensor_norms(arrays, backend=backend) == pytest.approx([3**0.5 * value, value], rel=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_one_overflowing_tensor_leaves_the_others_norms_alone(backend):
    arrays = [np.full(2, 1e200), np.full(2, 3.0), np.zeros(4), np.full(2, 1e-200)]
    expected = [2**0.5 * 1e200, 18**0.5, 0.0, 2**0.5 * 1e-200]
    assert fastgd.tensor_norms(arrays, backend=backend) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("backend", BACKENDS)
def test_norms_of_nothing(backend):
    assert fastgd.global_norm([], backend=backend) == 0.0
    assert fastgd.global_norm([np.zeros(0, np.float32)], backend=backend) == 0.0
    assert fastgd.tensor_norms([], backend=backend) == []
    assert fastgd.global_norm([np.zeros(5)], math.inf, backend=backend) == 0.0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_norms_of_what_is_not_finite(backend, dtype):
    inf, nan = [np.array([1, -math.inf], dtype)], [np.array([math.inf, math.nan], dtype)]
    for norm_type in (2, math.inf):
        assert fastgd.global_norm(inf, norm_type, backend=backend) == math.inf
        assert math.isnan(fastgd.global_norm(nan, norm_type, backend=backend))


def test_the_norm_of_thirty_million_floats():
    """torch 2.13 is wrong by 1e-3 here."""
    x = np.random.default_rng(0).random(30_000_000, np.float32)
    expected = math.sqrt(float(np.sum(np.square(x.astype(np.longdouble)))))
    assert fastgd.global_norm([x]) == pytest.approx(expected, rel=1e-13)


def test_float32_gradients_of_1e20_are_scaled_and_not_zeroed():
    """torch 2.13 finds an infinite norm and zeroes them."""
    grads = [np.full(1, 1e20, np.float32) for _ in range(4)]
    assert fastgd.clip_grad_norm_(grads, 1.0) == pytest.approx(2e20, rel=1e-7)
    assert np.concatenate(grads) == pytest.approx(np.full(4, 0.5), rel=1e-6)


@pytest.mark.parametrize("runner", RUNNERS, ids=str)
@pytest.mark.parametrize("norm_type", [2.0, math.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_clip_grad_norm(runner, dtype, norm_type):
    grads = random_arrays(dtype)
    with runner.active():
        norm = fastgd.clip_grad_norm_(grads, 0.5, norm_type, backend=runner.backend)
    before = random_arrays(dtype)
    assert norm == fastgd.global_norm(before, norm_type, backend="reference")
    coef = dtype(0.5 / (norm + 1e-6))
    for grad, old in zip(grads, before, strict=True):
        np.testing.assert_array_equal(grad, old * coef, strict=True)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_below_the_limit_are_left_alone(backend):
    grads = random_arrays(np.float32)
    fastgd.clip_grad_norm_(grads, 1e9, backend=backend)
    for grad, old in zip(grads, random_arrays(np.float32), strict=True):
        np.testing.assert_array_equal(grad, old)


@pytest.mark.parametrize("backend", BACKENDS)
def test_error_if_nonfinite_changes_nothing(backend):
    for bad in (math.nan, math.inf):
        grads = [np.ones(3, np.float32), np.array([2, bad], np.float32)]
        before = [g.copy() for g in grads]
        with pytest.raises(ValueError, match="gradient 1 is not finite"):
            fastgd.clip_grad_norm_(grads, 1.0, error_if_nonfinite=True, backend=backend)
        for grad, old in zip(grads, before, strict=True):
            np.testing.assert_array_equal(grad, old)


@pytest.mark.parametrize("runner", RUNNERS, ids=str)
def test_clip_grad_value(runner):
    x = np.array([-3, -1, -0.5, 0, 0.5, 1, 3, math.nan, math.inf, -math.inf] * 5, np.float32)
    with runner.active():
        fastgd.clip_grad_value_([clipped := x.copy()], 0.75, backend=runner.backend)
    np.testing.assert_array_equal(clipped, np.clip(x, -0.75, 0.75))


@pytest.mark.parametrize("backend", BACKENDS)
def test_clipping_refuses_what_it_would_clip_twice_or_cannot_write(backend):
    a, frozen = np.ones((2, 3), np.float32), np.ones(3)
    frozen.flags.writeable = False
    wide = np.lib.stride_tricks.as_strided(np.ones(4, np.float32), (3, 2), (4, 4), writeable=True)
    for grads, reason in [
        ([a, a], "gradient 0 and gradient 1 share memory"),
        ([a, a[1:]], "gradient 0 and gradient 1 share memory"),
        ([a, frozen], "gradient 1 is read-only"),
        ([wide], "gradient 0 overlaps itself"),
    ]:
        with pytest.raises(ValueError, match=reason):
            fastgd.clip_grad_norm_(grads, 0.1, backend=backend)
    with pytest.raises(TypeError, match="gradient 1 has dtype int64"):
        fastgd.clip_grad_value_([a, np.ones(3, np.int64)], 0.1, backend=backend)
    with pytest.raises(ValueError, match="norm_type"):
        fastgd.clip_grad_norm_([a], 0.1, 3.0, backend=backend)
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm"):
            fastgd.clip_grad_norm_([a], bad, backend=backend)
    assert (a == 1).all()


@pytest.mark.parametrize("runner", RUNNERS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_step_clips_as_clipping_before_it_would(runner, dtype):
    """grad_scale, then clip_value, then clip_norm: a power of two as scale makes it exact."""
    rng = np.random.default_rng(8)
    start = [rng.standard_normal(n).astype(dtype) for n in (5, 16384, 3)]
    grads = [rng.standard_normal(n).astype(dtype) * 8 for n in (5, 16384, 3)]
    inside, outside = ([p.copy() for p in start] for _ in range(2))
    with runner.active():
        a = fastgd.AdamW(inside, backend=runner.backend)
        b = fastgd.AdamW(outside, backend=runner.backend)
        for _ in range(3):
            report = a.step(grads, clip_norm=0.7, clip_value=0.9, grad_scale=8.0)
            mine = [g / dtype(8) for g in grads]
            fastgd.clip_grad_value_(mine, 0.9, backend=runner.backend)
            norm = fastgd.clip_grad_norm_(mine, 0.7, backend=runner.backend)
            b.step(mine)
    assert report.grad_norm == norm
    assert report.clip_coef == 0.7 / (norm + 1e-6)
    for p, q in zip(inside, outside, strict=True):
        np.testing.assert_array_equal(p, q)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("clip_value", [None, 0.5])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_skipped_step_changes_no_byte(backend, clip_value, bad):
    """Also with clip_value, which would hide an infinity."""
    rng = np.random.default_rng(1)
    shapes = [(3, 4)] * 300
    params = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    grads = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    opt = fastgd.AdamW(params, backend=backend)
    opt.step(grads)
    before = [p.tobytes() for p in params], opt.state_dict()
    grads[137][2, 1] = bad
    report = opt.step(grads, skip_nonfinite=True, clip_value=clip_value)
    assert report.skipped
    assert report.nonfinite[:4] == (0, 137, None, (2, 1))
    assert str(report.nonfinite.value) == str(bad)
    assert [p.tobytes() for p in params] == before[0]
    np.testing.assert_equal(opt.state_dict(), before[1])
    grads[137][2, 1] = 0
    assert not opt.step(grads, skip_nonfinite=True, clip_value=clip_value).skipped
    assert params[0].tobytes() != before[0][0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("skip", [False, True])
def test_what_is_infinite_in_the_precision_of_the_step_is_found(backend, skip):
    param, grad = np.ones((2, 2), np.float32), np.array([[1, 2], [1e300, 3]])
    report = fastgd.SGD([param], backend=backend).step([grad], clip_norm=1.0, skip_nonfinite=skip)
    assert report.skipped == skip
    assert report.nonfinite[:4] == (0, 0, None, (1, 0))
    assert report.nonfinite.value == 1e300
    assert (param == 1).all() == skip


@pytest.mark.parametrize("backend", BACKENDS)
def test_adaptive_clipping_does_not_write_parameters(backend):
    array = np.ones((4, 3), np.float32)
    other = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="parameter 1 and gradient 0 share memory"):
        fastgd.clip_grad_adaptive_([other, array[:2]], [array[1:3], other.copy()], backend=backend)
    assert (array == 1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_never_written(backend):
    grads = random_arrays(np.float32)
    params = random_arrays(np.float32)
    for g in grads:
        g.flags.writeable = False
    fastgd.SGD(params, backend=backend).step(grads, clip_norm=0.1, clip_value=0.2, grad_scale=3)
    for grad, old in zip(grads, random_arrays(np.float32), strict=True):
        np.testing.assert_array_equal(grad, old)
