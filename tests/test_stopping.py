"""Early stopping: when it says stop, what it keeps, and that it goes on after a resumption."""

import copy
import math

import ml_dtypes
import numpy as np
import pytest
from snapshots import random

import fastgd
from fastgd import EarlyStopping, nn, schedules
from fastgd.checkpoint import load_file, pack_state, save_file, unpack_state

NAN, INF = math.nan, math.inf

#: (patience, min_delta, mode, scores, what update returns, the best, which)
RUNS = {
    "falls": (2, 0.0, "min", [3, 2, 1], [False] * 3, 1, 2),
    "patience": (2, 0.0, "min", [3, 1, 2, 1.5], [False, False, False, True], 1, 1),
    "equal is not better": (2, 0.0, "min", [1, 1, 1], [False, False, True], 1, 0),
    "a new best resets": (2, 0.0, "min", [3, 4, 2, 4, 1], [False] * 5, 1, 4),
    "one": (1, 0.0, "min", [1, 2], [False, True], 1, 0),
    "rises": (1, 0.0, "max", [0.5, 0.7, 0.6], [False, False, True], 0.7, 1),
    "too little": (2, 0.5, "min", [3, 2.6, 2.5], [False, False, True], 3, 0),
    "little by little": (3, 0.5, "min", [3, 2.6, 2.4, 2.2], [False] * 4, 2.4, 2),
    "too little, rising": (1, 0.5, "max", [1, 1.5], [False, True], 1, 0),
    "nan": (2, 0.0, "min", [1, NAN, NAN], [False, False, True], 1, 0),
    "nan first": (2, 0.0, "min", [NAN, 1, NAN, NAN], [False, False, False, True], 1, 1),
    "nan alone": (2, 0.0, "min", [NAN, NAN], [False, True], INF, None),
    "infinite": (2, 0.0, "min", [INF, -INF, -INF], [False, False, False], -INF, 1),
    "infinitely bad": (1, 0.0, "max", [-INF], [True], -INF, None),
    "below zero": (1, 0.0, "min", [-1, -2, -1.5], [False, False, True], -2, 1),
}


@pytest.mark.parametrize("case", RUNS)
def test_it_stops_when_patience_has_run_out(case):
    patience, min_delta, mode, scores, answers, best, best_at = RUNS[case]
    stopping = EarlyStopping(None, patience, min_delta, mode, restore_best=False)
    assert [stopping.update(score) for score in scores] == answers
    assert (stopping.best, stopping.best_at, stopping.count) == (best, best_at, len(scores))
    assert stopping.exhausted == answers[-1]


def model(**options):
    layers = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 3)
    return nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0, **options)


def train(made, opt, t):
    made.train_step(random((8, 5), t), np.arange(8) % 3, opt)


def same(a, b):
    return a.keys() == b.keys() and all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_the_best_model_is_back_with_its_buffers():
    made = model()
    opt = fastgd.SGD(made.named_parameters(), lr=0.1)
    stopping, states = EarlyStopping(made, patience=2), []
    for t, score in enumerate([3.0, 1.0, 2.0, NAN]):
        train(made, opt, t)
        states.append(made.state_dict())
        assert not same(states[t], states[t - 1]) or t == 0
        assert stopping.update(score) == (t == 3)
    assert same(made.state_dict(), states[1])
    assert {"1.running_mean", "1.num_batches_tracked", "3.counter"} <= states[1].keys()


def test_the_copy_is_made_in_the_same_memory():
    arrays = [random(3, 0), random((2, 2), 1, np.float64)]
    stopping = EarlyStopping(arrays)
    stopping.update(3)
    first = {name: id(array) for name, array in stopping._kept.best.items()}
    arrays[0][...] = 7
    stopping.update(2)
    assert {name: id(array) for name, array in stopping._kept.best.items()} == first
    arrays[0][...] = 0
    stopping.restore()
    assert arrays[0].tolist() == [7, 7, 7]


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16])
def test_arrays_of_any_layout_come_back(dtype):
    base = random((4, 6), 0, dtype)
    arrays = [base[:, ::2], np.asfortranarray(random((3, 2), 1, dtype)), random((), 2, dtype)]
    before = [a.copy() for a in arrays]
    beside = base[:, 1::2].copy()
    stopping = EarlyStopping(arrays)
    stopping.update(1)
    for a in arrays:
        a[...] = np.nan
    stopping.restore()
    assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays, before, strict=True))
    assert np.array_equal(base[:, 1::2], beside)


