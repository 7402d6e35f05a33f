"""What a monitor is made of: units, facts, samples of steps, bounded lists, curvature, thresholds."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastgd import nn
from fastgd.monitor.batches import Facts
from fastgd.monitor.curvature import lanczos, smallest
from fastgd.monitor.records import Thinned
from fastgd.monitor.sampling import AROUND, Sampling
from fastgd.monitor.spoiled import first
from fastgd.monitor.thresholds import THRESHOLDS
from fastgd.monitor.units import EXAMPLES, FLAT, Flat, Units, flat_of
from fastgd.nn.activations import ACTIVATIONS

F32 = np.float32


@pytest.mark.parametrize("kind", ACTIVATIONS)
@pytest.mark.parametrize("dtype", [F32, np.float64])
def test_at_flat_ends_and_only_there_the_derivative_is_small(kind, dtype):
    activation = ACTIVATIONS[kind]()
    flat = flat_of(kind, activation.values)
    if flat is None:
        assert kind == "leaky_relu"
        return
    z = np.linspace(-12, 12, 4001).astype(dtype)[:, None]
    model = nn.Sequential(activation, loss=nn.MSELoss())
    y = model.forward(z)
    slope = np.abs(np.gradient(y[:, 0].astype(np.float64), z[:, 0].astype(np.float64)))
    units = Units(flat, channels_first=False)
    at_end = np.array([units.measure(row[None]).saturated for row in y], bool)
    # what passes through 0 or bends is there for one number only
    inside = at_end & np.roll(at_end, 1) & np.roll(at_end, -1)
    assert slope[inside].max(initial=0) <= 0.0205 * slope.max()
    if kind in ("relu", "tanh", "sigmoid", "elu", "selu", "softplus", "logsigmoid"):
        assert slope[~at_end].min() >= 0.019 * slope.max()


def test_a_unit_is_dead_when_it_is_flat_for_enough_examples_in_a_row():
    units = Units(FLAT["relu"](), channels_first=False)
    y = np.zeros((EXAMPLES // 2, 2), F32)
    assert units.measure(y).dead == 0
    y[3, 1] = 1
    assert units.measure(y).dead == 0.5
    y[:] = 0
    assert units.measure(y).dead == 0.5
    assert units.measure(y).dead == 1
    assert units.measure(y + 1).dead == 0


def test_outputs_that_are_not_finite_are_no_dead_units():
    outputs = Units(Flat(((0.0, 0.0),)), channels_first=False).measure(np.full((64, 2), np.nan, F32))
    assert math.isnan(outputs.rms) and outputs.dead is None


def test_integers_and_finite_arrays_have_no_bad_element():
    assert first([("i", np.arange(3)), ("e", np.zeros((0, 2))), ("f", np.ones(3))]) is None
    assert first([("f", np.ones(3)), ("z", np.array(-np.inf))]) == ("z", (), -np.inf)


def test_a_thinned_list_keeps_its_first_and_its_newest():
    rows = Thinned(100)
    for i in range(100_000):
        rows.append(i)
        assert len(rows) <= 100
    assert rows[0] == 0 and list(rows)[-50:] == list(range(99_950, 100_000))
    assert list(rows) == sorted(rows)


@pytest.mark.parametrize("noting", [0.0, 0.02, 0.05, 0.2])
def test_noting_is_a_part_of_the_budget(noting):
    sampling, looked, asleep = Sampling("auto", 0.05, noting), [], 0
    for done in range(10_000):
        if sampling.due(done):
            assert done >= asleep - 1, "until() has passed a step that was due, by more than rounding"
            looked.append(done + 1)
            sampling.looked(done, 2.0)
        elif done >= asleep:
            asleep = sampling.until(done, 256)
        sampling.trained += 1.0
    most = max(0.05 - noting, 0) * 10_000
    sure = 2 * AROUND * 28
    assert 0.9 * most <= sampling.spent <= max(most, sure) + 2 * AROUND
    assert looked[:12] == [*range(1, 11), 15, 23]


def test_sampling_looks_at_first_steps_and_then_within_its_budget():
    sampling, looked = Sampling("auto", 0.05), []
    for done in range(5000):
        if sampling.due(done):
            looked.append(done + 1)
            sampling.looked(done, 2.0)
        sampling.trained += 1.0
    assert looked[:12] == [*range(1, 11), 15, 23]
    assert 0.045 * 5000 < sampling.spent <= 0.05 * 5000 + 2 * AROUND
    for chosen, expected in (
        (Sampling("auto", 0), [*range(1, 11), 15, 23, 35]),
        (Sampling(4), list(range(1, 40, 4))),
    ):
        found = []
        for done in range(40):
            if chosen.due(done):
                found.append(done + 1)
                chosen.looked(done, 1.0)
            chosen.trained += 1e9
        assert found == expected


def test_lanczos_finds_the_ends_of_a_matrix():
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.standard_normal((200, 200)))
    values = np.concatenate([[-3.0], rng.uniform(0, 1, 198), [10.0]])
    matrix = (q * values) @ q.T
    found, vector = lanczos(lambda v: matrix @ v, 200)
    assert found[0] == pytest.approx(-3, rel=1e-3) and found[-1] == pytest.approx(10, rel=1e-3)
    assert vector @ matrix @ vector == pytest.approx(-3, rel=1e-3)
    found, _ = lanczos(lambda v: np.zeros(1), 1)
    assert found.tolist() == [0.0]


def test_gradients_that_are_not_finite_have_no_curvature():
    assert smallest([np.ones(3)], lambda: [np.full(3, np.nan)], []) is None


def test_facts_tell_features_apart_and_forget_the_data():
    facts = Facts()
    rng = np.random.default_rng(0)
    for _ in range(80):
        facts.add(rng.standard_normal((300, 3)) * [1, 10, 0] + [0, 5, 7])
    assert facts.batches == 50 and facts.rows == 256
    assert facts.deviations == pytest.approx([1, 10], rel=0.05)
    assert facts.rms == pytest.approx(math.sqrt((1 + 125 + 49) / 3), rel=0.05)
    assert not facts.constant
    labels = Facts()
    labels.add(np.array([3, 3, -100, 3]), ignored=-100)
    assert labels.constant and labels.integers and labels.least == labels.most == 3
    assert math.isnan(Facts().rms) and not Facts().constant


def test_every_threshold_is_used_and_every_kind_can_be_told():
    import inspect
    import re

    from fastgd.monitor import findings, judges_of_layers, judges_of_runs, trend
    from fastgd.monitor.kinds import KINDS, sees

    code = "".join(map(inspect.getsource, (findings, judges_of_layers, judges_of_runs, trend)))
    assert set(re.findall(r'limit\("(\w+)"\)', code)) == set(THRESHOLDS)
    for kind, entry in KINDS.items():
        assert "{" not in sees(kind)
        assert set(entry.hidden_by) <= set(KINDS) - {kind}
        assert entry.remedies and entry.reason
