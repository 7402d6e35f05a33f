"""What stands around a rule in the reference, against plain loops: cautious steps, trust ratios, averages,
copies, rows of a parameter, and steps that are skipped.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from handmade import BF16, F16, F32, FLOATS, Training, close, norm, numbers, random

from fastgd.rules import RULES, Trust
from fastgd.settings import CODED
from fastgd.storage import arithmetic, load, store

# ---- Cautious steps ---------------------------------------------------------------------------------


@pytest.mark.parametrize("maximize", [False, True])
def test_cautious_adamw_is_the_papers_algorithm(maximize):
    """Liang et al. 2024, algorithm 1, with the scale of its authors' code."""
    h = {"lr": 0.03, "betas": (0.8, 0.9), "eps": 1e-3, "weight_decay": 0.2}
    param = random(0, 200)
    x, m, v = param.copy(), np.zeros(200), np.zeros(200)
    training = Training("adamw", [param], cautious=True, maximize=maximize, **h)
    for t in range(1, 8):
        grad = random(t, 200)
        training.step([grad])
        g = -grad if maximize else grad
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g * g
        step = 0.03 * m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.9**t)) + 1e-3)
        keeps = [step[i] * g[i] > 0 for i in range(200)]
        scale = 200 / sum(keeps)
        for i in range(200):
            x[i] = x[i] * (1 - 0.03 * 0.2) - (scale * step[i] if keeps[i] else 0)
        close(param, x)
        close(training.state[0][0], m)
    assert 0 < sum(keeps) < 200


def test_cautious_steps_where_nothing_descends_only_decay():
    """Momentum that leads the other way everywhere, or gradients of 0."""
    for grad in (np.full(50, -0.1), np.zeros(50)):
        param = random(0, 50)
        training = Training("adamw", [param], cautious=True, lr=0.1, weight_decay=0.5)
        training.step([np.ones(50)])
        before = param.copy()
        training.step([grad])
        close(param, before * (1 - 0.1 * 0.5))


def test_the_scale_of_cautious_steps_is_a_thousand_at_most():
    """One element in 5000 descends."""
    param = np.zeros(5000)
    training = Training("sgd", [param], cautious=True, lr=0.5, momentum=0.9)
    training.step([np.ones(5000)])
    np.testing.assert_array_equal(param, -0.5)
    grad = np.full(5000, -1e-3)
    grad[17] = 1.0
    training.step([grad])
    close(param[17], -0.5 - 1000 * 0.5 * 1.9)
    np.testing.assert_array_equal(np.delete(param, 17), -0.5)


def test_cautious_changes_nothing_where_every_element_descends():
    """The first step of Adam follows the gradient's sign, and the scale is 1."""
    outcomes = []
    for cautious in (False, True):
        training = Training("adamw", [random(0, 30, F32)], cautious=cautious, lr=0.1)
        training.step([random(1, 30, F32)])
        outcomes.append(training.bytes())
    assert outcomes[0] == outcomes[1]


# ---- Trust ratios -----------------------------------------------------------------------------------


def trusted(of, ratio):
    """SGD with decoupled weight decay, and a trust ratio in front of the step."""
    sgd = RULES["sgd"]

    def body(xp, p, g, x, s, on):
        x.momentum_buffer = s.momentum * x.momentum_buffer + g
        return s.decay * p - s.trust * (s.lr * x.momentum_buffer)

    return sgd._replace(
        name="trusted",
        scalars=("lr", "decay", "momentum", "trust"),
        # what fold says of trust is not used
        fold=lambda h, step, carried: (h["lr"], 1.0 - h["weight_decay"], h["momentum"], 5.0),
        body=body,
        trust=Trust(of, ratio),
    )