def test_without_restore_best_nothing_is_kept():
    arrays = [np.ones(3)]
    stopping = EarlyStopping(arrays, patience=1, restore_best=False)
    stopping.update(1)
    arrays[0][...] = 2
    assert stopping.update(2)
    assert arrays[0].tolist() == [2, 2, 2]
    assert stopping.state_dict()["model"] is None
    with pytest.raises(ValueError, match="no model was kept"):
        stopping.restore()


def test_a_run_of_nan_leaves_the_model_alone():
    arrays = [np.ones(3)]
    stopping = EarlyStopping(arrays, patience=2)
    assert [stopping.update(NAN), stopping.update(NAN)] == [False, True]
    assert arrays[0].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="no best model"):
        stopping.restore()


SCORES = [5.0, 4.0, 4.5, NAN, 3.0, 3.5, 4.0, 2.9]


@pytest.mark.parametrize("at", range(1, len(SCORES)))
def test_a_resumed_run_goes_on_the_same(at, tmp_path):
    """Interrupted behind any score, and put together anew from files."""
    whole = model()
    opt = fastgd.SGD(whole.named_parameters(), lr=0.1)
    stopping = EarlyStopping(whole, patience=3)
    answers = []
    for t, score in enumerate(SCORES):
        if t == at:
            save_file(tmp_path / "state", *pack_state(stopping.state_dict()))
            part = model()
            part.load_state_dict(whole.state_dict())
            part_opt = fastgd.SGD(part.named_parameters(), lr=0.1)
            resumed = EarlyStopping(part, patience=3)
            resumed.load_state_dict(unpack_state(*load_file(tmp_path / "state")))
        train(whole, opt, t)
        answers.append(stopping.update(score))
        if t >= at:
            train(part, part_opt, t)
            assert resumed.update(score) == answers[-1]
    assert (resumed.best, resumed.best_at, resumed.waited) == (2.9, 7, 0)
    assert answers == [False] * 8
    whole.parameters()[0][...] = 0
    part.parameters()[0][...] = 1
    stopping.restore(), resumed.restore()
    assert same(whole.state_dict(), part.state_dict())


def test_a_saved_state_is_a_copy():
    arrays = [np.ones(3)]
    stopping = EarlyStopping(arrays)
    stopping.update(2)
    state = stopping.state_dict()
    arrays[0][...] = 5
    stopping.update(1)
    assert state["model"]["0"].tolist() == [1, 1, 1]
    stopping.load_state_dict(state)
    state["model"]["0"][...] = 9
    stopping.restore()
    assert arrays[0].tolist() == [1, 1, 1]


REFUSED_STATES = {
    "no dict": ([], TypeError, "the state is list"),
    "lacks": ({"best": 1.0}, ValueError, "the state has no 'count'"),
    "best": ({"best": "1"}, TypeError, "best must be a number"),
    "waited": ({"waited": 3}, ValueError, r"waited must be in \[0, 2\)"),
    "best_at": ({"best_at": 1}, ValueError, r"best_at must be in \[0, 1\)"),
    "names": ({"model": {"1": np.ones(3)}}, ValueError, r"lacks \['0'\] and has \['1'\]"),
    "shape": ({"model": {"0": np.ones(4)}}, ValueError, "the state's array 0 is float64"),
    "dtype": ({"model": {"0": np.ones(3, "f4")}}, ValueError, "the state's array 0 is float32"),
    "no model": ({"model": None}, ValueError, "taken with restore_best=False"),
    "list": ({"model": [np.ones(3)]}, TypeError, "the state's model is list"),
}


@pytest.mark.parametrize("case", REFUSED_STATES)
def test_a_state_that_does_not_fit_changes_nothing(case):
    change, error, reason = REFUSED_STATES[case]
    stopping = EarlyStopping([np.ones(3)])
    stopping.update(1.0)
    good = stopping.state_dict()
    bad = change if case in ("no dict", "lacks") else {**copy.deepcopy(good), **change}
    stopping.update(2.0)
    with pytest.raises(error, match=reason):
        stopping.load_state_dict(bad)
    assert (stopping.best, stopping.waited, stopping.count) == (1.0, 1, 2)
    assert stopping._kept.best["0"].tolist() == [1, 1, 1]


