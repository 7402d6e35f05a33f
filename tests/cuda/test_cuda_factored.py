"""Adafactor on the device: averages by rows and columns, their factors and the trust ratio, bit for bit."""

import ml_dtypes
import numpy as np
import pytest
from alike import Pair

BF16 = ml_dtypes.bfloat16

SHAPES = [(5, 7), (30,), (2, 3, 4), (1, 9), (9, 1), (0, 3)]

#: dtype of the parameter, settings, options of the steps
CASES = {
    "float32": (np.float32, {}, {}),
    "float64": (np.float64, {"weight_decay": 0.1}, {"clip_norm": 0.5}),
    "bfloat16": (BF16, {}, {}),
    "bfloat16 stochastic": (BF16, {"rounding": "stochastic", "state_rounding": "stochastic"}, {}),
    "float16 with its lost bits": (np.float16, {"rounding": "kahan"}, {}),
    "8-bit state": (np.float32, {"state_dtype": "8bit"}, {}),
    "8-bit state to nearest": (BF16, {"state_dtype": "8bit", "state_rounding": "nearest"}, {}),
    "8-bit state of float64": (np.float64, {"state_dtype": "8bit"}, {}),
    "float16 state": (np.float32, {"state_dtype": "float16", "state_rounding": "stochastic"}, {}),
    "cautious": (np.float32, {"cautious": True, "ema_decay": 0.9}, {"clip_value": 0.4}),
    "by units": (np.float32, {"maximize": True}, {"clip_adaptive": 0.02}),
}


@pytest.mark.parametrize("case", CASES)
def test_bits(case):
    dtype, settings, asked = CASES[case]
    pair = Pair("adafactor", SHAPES, dtype=dtype, **settings)
    for _ in range(2):
        pair.step(**asked)
    pair.assert_same()


@pytest.mark.parametrize("shape", ((130, 3), (2, 65, 2), (1, 16390)), ids=str)
def test_bands_of_rows(shape):
    pair = Pair("adafactor", [shape])
    pair.step()
    pair.assert_same()


def test_lines_in_several_blocks_of_codes():
    pair = Pair("adafactor", [(2, 150, 3), (3, 300)], state_dtype="8bit")
    pair.step()
    pair.assert_same()


def test_a_skipped_step_changes_nothing():
    pair = Pair("adafactor", [(3, 4), (2, 3)])
    pair.step(skip_nonfinite=True)
    grads = [np.full(s, np.nan, np.float32) for s in pair.shapes]
    pair.step(grads, skip_nonfinite=True)
    pair.assert_same()
    pair.step(skip_nonfinite=True)
    pair.assert_same()
