"""Monitor: the same training, bit for bit; what it records, and what it refuses."""

from __future__ import annotations

import copy
import math
import time

import numpy as np
import pytest
from monitor_runs import FAILING, HEALTHY

import fastgd
from fastgd import monitor, nn
from fastgd.monitor.probe import Probe, places

F32 = np.float32


def stateful() -> nn.Sequential:
    """Layers with statistics, masks, and state that is carried from batch to batch."""
    return nn.Sequential(
        nn.Linear(3, 6),
        nn.RNN(6, 6, carry=True, nonlinearity="relu"),
        nn.Residual(nn.LSTM(6, 6, carry=True), nn.Linear(6, 6), nn.Tanh(), nn.Dropout(0.3)),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Linear(24, 2),
        loss=nn.MSELoss(),
        seed=0,
    )


def batches(steps: int, rows: int = 8):
    rng = np.random.default_rng(1)
    for _ in range(steps):
        yield rng.standard_normal((rows, 4, 3)).astype(F32), rng.standard_normal((rows, 2)).astype(F32)


def bits(model: nn.Sequential, opt: fastgd.Optimizer) -> bytes:
    state = [*model.state_dict().values(), *model.gradients()]
    carried = [
        array
        for layer in (model.layers[1], model.layers[2].layers[0])
        for array in layer.carried_states(8, 0)
        if array is not None
    ]
    kept = [value for entry in opt.state_dict()["state"].values() for value in entry.values()]
    return b"".join(np.asarray(array).tobytes() for array in [*state, *carried, *kept])


# ---- the training stays what it is


@pytest.mark.parametrize("every", [1, 3, "auto"])
@pytest.mark.parametrize("rows", [8, 3])
@pytest.mark.parametrize("options", [{}, {"clip_norm": 0.5}, {"skip_nonfinite": True}], ids=str)
def test_the_training_has_the_same_bits(every, rows, options):
    plain, seen = stateful(), stateful()
    opt, own = (fastgd.AdamW(m.named_parameters(), lr=1e-2) for m in (plain, seen))
    watch = monitor.Monitor(seen, own, every=every, rows=rows)
    for x, y in batches(12):
        expected = plain.train_step(x, y, opt, **options)
        assert watch.train_step(x, y, **options) == expected
        watch.findings()
        assert bits(plain, opt) == bits(seen, own)


def test_the_curvature_leaves_everything_as_it_was():
    model = stateful()
    opt = fastgd.SGD(model.named_parameters(), lr=1e-3)
    watch = monitor.Monitor(model, opt, every=1)
    for x, y in batches(3):
        watch.train_step(x, y)
    before = bits(model, opt)
    assert watch._curvature() is not None
    assert bits(model, opt) == before


def test_a_loop_of_one_s_own_gives_the_same_and_is_seen_alike():
    models = [stateful() for _ in range(2)]
    opts = [fastgd.SGD(m.named_parameters(), lr=0.1, momentum=0.9) for m in models]
    watches = [monitor.Monitor(m, o, every=2) for m, o in zip(models, opts, strict=True)]
    for x, y in batches(7):
        step = watches[0].train_step(x, y, clip_norm=0.5)
        loss, grads = watches[1].loss_and_grad(x, y)
        assert (loss, watches[1].step(grads, clip_norm=0.5)) == step
    assert bits(models[0], opts[0]) == bits(models[1], opts[1])
    assert list(watches[0].history.steps) == list(watches[1].history.steps)
    assert list(watches[0].history.looks) == list(watches[1].history.looks)


def test_a_pause_is_no_time_of_training():
    model = stateful()
    watch = monitor.Monitor(model, fastgd.SGD(model.named_parameters()))
    before = watch.sampling.trained
    with watch.paused():
        began = time.perf_counter()
        while time.perf_counter() - began < 0.2:
            pass
    watch.sampling.passed()
    assert watch.sampling.trained - before < 0.1


def test_reading_the_history_does_not_put_off_a_look():
    models = [stateful() for _ in range(2)]
    watches = [monitor.Monitor(m, fastgd.SGD(m.named_parameters()), every=5) for m in models]
    for x, y in batches(21):
        for watch in watches:
            watch.train_step(x, y)
        assert watches[1].history.count == len(watches[1].history.steps)
    assert [[look.step for look in watch.history.looks] for watch in watches] == [[1, 6, 11, 16, 21]] * 2


def test_a_step_needs_its_gradients():
    model = stateful()
    watch = monitor.Monitor(model, fastgd.SGD(model.named_parameters()))
    with pytest.raises(RuntimeError, match="behind watch"):
        watch.step(model.gradients())