@pytest.mark.parametrize("cautious", [False, True])
@pytest.mark.parametrize("of", ["step", "gradient"])
def test_the_trust_ratio_is_of_each_tensors_norms(of, cautious):
    seen = []

    def ratio(param_norm, other, size, scalars):
        seen.append((param_norm, other, size, scalars))
        return scalars["lr"] * 7 * param_norm / other

    params = [random(0, (6, 5)), random(1, 20)]
    plain = [p.copy() for p in params]
    buffers = [np.zeros(p.shape) for p in params]
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01, "cautious": cautious, "maximize": True}
    training = Training(trusted(of, ratio), params, **settings)
    for t in range(3):
        grads = [random(10 * t + k, p.shape) for k, p in enumerate(params)]
        training.step(grads, clip_value=1.0, grad_scale=2.0)
        for k, (x, b, grad) in enumerate(zip(plain, buffers, grads, strict=True)):
            g = -np.clip(grad / 2, -1, 1)
            b[...] = 0.9 * b + g
            step = 0.1 * b
            other = norm(step if of == "step" else g)
            assert seen[2 * t + k][:2] == pytest.approx((norm(x), other), rel=1e-14)
            assert seen[2 * t + k][2] == math.sqrt(x.size)
            assert seen[2 * t + k][3] == {"lr": 0.1, "decay": 0.99, "momentum": 0.9, "trust": 5.0}
            step = 0.1 * 7 * norm(x) / other * step
            if cautious:
                keeps = step * g > 0
                step = np.where(keeps, step, 0) / keeps.mean()
            x[...] = 0.99 * x - step
            close(params[k], x)
            close(training.state[k][0], b)


@pytest.mark.parametrize("of", ["step", "gradient"])
def test_norms_for_the_trust_ratio_are_summed_in_float64(of):
    seen = []
    rule = trusted(of, lambda param, other, size, scalars: seen.append((param, other)) or 1.0)
    Training(rule, [np.full(4, 2.0**100, F32)], lr=1.0, momentum=0.5).step([np.full(4, 2.0**90, F32)])
    assert seen == [(2.0**101, 2.0**91)]


def test_the_trust_ratio_is_rounded_to_the_arithmetic():
    rule = trusted("gradient", lambda param, other, size, scalars: 1 / 3)
    param = np.zeros(3, F32)
    Training(rule, [param], lr=1.0, momentum=0.5).step([np.ones(3, F32)])
    np.testing.assert_array_equal(param, -F32.type(1 / 3))


# ---- Averages and copies ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_averages_are_of_the_parameters_before_they_are_rounded(dtype):
    real = arithmetic(np.dtype(dtype))
    start = random(0, 300, dtype)
    training = Training("sgd", [start.copy()], ema_decay=0.75, lr=0.01)
    x, average = numbers(start), numbers(start)
    for t in range(5):
        grad = random(t + 1, 300, dtype)
        training.step([grad])
        x = x - real(0.01) * numbers(grad)
        average = average + real(0.25) * (x - average)
        x = numbers(store(x, np.dtype(dtype)))
    assert training.averages[0].tobytes() == average.tobytes()
    assert training.params[0].tobytes() == store(x, np.dtype(dtype)).tobytes()


