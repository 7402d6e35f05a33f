"""fastgd.torch on several ranks against one process: DDP, ZeRO, FSDP2, and checkpoints that are cut anew."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch was built without gloo", allow_module_level=True)

import torch_sharded as of_ranks  # noqa: E402
from torch_ranks import on_ranks  # noqa: E402

import fastgd.torch as fgt  # noqa: E402

pytestmark = [pytest.mark.peer, pytest.mark.slow]

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


def assert_near(found, expected, tolerance):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance, err_msg=name)


def assert_same(found, expected):
    """Bit for bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def assert_same_states(found, expected):
    assert found.keys() == expected.keys()
    for name, entry in expected.items():
        assert_same(found[name], entry)


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
    for params, found_norms, _, _ in on_ranks(ranks, of_ranks.partitioned, STEPS, dtype, SETTINGS, **arguments):
        assert_near(params, expected, TOLERANCE[dtype])
        np.testing.assert_allclose(found_norms, norms, rtol=NORM_TOLERANCE[dtype])
