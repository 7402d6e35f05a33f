"""Ctrl-C, forks and threads: every change is whole, whatever else happens meanwhile."""

from __future__ import annotations

import itertools
import os
import random as py_random
import signal
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest
from snapshots import contents, random

import fastgd
from fastgd.interrupts import uninterrupted

F32 = np.float32
SIZES = (3, 70_000, 1, 500)
PACKAGE = os.path.dirname(fastgd.__file__)


class Stop(Exception):
    """What the handler of SIGINT raises here: KeyboardInterrupt would end pytest if a test let it through."""


@pytest.fixture(autouse=True)
def handler():
    def stop(number, frame):
        raise Stop

    before = signal.signal(signal.SIGINT, stop)
    yield stop
    signal.signal(signal.SIGINT, before)


def interrupted_for(seconds, action):
    """Calls the action again and again while SIGINT comes at times drawn by chance.

    Returns how often it returned and how often Stop came out of it. The handler raises only while armed, so
    that Stop never comes up outside the action's own try.
    """
    armed, returned, hits = False, 0, 0

    def stop(number, frame):
        nonlocal armed
        if armed:
            armed = False
            raise Stop

    def send():
        draw, end = py_random.Random(0), time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(draw.uniform(1e-5, 1e-3))
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    signal.signal(signal.SIGINT, stop)
    sender = threading.Thread(target=send)
    sender.start()
    while sender.is_alive():
        try:
            armed = True
            while sender.is_alive():
                action()
                returned += 1
            armed = False
        except Stop:
            hits += 1
    sender.join()
    return returned, hits


def stepped(opt, params):
    """The number of steps that parameters and state agree to have been made, with gradients of one.

    With lr 1 and momentum 1, the buffer is t after t steps and the parameter -t (t + 1) / 2.
    """
    state = opt.state_dict()["state"]
    if not state:
        assert all(not p.any() for p in params)
        return 0
    counts = {entry["step"] for entry in state.values()}
    assert len(state) == len(params)
    assert len(counts) == 1
    t = counts.pop()
    for i, p in enumerate(params):
        assert np.all(state[i]["momentum_buffer"] == t)
        assert np.all(p == -t * (t + 1) / 2)
    return t


def test_steps_are_whole_under_interruptions(backend):
    params = [np.zeros(n, np.float64) for n in SIZES]
    opt = fastgd.SGD(params, lr=1.0, momentum=1.0, backend=backend)
    kept = [np.ones(n) for n in SIZES]
    calls = itertools.count()

    def step():
        t = next(calls)
        opt.step(kept if t % 3 else [k.copy() for k in kept], clip_norm=1e9 if t % 2 else None)

    returned, hits = interrupted_for(1.5, step)
    assert hits > 20
    t = stepped(opt, params)
    assert returned <= t <= returned + hits
    opt.step(kept)
    assert stepped(opt, params) == t + 1


def interrupted_at(line, action):
    """Runs the action and raises SIGINT when it reaches that line of fastgd, counted as they are executed.

    False when the action ended before.
    """
    reached = 0

    def trace(frame, event, argument):
        nonlocal reached
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            reached += 1
            if reached == line:
                signal.raise_signal(signal.SIGINT)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    except Stop:
        pass
    finally:
        sys.settrace(before)
    return reached >= line


def grads_of(seed):
    return [random(n, seed + n) for n in (3, 40, 1)]


def trained(backend, **settings):
    opt = fastgd.SGD([random(n, n) for n in (3, 40, 1)], lr=0.1, backend=backend, **settings)
    opt.step(grads_of(0), clip_norm=0.5)
    return opt


OTHER = trained("reference", momentum=0.7, weight_decay=0.1).state_dict()

#: (settings, what is interrupted)
ACTIONS = {
    "step": ({}, lambda opt, fresh: opt.step(fresh, clip_norm=0.25)),
    "skip": ({"momentum": 0.5}, lambda opt, fresh: opt.step(fresh, skip_nonfinite=True, grad_scale=2.0)),
    "none": ({"momentum": 0.5}, lambda opt, fresh: opt.step([None, *fresh[1:]])),
    "set": ({}, lambda opt, fresh: opt.param_groups[0].update(momentum=0.9, weight_decay=0.5)),
    "load": ({"momentum": 0.5}, lambda opt, fresh: opt.load_state_dict(OTHER)),
}


@pytest.mark.parametrize("name", ACTIONS)
def test_at_every_line(backend, name):
    """Whichever line Ctrl-C hits, all or nothing has changed, and training goes on as if it had not hit."""
    settings, action = ACTIONS[name]
    outcomes = set()
    for line in itertools.count(1):
        opt, twin = trained(backend, **settings), trained(backend, **settings)
        if not interrupted_at(line, lambda opt=opt: action(opt, grads_of(7))):
            break
        untouched = contents(opt) == contents(twin)
        if not untouched:
            if name == "set":  # two settings are two changes
                for key in ("momentum", "weight_decay"):
                    twin.param_groups[0][key] = opt.param_groups[0][key]
            else:
                action(twin, grads_of(7))
            assert contents(opt) == contents(twin), line
        outcomes.add(untouched)
        for options in ({"clip_norm": 0.5}, {"clip_norm": 0.25}, {}):
            assert opt.step(grads_of(9), **options) == twin.step(grads_of(9), **options), line
            assert contents(opt) == contents(twin), line
    assert line > 5
    assert True in outcomes


def test_held_back_until_the_block_has_ended(handler):
    done = []
    with pytest.raises(Stop), uninterrupted():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is handler


def test_held_back_though_the_block_fails(handler):
    with pytest.raises(Stop) as caught, uninterrupted():
        signal.raise_signal(signal.SIGINT)
        raise ValueError("the block's own")
    assert isinstance(caught.value.__context__, ValueError)
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("setting", [signal.SIG_IGN, signal.SIG_DFL])
def test_handlers_that_are_not_pythons_stay(setting):
    signal.signal(signal.SIGINT, setting)
    with uninterrupted():
        assert signal.getsignal(signal.SIGINT) == setting
    assert signal.getsignal(signal.SIGINT) == setting


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

    plain, opt.backend = opt.backend, Meddling()
    opt.step(grads)
    opt.backend = plain
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
