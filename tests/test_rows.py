"""Gradients of a few rows: right, the same on all backends, and nothing else of the parameter is touched."""

from __future__ import annotations

import math
import mmap
import weakref

import numpy as np
import pytest
from snapshots import BACKENDS, check_step, contents, random, rebuilt, unchanged

import fastgd
from fastgd import Rows
from fastgd.arrays import CODES, dtype_named
from fastgd.rules import RULES
from fastgd.settings import ROUNDINGS

F32 = np.float32


def dense(param, rows):
    """The same gradient as an array."""
    grad = np.zeros(param.shape, np.float64)
    np.add.at(grad, rows.indices, rows.values.astype(np.float64))
    return grad.astype(param.dtype)


@pytest.mark.parametrize("indices", [[1], [4, 0, 2], [0, 1, 2, 3, 4, 5], [3, 3, 3], [5, 1, 5, 0, 1], []])
@pytest.mark.parametrize("shape", [(6,), (6, 3), (6, 2, 5), (6, 40), (6, 0)])
def test_rows_are_the_rows_of_a_dense_gradient(backend, shape, indices):
    """For a rule without state; powers of two make sums exact."""
    given = np.array(indices, np.int32)
    values = 2.0 ** np.arange(len(indices) * math.prod(shape[1:])) % 8
    rows = Rows(given, values.reshape(len(indices), *shape[1:]))
    params = [random(shape, 0) for _ in range(2)]
    opts = [fastgd.SGD([p], lr=0.5, backend=backend) for p in params]
    for _ in range(2):
        report = opts[0].step([rows], clip_norm=0.5)
        assert report == opts[1].step([dense(params[0], rows)], clip_norm=0.5)
        assert params[0].tobytes() == params[1].tobytes()


def test_rows_that_are_not_there_keep_their_state_and_do_not_decay(backend):
    param = np.ones((4, 2), F32)
    opt = fastgd.AdamW([param], lr=0.1, weight_decay=0.5, ema_decay=0.5, backend=backend)
    opt.step([np.ones((4, 2), F32)])
    before, state = param.copy(), opt.state_dict()["state"][0]
    opt.step([Rows(np.array([2]), np.full((1, 2), -1, F32))])
    after = opt.state_dict()["state"][0]
    assert after["step"] == 2
    others = [0, 1, 3]
    for old, new in [(before, param), *((state[k], after[k]) for k in ("exp_avg", "exp_avg_sq", "average"))]:
        assert np.array_equal(old[others], new[others])
        assert not (old[2] == new[2]).any()


@pytest.mark.parametrize("dtype", CODES)
def test_backends_agree_in_every_dtype_and_rounding(dtype):
    roundings = [r for r in ROUNDINGS if (dtype, r) != ("float16", "split")]
    for k, rounding in enumerate(roundings):
        opts = []
        for backend in BACKENDS:
            params = [random((7, 33), 1).astype(dtype_named(dtype)), random(5, 2)]
            settings = {
                "rounding": rounding,
                "ema_decay": 0.75,
                "state_rounding": ["stochastic", None][k % 2],
            }
            copies = [np.zeros((7, 33), np.float16), None]
            opts.append(fastgd.Adam(params, amsgrad=True, copies=copies, backend=backend, **settings))
        for t, (indices, of) in enumerate([([6, 0, 6], "float32"), ([1, 2], "bfloat16"), ([3], "float64")]):
            rows = Rows(np.array(indices), random((len(indices), 33), t).astype(dtype_named(of)))
            reports = [opt.step([rows, random(5, t)], clip_norm=2.0, skip_nonfinite=True) for opt in opts]
            assert reports[0] == reports[1]
            assert contents(opts[0]) == contents(opts[1])


def test_rows_and_whole_gradients_take_turns(backend):
    opt = fastgd.AdamW([random((5, 3), 0), random((4, 4), 1)], backend=backend)
    for t in range(6):
        whole, rows = random((5, 3), t), Rows(np.array([t % 5, 1]), random((2, 3), t))
        grads = [rows if t % 2 else whole, Rows(np.array([3]), random((1, 4), t)) if t % 3 else None]
        other = [g if not isinstance(g, Rows) else Rows(g.indices.copy(), g.values.copy()) for g in grads]
        expected = contents_after(opt, other)
        opt.step(grads, clip_norm=1.0)
        assert contents(opt) == expected
    check_step(opt, [random((5, 3), 9), random((4, 4), 9)])


def contents_after(opt, grads):
    other = rebuilt(opt)
    other.step(grads, clip_norm=1.0)
    return contents(other)


def test_duplicates_are_added_in_their_order(backend):
    """In float32, where the order matters."""
    param = np.zeros((2, 1), F32)
    values = np.array([[1e8], [1.0], [-1e8], [1.0]], F32)
    fastgd.SGD([param], lr=1.0, backend=backend).step([Rows(np.array([1, 1, 1, 1]), values)])
    assert param.tolist() == [[0], [-1]]


def test_an_element_that_is_not_finite_is_found_in_its_row(backend):
    opt = fastgd.SGD({"table": np.zeros((9, 2, 2), F32)}, backend=backend)
    values = np.ones((3, 2, 2), F32)
    values[1, 1, 0] = np.inf
    with unchanged(opt):
        report = opt.step([Rows(np.array([7, 4, 7]), values)], skip_nonfinite=True)
    assert report.nonfinite == (0, 0, "table", (4, 1, 0), np.inf)


