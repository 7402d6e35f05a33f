"""Tensors of more than 2^31 elements: the last ones change as those of small tensors do."""

from __future__ import annotations

import mmap
import os

import ml_dtypes
import numpy as np
import pytest

import fastgd
from fastgd.storage import BLOCK

FAR = 2**31 + 5
#: the elements looked at: the first block, the last whole one before 2^31, and what is beyond
ENDS = (slice(0, BLOCK), slice(2**31 - BLOCK, FAR))
GIB = 2**30

#: class -> dtype of parameter and gradient, settings; 8 GiB are written
CASES = {
    "SGD": (np.float32, {}),
    "AdamW": (ml_dtypes.bfloat16, {"state_dtype": "8bit", "state_rounding": "nearest"}),
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") < 12 * GIB, reason="it needs 9 GiB of memory"
    ),
]


def nothing(dtype):
    """FAR zeros that take no memory until they are written."""
    room = mmap.mmap(-1, FAR * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(room, dtype)


def ends_of(array):
    return np.concatenate([array[end] for end in ENDS])


@pytest.mark.parametrize("name", CASES)
def test_elements_beyond_2_to_the_31_are_updated_and_clipped_as_others_are(name):
    dtype, settings = CASES[name]
    rng = np.random.default_rng(0)
    param, grad = np.zeros(FAR, dtype), nothing(dtype)
    for end in ENDS:
        n = end.stop - end.start
        # sums of whole numbers are exact in every order
        param[end], grad[end] = rng.standard_normal(n).astype(dtype), rng.integers(-8, 9, n).astype(dtype)
    small, small_grad = ends_of(param), ends_of(grad)
    far, near = (getattr(fastgd, name)([p], lr=0.1, **settings) for p in (param, small))
    for _ in range(2):
        assert far.step([grad], clip_norm=0.5).grad_norm == near.step([small_grad], clip_norm=0.5).grad_norm
        assert ends_of(param).tobytes() == small.tobytes()
    assert not param[ENDS[0].stop : ENDS[0].stop + 10**6].any()
    grad[FAR - 1] = np.nan
    stopped = fastgd.SGD([param]).step([grad], skip_nonfinite=True)
    assert stopped.skipped and stopped.nonfinite.element == (FAR - 1,)
    assert ends_of(param).tobytes() == small.tobytes()
