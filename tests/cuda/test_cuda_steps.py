"""Steps that follow each other on the device: graphs, skipped steps, schedules, and what goes wrong."""

from contextlib import contextmanager

import numpy as np
import pytest

import fastgd
from fastgd import schedules
from fastgd.cuda import before_replay, driver
from fastgd.cuda.memory import memory
from fastgd.cuda.simulation import SIMULATED
from fastgd.memory import on_host, placed

SHAPES = [(3, 5), (17,)]

needs_simulator = pytest.mark.skipif(not SIMULATED, reason="what a device does wrong is simulated")


class Graph:
    """Of the simulator: what is launched while it is captured, to be done when it is replayed."""

    @contextmanager
    def capture(self):
        device = driver.device(0)
        device.graph = self.launches = []
        try:
            yield
        finally:
            device.graph = None

    def replay(self):
        for launch in self.launches:
            launch()


def models(**settings):
    """An optimizer on the device, and one of the reference with the same parameters."""
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s).astype(np.float32) for s in SHAPES]
    params = [placed(memory(0), v) for v in values]
    rule = settings.pop("rule", fastgd.AdamW)
    return rule(params, **settings), rule(values, backend="reference", **settings)


def draw(step, bad=()):
    rng = np.random.default_rng(step + 100)
    grads = [rng.standard_normal(s).astype(np.float32) for s in SHAPES]
    if step in bad:
        grads[1][3] = np.inf
    return grads


def put(arrays, values):
    for array, value in zip(arrays, values, strict=True):
        memory(0).write(array, value)


def assert_same(opt, reference):
    for array, wanted in zip(opt.parameters(), reference.parameters(), strict=True):
        assert on_host(array).tobytes() == wanted.tobytes()
    mine, theirs = opt.state_dict(), reference.state_dict()
    assert mine["param_groups"] == theirs["param_groups"]
    for number, entry in theirs["state"].items():
        for name, value in entry.items():
            assert np.asarray(mine["state"][number][name]).tobytes() == np.asarray(value).tobytes(), name


