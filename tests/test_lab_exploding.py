"""The gallery's recurrent networks: what happens to them without clipping, and that they learn with it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastgd.lab import exploding

TANH, RELU = exploding.NETWORKS


@pytest.fixture(scope="module")
def result() -> exploding.Result:
    """tanh with every clipping; ReLU without, which shows at once, and by norm."""
    unclipped = RELU._replace(steps=200, clipping={"none": {}})
    clipped = RELU._replace(steps=1000, clipping={"norm 5": RELU.clipping["norm 5"]})
    return exploding.run(networks=(TANH, unclipped, clipped))


def test_without_clipping_the_loss_jumps_and_nothing_is_learned(result: exploding.Result) -> None:
    for one in result.runs:
        if one.clipping == "none":
            assert not one.finite or one.accuracy < 0.7
            assert one.highest > 1.2 * exploding.GUESSING
    relu = next(one for one in result.runs if one.label == "relu, clipping none")
    assert relu.highest > 2 * exploding.GUESSING


def test_with_clipping_by_norm_and_by_value_it_is_solved(result: exploding.Result) -> None:
    clipped = [one for one in result.runs if one.clipping != "none"]
    assert [one.label for one in clipped] == [
        "tanh, clipping norm 5",
        "tanh, clipping value 0.1",
        "relu, clipping norm 5",
    ]
    for one in clipped:
        assert one.solved and one.accuracy > 0.99
        # clipping was needed: there were gradients well above the limit
        assert one.norms.max() > 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_it_is_so_whatever_the_seed(seed: int) -> None:
    runs = exploding.run(networks=(TANH,), seed=seed).runs
    assert [one.solved for one in runs] == [False, True, True]


def test_a_loss_that_overflows_ends_the_run() -> None:
    network = RELU._replace(lr=1e30, steps=50, clipping={"none": {}})
    (one,) = exploding.run(networks=(network,)).runs
    assert not one.finite and not one.solved and len(one.losses) < 50
    assert one.highest == math.inf and math.isnan(one.accuracy)
    result = exploding.Result([one], 40)
    assert "relu, clipping none: highest loss inf, not finite" in exploding.verdict(result)
    assert exploding.draw(result).axes


def test_sequences_hold_two_marks_in_their_places() -> None:
    x, y = exploding.sequences(200, 30, np.random.default_rng(0))
    assert x.shape == (200, 30, 6) and x.dtype == np.float32
    assert np.array_equal(x.sum(2), np.ones((200, 30)))
    marked = x[:, :, :2].any(2)
    assert np.all(marked.sum(1) == 2)
    _, at = np.nonzero(marked)
    first, second = at.reshape(200, 2).T
    assert (first.min(), first.max()) == (3, 5) and (second.min(), second.max()) == (15, 17)
    symbols = x.argmax(2)
    assert np.array_equal(y, 2 * symbols[np.arange(200), first] + symbols[np.arange(200), second])
    assert set(y) == {0, 1, 2, 3}


def test_the_runs_of_a_network_begin_alike(result: exploding.Result) -> None:
    assert len({one.losses[0] for one in result.runs if one.nonlinearity == "tanh"}) == 1


def test_what_is_said_and_drawn(result: exploding.Result, tmp_path: Path) -> None:
    table = exploding.table(result)
    assert len(table.rows) == 5
    assert {len(row) for row in table.rows} == {len(table.columns)}
    verdict = exploding.verdict(result)
    missed, solved = verdict.split("Solved: ")
    assert "tanh, clipping none" in missed and "relu, clipping none" in missed
    assert "tanh, clipping norm 5" in solved and "tanh, clipping value 0.1" in solved
    figure = exploding.draw(result)
    assert all(axes.get_legend() for axes in figure.axes[:2])
    assert all(axes.get_xlabel() == "step" for axes in figure.axes[2:])
    assert figure.axes[0].get_ylabel() and figure.axes[2].get_ylabel()
    figure.savefig(tmp_path / "exploding.png")
    with Image.open(tmp_path / "exploding.png") as picture:
        assert picture.width == 1000
