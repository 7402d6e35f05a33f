"""fastgd.training.train on ranks that are threads: the history and checkpoints of one process."""

from __future__ import annotations

import contextlib
import threading
from dataclasses import replace

import numpy as np
import pytest
from ranks import on_threads

from fastgd import nn, training
from fastgd.data import Dataset, Scaling
from fastgd.distributed import RankError
from fastgd.distributed.team import Team
from fastgd.runs import SettingsError
from fastgd.training import Settings, load_checkpoint, save_checkpoint, train

#: 1438 rows: the last batch has 38
SETTINGS = Settings(data="digits", epochs=3, batch_size=100, hidden=(24,), options={"lr": 0.01})

#: relative, in float32: gradients and losses of parts are rounded in another order
TOLERANCE = 1e-4


def assert_near(found, expected, tolerance=TOLERANCE):
    assert len(found.history) == len(expected.history)
    for a, b in zip(found.history, expected.history, strict=True):
        np.testing.assert_allclose(a.train_loss, b.train_loss, rtol=tolerance)
        np.testing.assert_allclose(a.validation_loss, b.validation_loss, rtol=tolerance)
        assert (a.examples, a.steps, a.lr) == (b.examples, b.steps, b.lr)
        assert abs(a.scores["accuracy"] - b.scores["accuracy"]) < 0.01
    for a, b in zip(found.model.parameters(), expected.model.parameters(), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)


def assert_same(one, other):
    """All that is learned, bit for bit."""
    a, b = one.model.state_dict(), other.model.state_dict()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])
    assert [epoch.train_loss for epoch in one.history] == [epoch.train_loss for epoch in other.history]
    assert one.scores == other.scores


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "optimizer": "sgd",
            "options": {"lr": 0.1, "momentum": 0.9},
            "clip_norm": None,
            "schedule": "cosine",
        },
        {"schedule": "plateau", "swa": 0.5},
        {"early_stopping": 1, "options": {"lr": 0.1}, "epochs": 20},
        {"optimizer": "adamw_schedule_free"},
        {"data": "text", "model": "gru", "hidden": (8,), "context": 8, "epochs": 1},
    ],
)
@pytest.mark.parametrize("ranks", [2, 4])
def test_history_of_one_process(changes, ranks, tmp_path):
    settings = replace(SETTINGS, **changes)
    if settings.data == "text":
        path = tmp_path / "some.txt"
        path.write_text("".join(chr(97 + i * i % 7) for i in range(4000)))
        settings = replace(settings, data=f"text:{path}")
    expected = train(settings)
    first, *others = on_threads(ranks, lambda comm: train(settings, comm=comm))
    for other in others:
        assert_same(other, first)
    if settings.early_stopping:  # the loss goes up and down, and roundings decide which epoch was best
        assert first.stopped
    else:
        assert_near(first, expected)


@pytest.mark.parametrize("ranks", [None, 1, 3])
def test_checkpoints_go_on_with_any_number_of_ranks(ranks, tmp_path):
    half = replace(SETTINGS, epochs=2)
    path = tmp_path / "half.safetensors"
    on_threads(2, lambda comm: save_checkpoint(path, train(half, comm=comm)))
    rest = replace(half, epochs=1)
    if ranks is None:
        found = train(rest, resume=load_checkpoint(path))
    else:
        found = on_threads(ranks, lambda comm: train(rest, resume=load_checkpoint(path), comm=comm))[0]
    assert_near(found, train(SETTINGS))


def test_masks_of_dropout_differ_between_ranks():
    def masks(comm):
        settings = replace(SETTINGS, dropout=0.5, epochs=0)
        result = train(settings, comm=comm)
        (layer,) = (layer for layer in result.model.layers if isinstance(layer, nn.Dropout))
        return int(layer._stream[0])

    found = on_threads(3, masks)
    assert len(set(found)) == 3
    assert found[0] == on_threads(1, masks)[0]


def test_statistics_of_batch_norm_become_those_of_all():
    def statistics(comm):
        model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout(0.5))
        buffers = dict(model.named_buffers())
        buffers["0.running_mean"][...] = comm.rank
        buffers["0.num_batches_tracked"][...] = 7 - comm.rank
        buffers["1.counter"][...] = 9 - comm.rank
        Team(comm).settle(model)
        return [buffers[name].tolist() for name in ("0.running_mean", "0.num_batches_tracked", "1.counter")]

    assert on_threads(3, statistics) == [[[1.0, 1.0], 7, [9]]] * 3


def test_all_go_by_what_the_first_rank_computes():
    assert on_threads(3, lambda comm: Team(comm).by_first(lambda: comm.rank)) == [0, 0, 0]


def test_every_epoch_can_be_saved(tmp_path):
    path, seen = tmp_path / "run.safetensors", []

    def save(result):
        save_checkpoint(path, result)
        if result.optimizer.comm.rank == 0:
            seen.append(load_checkpoint(path).position.epoch)

    on_threads(2, lambda comm: train(SETTINGS, comm=comm, on_epoch=save))
    assert seen == [1, 2, 3]


def test_an_interruption_of_one_rank_ends_all(monkeypatch):
    interrupted = threading.local()

    @contextlib.contextmanager
    def deferred():
        interrupted.now = False
        yield lambda: interrupted.now

    monkeypatch.setattr(training, "deferred_interrupt", deferred)

    def run(comm):
        def on_step(progress):
            interrupted.now |= comm.rank == 1 and progress.consumed == 500

        return train(SETTINGS, comm=comm, on_step=on_step)

    for result in on_threads(2, run):
        assert result.interrupted
        assert result.position.consumed == 500


def test_rank_that_cannot_begin_is_named():
    def run(comm):
        settings = replace(SETTINGS, data="/nowhere.csv") if comm.rank == 1 else SETTINGS
        with pytest.raises(Exception, match="nowhere") as raised:
            train(settings, comm=comm)
        return raised.type

    found = on_threads(2, run)
    assert found[0] is RankError
    assert found[1] is not RankError


def test_monitors_are_refused():
    def run(comm):
        with pytest.raises(SettingsError, match="monitor"):
            train(SETTINGS, comm=comm, monitor=True)

    on_threads(2, run)


def test_problems_are_told_alike():
    """A diverging run ends on all ranks with the same sentence."""
    settings = replace(SETTINGS, optimizer="sgd", options={"lr": 1e30}, clip_norm=None)
    problems = {result.problem for result in on_threads(2, lambda comm: train(settings, comm=comm))}
    assert len(problems) == 1
    assert problems.pop()


def test_the_data_can_be_smaller_than_a_batch():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 3)).astype("float32")
    y = np.array([0, 1, 0, 1, 0])
    scaling = Scaling(np.zeros(3), np.ones(3), np.zeros(0), np.zeros(0), ("a", "b", "c"), ("n", "y"))
    dataset = Dataset("tiny", "classification", x, y, x, y, scaling)
    for result in on_threads(7, lambda comm: train(SETTINGS, dataset=dataset, comm=comm)):
        assert result.steps == 3
        assert_near(result, train(SETTINGS, dataset=dataset))
