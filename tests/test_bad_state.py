"""A state dict that does not fit is refused whole, and the error says where."""

from __future__ import annotations

import math

import numpy as np
import pytest
from snapshots import BACKENDS, contents, random, unchanged

import fastgd


def make(backend, seed=0):
    groups = [
        {"params": {"w": random((2, 3), seed), "b": random(3, seed + 1)}},
        {"params": [random(4, seed + 2, np.float64)], "lr": 0.1},
    ]
    return fastgd.Adam(groups, lr=0.01, backend=backend)


def grads(seed):
    return [random((2, 3), seed), random(3, seed), random(4, seed, np.float64)]


@pytest.fixture(params=BACKENDS)
def opt(request):
    opt = make(request.param)
    for seed in range(3):
        opt.step(grads(seed))
    return opt


def put(value, *path):
    """A change to a state dict: the value is put at that place, or what is there removed when it is DROP."""

    def change(state):
        *outer, last = path
        for key in outer:
            state = state[key]
        if value is DROP:
            del state[last]
        else:
            state[last] = value

    return change


DROP = object()
W = r"state of parameter 'w' \(parameter 0 of group 0\)"
F32 = np.ones((2, 3), np.float32)

#: change -> (error, reason)
CHANGES = {
    "no rule": (put(DROP, "rule"), ValueError, "it has no 'rule'"),
    "no version": (put(DROP, "version"), ValueError, "it has no 'version'"),
    "no state": (put(DROP, "state"), ValueError, "it has no 'state'"),
    "no groups": (put(DROP, "param_groups"), ValueError, "it has no 'param_groups'"),
    "rule": (put("adamw", "rule"), ValueError, "of rule 'adamw', this optimizer is 'adam'"),
    "negative": (
        put(-F32, "state", 0, "exp_avg_sq"),
        ValueError,
        f"{W}: 'exp_avg_sq' must not be negative",
    ),
    "version": (put(3, "version"), ValueError, "version 3; this fastgd reads versions 1 to 2"),
    "state": (put([F32], "state"), TypeError, "'state' is list, not a dict"),
    "entry": (put([F32], "state", 0), TypeError, f"{W} is list, not a dict"),
    "beyond": (put({"step": 1}, "state", 3), ValueError, "entry 3, but no such parameter"),
    "before": (put({"step": 1}, "state", -1), ValueError, "entry -1, but no such parameter"),
    "text key": (put({"step": 1}, "state", "0"), ValueError, "entry '0', but no such parameter"),
    "half key": (put({"step": 1}, "state", 0.5), ValueError, "entry 0.5, but no such parameter"),
    "no step": (put(DROP, "state", 0, "step"), ValueError, f"{W} has no step count"),
    "no slot": (put(DROP, "state", 0, "exp_avg"), ValueError, f"{W} has no 'exp_avg'"),
    "strange": (put(F32, "state", 0, "momentum_buffer"), ValueError, f"{W}: Adam has no 'momentum_buffer'"),
    "strange key": (put(F32, "state", 0, 7), ValueError, f"{W}: Adam has no 7"),
    "shape": (put(F32.T, "state", 0, "exp_avg"), ValueError, f"{W}: 'exp_avg' has shape .3, 2., the param"),
    "broadcast": (put(F32[:1], "state", 0, "exp_avg"), ValueError, f"{W}: 'exp_avg' has shape .1, 3."),
    "dtype": (put(np.ones((2, 3)), "state", 0, "exp_avg"), ValueError, f"{W}: 'exp_avg' is in float64"),
    "object": (put(F32.astype(object), "state", 0, "exp_avg"), TypeError, f"{W}: 'exp_avg' has dtype object"),
    "list": (put(F32.tolist(), "state", 0, "exp_avg"), TypeError, f"{W}: 'exp_avg' is list"),
    "none": (put(None, "state", 0, "exp_avg"), TypeError, f"{W}: 'exp_avg' is NoneType"),
    "masked": (put(np.ma.masked_array(F32), "state", 0, "exp_avg"), TypeError, f"{W}: 'exp_avg' is a masked"),
    "last slot": (put(F32, "state", 2, "exp_avg_sq"), ValueError, "parameter 0 of group 1: 'exp_avg_sq'"),
    "groups": (put({}, "param_groups"), TypeError, "'param_groups' is dict, not a list"),
    "few groups": (put(DROP, "param_groups", 1), ValueError, "has 1 groups, this optimizer 2"),
    "group": (put([1], "param_groups", 1), TypeError, "group 1 of the state is list"),
    "no params": (put(DROP, "param_groups", 1, "params"), ValueError, "group 1 of the state has no 'params'"),
    "params": (put(2, "param_groups", 1, "params"), TypeError, "group 1 of the state: 'params' is int"),
    "few params": (put([0], "param_groups", 0, "params"), ValueError, "group 0 .* has 1 parameters, .* 2"),
    "order": (put([1, 0], "param_groups", 0, "params"), ValueError, "group 0 .* must count on from 0"),
    "no lr": (put(DROP, "param_groups", 1, "lr"), ValueError, "group 1 of the state has no 'lr'"),
    "lr": (put(-1.0, "param_groups", 1, "lr"), ValueError, "group 1 of the state: lr must be at least 0"),
    "betas": (put((0.9, math.nan), "param_groups", 1, "betas"), ValueError, "group 1 of the state: betas"),
    "flag": (put("no", "param_groups", 1, "amsgrad"), TypeError, "group 1 of the state: amsgrad"),
    **{
        f"step {value!r}": (put(value, "state", 2, "step"), ValueError, "parameter 0 of group 1: 'step' must")
        for value in (-1, 1.5, 2.0, math.nan, "3", None, True, 2**53 + 1, 2**70, np.ones(2))
    },
}


@pytest.mark.parametrize("case", CHANGES)
def test_refused_whole(opt, case):
    change, error, reason = CHANGES[case]
    other = make(opt.backend.name, seed=5)
    for seed in range(5):
        other.step(grads(seed))
    state = other.state_dict()
    state["param_groups"][0]["lr"] = 0.7
    change(state)
    with unchanged(opt), pytest.raises(error, match=reason):
        opt.load_state_dict(state)


@pytest.mark.parametrize("state", [None, 3, [], "adam", [("rule", "adam")]])
def test_no_dict(opt, state):
    with unchanged(opt), pytest.raises(TypeError, match=r"the state is .*, not a dict"):
        opt.load_state_dict(state)


@pytest.mark.parametrize("backend", BACKENDS)
def test_hyperparameters_that_do_not_go_together(backend):
    opt = fastgd.SGD([random(3, 0)], momentum=0.9, nesterov=True, backend=backend)
    opt.step([random(3, 1)])
    state = opt.state_dict()
    state["param_groups"][0]["momentum"] = 0.0
    with unchanged(opt), pytest.raises(ValueError, match="group 0 of the state: nesterov needs momentum"):
        opt.load_state_dict(state)


def test_what_fits_is_taken_as_a_copy(opt):
    other = make(opt.backend.name, seed=5)
    other.step(grads(9))
    state = other.state_dict()
    for entry in state["state"].values():
        entry["exp_avg"] = np.asfortranarray(entry["exp_avg"])
        entry["exp_avg_sq"].flags.writeable = False
        entry["step"] = np.int32(entry["step"])
    opt.load_state_dict(state)
    state["state"][0]["exp_avg"][:] = 99
    assert contents(opt)[1:] == contents(other)[1:]
