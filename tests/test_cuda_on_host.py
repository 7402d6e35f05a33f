"""Compiled kernels, run on the CPU, have the reference's bits: Numba's code is tried without a GPU."""

import sys

import numpy as np
import pytest

import fastgd
from fastgd.arrays import dtype_named
from fastgd.rules import RULES

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: pip install 'fastgd[cuda]'")

import machine_code

from fastgd.cuda.simulation import SIMULATED

if SIMULATED:
    pytest.skip("the simulator compiles nothing", allow_module_level=True)
if machine_code.missing():
    pytest.skip(machine_code.missing(), allow_module_level=True)

import host_kernels

from fastgd import backends
from fastgd.cuda import driver, judge, memory, missing, stages
from fastgd.memory import on_host, open_device, placed


@pytest.fixture
def on_device(monkeypatch):
    """Puts an array of NumPy's on a device that is this machine."""
    device = host_kernels.HostDriver(0)

    def forget():
        for cached in (backends.get, backends.unavailable, memory.memory):
            cached.cache_clear()
        # whether there is a device is asked when it is imported
        sys.modules.pop(backends.MODULES["cuda"], None)

    forget()
    monkeypatch.setattr(driver, "device", lambda number: device)
    monkeypatch.setattr(missing, "missing", lambda: None)
    for module in (stages, judge):  # blocks of one warp
        monkeypatch.setattr(module, "WIDE", 32)
    yield lambda values: placed(open_device("cuda", 0), values)
    forget()


def run(holds, backend, rule, dtype, settings, asked):
    rng = np.random.default_rng(5)
    shapes = [(23,), (3, 8), (1,)]
    params = [holds(rng.standard_normal(s).astype(dtype)) for s in shapes]
    opt = fastgd.optim.create(rule, params, backend=backend, **settings)
    reports = []
    for _ in range(2):
        grads = [holds(rng.standard_normal(s).astype(dtype)) for s in shapes]
        reports.append(tuple(opt.step(grads, **asked)))
    state = opt.state_dict()["state"].values()
    kept = [np.asarray(entry[name]) for entry in state for name in sorted(entry)]
    return [a.tobytes() for a in (*map(on_host, params), *kept)], reports


CASES = {
    "adamw": ("adamw", "float32", {}, {"clip_norm": 0.5}),
    "float64": ("adamw", "float64", {"amsgrad": True}, {"clip_norm": 0.5, "clip_value": 0.7}),
    "bfloat16": (
        "adamw",
        "bfloat16",
        {"rounding": "stochastic", "state_dtype": "bfloat16", "state_rounding": "stochastic"},
        {},
    ),
    "float16 and master": ("lion", "float16", {"rounding": "master", "ema_decay": 0.9}, {}),
    "8bit": ("adamw", "float32", {"state_dtype": "8bit"}, {}),
    "lamb": ("lamb", "float32", {"cautious": True}, {}),
    "rprop": ("rprop", "float32", {}, {"clip_value": 0.4}),
}


@pytest.mark.parametrize("case", CASES)
def test_bits(case, on_device):
    rule, dtype, settings, asked = CASES[case]
    kind = dtype_named(dtype)
    wanted = run(np.copy, "reference", rule, kind, settings, asked)
    assert repr(run(on_device, "auto", rule, kind, settings, asked)) == repr(wanted)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_bits_of_every_rule(rule, on_device):
    if not RULES[rule].exact or not backends.get("cuda", "cuda").supports(RULES[rule], np.dtype(np.float32)):
        pytest.skip(f"{rule} promises no bits, or the CUDA backend does not have it")
    kind = np.dtype(np.float32)
    wanted = run(np.copy, "reference", rule, kind, {}, {"clip_norm": 0.5})
    assert repr(run(on_device, "auto", rule, kind, {}, {"clip_norm": 0.5})) == repr(wanted)
