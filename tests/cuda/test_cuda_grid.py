"""The grid on the device: every rule, setting and way of storing, bit for bit against the reference."""

import functools

import ml_dtypes
import numpy as np
import pytest

from fastgd import optim, verification
from fastgd.arrays import DTYPES
from fastgd.backends import get
from fastgd.memory import on_host
from fastgd.rules import RULES

#: rules that the backend has
SUPPORTED = [name for name, rule in RULES.items() if get("cuda").supports(rule, np.float32)]

#: tails of 1 to 3 elements beside vectors of 4, and of 16 lanes; few, because each thread is one of Python's
SIZES = (0, 1, 3, 5, 16, 33)

CUDA = verification.Runner("cuda")


def same_bits(rule, case):
    expected = verification.compute(case, verification.Runner("reference"))
    outcome = verification.compute(case, CUDA)
    if RULES[rule].exact:
        assert outcome.same_bits(expected), case.settings
    else:
        error = verification.oracle_error(verification.right(case), outcome)
        assert error <= verification.TOLERANCE[case.dtype], case.settings


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", SUPPORTED)
def test_values_and_bits(rule, dtype):
    for case in verification.cases(rule, dtype, SIZES):
        same_bits(rule, case)


@pytest.mark.parametrize("size", (4096, 4099, 16383, 16385))
def test_tiles_and_chunks(size):
    """Around what a block of threads updates, and what squares are summed over."""
    case = list(verification.cases("adamw", DTYPES[0], (size, 1)))[1]
    same_bits("adamw", case._replace(grads=case.grads[:1]))


def misaligned(values):
    memory = np.zeros(values.nbytes + 4, np.uint8)[4:].view(values.dtype).reshape(values.shape)
    memory[...] = values
    return memory


# ---- What numbers are stored in ----------------------------------------------------------------------

BF16, F16 = np.dtype(ml_dtypes.bfloat16), np.dtype(np.float16)

#: dtype of parameters, of gradients, settings
STORED = {
    "bfloat16": (BF16, BF16, {}),
    "bfloat16 stochastic": (BF16, BF16, {"rounding": "stochastic", "state_rounding": "stochastic"}),
    "bfloat16 kahan": (BF16, np.float32, {"rounding": "kahan"}),
    "bfloat16 master": (BF16, BF16, {"rounding": "master", "state_dtype": "float32"}),
    "bfloat16 split": (BF16, BF16, {"rounding": "split", "state_dtype": "8bit"}),
    "float16": (F16, F16, {}),
    "float16 stochastic": (F16, F16, {"rounding": "stochastic", "state_rounding": "stochastic"}),
    "float16 kahan": (F16, np.float64, {"rounding": "kahan"}),
    "float16 master": (F16, F16, {"rounding": "master", "state_dtype": "bfloat16"}),
    "8bit": (np.float32, np.float32, {"state_dtype": "8bit"}),
    "8bit to nearest": (np.float64, np.float32, {"state_dtype": "8bit", "state_rounding": "nearest"}),
    "average": (np.float32, BF16, {"ema_decay": 0.9, "state_dtype": "float16"}),
    "average of bfloat16": (BF16, BF16, {"ema_decay": 0.9, "rounding": "stochastic"}),
}


def trained(rule, stored, holds, backend, *, steps=2, size=35, **asked):
    """Parameters and state after a few steps, as bytes, and the reports."""
    dtype, grad_dtype, settings = STORED[stored]
    rng = np.random.default_rng(7)
    shape = (5, size // 5)
    params = [holds(rng.standard_normal(s).astype(dtype)) for s in (shape, (1, 3))]
    copies = [holds(np.zeros(shape, BF16)), None]
    opt = optim.create(rule, params, backend=backend, copies=copies, seed=3, **settings)
    reports = []
    for _ in range(steps):
        grads = [holds(rng.standard_normal(p.shape).astype(grad_dtype)) for p in params]
        reports.append(tuple(opt.step(grads, **asked)))
    kept = [v for entry in opt.state_dict()["state"].values() for v in entry.values()]
    arrays = [*map(on_host, params), on_host(copies[0]), *map(np.asarray, kept)]
    return [a.tobytes() for a in arrays], reports


def thirds():
    """Every rule with every third way of storing, from another one on, and the rest as exhaustive."""
    for i, rule in enumerate(SUPPORTED):
        for k, stored in enumerate(STORED):
            yield pytest.param(rule, stored, marks=pytest.mark.exhaustive if (i + k) % 3 else ())


@pytest.mark.parametrize(("rule", "stored"), [*thirds()])
def test_storage(rule, stored, on_device):
    wanted = trained(rule, stored, lambda a: a, "reference")
    assert trained(rule, stored, on_device, "cuda") == wanted


def test_blocks_of_codes(on_device):
    """Two blocks and a part of one, of which a warp's lanes have none, some or all of their elements."""
    for stored in ("8bit", "8bit to nearest"):
        run = functools.partial(trained, "adamw", stored, size=525, steps=1, clip_norm=1.0)
        assert run(on_device, "cuda") == run(lambda a: a, "reference")


def test_cautious_steps(on_device):
    for rule in SUPPORTED:
        if RULES[rule].whole is None:
            STORED["cautious"] = (np.float32, np.float32, {"cautious": True})
            wanted = trained(rule, "cautious", lambda a: a, "reference")
            assert trained(rule, "cautious", on_device, "cuda") == wanted, rule
