"""Batch sizes: the gradient's noise, and how far the same number of examples leads."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd.lab import batch
from fastgd.nn import Linear, MSELoss, Sequential

pytest.importorskip("sklearn", reason="the digits come with scikit-learn (extra `demo`)")
pytest.importorskip("matplotlib", reason="the gallery draws with matplotlib (extra `cli`)")


@pytest.fixture(scope="module")
def result():
    return batch.run(
        sizes=(4, 16, 64), epochs=6, rates=(0.001, 0.03, 0.1, 0.3, 1.0, 100.0), draws=40, examples=700
    )


def test_the_lowest_loss_is_the_one_with_no_slope():
    data = batch.problem(300)
    assert data.x.shape == (300, 64) and np.all(data.y.sum(axis=1) == 1)
    assert batch.problem().x.shape == (1438, 64)
    x = np.c_[data.x, np.ones(300)].astype(np.float64)
    weights = np.linalg.lstsq(x, data.y, rcond=None)[0]
    linear = Linear(64, 10)
    linear.weight[:], linear.bias[:] = weights[:-1].T, weights[-1]
    loss, grads = Sequential(linear, loss=MSELoss()).loss_and_grad(data.x, data.y)
    assert loss == pytest.approx(data.lowest, rel=1e-5)
    assert max(np.abs(grad).max() for grad in grads) < 1e-6


def test_the_noise_of_the_gradient_falls_as_one_over_the_batch_size(result):
    for noise in result.noises:
        assert batch.slope(noise) == pytest.approx(-1, abs=0.05)
        theory = noise.scale / np.array(noise.sizes)
        np.testing.assert_allclose(noise.measured, theory, rtol=0.35)
    start, later = result.noises
    assert later.scale > 2 * start.scale  # McCandlish et al. 2018: it grows while the gradient falls


def test_with_the_same_examples_mini_batches_descend_further_than_full_ones(result):
    full = batch.full_batch(result)
    assert full.batch_size == 700
    for descent in result.best:
        assert descent.seen[-1] == 6 * 700
        if descent is not full:
            assert descent.reached < full.reached / 2


def test_the_larger_the_batch_the_higher_the_rate_that_suits_it(result):
    rates = [descent.lr for descent in result.best if not descent.falls]
    assert rates == sorted(rates) and rates[0] < rates[-1]


def test_a_falling_rate_takes_the_noise_with_it(result):
    constant, falling = (d for d in result.best if d.batch_size == 16)
    assert falling.falls and falling.reached < constant.reached


def test_a_rate_that_is_too_high_is_never_chosen(result):
    assert all(runs[-1].reached == np.inf for runs in result.tried if runs[-1].batch_size < 700)
    assert all(descent.lr < 100 for descent in result.best)


def test_nothing_but_seconds_depends_on_when_it_is_run():
    arguments = {"sizes": (32,), "epochs": 2, "rates": (0.1,), "draws": 2, "examples": 100}
    one, other = batch.run(**arguments), batch.run(**arguments)
    for a, b in zip(one.best, other.best, strict=True):
        assert a.losses.tobytes() == b.losses.tobytes() and a.seen.tobytes() == b.seen.tobytes()
    assert one.noises == other.noises
    assert one.noises != batch.run(**arguments, seed=1).noises


def test_losses_are_taken_at_every_epochs_end_and_before_the_first_step():
    data = batch.problem(100)
    descent = batch.descend(data, batch.new_model(0), 100, False, 0.1, 3, 0)
    assert descent.seen.tolist() == [0, 100, 200, 300]
    assert np.all(np.diff(descent.losses) < 0) and np.all(np.diff(descent.seconds) > 0)
    fine = batch.descend(data, batch.new_model(0), 1, False, 0.001, 2, 0)
    assert fine.seen[:4].tolist() == [0, 1, 2, 3] and {100, 200} < set(fine.seen)
    assert fine.losses[-1] < 0.9 * fine.losses[0]


def test_what_is_shown(result):
    shown = batch.table(result)
    assert [row[0] for row in shown.rows] == ["4", "16", "64", "700", "16, falling rate"]
    assert all(len(row) == len(shown.columns) for row in shown.rows)
    assert shown.rows[3][2] == "6" and shown.rows[3][4] == "4,200"
    text = batch.verdict(result)
    assert "(theory: -1)" in text and "full batches" in text
    figure = batch.draw(result)
    assert figure.get_size_inches()[0] * figure.dpi == 1000
    assert all(axes.get_xlabel() and axes.get_ylabel() and axes.get_title() for axes in figure.axes)
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 5 and figure.axes[-1].get_legend()
