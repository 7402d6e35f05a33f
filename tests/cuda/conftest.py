"""Fixtures of the tests that run kernels: in Numba's simulator, or on a GPU where there is one."""

import numpy as np
import pytest

from fastgd.cuda.memory import memory
from fastgd.memory import placed


@pytest.fixture
def on_device():
    """Puts an array of NumPy's on the device."""
    return lambda values: placed(memory(0), np.asarray(values))
