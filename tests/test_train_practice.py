"""Training with a schedule, early stopping, averaged weights and a monitor: its end, and resuming it."""

import math
import signal

import numpy as np
import pytest

from fastgd import schedules
from fastgd.data import prepare
from fastgd.readers import Table
from fastgd.runs import SettingsError
from fastgd.training import Settings, load_checkpoint, save_checkpoint, train

SMALL = {"hidden": (8,), "batch_size": 16, "optimizer": "sgd", "options": {"lr": 0.5}}


@pytest.fixture
def small():
    rng = np.random.default_rng(3)
    y = np.arange(90) % 3
    x = rng.normal(size=(90, 4)) + 2 * np.eye(3, 4)[y]
    return prepare("small", Table(x, y, tuple("abcd")))  # 72 to train on: 5 steps an epoch


def weights(result):
    return np.concatenate([array.ravel() for array in result.model.parameters()])


def test_a_schedule_is_fitted_to_the_run(small):
    result = train(Settings(**SMALL, epochs=4, schedule="cosine"), dataset=small)
    wanted = schedules.Cosine(0.5, 20)
    assert [epoch.lr for epoch in result.history] == [wanted(5 * i) for i in range(4)]
    assert result.optimizer.learning_rates() == [0.0]


@pytest.mark.parametrize("schedule", ["cosine(warmup=1)", "plateau(patience=0, factor=0.5)"])
@pytest.mark.parametrize("extra", [{"swa": 0.5}, {"early_stopping": 9}, {}])
def test_an_interrupted_run_goes_on_with_the_same_bits(tmp_path, small, schedule, extra):
    settings = Settings(**SMALL, epochs=6, schedule=schedule, **extra)
    whole = train(settings, dataset=small)
    steps = 0

    def interrupt(progress):
        nonlocal steps
        steps += 1
        if steps == 18:
            signal.raise_signal(signal.SIGINT)

    part = train(settings, dataset=small, on_step=interrupt)
    assert part.interrupted
    save_checkpoint(tmp_path / "run", part)
    done = train(resume=load_checkpoint(tmp_path / "run"), dataset=small)
    assert np.array_equal(weights(done), weights(whole))
    assert [epoch.lr for epoch in done.history] == [epoch.lr for epoch in whole.history]
    assert [e.validation_loss for e in done.history] == pytest.approx(
        [e.validation_loss for e in whole.history], nan_ok=True
    )


def test_early_stopping_gives_the_weights_of_the_best_epoch(small):
    # a rate so high that the loss on what is held out soon rises again
    settings = Settings(**{**SMALL, "options": {"lr": 3.0}}, epochs=60, early_stopping=4, clip_norm=None)
    result = train(settings, dataset=small)
    losses = [epoch.validation_loss for epoch in result.history]
    best = int(np.argmin(losses))
    assert result.stopped is not None
    assert len(losses) == best + 5 < 60
    assert f"not improved for 4 epochs; the weights are those of epoch {best + 1}" in result.stopped
    found = result.model.evaluate(result.dataset.x_validation, result.dataset.y_validation)
    assert found.loss == losses[best]
    assert len(result.dataset.x_validation) == 7
    assert len(result.dataset.x_train) == 65


def test_a_plateau_ends_at_its_floor(small):
    settings = Settings(
        **{**SMALL, "options": {"lr": 3.0}},
        epochs=60,
        clip_norm=None,
        schedule="plateau(patience=0, factor=0.1, floor=0.1)",
    )
    result = train(settings, dataset=small)
    assert "no longer improves at the smallest learning rate, 0.1" in result.stopped
    assert result.history[-1].lr == 0.1


def test_averaged_weights_are_those_of_the_last_epochs(small):
    settings = Settings(**SMALL, epochs=4, swa=0.5)
    ends = []

    def note(progress):
        if progress.consumed == progress.n_train and progress.epoch > 2:
            ends.append(None)

    result = train(settings, dataset=small, on_step=note)
    assert len(ends) == result.practice.swa.count == 2
    third = weights(train(Settings(**SMALL, epochs=3), dataset=small)).astype(np.float64)
    fourth = weights(train(Settings(**SMALL, epochs=4), dataset=small)).astype(np.float64)
    np.testing.assert_allclose(weights(result), (third + fourth) / 2, rtol=1e-6, atol=1e-7)


def test_the_rate_stays_while_weights_are_averaged(small):
    result = train(Settings(**SMALL, epochs=8, swa=0.25, schedule="cosine"), dataset=small)
    rates = [epoch.lr for epoch in result.history]
    assert rates[6] == rates[7] == schedules.Cosine(0.5, 40)(30)
    assert rates[5] > rates[6]


@pytest.mark.parametrize(
    ("schedule", "averaged"), [("warm_restarts(epochs=2)", 3), ("triangular(epochs=2)", 3)]
)
def test_cycles_are_averaged_at_their_ends(small, schedule, averaged):
    result = train(Settings(**SMALL, epochs=8, swa=0.75, schedule=schedule), dataset=small)
    assert result.practice.swa.count == averaged
    assert result.history[6].lr != result.history[7].lr


def test_a_monitor_changes_nothing_but_sees(small):
    with_it = train(Settings(**SMALL, epochs=2), dataset=small, monitor=True)
    without = train(Settings(**SMALL, epochs=2), dataset=small)
    assert np.array_equal(weights(with_it), weights(without))
    assert with_it.practice.monitor.history.count == 10
    assert without.practice.monitor is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": "sine"}, "the schedule is one of constant"),
        ({"schedule": "cosine", "optimizer": "rprop"}, "rprop has no learning rate that could follow"),
        ({"schedule": "cosine(end=0.9)"}, "end, 0.9, must not be above lr, 0.5"),
        ({"early_stopping": 0}, "early_stopping is a number of epochs, at least 1, not 0"),
        ({"swa": 1.5}, "swa is a share of the epochs"),
        ({"swa": math.nan}, "swa is a share of the epochs"),
        ({"swa": 0.5, "early_stopping": 3}, "give one of them"),
        ({"swa": 0.5, "optimizer": "sgd_schedule_free"}, "averages the weights itself"),
        ({"validation_size": 1.0}, "validation_size must be at least 0 and below 1"),
        ({"validation_size": 0.0, "early_stopping": 3}, "follow the validation loss"),
    ],
)
def test_bad_settings(small, changes, message):
    with pytest.raises(SettingsError, match=message):
        train(Settings(**{**SMALL, **changes}), dataset=small)
