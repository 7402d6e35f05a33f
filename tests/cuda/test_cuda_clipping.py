"""Norms and clipping in place of arrays on the device, apart from any step."""

import math

import ml_dtypes
import numpy as np
import pytest
from alike import laid_out, on_device, same

import fastgd
from fastgd.backends import get
from fastgd.backends.base import Options
from fastgd.memory import on_host

BF16 = ml_dtypes.bfloat16

#: shape, dtype, layout
ARRAYS = [
    ((3, 5), np.float32, "F"),
    ((4,), np.float64, "C"),
    ((2, 3), BF16, "gaps"),
    ((0,), np.float32, "C"),
    ((300,), np.float16, "C"),
    ((), np.float32, "C"),
    ((2, 3, 2), np.float32, "turned"),
]

CALLS = {
    "norm": lambda a, b: fastgd.clip_grad_norm_(a, 1.0, backend=b),
    "norm not reached": lambda a, b: fastgd.clip_grad_norm_(a, 1e6, backend=b),
    "largest": lambda a, b: fastgd.clip_grad_norm_(a, 1.0, math.inf, backend=b),
    "value": lambda a, b: fastgd.clip_grad_value_(a, 0.5, backend=b),
    "normalize": lambda a, b: fastgd.normalize_grads_(a, 2.0, backend=b),
    "global norm": lambda a, b: fastgd.global_norm(a, backend=b),
    "norms": lambda a, b: fastgd.tensor_norms(a, backend=b),
    "largest of each": lambda a, b: fastgd.tensor_norms(a, math.inf, backend=b),
}


def arrays(value=None):
    rng = np.random.default_rng(1)
    made = []
    for shape, dtype, layout in ARRAYS:
        values = np.asarray(rng.standard_normal(shape) * 3).astype(dtype)
        if value is not None and shape == (2, 3):
            values[1, 1] = value
        made.append(laid_out(values, layout))
    return [host for host, _ in made], [device for _, device in made]


@pytest.mark.parametrize("value", (None, np.nan, np.inf), ids=str)
@pytest.mark.parametrize("call", CALLS)
def test_as_the_reference(call, value):
    host, device = arrays(value)
    with np.errstate(all="ignore"):
        wanted = CALLS[call](host, "reference")
    assert repr(CALLS[call](device, "auto")) == repr(wanted)
    for a, b in zip(host, device, strict=True):
        same(on_host(b), a)


def test_options_of_a_backend():
    """Scopes and factors, which the functions do not ask for."""
    asked = [
        Options(clip_norm=0.5, scope="tensor"),
        Options(clip_norm=0.5, clip_value=0.4, grad_scale=4.0),
        Options(clip_norm=0.5, total_norm=3.0),
        Options(clip_norm=0.5, norm=math.inf, skip_nonfinite=True, scope="tensor"),
    ]
    for options in asked:
        host, device = arrays()
        assert get("cuda").clip(device, options) == get("reference").clip(host, options)
        for a, b in zip(host, device, strict=True):
            same(on_host(b), a)


def test_nothing_changes_when_an_element_is_not_finite():
    device = [on_device(np.array([1.0, np.inf], np.float32)), on_device(np.ones(3, np.float32))]
    with pytest.raises(ValueError, match="gradient 0 is not finite"):
        fastgd.clip_grad_norm_(device, 1.0, error_if_nonfinite=True)
    assert on_host(device[1]).tolist() == [1, 1, 1]


def test_norms_whose_squares_overflow_or_vanish():
    host = [np.full(3, 1e200), np.full(4, 1e-200), np.zeros(2), np.ones(3)]
    device = [on_device(a) for a in host]
    assert fastgd.tensor_norms(device) == fastgd.tensor_norms(host)
    assert fastgd.global_norm(device) == fastgd.global_norm(host)
    assert fastgd.tensor_norms([], backend="cuda") == []


@pytest.mark.parametrize("layout", ("C", "gaps"))
def test_adaptive(layout):
    rng = np.random.default_rng(1)
    pairs = [[laid_out(rng.standard_normal((3, 4)).astype(np.float32), layout) for _ in "pg"] for _ in "ab"]
    params, grads = zip(*pairs, strict=True)
    wanted = fastgd.clip_grad_adaptive_([p for p, _ in params], [g for g, _ in grads], 0.1)
    assert fastgd.clip_grad_adaptive_([p for _, p in params], [g for _, g in grads], 0.1) == wanted
    for host, device in grads:
        same(on_host(device), host)
