"""Arrays on the device that have gaps, or lie in another order than C's."""

import ml_dtypes
import numpy as np
import pytest
from alike import LAYOUTS, Pair, laid_out

import fastgd
from fastgd.cuda.memory import memory
from fastgd.memory import DeviceArray, on_host

BF16 = ml_dtypes.bfloat16


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ((3, 5), (2, 3, 2), (7,), (0, 2), (1, 1)), ids=str)
def test_memory(layout, shape):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    host, device = laid_out(values, layout)
    assert device.strides == host.strides
    assert np.array_equal(device.host(), values)
    copied = device.copy()
    assert copied.flags.c_contiguous and np.array_equal(copied.host(), values)
    memory(0).write(device, values + 1)
    assert np.array_equal(device.host(), values + 1)
    below = device.owner.host()
    assert np.sort(below[below != 0].reshape(-1)).tolist() == (np.arange(values.size) + 1).tolist()


#: dtype, settings, options
CASES = {
    "plain": (np.float32, {}, {"clip_norm": 0.5}),
    "float64": (np.float64, {"amsgrad": True}, {"clip_norm": 0.5, "clip_scope": "tensor"}),
    "8-bit state": (np.float32, {"state_dtype": "8bit"}, {}),
    "random bits": (BF16, {"rounding": "stochastic", "state_rounding": "stochastic", "ema_decay": 0.9}, {}),
    "lost bits": (BF16, {"rounding": "kahan"}, {}),
    "cautious": (np.float32, {"cautious": True}, {"clip_value": 0.3}),
    "units": (np.float32, {}, {"clip_adaptive": 0.02}),
}


@pytest.mark.parametrize("case", CASES)
def test_bits(case):
    dtype, settings, asked = CASES[case]
    shapes = [(3, 4, 2), (3, 4, 2), (5, 3), (9,), (4, 2), (2, 3)]
    pair = Pair(
        "adamw", shapes, dtype=dtype, layouts=["F", "gaps", "turned", "gaps", "backwards", "C"], **settings
    )
    # gradients of the same dtypes may lie in any way at every step
    pair.step(layouts=["C", "F", "gaps", "backwards", "C", "gaps"], **asked)
    pair.step(layouts=["F", "C", "C", "C", "C", "C"], **asked)
    pair.step(layouts=["C"] * 6, **asked)
    pair.step(layouts=["gaps"] * 6, **asked)
    pair.assert_same()


@pytest.mark.parametrize("rule", ("adafactor", "lamb", "muon"))
def test_rules_of_whole_tensors(rule):
    pair = Pair(rule, [(3, 4), (5, 2)], layouts=["F", "gaps"])
    for _ in range(2):
        pair.step(layouts=["gaps", "C"])
    if rule != "muon":
        pair.assert_same()


def test_too_many_dimensions_are_refused_before_anything_changes():
    shape, wide = (2,) * 9, (3,) * 9
    base = laid_out(np.ones(wide, np.float32), "C")[1]
    strided = DeviceArray(base.memory, base.pointer, shape, base.strides, base.dtype, base)
    opt = fastgd.SGD([strided])
    with pytest.raises(ValueError, match=r"9 dimensions that cannot be merged.*make it contiguous"):
        opt.step([laid_out(np.ones(shape, np.float32), "C")[1]])
    assert (on_host(strided) == 1).all()