def test_a_large_table_costs_what_its_rows_do(backend):
    """The pages of rows that are not there are never touched."""
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, page << 18)  # a gigabyte of zeros, not there until it is touched
    param = np.frombuffer(memory, F32).reshape(-1, page // 4)
    opt = fastgd.SGD([param], lr=1.0, backend=backend)
    before = resident()
    for row in (5, 77_777, len(param) - 1):
        opt.step([Rows(np.array([row]), np.ones((1, page // 4), F32))])
        assert (param[row] == -1).all()
    assert resident() - before < 1000 * page


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * mmap.PAGESIZE


def table():
    return random((6, 3), 0)


ROW = np.ones((1, 3), F32)
AT = np.array([1])

#: (indices, values) that do not fit
MISFITS = {
    "beyond": (np.array([6]), ROW, ValueError, "there is no row 6, the parameter has 6"),
    "negative": (np.array([-1]), ROW, ValueError, "there is no row -1"),
    "huge": (np.array([2**63], np.uint64), ROW, ValueError, "there is no row 9223372036854775808"),
    "floats": (np.array([1.0]), ROW, TypeError, "indices must be integers in one dimension, not float64"),
    "flags": (np.array([True]), ROW, TypeError, "indices must be integers in one dimension, not bool"),
    "two": (np.array([[1]]), ROW, TypeError, r"indices must be integers .* not int64 \(1, 1\)"),
    "list": ([1], ROW, TypeError, "indices of the gradient .* is list, not an array"),
    "width": (AT, np.ones((1, 4), F32), ValueError, r"values have shape \(1, 4\), 1 rows have \(1, 3\)"),
    "count": (np.array([1, 2]), ROW, ValueError, r"values have shape \(1, 3\), 2 rows have \(2, 3\)"),
    "flat": (AT, np.ones(3, F32), ValueError, r"values have shape \(3,\)"),
    "integers": (AT, np.ones((1, 3), np.int64), TypeError, "values has dtype int64"),
    "none": (AT, None, TypeError, "values is NoneType"),
}


@pytest.mark.parametrize("case", MISFITS)
def test_rows_that_do_not_fit(backend, case):
    indices, values, error, reason = MISFITS[case]
    opt = fastgd.AdamW({"table": table(), "b": random(2, 1)}, backend=backend)
    opt.step([table(), random(2, 2)])
    for good in (table(), None):
        opt.step([good, random(2, 3)])
        with unchanged(opt), pytest.raises(error, match=rf"parameter 'table' .*{reason}|{reason}"):
            opt.step([Rows(indices, values), random(2, 3)])


#: (parameter, settings, options) that rows do not go with
REFUSED = {
    "cautious": (table, {"cautious": True}, {}, "cautious updates count elements of the whole parameter"),
    "coded": (table, {"state_dtype": "8bit"}, {}, "state in 8 bits is stored in blocks that cross rows"),
    "units": (table, {}, {"clip_adaptive": 0.1}, "clip_adaptive takes norms of the whole parameter"),
    "order": (lambda: np.asfortranarray(table()), {}, {}, "the parameter must be C-contiguous"),
    "gaps": (lambda: random((6, 6), 0)[:, ::2], {}, {}, "the parameter must be C-contiguous"),
    "no dimensions": (lambda: random((), 0), {}, {}, "the parameter has no dimensions"),
    "copy": (table, {"copies": [np.zeros((3, 6), F32).T]}, {}, "the copy of the parameter must be C-cont"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_rows_do_not_go_with(backend, case):
    make, settings, options, reason = REFUSED[case]
    param = make()
    opt = fastgd.AdamW([param], backend=backend, **settings)
    opt.step([np.ones(param.shape, F32)])
    with (
        unchanged(opt),
        pytest.raises(ValueError, match=rf"^gradient of parameter 0 .* is of rows: .*{reason}"),
    ):
        opt.step([Rows(AT, ROW)], **options)
    opt.step([np.ones(param.shape, F32)], **options)


@pytest.mark.parametrize("rule", [r for r in RULES.values() if not r.elementwise], ids=lambda r: r.name)
def test_rules_that_measure_the_parameter_take_no_rows(rule, backend):
    opt = fastgd.optim.create(rule.name, [table()], backend=backend)
    opt.step([table()])
    with unchanged(opt), pytest.raises(ValueError, match=f"{rule.title} takes (norms|products) of the whole"):
        opt.step([Rows(AT, ROW)])


def test_rows_share_no_memory_with_parameters(backend):
    param = table()
    opt = fastgd.SGD([param], backend=backend)
    with (
        unchanged(opt),
        pytest.raises(ValueError, match=r"gradient of parameter 0 .* shares memory with param"),
    ):
        opt.step([Rows(AT, param[2:3])])


def test_rows_are_no_list_of_gradients(backend):
    opt = fastgd.SGD([table(), table()], backend=backend)
    with unchanged(opt), pytest.raises(TypeError, match="grads is Rows, not a list of arrays"):
        opt.step(Rows(AT, ROW))


def test_no_rows_are_kept_alive(backend):
    opt = fastgd.SGD([table()], backend=backend)
    values = ROW.copy()
    gone = weakref.ref(values)
    opt.step([Rows(AT, values)])
    del values
    assert gone() is None