@needs_simulator
@pytest.mark.parametrize("rule", (fastgd.AdamW, fastgd.AdamWScheduleFree, fastgd.LAMB))
def test_a_graph_that_is_replayed(rule):
    opt, reference = models(rule=rule, lr=0.1)
    grads = [placed(memory(0), g) for g in draw(0)]
    asked = {"clip_norm": 0.5}
    opt.step(grads, **asked)
    reference.step(draw(0), **asked)
    graph = Graph()
    with graph.capture():
        assert opt.step(grads, **asked).grad_norm is None
    for step in range(1, 6):
        for o in (opt, reference):
            o.param_groups[0]["lr"] = 0.1 / (step // 2 + 1)
        put(grads, draw(step))
        report = before_replay(opt)
        graph.replay()
        assert tuple(report) == tuple(reference.step(draw(step), **asked))
    assert_same(opt, reference)


@needs_simulator
@pytest.mark.parametrize("rule", (fastgd.NAdam, fastgd.AdamWScheduleFree, fastgd.LAMB))
def test_a_function_of_the_step_counts_what_is_not_skipped(rule):
    opt, reference = models(rule=rule, lr=schedules.OneCycle(0.1, 12))
    asked = {"clip_norm": 0.5, "skip_nonfinite": True}
    for step in range(9):
        grads = draw(step, bad=(2, 3, 6))
        opt.step([placed(memory(0), g) for g in grads], **asked)
        reference.step(grads, **asked)
    assert opt.learning_rates() == reference.learning_rates()
    assert opt.learning_rates() == [schedules.OneCycle(0.1, 12)(6)]
    assert_same(opt, reference)


@needs_simulator
def test_a_function_of_the_step_in_a_graph():
    plateau = schedules.ReduceOnPlateau(schedules.Exponential(0.1, 0.9), patience=0)
    opt, reference = models(lr=plateau)
    grads = [placed(memory(0), g) for g in draw(0)]
    opt.step(grads, clip_norm=0.5)
    reference.step(draw(0), clip_norm=0.5)
    graph = Graph()
    with graph.capture():
        opt.step(grads, clip_norm=0.5)
    plateau.update(1.0)
    for step in range(1, 9):
        if step >= 5:  # rows have been made for steps behind these
            assert plateau.update(1.0)
        put(grads, draw(step))
        before_replay(opt)
        graph.replay()
        reference.step(draw(step), clip_norm=0.5)
    assert_same(opt, reference)


@needs_simulator
def test_a_graph_of_another_plan_is_not_replayed():
    opt, _ = models()
    grads = [placed(memory(0), g) for g in draw(0)]
    opt.step(grads)
    with Graph().capture():
        opt.step(grads)
    opt.step(grads, clip_norm=1.0)
    with pytest.raises(RuntimeError, match="no step like the last has been captured"):
        before_replay(opt)


def test_a_step_that_breaks_off_does_not_count():
    opt, reference = models(lr=0.1)
    for step in range(2):
        opt.step([placed(memory(0), g) for g in draw(step)], clip_norm=0.5)
        reference.step(draw(step), clip_norm=0.5)
    plan = opt._planner.plan.run

    def breaks(stream):
        raise MemoryError("in a product")

    updating, plan._updating = plan._updating, [breaks]
    grads = [placed(memory(0), g) for g in draw(3)]
    with pytest.raises(MemoryError):
        opt.step(grads, clip_norm=0.5)
    assert opt._planner.plan.run is plan
    plan._updating = updating
    report = opt.step(grads, clip_norm=0.5)
    assert tuple(report) == tuple(reference.step(draw(3), clip_norm=0.5))
    assert_same(opt, reference)


@needs_simulator
def test_as_many_replays_as_there_may_be_behind_steps_that_may_be_skipped():
    opt, reference = models(lr=0.01)
    grads = [placed(memory(0), g) for g in draw(0)]
    graph = Graph()
    opt.step(grads, skip_nonfinite=True)
    with graph.capture():
        opt.step(grads, skip_nonfinite=True)
    before_replay(opt, 64)
    for _ in range(64):
        graph.replay()
    for _ in range(65):
        reference.step(draw(0), skip_nonfinite=True)
    assert_same(opt, reference)


@needs_simulator
def test_several_replays_in_a_row():
    opt, reference = models()
    grads = [placed(memory(0), g) for g in draw(0)]
    opt.step(grads)
    reference.step(draw(0))
    graph = Graph()
    with graph.capture():
        opt.step(grads)
    before_replay(opt, 3)
    for _ in range(3):
        graph.replay()
        reference.step(draw(0))
    assert_same(opt, reference)


@needs_simulator
def test_what_cannot_be_captured_or_replayed():
    opt, _ = models()
    grads = [placed(memory(0), g) for g in draw(0)]
    with pytest.raises(RuntimeError, match=r"call step\(\) first"):
        before_replay(opt)
    opt.step(grads)
    with Graph().capture(), pytest.raises(RuntimeError, match=r"call step\(\) first"):
        opt.step(grads, clip_norm=1.0)
    with pytest.raises(ValueError, match="steps must"):
        before_replay(opt, 65)
    with pytest.raises(TypeError, match="opt is list, not an optimizer"):
        before_replay([opt])
    opt.param_groups[0]["amsgrad"] = True
    with pytest.raises(RuntimeError, match="anything but a learning rate"):
        before_replay(opt)


@pytest.mark.parametrize("rule", (fastgd.AdamW, fastgd.SGDScheduleFree))
def test_skipped_steps_do_not_count(rule):
    """Bias corrections and schedules go on from the steps that were made, of which the host need not know."""
    opt, reference = models(rule=rule, lr=0.1)
    bad = (1, 2, 5)
    for step in range(8):
        asked = {"clip_norm": 0.5, "skip_nonfinite": True}
        opt.step([placed(memory(0), g) for g in draw(step, bad)], **asked)
        reference.step(draw(step, bad), **asked)
    assert opt.skipped_steps == reference.skipped_steps == len(bad)
    assert_same(opt, reference)


def test_many_steps_that_may_be_skipped():
    opt, reference = models(lr=0.01)
    grads = [placed(memory(0), g) for g in draw(0)]
    for step in range(40):
        for o in (opt, reference):
            o.param_groups[0]["lr"] = 0.01 * (step % 3 + 1)
        opt.step(grads, skip_nonfinite=True)
        reference.step(draw(0), skip_nonfinite=True)
    assert_same(opt, reference)


def test_a_schedule_and_options_that_change():
    opt, reference = models()
    for step in range(6):
        for o in (opt, reference):
            o.param_groups[0]["lr"] = 0.1 * 0.5**step
            if step == 3:
                o.param_groups[0]["amsgrad"] = True
        asked = [{}, {"clip_norm": 0.5}, {"clip_norm": 0.25}, {"clip_value": 0.1}, {}, {"grad_scale": 2.0}][
            step
        ]
        opt.step([placed(memory(0), g) for g in draw(step)], **asked)
        reference.step(draw(step), **asked)
    assert_same(opt, reference)


def test_gradients_that_come_and_go():
    opt, reference = models()
    for step, missing in enumerate([None, 0, 1, 0, None]):
        values = [None if i == missing else g for i, g in enumerate(draw(step))]
        opt.step([None if g is None else placed(memory(0), g) for g in values])
        reference.step(values)
    assert_same(opt, reference)


def test_a_state_that_is_loaded():
    opt, reference = models(state_dtype="8bit")
    for step in range(2):
        opt.step([placed(memory(0), g) for g in draw(step)])
        reference.step(draw(step))
    other, _ = models(state_dtype="8bit")
    put(other.parameters(), [on_host(p) for p in opt.parameters()])
    other.load_state_dict(reference.state_dict())
    other.step([placed(memory(0), g) for g in draw(5)])
    reference.step(draw(5))
    assert_same(other, reference)


def test_reports_are_read_later_but_not_forever():
    opt, reference = models()
    given = [[placed(memory(0), g) for g in draw(step)] for step in range(3)]
    reports = [opt.step(grads, clip_norm=0.5) for grads in given]
    wanted = [reference.step(draw(step), clip_norm=0.5) for step in range(3)]
    assert [tuple(r) for r in reversed(reports)] == [tuple(r) for r in reversed(wanted)]
    first = opt.step(given[0], clip_norm=0.5)
    opt._planner.plan.run._issued += 256
    with pytest.raises(RuntimeError, match="kept for 256 steps"):
        tuple(first)


@needs_simulator
def test_a_stream_that_was_destroyed_changes_nothing(monkeypatch):
    opt, reference = models()
    grads = [placed(memory(0), g) for g in draw(0)]
    opt.step(grads)
    reference.step(draw(0))
    monkeypatch.setattr(driver.device(0), "destroyed", {driver.DEFAULT_STREAM})
    with pytest.raises(ValueError, match="no stream any more"):
        opt.step(grads)
    monkeypatch.undo()
    assert_same(opt, reference)


@needs_simulator
def test_memory_that_is_not_there_changes_nothing(monkeypatch):
    from fastgd.cuda import simulated_driver

    opt, reference = models()
    grads = [placed(memory(0), g) for g in draw(0)]
    opt.step(grads)
    reference.step(draw(0))
    monkeypatch.setattr(simulated_driver, "MEMORY", 8)
    with pytest.raises(MemoryError, match="cuda:0 has no"):
        opt.step(grads, clip_norm=0.1)
    monkeypatch.undo()
    opt.step(grads, clip_norm=0.1)
    reference.step(draw(0), clip_norm=0.1)
    assert_same(opt, reference)


def test_gradients_elsewhere_are_refused():
    opt, reference = models()
    with pytest.raises(
        ValueError, match="gradient of parameter 0 of group 0 is on host, the parameter on cuda:0"
    ):
        opt.step(draw(0))
    with pytest.raises(ValueError, match="the parameter on host"):
        reference.step([placed(memory(0), g) for g in draw(0)])


def test_host_and_device_in_one_optimizer():
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s).astype(np.float32) for s in SHAPES]
    reference = fastgd.Adam([v.copy() for v in values], lr=0.1, backend="reference")
    params = [placed(memory(0), values[0].copy()), values[1].copy()]
    opt = fastgd.Adam(params, lr=0.1)
    for step in range(3):
        grads = draw(step)
        opt.step([placed(memory(0), grads[0]), grads[1]])
        reference.step(grads)
    assert_same(opt, reference)


@needs_simulator
def test_another_stream_waits_for_what_was_begun(monkeypatch):
    opt, reference = models()
    grads = [placed(memory(0), g) for g in draw(0)]
    opt.step(grads)
    plan, waited = opt._planner.plan.run, []
    monkeypatch.setattr(driver.device(0), "wait", lambda: waited.append(1))
    for stream in (driver.DEFAULT_STREAM, 7, 7, driver.DEFAULT_STREAM):
        monkeypatch.setattr(plan, "_stream", lambda stream=stream: stream)
        opt.step(grads)
    monkeypatch.undo()
    assert len(waited) == 2
    for _ in range(5):
        reference.step(draw(0))
    assert_same(opt, reference)
