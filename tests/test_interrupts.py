"""Ctrl-C: every change is whole, wherever it strikes."""

from __future__ import annotations

import itertools
import os
import random as py_random
import signal
import sys
import threading
import time

import numpy as np
import pytest
from snapshots import contents, random, stepped

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


def trained(backend, rule="sgd", **settings):
    params = [random(n, n) for n in (3, 40, 1)]
    opt = fastgd.optim.create(rule, params, lr=0.1, backend=backend, **settings)
    for seed in range(2):  # after one step, an average and what it is of are the same
        opt.step(grads_of(seed), clip_norm=0.5)
    return opt


OTHER = trained("reference", momentum=0.7, weight_decay=0.1).state_dict()

#: (settings, what is interrupted)
ACTIONS = {
    "step": ({}, lambda opt, fresh: opt.step(fresh, clip_norm=0.25)),
    "skip": ({"momentum": 0.5}, lambda opt, fresh: opt.step(fresh, skip_nonfinite=True, grad_scale=2.0)),
    "none": ({"momentum": 0.5}, lambda opt, fresh: opt.step([None, *fresh[1:]])),
    "set": ({}, lambda opt, fresh: opt.param_groups[0].update(momentum=0.9, weight_decay=0.5)),
    "load": ({"momentum": 0.5}, lambda opt, fresh: opt.load_state_dict(OTHER)),
    "carry": ({"rule": "sgd_schedule_free"}, lambda opt, fresh: opt.step(fresh, clip_norm=0.25)),
    "eval": ({"rule": "sgd_schedule_free"}, lambda opt, fresh: opt.eval()),
}


def went_on(opt):
    """Reports of some more steps, and what there is after each."""
    opt.train()
    every = ({"clip_norm": 0.5}, {"clip_norm": 0.25}, {})
    return [(opt.step(grads_of(9), **options), contents(opt)) for options in every]


@pytest.mark.parametrize("name", ACTIONS)
def test_at_every_line(backend, name):
    """Whichever line Ctrl-C hits, all or nothing has changed, and training goes on as if it had not hit."""
    settings, action = ACTIONS[name]
    before = contents(trained(backend, **settings))
    # what there is after the interruption, as far as it may differ -> a twin that is not interrupted
    twins, outcomes = {}, set()
    for line in itertools.count(1):
        opt = trained(backend, **settings)
        if not interrupted_at(line, lambda opt=opt: action(opt, grads_of(7))):
            break
        found = contents(opt)
        outcome = untouched = found == before
        if name == "set":  # two settings are two changes
            outcome = tuple((key, opt.param_groups[0][key]) for key in ("momentum", "weight_decay"))
        if outcome not in twins:
            twin = trained(backend, **settings)
            if name == "set":
                twin.param_groups[0].update(outcome)
            elif not untouched:
                action(twin, grads_of(7))
            twins[outcome] = contents(twin), went_on(twin)
        assert (found, went_on(opt)) == twins[outcome], line
        outcomes.add(untouched)
    assert line > 5
    assert True in outcomes


@pytest.mark.parametrize("update", [True, False])
def test_a_scaler_is_whole_at_every_line(update):
    """Whichever line Ctrl-C hits, scale and counters are as before or as after, and go on from there."""
    bad = [np.full(2, np.nan)]
    for line in itertools.count(1):
        opt, scaler = fastgd.SGD([np.zeros(2)]), fastgd.LossScaler(8)
        before = scaler.state_dict()

        def action(opt=opt, scaler=scaler):
            scaler.step(opt, bad, update=update)
            if not update:
                scaler.update()

        if not interrupted_at(line, action):
            break
        found = scaler.state_dict()
        assert found == before or (found["scale"], found["steps"], found["skipped_in_a_row"]) == (4.0, 1, 1)
        fresh = fastgd.SGD([np.zeros(2)])
        scaler.step(fresh, [np.ones(2)], update=False)
        scaler.update()
        assert scaler.steps == found["steps"] + 1
    assert line > 5


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