REFUSED = {
    "patience": (([np.ones(2)], 0), {}, ValueError, "patience must be at least 1"),
    "whole": (([np.ones(2)], 1.5), {}, TypeError, "patience must be a whole number"),
    "min_delta": (([np.ones(2)],), {"min_delta": -1}, ValueError, "min_delta must be at least 0"),
    "nan": (([np.ones(2)],), {"min_delta": NAN}, ValueError, "min_delta"),
    "mode": (([np.ones(2)],), {"mode": "less"}, ValueError, "mode must be one of min, max"),
    "restore": (([np.ones(2)],), {"restore_best": 1}, TypeError, "restore_best must be True or False"),
    "one array": ((np.ones(2),), {}, TypeError, "arrays is one array"),
    "integers": (([np.ones(2, int)],), {}, TypeError, "array 0 has dtype int64"),
    "number": ((1.0,), {}, TypeError, "arrays is float"),
    "none": ((None,), {}, TypeError, "arrays is NoneType"),
    "twice": (([ONE := np.ones(2), ONE],), {}, ValueError, "share memory"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    arguments, named, error, reason = REFUSED[case]
    with pytest.raises(error, match=reason):
        EarlyStopping(*arguments, **named)


@pytest.mark.parametrize("score", ["1", None, [1.0], np.ones(2), 1j, True])
def test_a_score_that_is_no_number_is_refused(score):
    stopping = EarlyStopping([np.ones(2)])
    with pytest.raises(TypeError, match="score must be a number"):
        stopping.update(score)
    assert stopping.count == 0


def test_scores_are_numbers_of_any_library():
    stopping = EarlyStopping([np.ones(2)])
    assert not stopping.update(np.float32(0.5)) and not stopping.update(np.array(0.25))
    assert stopping.best == 0.25 and type(stopping.best) is float


def test_no_arrays_at_all():
    stopping = EarlyStopping([], patience=1)
    assert [stopping.update(1), stopping.update(2)] == [False, True]


def test_decay_on_a_plateau_until_a_floor_and_then_stop():
    """As docs/averaging.md has it."""
    params = [np.array([1.0])]
    plateau = schedules.ReduceOnPlateau(0.1, factor=0.5, patience=0, floor=0.025)
    opt = fastgd.SGD(params, lr=plateau)
    rates = []
    for epoch in range(20):
        opt.step([np.zeros(1)])
        rates.append(plateau(epoch))
        plateau.update(1.0)
        if plateau.exhausted:
            break
    assert rates == [0.1, 0.1, 0.05, 0.025]


@pytest.mark.peer
def test_a_torch_module():
    torch = pytest.importorskip("torch", reason="the test is about torch's modules")
    torch.manual_seed(0)
    layers = torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2).bfloat16()
    module = torch.nn.Sequential(*layers)
    stopping = EarlyStopping(module, patience=2)

    def change(value):
        with torch.no_grad():
            for tensor in module.state_dict().values():
                tensor.fill_(value)

    change(3)
    stopping.update(3.0)
    first = {name: tensor.data_ptr() for name, tensor in stopping._kept.best.items()}
    change(1)
    stopping.update(torch.tensor(1.0))
    assert {name: tensor.data_ptr() for name, tensor in stopping._kept.best.items()} == first
    change(2)
    state = stopping.state_dict()
    assert [stopping.update(2.0), stopping.update(NAN)] == [False, True]
    assert all((tensor == 1).all() for tensor in module.state_dict().values())
    resumed = EarlyStopping(module, patience=2)
    resumed.load_state_dict(state)
    change(5)
    assert [resumed.update(2.0), resumed.update(2.0)] == [False, True]
    assert all((tensor == 1).all() for tensor in module.state_dict().values())
    assert all(parameter.requires_grad for parameter in module.parameters())
    with pytest.raises(ValueError, match="lacks"):
        resumed.load_state_dict({**state, "model": {}})
    short = {**state["model"], "0.weight": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"tensor 0\.weight has shape"):
        resumed.load_state_dict({**state, "model": short})