@pytest.mark.parametrize("x", [np.ones((8, 4, 5), F32), np.ones((8, 4, 3)), np.ones((0, 4, 3), F32)])
def test_what_train_step_refuses_is_refused_with_its_words_and_counts_for_nothing(x):
    model = stateful()
    opt = fastgd.SGD(model.named_parameters())
    watch = monitor.Monitor(model, opt, every=1)
    y = np.ones((len(x), 2), F32)
    with pytest.raises((TypeError, ValueError)) as plain:
        model.train_step(x, y, opt)
    with pytest.raises(plain.type) as watched:
        watch.train_step(x, y)
    assert str(watched.value) == str(plain.value)
    assert watch.history.count == len(watch.history.steps) == len(watch.history.looks) == 0


def test_lookahead_and_rows_of_other_lengths_are_watched():
    model = nn.Sequential(
        nn.Embedding(9, 4), nn.GRU(4, 5, output="last"), nn.Linear(5, 3), loss=nn.CrossEntropyLoss(), seed=0
    )
    opt = fastgd.averaging.Lookahead(fastgd.Adam(model.named_parameters()))
    watch = monitor.Monitor(model, opt, every=1)
    x = np.arange(20).reshape(4, 5) % 9
    for _ in range(4):
        watch.train_step(nn.Sequences(x, np.array([5, 1, 3, 2])), np.array([0, 1, 2, 0]))
    layers = watch.history.looks[-1].layers
    assert [layer.label for layer in layers] == ["0 Embedding", "1 GRU", "2 Linear"]
    assert all(layer.output_rms > 0 and layer.update_ratio > 0 for layer in layers)
    assert watch.history.looks[-1].lr == 1e-3
    assert not watch.findings()


# ---- what is recorded


def test_numbers_of_a_look_are_those_of_numpy():
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 2), loss=nn.MSELoss(), seed=3)
    opt = fastgd.SGD(model.named_parameters(), lr=0.25)
    watch = monitor.Monitor(model, opt, every=1)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((70, 5)).astype(F32), rng.standard_normal((70, 2)).astype(F32)
    before = [p.astype(np.float64) for p in model.parameters()]
    watch.train_step(x, y)
    after, grads = [p.astype(np.float64) for p in model.parameters()], model.gradients()

    def norm(arrays):
        return math.sqrt(sum(float(np.sum(np.square(a, dtype=np.float64))) for a in arrays))

    first, relu, last = watch.history.looks[0].layers
    for layer, part in ((first, slice(0, 2)), (last, slice(2, 4))):
        assert layer.grad_norm == pytest.approx(norm(grads[part]), rel=1e-12)
        assert layer.param_norm == pytest.approx(norm(before[part]), rel=1e-12)
        moved = [a - b for a, b in zip(after[part], before[part], strict=True)]
        assert layer.update_ratio == pytest.approx(norm(moved) / norm(before[part]), rel=1e-4)
    z = np.maximum(x[:64] @ before[0].T + before[1], 0)
    assert relu.grad_norm is relu.param_norm is relu.update_ratio is None
    assert relu.output_rms == pytest.approx(math.sqrt(np.mean(z**2)), rel=1e-5)
    assert relu.zeros == relu.saturated == np.mean(z == 0)
    assert relu.dead == np.mean((z == 0).all(axis=0))


def test_layers_inside_a_residual_have_the_names_of_their_parameters():
    inner = nn.Residual(nn.Linear(4, 4), nn.ReLU(), shortcut=nn.Linear(4, 4))
    model = nn.Sequential(
        nn.Linear(4, 4),
        nn.Residual(inner, nn.Tanh(), shortcut=[nn.Linear(4, 4), nn.Sigmoid()]),
        loss=nn.MSELoss(),
        seed=0,
    )
    found = [place.name for place in places(model.layers)]
    named = {name.rpartition(".")[0] for name, _ in model.named_parameters()}
    assert named <= set(found)
    expected = ["0", "1.0.0", "1.0.1", "1.0.shortcut", "1.0", "1.1", "1.shortcut.0", "1.shortcut.1", "1"]
    assert found == expected
    x = np.ones((2, 4), F32)
    outputs = Probe(model).run(x)
    assert set(outputs) == set(found)
    assert outputs["1"].tobytes() == model.forward(x).tobytes()


def test_units_of_a_convolution_are_its_channels():
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), loss=nn.MSELoss(), seed=0
    )
    model.layers[0].bias[...] = [-100, 100, 100]
    watch = monitor.Monitor(model, fastgd.SGD(model.named_parameters(), lr=0), every=1)
    x = np.random.default_rng(0).random((64, 1, 4, 4)).astype(F32)
    watch.train_step(x, np.ones((64, 4), F32))
    assert watch.history.looks[0].layers[1].dead == pytest.approx(1 / 3)


