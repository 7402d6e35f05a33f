"""Functions of nn.functional on arrays of other owners, on their streams."""

import sys

import fake_cupy
import numpy as np
import pytest
from layers import same

from fastgd.cuda import driver
from fastgd.cuda.simulation import SIMULATED
from fastgd.lenders import owner_stream
from fastgd.nn import functional

pytestmark = pytest.mark.skipif(not SIMULATED, reason="CuPy's stand-in has arrays of the simulated device")


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    return fake_cupy


def test_arrays_of_another_library_go_in_and_take_what_comes_out(cupy):
    rng = np.random.default_rng(3)
    x, weight = (rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (2, 4)))
    out = cupy.zeros((3, 2), np.float32)
    y, saved = functional.linear(cupy.ndarray(x), cupy.ndarray(weight), activation="tanh", out=out)
    wanted, of_host = functional.linear(x, weight, activation="tanh", backend="reference")
    same(y, wanted, "y")
    assert out.get().tobytes() == wanted.tobytes()
    value, dy = functional.mse_loss(y, cupy.zeros((3, 2), np.float32))
    loss, slope = functional.mse_loss(wanted, np.zeros((3, 2), np.float32), backend="reference")
    assert float(value.host()) == loss
    found = functional.linear_backward(dy, saved)
    for a, b in zip(found, functional.linear_backward(slope, of_host), strict=True):
        same(a, b, "gradient")


def test_results_stay_on_the_stream_of_what_they_come_of(cupy, monkeypatch):
    seen = []
    device = driver.device(0)
    kernel_of = device.kernel

    def watched(text):
        kernel = kernel_of(text)

        def launch(blocks, stream, *arguments):
            seen.append(stream)
            return kernel(blocks, stream, *arguments)

        return launch

    monkeypatch.setattr(device, "kernel", watched)
    x = cupy.ndarray(np.ones((2, 3), np.float32))
    y, _ = functional.relu(x)
    # CuPy calls its default stream 0
    assert seen == [driver.DEFAULT_STREAM] and owner_stream(y) == driver.DEFAULT_STREAM
    monkeypatch.setattr(fake_cupy._Stream, "ptr", 0x1234)
    y, _ = functional.relu(x)
    assert seen[1:] == [0x1234]
    monkeypatch.setattr(fake_cupy._Stream, "ptr", 0)
    assert owner_stream(y) == 0x1234 and y.__cuda_array_interface__["stream"] == 0x1234
    functional.softmax(y)
    assert seen[2:] == [0x1234]