@pytest.mark.parametrize("copy", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_copies_are_the_new_parameters_rounded_once(dtype, copy):
    start, grad = random(0, (20, 15), dtype), random(1, (20, 15), dtype)
    rounding = "stochastic" if dtype == BF16 else "nearest"
    training = Training("sgd", [start.copy()], copy=copy, lr=0.01, rounding=rounding)
    training.step([grad])
    real = arithmetic(np.dtype(dtype))
    assert training.copies[0].tobytes() == store(numbers(start) - real(0.01) * numbers(grad), copy).tobytes()


# ---- Rows -------------------------------------------------------------------------------------------

ROWS = np.array([6, 0, 3])


def dense(grad, shape):
    whole = np.zeros(shape, grad.dtype)
    whole[ROWS] = grad
    return whole


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan", "master", "split"])
@pytest.mark.parametrize("shape", [(8, 5), (8,), (8, 2, 3), (8, 0)], ids=str)
def test_rows_of_sgd_are_a_dense_step(shape, rounding):
    """A gradient of 0 leaves a parameter alone, so both must come to the same, random bits included."""
    start, grad = random(0, shape, BF16), random(1, (3, *shape[1:]), F32)
    settings = {"rounding": rounding, "copy": F32, "ema_decay": 0.0, "lr": 0.01}
    some, all_ = (Training("sgd", [start.copy()], **settings) for _ in range(2))
    for training in (some, all_):
        training.copies[0][...] = load(start, F32)
    for _ in range(3):
        reports = [
            some.step([grad], rows=[ROWS], clip_norm=1.0, clip_value=0.9),
            all_.step([dense(grad, shape)], clip_norm=1.0, clip_value=0.9),
        ]
        assert reports[0].norm == pytest.approx(reports[1].norm, rel=1e-15)
        assert some.bytes() == all_.bytes()


@pytest.mark.parametrize("state_rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("cautious", [False, True])
def test_only_the_rows_of_a_gradient_are_touched(cautious, state_rounding):
    """In them Adam does as in a parameter of these rows alone; a few steps after others."""
    settings = {
        "state_dtype": BF16,
        "state_rounding": state_rounding,
        "copy": F16,
        "ema_decay": 0.5,
        "cautious": cautious,
        "weight_decay": 0.1,
        "lr": 0.01,
    }
    training = Training("adam", [random(0, (8, 5), F32)], **settings)
    for t in range(3):
        training.step([random(t, (8, 5), F32)])
    before = [a.copy() for a in training.arrays()]
    small = Training("adam", [training.params[0][ROWS]], **settings)
    for whole, part in zip(training.arrays(), small.arrays(), strict=True):
        part[...] = whole if whole is training.steps else whole[ROWS]
    grad = random(9, (3, 5), F32)
    training.step([grad], rows=[ROWS])
    small.step([grad])
    for old, new, part in zip(before[1:], training.arrays()[1:], small.arrays()[1:], strict=True):
        np.testing.assert_array_equal(np.delete(new, ROWS, axis=0), np.delete(old, ROWS, axis=0))
        assert (new[ROWS] != old[ROWS]).any()
        if state_rounding == "nearest":  # by chance, each element has bits of its own
            assert new[ROWS].tobytes() == part.tobytes()
    assert training.steps.tolist() == [4]


def test_no_rows_at_all():
    training = Training("adam", [random(0, (8, 5))])
    before = training.params[0].copy()
    training.step([np.zeros((0, 5))], rows=[np.zeros(0, np.int64)], clip_norm=1.0)
    np.testing.assert_array_equal(training.params[0], before)
    assert training.steps.tolist() == [1]


# ---- Whole steps ------------------------------------------------------------------------------------


def test_a_skipped_step_changes_nothing():
    for rounding, state_dtype in [("kahan", CODED), ("master", BF16), ("split", F16), ("stochastic", F32)]:
        params = [random(0, (4, 5), BF16), random(1, 7, BF16)]
        training = Training(
            "adam", params, rounding=rounding, state_dtype=state_dtype, copy=F32, ema_decay=0.9, amsgrad=True
        )
        grads = [random(2, (4, 5), F32), random(3, 7, F32)]
        training.step(grads)
        before = training.bytes()
        grads[1][6] = math.nan
        assert training.step(grads, skip_nonfinite=True, clip_norm=1.0).skipped
        assert training.bytes() == before
        grads[1][6] = 0
        training.step(grads, skip_nonfinite=True)
        changed = [a != b for a, b in zip(training.bytes(), before, strict=True)]
        assert sum(changed) >= len(changed) - 2  # exponents may stay


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_scalars_and_tensors_of_nothing(dtype, shape):
    settings = {"cautious": True, "state_dtype": CODED, "ema_decay": 0.5, "copy": F32}
    training = Training("sgd", [np.ones(shape, dtype)], lr=0.125, momentum=0.5, **settings)
    training.step([np.ones(shape, F32)], clip_unit=1.0, skip_nonfinite=True)
    for array, expected in [
        (training.params[0], 0.875),
        (training.averages[0], 0.9375),
        (training.copies[0], 0.875),
    ]:
        np.testing.assert_array_equal(load(array, F32), np.full(shape, expected, F32))
    assert training.steps.tolist() == [1]


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_the_order_of_elements_does_not_matter_to_their_values(dtype):
    start, grad = random(0, (30, 40), dtype), random(1, (30, 40), dtype)
    straight, across = (Training("adam", [p], state_dtype=F32) for p in (start.copy(), start.T.copy().T))
    straight.step([grad])
    across.step([grad], orders=[(1, 0)])
    assert not across.params[0].flags.c_contiguous
    assert across.bytes() == straight.bytes()  # both as in C order
