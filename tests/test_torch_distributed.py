"""fastgd.torch on several ranks against one process: DDP, ZeRO, FSDP2, and checkpoints that are cut anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

import torch_sharded as of_ranks  # noqa: E402
from torch_ranks import on_ranks  # noqa: E402
from torch_same import assert_near, assert_same, assert_same_states  # noqa: E402

import fastgd.torch as fgt  # noqa: E402

pytestmark = [pytest.mark.peer, pytest.mark.slow]

EXAMPLE = Path(__file__).parent.parent / "examples" / "torch_fsdp.py"

STEPS = 20

#: half the norms there are, so most steps are clipped
CLIP_NORM = 0.5

SETTINGS = {"lr": 1e-2, "weight_decay": 0.1}

#: each rank has the gradient of its examples, and their mean over ranks is rounded in another order than one
#: mean over all examples: by a few units in the last place, which AdamW's division by the root of the second
#: moment passes on as a share of lr. Parameters are of size 1, steps of 0.01, and there are 20
TOLERANCE = {torch.float64: 1e-13, torch.float32: 1e-5}

#: of the norm, relative
NORM_TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("ranks", [2, 4])
def test_fsdp_makes_the_steps_of_one_process(ranks, dtype):
    settings = {**SETTINGS, "clip_norm": CLIP_NORM}
    params, norms = of_ranks.alone(STEPS, dtype, settings)
    assert sum(norm > CLIP_NORM for norm in norms) > STEPS // 2
    for found, found_norms in on_ranks(ranks, of_ranks.fully_sharded, STEPS, dtype, settings):
        assert_near(found, params, TOLERANCE[dtype])
        np.testing.assert_allclose(found_norms, norms, rtol=NORM_TOLERANCE[dtype])


@pytest.mark.parametrize("views", [False, True], ids=["own", "views"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_zero_makes_the_steps_of_one_process(ranks, views):
    dtype = torch.float64
    expected, norms = of_ranks.alone(STEPS, dtype, {**SETTINGS, "clip_norm": CLIP_NORM})
    arguments = {"clip_norm": CLIP_NORM, "views": views}
    for params, found_norms, _, _ in on_ranks(
        ranks, of_ranks.partitioned, STEPS, dtype, SETTINGS, **arguments
    ):
        assert_near(params, expected, TOLERANCE[dtype])
        np.testing.assert_allclose(found_norms, norms, rtol=NORM_TOLERANCE[dtype])


#: settings that draw random bits, too
REPLICATED = [
    (torch.float64, {}),
    (torch.float32, {"state_dtype": "8bit"}),
    (torch.bfloat16, {"rounding": "stochastic", "state_dtype": "bfloat16", "state_rounding": "stochastic"}),
]


@pytest.mark.parametrize(("dtype", "settings"), REPLICATED, ids=["plain", "8bit", "stochastic"])
def test_replicas_of_ddp_stay_the_same(dtype, settings):
    settings = {**SETTINGS, "clip_norm": CLIP_NORM, **settings}
    first, *others = on_ranks(2, of_ranks.replicated, STEPS, dtype, settings)
    for other in others:
        assert_same(other[0], first[0])
        assert other[1] == first[1]
        assert_same_states(other[2], first[2])
    if dtype in TOLERANCE and "state_dtype" not in settings:
        expected, norms = of_ranks.alone(STEPS, dtype, settings)
        assert_near(first[0], expected, TOLERANCE[dtype])
        np.testing.assert_allclose(first[1], norms, rtol=NORM_TOLERANCE[dtype])


@pytest.mark.parametrize("settings", [{}, {"state_dtype": "8bit"}], ids=["plain", "8bit"])
def test_state_of_zero_goes_on_with_other_ranks(settings):
    dtype, settings = torch.float64, {**SETTINGS, **settings}
    named = {"clip_norm": CLIP_NORM}
    (params, _, state, later), _ = on_ranks(2, of_ranks.partitioned, 3, dtype, settings, views=False, **named)
    steps = range(3, 6)
    for found in on_ranks(2, of_ranks.partitioned_again, params, state, steps, settings, **named):
        assert_same(found, later)
    if "state_dtype" in settings:
        return  # which parameters are whose decides on random bits
    for found in on_ranks(4, of_ranks.partitioned_again, params, state, steps, settings, **named):
        assert_near(found, later, TOLERANCE[dtype])
    for of in (fgt.AdamW, torch.optim.AdamW):
        model = of_ranks.with_numbers(params)
        opt = of(model.parameters(), **settings)
        opt.load_state_dict(state)
        of_ranks.train(model, opt, steps, CLIP_NORM)
        assert_near(of_ranks.learned(model), later, TOLERANCE[dtype])


def test_zero_refuses_what_needs_all_gradients():
    for name, value in (("clip_norm", 1.0), ("skip_nonfinite", True)):
        for error in on_ranks(2, of_ranks.refused_by_zero, {name: value}):
            assert name in error
            assert "ZeroRedundancyOptimizer" in error
    assert on_ranks(2, of_ranks.refused_by_zero, {"clip_value": 0.5, "seed": 3}) == ["", ""]


def test_two_dimensions_of_ranks():
    """Tensor parallel and fully sharded: some parameters are cut twice, and one is on two ranks as it is."""
    dtype, settings = torch.float64, {**SETTINGS, "clip_norm": CLIP_NORM}
    expected, norms = of_ranks.alone(STEPS, dtype, settings)
    for found, found_norms in on_ranks(4, of_ranks.sharded_twice, STEPS, dtype, settings):
        assert_near(found, expected, TOLERANCE[dtype])
        np.testing.assert_allclose(found_norms, norms, rtol=NORM_TOLERANCE[dtype])


def test_copies_of_shards_in_mixed_precision():
    dtype, settings = torch.float32, {**SETTINGS, "clip_norm": CLIP_NORM}
    expected, norms = of_ranks.alone(STEPS, dtype, settings)
    first, *others = on_ranks(4, of_ranks.sharded_and_replicated, STEPS, dtype, settings)
    # bfloat16 has 8 bits: gradients are off by some 2^-8 of their norm, and no step is longer than about lr
    np.testing.assert_allclose(first[1], norms, rtol=2**-5)
    assert_near(first[0], expected, STEPS * SETTINGS["lr"] / 4)
    for params, found_norms in others:
        assert_same(params, first[0])
        assert found_norms == first[1]


def test_example():
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run = subprocess.run(
        [*launch, str(EXAMPLE), "--steps", "40"], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    assert lines[-1] == "the same loss"
    assert lines[2:4] == lines[5:7]
