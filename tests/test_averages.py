"""Running averages of the parameters, copies for a model, and how one evaluates with them."""

from __future__ import annotations

import numpy as np
import pytest
from snapshots import check_step, contents, random, unchanged

import fastgd
from fastgd.arrays import CODES, dtype_named
from fastgd.settings import ROUNDINGS
from fastgd.storage import arithmetic

F32 = np.float32


def test_an_average_starts_as_the_parameter_and_follows_it(backend):
    params = [random((3, 4), 0), random(5, 1, np.float64)]
    opt = fastgd.SGD([{"params": params, "ema_decay": 0.75}], lr=0.1, backend=backend)
    right = [p.astype(np.float64) for p in params]
    for t in range(5):
        opt.step([random((3, 4), t), random(5, t, np.float64)])
        right = [a + 0.25 * (p - a) for a, p in zip(right, params, strict=True)]
        for average, expected, p in zip(opt.averages(), right, params, strict=True):
            assert average.dtype == p.dtype
            np.testing.assert_allclose(average, expected, rtol=1e-6)


def test_averages_are_live_and_only_where_they_are_asked_for(backend):
    params = [random(3, 0), random(2, 1)]
    groups = [{"params": params[:1]}, {"params": params[1:], "ema_decay": 0.5}]
    opt = fastgd.Adam(groups, backend=backend)
    none, average = opt.averages()
    assert none is None
    assert average.tobytes() == params[1].tobytes()
    assert not np.shares_memory(average, params[1])
    opt.step([random(3, 2), random(2, 3)])
    assert average.tobytes() != params[1].tobytes()
    assert np.shares_memory(average, opt.averages()[1])


def test_until_the_first_step_the_average_is_the_parameter(backend):
    """So that weights may be loaded after the optimizer was made."""
    param = np.zeros(3, F32)
    opt = fastgd.SGD([param], lr=0.0, ema_decay=0.5, backend=backend)
    assert opt.averages()[0].tolist() == [0, 0, 0]
    param[:] = 4
    opt.step([np.full(3, np.nan, F32)], skip_nonfinite=True)
    assert opt.averages()[0].tolist() == [4, 4, 4]
    opt.step([np.ones(3, F32)])
    assert opt.averages()[0].tolist() == [4, 4, 4]


def test_averages_may_be_asked_for_between_a_skipped_step_and_the_next(backend):
    opt, grad = fastgd.Adam([np.zeros(3, F32)], ema_decay=0.5, backend=backend), np.full(3, np.nan, F32)
    opt.step([grad], skip_nonfinite=True)
    average = opt.averages()[0]
    grad[:] = 1
    opt.step([grad])
    assert average[0] != 0
    assert opt.state_dict()["state"][0]["exp_avg"].all()


def test_an_average_may_be_turned_on_off_and_on_and_its_decay_changed(backend):
    param = np.zeros(1, F32)
    opt = fastgd.SGD([param], lr=1.0, backend=backend)
    group, seen = opt.param_groups[0], []
    for decay in (None, 0.5, 0.5, 0.75, None, 0.5, 0.0):
        group["ema_decay"] = decay
        check_step(opt, [np.ones(1, F32)])
        average = opt.averages()[0]
        seen.append(average if average is None else float(average[0]))
    # the parameter is -1, -2, ...; the average begins at -1, and stands still while it is off
    assert seen == [None, -1.5, -2.25, -2.6875, None, -4.34375, -7]


def test_a_new_decay_keeps_the_plan(backend, monkeypatch):
    opt = fastgd.SGD([np.zeros(3, F32)], ema_decay=0.5, backend=backend)
    grad = np.ones(3, F32)
    opt.step([grad])
    monkeypatch.setattr(type(opt.backend), "plan", None)
    opt.param_groups[0]["ema_decay"] = 0.25
    opt.step([grad])
    assert opt.averages()[0][0] == np.float32(-0.0005 + 0.75 * (-0.002 + 0.0005))


