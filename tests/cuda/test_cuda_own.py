"""Rules of users' own on the device: the bits of the reference, in whatever numbers are stored in."""

import ml_dtypes
import numpy as np
import pytest
from snapshots import random
from user_rules import IDS, PAIRS

import fastgd
from fastgd.memory import on_host

SHAPES = [(37,), (2, 3), ()]
STORED = {
    "float32": (np.float32, {}),
    "float64": (np.float64, {"ema_decay": 0.5}),
    "bfloat16": (ml_dtypes.bfloat16, {"rounding": "stochastic", "state_rounding": "stochastic"}),
    "8bit": (np.float32, {"state_dtype": "8bit"}),
}


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("pair", PAIRS, ids=IDS)
def test_bits(pair, stored, on_device):
    own, given, _, _ = pair
    dtype, beside = STORED[stored]

    def run(place, backend):
        params = [place(random(shape, i, dtype)) for i, shape in enumerate(SHAPES)]
        opt = own(params, backend=backend, seed=2, **given, **beside)
        for t in range(2):
            grads = [place(random(shape, 10 * t + i, dtype)) for i, shape in enumerate(SHAPES)]
            opt.step(grads, clip_norm=1.0)
        entries = opt.state_dict()["state"].values()
        state = [{k: np.asarray(v).tobytes() for k, v in entry.items()} for entry in entries]
        return [np.asarray(on_host(p)).tobytes() for p in params], state

    assert run(on_device, "auto") == run(np.copy, "reference")


def test_a_rule_with_the_name_of_another_is_itself(on_device):
    @fastgd.jit
    def sgd(p, g):
        return p - 2 * g

    p = on_device(np.zeros(3, np.float32))
    sgd([p]).step([on_device(np.ones(3, np.float32))])
    assert on_host(p).tolist() == [-2, -2, -2]