# ---- what is not finite


def model_and_watch(every=1, **options):
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), loss=nn.MSELoss(), seed=0)
    opt = fastgd.SGD(model.named_parameters(), lr=0.1)
    return model, monitor.Monitor(model, opt, every=every, **options)


@pytest.mark.parametrize("every", [1, 1000])
def test_the_first_tensor_and_index_that_is_not_finite_are_named(every):
    x, y = np.ones((5, 3), F32), np.ones((5, 2), F32)

    def found(change, options=None):
        model, watch = model_and_watch(every)
        watch.train_step(x, y)
        a, b = x.copy(), y.copy()
        change(model, a, b)
        with np.errstate(all="ignore"):
            watch.train_step(a, b, **(options or {}))
        return watch.history.spoiled[0]

    def set_at(array, index, value):
        array[index] = value

    spoiled = found(lambda model, a, b: set_at(a, (2, 1), np.nan))
    assert (spoiled.step, spoiled.what) == (2, "input")
    assert spoiled.place[:2] == ("x", (2, 1))
    spoiled = found(lambda model, a, b: set_at(b, (4, 0), np.inf))
    assert (spoiled.what, spoiled.place) == ("target", ("y", (4, 0), np.inf))
    spoiled = found(
        lambda model, a, b: set_at(model.parameters()[2], (1, 3), np.nan), {"skip_nonfinite": True}
    )
    assert (spoiled.what, *spoiled.place[:2]) == ("parameter", "2.weight", (1, 3))

    def overflow(model, a, b):
        weight, _, behind, _ = model.parameters()
        weight[...], behind[...] = 1, 3e38

    spoiled = found(overflow, {"skip_nonfinite": True})
    assert (spoiled.what, spoiled.place.name, spoiled.known) == ("output", "2", True)


def test_only_the_first_bad_steps_are_looked_into_and_all_are_counted():
    _, watch = model_and_watch()
    x = np.full((5, 3), np.nan, F32)
    for _ in range(9):
        watch.train_step(x, np.ones((5, 2), F32))
    assert (watch.history.nonfinite, len(watch.history.spoiled)) == (9, 3)


# ---- what is refused


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"every": 0}, ValueError, "every must be at least 1"),
        ({"every": "all"}, ValueError, "every must be 'auto' or a number of steps"),
        ({"every": 1.5}, TypeError, "every"),
        ({"budget": -1}, ValueError, "budget"),
        ({"rows": 0}, ValueError, "rows"),
    ],
)
def test_arguments_that_are_none_are_refused(options, error, says):
    with pytest.raises(error, match=says):
        model_and_watch(**{"every": 1, **options})


def test_models_and_optimizers_that_are_none_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), seed=0)
    opt = fastgd.SGD(model.named_parameters())
    with pytest.raises(TypeError, match="watch_torch"):
        monitor.Monitor([1], opt)
    with pytest.raises(ValueError, match="must have a loss"):
        monitor.Monitor(model, opt)
    with pytest.raises(TypeError, match="opt must be an optimizer"):
        monitor.Monitor(nn.Sequential(nn.Linear(2, 2), loss=nn.MSELoss()), object())
    with pytest.raises(AttributeError, match="has no attribute 'watch_jax'"):
        monitor.watch_jax  # noqa: B018


# ---- judging


def test_no_steps_are_no_findings():
    _, watch = model_and_watch()
    assert watch.findings() == []


def test_curvature_is_measured_only_when_asked_for_and_once_a_step():
    make, _ = FAILING["the saddle of a linear model of two layers"]
    run = make()
    model, opt = run.made()
    watch = monitor.Monitor(model, opt, every=5)
    for x, y in run.batches:
        watch.train_step(x, y)
    assert [found.kind for found in watch.findings(curvature=False)] == ["plateau"]
    calls = []
    measure = watch._gradients_here
    watch._gradients_here = lambda: calls.append(0) or measure()
    assert [found.kind for found in watch.findings()] == ["saddle"]
    watch.findings()
    assert len(calls) == 1
    with pytest.raises(TypeError, match="curvature must be True or False"):
        watch.findings(curvature=1)


def test_a_watched_model_can_still_be_copied():
    run = HEALTHY["regression by SGD"]()
    model, opt = run.made()
    watch = monitor.Monitor(model, opt, every=1)
    watch.train_step(*run.batches[0])
    assert copy.deepcopy(model).state_dict().keys() == model.state_dict().keys()
