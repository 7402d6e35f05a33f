"""The gallery's memory over long lags: where an RNN fails, LSTM and GRU with open gates do not."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastgd.lab import lstm

RNN, LSTM, GRU = "RNN, orthogonal", "LSTM, open", "GRU, open"


@pytest.fixture(scope="module")
def runs() -> list[lstm.Run]:
    return lstm.run(lags=(10, 80), steps=400, networks=(RNN, LSTM, GRU))


def found(runs: list[lstm.Run]) -> dict[tuple[str, int], lstm.Run]:
    return {(one.network, one.lag): one for one in runs}


@pytest.mark.slow
def test_all_remember_for_ten_steps_and_an_rnn_not_for_eighty(runs: list[lstm.Run]) -> None:
    by = found(runs)
    for name in (RNN, LSTM, GRU):
        assert by[name, 10].solved
    for name in (LSTM, GRU):
        assert by[name, 80].solved and by[name, 80].steps < 400
    assert by[RNN, 80].steps == 400
    # it has learned nothing: always answering 0 has an error of 1
    assert by[RNN, 80].errors.min() > 0.8


@pytest.mark.slow
def test_gates_that_begin_half_closed_do_not_learn_in_the_same_time(runs: list[lstm.Run]) -> None:
    (closed,) = lstm.run(lags=(80,), steps=200, networks=("LSTM, forget bias 1",))
    assert found(runs)[LSTM, 80].steps <= 250
    assert closed.errors.min() > 0.8


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(1, 5))
def test_it_is_so_whatever_the_seed(seed: int) -> None:
    by = found(lstm.run(lags=(80,), steps=400, networks=(RNN, LSTM, GRU), seed=seed))
    assert [by[name, 80].solved for name in (RNN, LSTM, GRU)] == [False, True, True]


def test_networks_are_of_one_size() -> None:
    counts = []
    for network in lstm.NETWORKS.values():
        layer = network.layer(40, np.random.default_rng(0))
        counts.append(sum(p.size for p in layer.parameters().values()))
    assert max(counts) < 1.1 * min(counts) and min(counts) > 1800


def test_open_gates_remember_up_to_the_lag() -> None:
    layer = lstm.open_lstm(50, np.random.default_rng(0))
    bias = sum(layer.parameters()[name] for name in ("bias_ih_l0", "bias_hh_l0"))
    input_gate, forget_gate = bias[:20], bias[20:40]
    assert forget_gate.min() >= 0 and math.log(25) < forget_gate.max() <= math.log(50)
    assert np.array_equal(input_gate, -forget_gate)
    layer = lstm.open_gru(50, np.random.default_rng(0))
    keep = sum(layer.parameters()[name] for name in ("bias_ih_l0", "bias_hh_l0"))[23:46]
    assert keep.min() >= 0 and math.log(25) < keep.max() <= math.log(50)


@pytest.mark.parametrize("lag", [2, 40])
def test_the_sum_is_that_of_two_marked_numbers(lag: int) -> None:
    x, y = lstm.sequences(300, lag, np.random.default_rng(0))
    assert x.shape == (300, lag, 2) and x.dtype == y.dtype == np.float32 and y.shape == (300, 1)
    numbers, marks = x[:, :, 0], x[:, :, 1]
    assert np.all(marks.sum(1) == 2) and set(np.unique(marks)) <= {0, 1}
    assert np.array_equal(y[:, 0], (numbers * marks).sum(1, dtype=np.float32))
    assert np.all(marks[:, : max(1, lag // 10)].sum(1) == 1)
    assert np.abs(numbers).max() <= 1 and numbers.min() < -0.9


def test_what_is_said_and_drawn(runs: list[lstm.Run], tmp_path: Path) -> None:
    table = lstm.table(runs)
    assert table.columns == ("network", "lag 10", "lag 80")
    assert [row[0] for row in table.rows] == [RNN, LSTM, GRU]
    assert table.rows[0][2].startswith("error 1.") or table.rows[0][2].startswith("error 0.")
    assert table.rows[1][2].endswith(" steps")
    verdict = lstm.verdict(runs)
    assert f"{RNN}: 10; {LSTM}: 10, 80; {GRU}: 10, 80." in verdict
    figure = lstm.draw(runs)
    assert all(axes.get_xlabel() for axes in figure.axes)
    assert figure.axes[0].get_ylabel() and figure.axes[0].get_legend()
    figure.savefig(tmp_path / "lstm.png")
    with Image.open(tmp_path / "lstm.png") as picture:
        assert picture.width == 1000


def test_one_run_that_solves_nothing_is_said_and_drawn() -> None:
    runs = lstm.run(lags=(2,), steps=lstm.TEST_EVERY, networks=(GRU,))
    runs = [one._replace(errors=np.array([1.0])) for one in runs]
    assert lstm.verdict(runs).endswith(f"{GRU}: none.")
    assert lstm.table(runs).rows == [(GRU, "error 1.00")]
    assert lstm.draw(runs).axes