@pytest.mark.parametrize("dtype", CODES)
def test_parameters_are_their_averages_for_a_while(backend, dtype):
    """And then, with their residuals, what they were; also when the block fails."""
    for rounding in [r for r in ROUNDINGS if (dtype, r) != ("float16", "split")]:
        params = [random((3, 4), 0).astype(dtype_named(dtype)).T, random(2, 1)]
        copies = [np.zeros((4, 3), np.float16), None]
        opt = fastgd.AdamW(
            [{"params": params[:1], "ema_decay": 0.9}, {"params": params[1:]}],
            rounding=rounding,
            copies=copies,
            lr=0.1,
            backend=backend,
        )
        for t in range(3):
            opt.step([random((4, 3), t), random(2, t)])
        plain = params[1].copy()
        average = opt.averages()[0]
        with unchanged(opt):
            with opt.averaged():
                assert params[0].tobytes() == average.astype(params[0].dtype).tobytes()
                assert copies[0].tobytes() == average.astype(np.float16).tobytes()
                assert params[1].tobytes() == plain.tobytes()
                with pytest.raises(RuntimeError, match="within averaged"):
                    opt.step([random((4, 3), 7), random(2, 7)])
                with pytest.raises(RuntimeError, match="within averaged"), opt.averaged():
                    pass
                with pytest.raises(RuntimeError, match="within averaged"):
                    opt.load_state_dict(opt.state_dict())
            with pytest.raises(KeyError), opt.averaged():
                raise KeyError
        assert average.dtype == arithmetic(params[0].dtype)
        check_step(opt, [random((4, 3), 8), random(2, 8)])


def test_without_averages_there_is_nothing_to_evaluate(backend):
    opt = fastgd.SGD([np.zeros(3, F32)], backend=backend)
    assert opt.averages() == [None]
    with pytest.raises(ValueError, match="no parameter has a running average: set ema_decay"), opt.averaged():
        pass


def test_copies_follow_in_their_own_dtypes(backend):
    params = {"a": random((2, 3), 0), "b": random(4, 1), "c": random((), 2)}
    copies = {"a": np.zeros((3, 2), dtype_named("bfloat16")).T, "c": np.zeros((), np.float64)}
    opt = fastgd.AdamW(params, copies=copies, lr=0.1, backend=backend)
    for t in range(3):
        opt.step([random((2, 3), t), random(4, t), random((), t)])
        assert copies["a"].tobytes() == params["a"].astype(copies["a"].dtype).tobytes()
        assert copies["c"] == params["c"]
    before = contents(opt)
    opt.step([None, None, random((), 9)])
    assert contents(opt)[0][0] == before[0][0]
    assert copies["c"] == params["c"]


PARAM = np.zeros((2, 3), F32)
WIDE = np.zeros((3, 3), F32)


def frozen():
    array = np.zeros((2, 3), F32)
    array.flags.writeable = False
    return array


#: copies for PARAM, named "w", and another parameter -> error
BAD_COPIES = {
    "one array": (PARAM, TypeError, "copies is one array"),
    "few": ([WIDE[:2]], ValueError, "got 1 copies for 2 parameters"),
    "unknown": ({"v": WIDE[:2]}, ValueError, "copies: there is no parameter named 'v'"),
    "shape": (
        [WIDE, None],
        ValueError,
        r"copy of parameter 'w' .* has shape \(3, 3\), the parameter \(2, 3\)",
    ),
    "dtype": ([WIDE[:2].astype(int), None], TypeError, "copy of parameter 'w' .* has dtype int64"),
    "frozen": ([frozen(), None], ValueError, "copy of parameter 'w' .* is read-only"),
    "itself": ([PARAM, None], ValueError, "parameter 'w' .* and copy of parameter 'w' .* share memory"),
    "each other": (
        [WIDE[:2], WIDE[1:]],
        ValueError,
        "copy of parameter 'w' .* and copy of .*'u' .* share memory",
    ),
    "overlap": (
        [np.lib.stride_tricks.as_strided(WIDE, (2, 3), (4, 4)), None],
        ValueError,
        "copy of parameter 'w' .* overlaps itself",
    ),
}


@pytest.mark.parametrize("case", BAD_COPIES)
def test_copies_that_do_not_fit(backend, case):
    copies, error, reason = BAD_COPIES[case]
    with pytest.raises(error, match=reason):
        fastgd.SGD({"w": PARAM, "u": np.zeros((2, 3), F32)}, copies=copies, backend=backend)


def test_copies_by_name_need_names(backend):
    with pytest.raises(ValueError, match="copies is a mapping, but not all parameters were given names"):
        fastgd.SGD([("w", PARAM), np.zeros(2)], copies={"w": WIDE[:2]}, backend=backend)


def test_a_gradient_may_not_be_a_copy(backend):
    copy = np.zeros((2, 3), F32)
    opt = fastgd.SGD([PARAM.copy()], copies=[copy], backend=backend)
    with (
        unchanged(opt),
        pytest.raises(ValueError, match=r"gradient of parameter 0 .* with copy of parameter 0"),
    ):
        opt.step([copy])
