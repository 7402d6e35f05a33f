"""Linear models fitted row by row: the kernels have the bits of their reference, and refuse bad input."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.sparse
from models import same_bits

from fastgd._native import ffi, lib
from fastgd.arrays import DTYPES
from fastgd.online import native, reference
from fastgd.online.problem import Rows, Settings
from fastgd.online.reference_losses import LOSSES

STATE = [field.name for field in dataclasses.fields(reference.State)]
RATES = [name.removeprefix("FGD_RATE_").lower() for name in dir(lib) if name.startswith("FGD_RATE_")]

#: settings away from the defaults; all others come from the test
SETTINGS = {
    "plain": {},
    "l2": {"l2": 0.01, "positive": 1.7, "negative": 0.6},
    "l1": {"l1": 0.02, "intercept_factor": 0.01},
    "both": {"l2": 0.3, "l1": 0.01, "average": 5.0},
    "average": {"average": 1.0, "shuffled": False, "intercept_factor": 0.0},
    "strong": {"l2": 0.9, "average": 20.0, "eta0": 1.05},  # weights are settled, again and again
    "unmeasured": {"l2": 0.01, "l1": 0.01, "measured": False, "judged": False},
    "judged": {"l2": 0.01, "tol": 0.1, "patience": 2},
}


def problem(dtype, cols, sparse=False, negative=-1, rows=23, seed=0):
    rng = np.random.default_rng([seed, cols])
    x = rng.standard_normal((rows, cols)).astype(dtype)
    x[rng.random(x.shape) < 0.3] = 0
    targets = np.where(x[:, :1].sum(axis=1) > 0, 1, negative).astype(dtype)
    weights = rng.uniform(0.3, 2, rows).astype(dtype)
    held_out = rng.random(rows) < 0.2
    if not sparse:
        return Rows(x, targets, weights, held_out)
    csr = scipy.sparse.csr_array(x)
    starts = csr.indptr.astype(np.int64)
    return Rows(csr.data, targets, weights, held_out, csr.indices.astype(np.int32), starts)


def both(settings, rows, cols, dtype, epochs=3):
    """Weights, averages and state of the native course and of the reference."""
    results = []
    for module in (native, reference):
        weights = np.linspace(-0.1, 0.2, cols).astype(dtype)
        averages = np.zeros(cols, dtype)
        course = module.Descent(
            settings, rows, weights, 0.25, t=3.0, averages=averages, average_intercept=0.125
        )
        course.run(1)
        course.run(epochs - 1)
        if not settings.judged:
            course.judge(1.5)
            course.judge(2.5)
        course.finish()
        state = np.array([float(getattr(course.state, name)) for name in STATE])
        results.append((weights, averages, state))
    return zip(*results, strict=True)


def assert_same_bits(settings, rows, cols, dtype):
    for mine, expected in both(settings, rows, cols, dtype):
        same_bits(mine, expected)


def test_the_reference_has_every_loss_of_the_table():
    assert [*LOSSES] == [*native.LOSSES]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("cols", [1, 7, 16, 33])
def test_settings_have_the_bits_of_the_reference(case, cols, sparse, dtype, isa):
    settings = Settings(**{"loss": "squared_hinge", "rate": "constant", "eta0": 0.05, **SETTINGS[case]})
    assert_same_bits(settings, problem(dtype, cols, sparse), cols, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_have_the_bits_of_the_reference(loss, dtype, isa):
    rows = problem(dtype, 9, negative=native.LOSSES[loss].negative, rows=60)
    rows.x[::3] *= 30
    a = 0.1 if native.LOSSES[loss].parameter else 0.0
    assert_same_bits(Settings(loss, "constant", 0.1, a=a), rows, 9, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("power_t", [0.25, 0.5, 0.3, -0.1, 0.0])
@pytest.mark.parametrize("rate", RATES)
def test_rates_have_the_bits_of_the_reference(rate, power_t, dtype, isa):
    rows = problem(dtype, 9)
    rows.x[3] = 0  # a step as of PA1 has no size there
    settings = {"l2": 0.01, "alpha": 0.02, "power_t": power_t, "tol": 0.2}
    for loss in ("hinge", "epsilon_insensitive"):
        assert_same_bits(Settings(loss, rate, 0.3, a=0.1, **settings), rows, 9, dtype)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_numbers_that_are_not_finite_end_the_fit(sparse, isa):
    rows = problem(np.float64, 9, sparse)._replace(held_out=None)
    rows.x[5] = np.inf
    settings = Settings("squared_error", "constant", 0.1)
    weights = np.zeros(9)
    course = native.Descent(settings, rows, weights, 0.0)
    course.run(5)
    assert course.state.ended == native.NOT_FINITE and course.state.epochs == 1
    assert_same_bits(settings, rows, 9, np.dtype(np.float64))
    rows.x[5] = 1e200
    assert_same_bits(settings, rows, 9, np.dtype(np.float64))


def test_a_column_may_be_there_twice(isa):
    columns, starts = np.array([0, 2, 2, 1, 1, 1], np.int32), np.array([0, 3, 3, 6], np.int64)
    rows = Rows(np.arange(1.0, 7.0), np.array([1.0, -1.0, 1.0]), columns=columns, starts=starts)
    for case in ("l1", "both"):
        settings = Settings("hinge", "constant", 0.1, **SETTINGS[case])
        assert_same_bits(settings, rows, 3, np.dtype(np.float64))


def test_no_rows_and_no_columns():
    settings = Settings("hinge", "constant", 0.1, judged=False)
    for rows, cols in ((0, 3), (4, 0), (1, 1)):
        course = native.Descent(settings, Rows(np.ones((rows, cols)), np.ones(rows)), np.zeros(cols), 0.0)
        course.run(2)
        assert course.state.rows == 2 * rows and course.state.epochs == 2
        assert course.state.ended == native.GOES_ON


def test_the_order_visits_every_row_and_differs_from_epoch_to_epoch():
    orders = []
    for seed in (1, 2, 2):
        order = np.arange(50, dtype=np.int32)
        reference.shuffle(order, seed)
        reference.shuffle(order, seed)
        assert np.array_equal(np.sort(order), np.arange(50))
        orders.append(order)
    assert not np.array_equal(orders[0], orders[1]) and np.array_equal(orders[1], orders[2])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"l2": -1.0}, "an option is NaN or outside its range"),
        ({"l1": np.nan}, "an option is NaN or outside its range"),
        ({"tol": np.nan}, "an option is NaN or outside its range"),
        ({"patience": 0}, "an option is NaN or outside its range"),
        ({"eta0": -1.0}, "an option is NaN or outside its range"),
        ({"average": np.inf}, "an option is NaN or outside its range"),
        ({"measured": False}, "an option is NaN or outside its range"),
        ({"rate": "optimal"}, "an option is NaN or outside its range"),
        ({"average": 1.0}, "a required pointer is NULL"),
        ({"loss": "hinges"}, "there is no such loss"),
    ],
)
def test_bad_settings_are_refused(change, text):
    settings = dataclasses.replace(Settings("hinge", "constant", 0.1), **change)
    with pytest.raises(ValueError, match=text):
        native.Descent(settings, Rows(np.ones((4, 3)), np.ones(4)), np.zeros(3), 0.0)


def test_bad_rows_are_refused():
    settings, weights = Settings("hinge", "constant", 0.1), np.zeros(3)
    dense = Rows(np.ones((4, 3)), np.ones(4))
    with pytest.raises(ValueError, match="differ in length"):
        native.Descent(settings, dense, np.zeros(2), 0.0)
    with pytest.raises(ValueError, match="differ in length"):
        native.Descent(settings, dense._replace(held_out=np.zeros(3, bool)), weights, 0.0)
    with pytest.raises(TypeError, match="targets must be float64, not float32"):
        native.Descent(settings, dense._replace(targets=np.ones(4, np.float32)), weights, 0.0)
    with pytest.raises(ValueError, match="an option is NaN or outside its range"):
        native.Descent(settings, dense, weights, 0.0, t=0.0)
    averaged = dataclasses.replace(settings, average=1.0)
    with pytest.raises(ValueError, match="averages has length 2, and there are 3 weights"):
        native.Descent(averaged, dense, weights, 0.0, averages=np.zeros(2))
    columns, starts = np.array([0, 2], np.int32), np.array([0, 1, 2], np.int64)
    sparse = Rows(np.ones(2), np.ones(2), columns=columns, starts=starts)
    for change in ({"columns": columns[:1]}, {"x": np.ones(1)}, {"starts": np.array([0, 1, 3])}):
        with pytest.raises(ValueError, match="columns of sparse rows differ in length from x, or end before"):
            native.Descent(settings, sparse._replace(**change), weights, 0.0)
    native.Descent(settings, sparse, weights, 0.0)
    for wrong in ({"columns": columns + 1}, {"columns": columns - 1}, {"starts": starts[::-1].copy()}):
        with pytest.raises(ValueError, match="rows or their width are wrong"):
            native.Descent(settings, sparse._replace(**wrong), weights, 0.0)
    with pytest.raises(ValueError, match="sparse rows need starts"):
        native.Descent(settings, sparse._replace(starts=None), weights, 0.0)


def test_the_c_functions_refuse_what_is_not_there():
    assert lib.fgd_online_loss_find(b"hinge") == 0
    assert lib.fgd_online_loss_find(b"") == lib.fgd_online_loss_find(ffi.NULL) == lib.FGD_ERROR_LOSS
    assert lib.fgd_online_loss_at(-1) == lib.fgd_online_loss_at(len(LOSSES)) == ffi.NULL
    of = ffi.new("fgd_online *", {"patience": 1, "tol": -math.inf})
    rows = ffi.new("fgd_online_rows *", {"rows": 1, "cols": 1})
    null, state = ffi.NULL, ffi.new("fgd_online_state *", {"t": 1})
    assert lib.fgd_online_check(9, of, rows) == lib.FGD_ERROR_DTYPE
    assert lib.fgd_online_check(0, null, rows) == lib.fgd_online_check(0, of, null) == lib.FGD_ERROR_NULL
    assert lib.fgd_online_check(0, of, rows) == lib.FGD_ERROR_NULL
    rows.rows = 0
    assert lib.fgd_online_check(0, of, rows) == lib.FGD_OK
    assert lib.fgd_online_fit(0, of, rows, null, 1, state) == lib.FGD_ERROR_NULL
    assert lib.fgd_online_judge(of, 1.0, null) == lib.FGD_ERROR_NULL
    for size in (-1, 1 << 31):
        rows.cols = size
        assert lib.fgd_online_check(0, of, rows) == lib.FGD_ERROR_SIZE
