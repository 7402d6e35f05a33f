"""Gradients clipped unit by unit on the device, with the reference's bits."""

import ml_dtypes
import numpy as np
import pytest
from alike import Pair

SHAPES = [(5, 7), (300,), (1,), (3, 2, 4), (0, 3), (6, 1), ()]


@pytest.mark.parametrize("dtype", (np.float32, np.float64, ml_dtypes.bfloat16), ids=str)
@pytest.mark.parametrize("rule", ("adamw", "lamb"))
def test_bits(rule, dtype):
    pair = Pair(rule, SHAPES, dtype=dtype)
    for _ in range(2):
        report = pair.step(clip_adaptive=0.02)
        assert 0 < report.clip_coef < 1
    pair.assert_same()


@pytest.mark.parametrize(
    "asked",
    ({"clip_value": 0.3, "grad_scale": 8.0}, {"skip_nonfinite": True}, {"clip_value": 0.3}),
    ids=str,
)
def test_beside_other_clipping(asked):
    pair = Pair("adamw", SHAPES, maximize=True)
    for _ in range(2):
        pair.step(clip_adaptive=0.02, **asked)
    pair.assert_same()


@pytest.mark.parametrize("state", ("8bit", "float16"))
def test_state_in_fewer_bits(state):
    pair = Pair("adamw", [(5, 7), (30, 1), (3, 100)], state_dtype=state)
    for _ in range(2):
        pair.step(clip_adaptive=0.01)
    pair.assert_same()


def test_units_longer_than_a_chunk():
    pair = Pair("sgd", [(1, 16390)])
    pair.step(clip_adaptive=0.01)
    pair.assert_same()


def test_what_needs_no_clipping():
    pair = Pair("sgd", [(3, 2)])
    assert pair.step(clip_adaptive=1e6).clip_coef == 1.0
    pair.assert_same()


@pytest.mark.parametrize("value", (np.nan, np.inf))
def test_not_finite(value):
    pair = Pair("sgd", [(3, 2), (4,)])
    grads = [pair.draw(s) for s in pair.shapes]
    grads[0][1, 1] = value
    pair.step(grads, clip_adaptive=0.1)
    pair.assert_same()
    before = pair.opt.skipped_steps
    pair.step(grads, clip_adaptive=0.1, skip_nonfinite=True)
    assert pair.opt.skipped_steps == before + 1
    pair.assert_same()


def test_groups_with_other_options():
    pair = Pair("adamw", [(3, 2), (2, 2)])
    for asked in ({}, {"clip_adaptive": 0.1}, {"clip_norm": 0.1}, {"clip_adaptive": 0.01}):
        pair.step(**asked)
    pair.assert_same()
