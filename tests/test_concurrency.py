"""Threads and forks: optimizers beside each other, and one optimizer in many hands."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from snapshots import contents, random, stepped

import fastgd
from fastgd import nn, schedules

F32 = np.float32
SIZES = (3, 70_000, 1, 500)


def in_threads(*functions):
    """Runs the functions at once, each in a thread, and raises what one of them raised."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(f,)) for f in functions]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


def test_optimizers_in_threads_do_not_meet(backend):
    def train(seed):
        p = [random(20_000, seed), random(50_000, seed + 1)]
        opt = fastgd.Adam(p, lr=0.1, backend=backend)
        for t in range(15):
            opt.step([random(20_000, t), random(50_000, t)], clip_norm=1.0)
        return contents(opt)

    expected = [train(seed) for seed in range(4)]
    found = {}
    in_threads(*(lambda s=seed: found.update({s: train(s)}) for seed in range(4)))
    assert [found[s] for s in range(4)] == expected


def test_models_in_threads_do_not_meet():
    """Each thread has a model and an optimizer of its own; matrix products are everybody's."""

    def train(seed):
        model = nn.Sequential(
            nn.Linear(20, 64),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(64, 3),
            loss=nn.CrossEntropyLoss(),
            seed=seed,
        )
        opt = fastgd.AdamW(model.named_parameters(), lr=schedules.Cosine(0.01, steps=40))
        rng = np.random.default_rng(seed)
        losses = []
        for _ in range(40):
            x, y = rng.standard_normal((32, 20)).astype(F32), rng.integers(0, 3, 32)
            losses.append(model.train_step(x, y, opt, clip_norm=1.0).loss)
        return losses, [p.tobytes() for p in model.parameters()]

    expected = [train(seed) for seed in range(4)]
    found = {}
    in_threads(*(lambda s=seed: found.update({s: train(s)}) for seed in range(4)))
    assert [found[s] for s in range(4)] == expected


def test_one_optimizer_in_many_threads(backend):
    """Each thread has gradients of its own, gone after the step; every step must be counted, whole."""
    params = [np.zeros(n, np.float64) for n in (5, 30_000)]
    opt = fastgd.SGD(params, lr=1.0, momentum=1.0, backend=backend)

    def train():
        for _ in range(40):
            opt.step([np.ones(5), np.ones(30_000)], clip_norm=1e9)
            np.full(30_000, 7.0)

    def look():
        for _ in range(20):
            entry = opt.state_dict()["state"].get(0, {"step": 0, "momentum_buffer": np.zeros(1)})
            assert np.all(entry["momentum_buffer"] == entry["step"])

    in_threads(*[train] * 4, look)
    assert stepped(opt, params) == 160


def test_steps_with_other_options_in_threads(backend):
    p = np.zeros(20_000)
    opt = fastgd.SGD([p], lr=1.0, backend=backend)

    def train(scale):
        for _ in range(50):
            opt.step([np.ones(20_000)], grad_scale=scale)

    in_threads(*(lambda s=s: train(s) for s in (0.5, 1.0, 0.25)))
    assert np.all(p == -50 * (2 + 1 + 4))


def test_a_change_while_the_plan_is_built_holds_from_the_next_step_on(backend):
    """As from another thread: after the plan has read the switches, before the step is made."""
    p = np.zeros(3)
    opt = fastgd.SGD([p], lr=1.0, backend=backend)
    grads = [np.ones(3)]

    class Meddling:
        name, supports = opt.backend.name, opt.backend.supports

        def plan(self, work, make=opt.backend.plan):
            plan = make(work)
            opt.param_groups[0]["momentum"] = 0.5
            return plan

    plain, opt._planner.backend = opt.backend, Meddling()
    opt.step(grads)
    opt._planner.backend = plain
    for position in (-2, -3.5):
        opt.step(grads)
        assert p.tolist() == [position] * 3


def test_a_snapshot_is_of_one_moment(backend):
    """A load in another thread, as soon as the snapshot lets it in, is not half in it."""
    opt, other = (fastgd.SGD([np.zeros(3)], lr=lr, momentum=0.5, backend=backend) for lr in (1.0, 2.0))
    opt.step([np.ones(3)])
    loaded = other.state_dict()

    class Lock:
        def __enter__(self):
            opt._lock = plain
            plain.acquire()

        def __exit__(self, *_):
            plain.release()
            opt.load_state_dict(loaded)

    plain, opt._lock = opt._lock, Lock()
    found = opt.state_dict()
    assert (found["state"][0]["step"], found["param_groups"][0]["lr"]) == (1, 1.0)
    assert opt.param_groups[0]["lr"] == 2.0


def test_an_emptied_list_of_gradients_does_no_harm(backend):
    p = np.zeros(400_000, F32)
    opt = fastgd.SGD([p], lr=1.0, backend=backend)
    lists = [[np.ones(400_000, F32)] for _ in range(60)]
    turn = threading.Semaphore(0)
    steps = 0

    def train():
        nonlocal steps
        for grads in lists:
            turn.release()
            try:
                opt.step(grads, clip_norm=1e9)
                steps += 1
            except ValueError as error:  # emptied before the step looked
                assert "got 0 gradients" in str(error)

    def empty():
        for i, grads in enumerate(lists):
            turn.acquire()
            time.sleep(i * 1e-5)
            grads.clear()

    in_threads(train, empty)
    assert np.all(p == -steps)


FORKED = """
    import os
    import sys
    import numpy as np
    import fastgd

    def step():
        opt.step([np.ones(n) for n in sizes], clip_norm=1e9)

    sizes = (100_000, 7, 300_000)
    params = [np.zeros(n) for n in sizes]
    fastgd.set_num_threads(2)
    opt = fastgd.SGD(params, lr=1.0, momentum=1.0, backend=sys.argv[1])
    step()
    child = os.fork()
    step()
    state = opt.state_dict()["state"]
    right = all(np.all(p == -3) for p in params) and all(state[i]["step"] == 2 for i in range(3))
    if child == 0:
        os._exit(0 if right and fastgd.get_num_threads() == 1 else 3)
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status) or (0 if right and fastgd.get_num_threads() == 2 else 4))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_forked_child_goes_on(backend):
    script = [sys.executable, "-c", textwrap.dedent(FORKED), backend]
    assert subprocess.run(script, timeout=60, check=False).returncode == 0


HELD = """
import os, threading, time
import numpy as np
import fastgd

param, started = np.ones(2), threading.Event()
opt = fastgd.SGD([param], lr=0.5)

def hold():
    with opt._lock:
        started.set()
        time.sleep(60)

threading.Thread(target=hold, daemon=True).start()
started.wait()
pid = os.fork()
if pid == 0:
    opt.step([np.ones(2)])
    os._exit(0 if (param == 0.5).all() else 3)
os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_child_forked_while_another_thread_steps_does_not_wait_for_it():
    assert subprocess.run([sys.executable, "-c", HELD], timeout=30, check=False).returncode == 0
