"""Moving arrays towards others in place."""

from __future__ import annotations

import math

import numpy as np
import pytest
from snapshots import BACKENDS, random

from fastgd.arrays import DTYPES
from fastgd.averaging import lerp_

#: around both ends, the middle where the formula changes, and beyond
WEIGHTS = (0.0, 1e-9, 0.1, 0.4999, 0.5, 0.75, 0.999, 1.0, 1.5, -0.1, -3.0)
SHAPES = ((), (0,), (1,), (17,), (5, 7), (40_000,))
F32 = np.float32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_array_goes_its_way(weight, dtype, backend):
    arrays = [random(s, i, dtype) for i, s in enumerate(SHAPES)]
    towards = [random(s, 9 + i, dtype) for i, s in enumerate(SHAPES)]
    right = [
        a.astype(np.longdouble) + np.longdouble(weight) * (t.astype(np.longdouble) - a)
        for a, t in zip(arrays, towards, strict=True)
    ]
    given = [t.copy() for t in towards]
    lerp_(arrays, towards, weight, backend=backend)
    for a, r, t, g in zip(arrays, right, towards, given, strict=True):
        np.testing.assert_allclose(a, r.astype(np.float64), rtol=0, atol=30 * np.finfo(dtype).eps)
        assert t.tobytes() == g.tobytes()


def test_the_ends_are_exact_and_so_is_what_is_already_there(backend):
    a, t = random(1000, 0) * F32(1e6), random(1000, 1)
    for weight, end in ((0.0, a.copy()), (1.0, t.copy())):
        moved = a.copy()
        lerp_([moved], [t], weight, backend=backend)
        assert moved.tobytes() == end.tobytes()
    for weight in WEIGHTS:
        same = t.copy()
        lerp_([same], [t], weight, backend=backend)
        assert same.tobytes() == t.tobytes()


@pytest.mark.parametrize("weight", WEIGHTS)
def test_both_backends_give_the_same_bits_wherever_elements_lie(weight):
    results = []
    for backend in BACKENDS:
        for place in (np.copy, np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2]):
            a = place(random((33, 70), 0))
            lerp_([a], [place(random((33, 70), 1))], weight, backend=backend)
            results.append(a.tobytes())
    assert len(set(results)) == 1


def test_a_running_mean_is_the_mean(backend):
    seen = [random(50, t, np.float64) for t in range(20)]
    mean = np.full(50, 1e300)
    for n, x in enumerate(seen):
        lerp_([mean], [x], 1 / (n + 1), backend=backend)
    np.testing.assert_allclose(mean, np.mean(seen, axis=0), rtol=0, atol=1e-15)


ONE, TWO = np.ones(3, F32), np.full(3, 2, F32)
READ_ONLY = np.ones(3, F32)
READ_ONLY.flags.writeable = False

#: (arrays, towards, weight, error, reason)
REFUSED = {
    "few": ([ONE], [], 0.5, ValueError, "got 0 counterparts for 1 arrays"),
    "shape": ([ONE], [np.ones(4, F32)], 0.5, ValueError, r"counterpart 0 has shape \(4,\), the array \(3,\)"),
    "dtype": ([ONE, TWO], [TWO, np.ones(3, int)], 0.5, TypeError, "counterpart 1 has dtype int64"),
    "read-only": ([ONE, READ_ONLY], [TWO, TWO], 0.5, ValueError, "array 1 is read-only"),
    "same": ([ONE], [ONE], 0.5, ValueError, "counterpart 0 shares memory with array 0"),
    "another's": ([ONE, TWO], [np.ones(3, F32), ONE], 0.5, ValueError, "counterpart 1 shares .* array 0"),
    "twice": ([ONE, ONE], [TWO, TWO], 0.5, ValueError, "array 0 and array 1 share memory"),
    "broadcast": ([np.broadcast_to(ONE, (2, 3))], [np.ones((2, 3), F32)], 0.5, ValueError, "array 0"),
    "number": ([1.0], [TWO], 0.5, TypeError, "array 0 is float, not an array"),
    "one array": (ONE, [TWO], 0.5, TypeError, "arrays is one array"),
    "nan": ([ONE], [TWO], math.nan, ValueError, "weight must be finite, not nan"),
    "infinite": ([ONE], [TWO], -math.inf, ValueError, "weight must be finite, not -inf"),
    "text": ([ONE], [TWO], "1", TypeError, "weight must be a number"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_anything_changes(case, backend):
    arrays, towards, weight, error, reason = REFUSED[case]
    with pytest.raises(error, match=reason):
        lerp_(arrays, towards, weight, backend=backend)
    assert ONE.tolist() == [1] * 3 and TWO.tolist() == [2] * 3


def test_a_broadcast_counterpart_is_read(backend):
    a = np.zeros((2, 3), F32)
    lerp_([a], [np.broadcast_to(TWO, (2, 3))], 0.5, backend=backend)
    assert np.all(a == 1)
