"""What the distributed tests ask of parameters and states by name."""

from __future__ import annotations

import numpy as np


def assert_near(found, expected, tolerance):
    """Within an absolute tolerance."""
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
