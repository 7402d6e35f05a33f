"""Functions of nn.functional on arrays of other owners, on their streams."""

import sys

import fake_cupy
import numpy as np
import pytest
from layers import put, same

from fastgd.cuda import driver, products
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


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Products as they are where nothing is simulated, by stand-ins for libraries."""
    monkeypatch.setattr(products, "SIMULATED", False)
    libraries = {}
    monkeypatch.setattr(products, "LIBRARIES", libraries)
    products._library.cache_clear()
    yield libraries
    products._library.cache_clear()


def test_products_are_those_of_the_library_that_reaches_the_gpu(on_a_gpu):
    on_a_gpu["json"] = (lambda library: False), "not this"
    on_a_gpu["no_such_library"] = (lambda library: True), "nor this"
    with pytest.raises(ImportError, match="pip install cupy-cuda13x"):
        products.library()
    on_a_gpu["colorsys"] = (lambda library: True), "this"
    on_a_gpu["sys"] = (lambda library: True), "what is imported already"
    assert products.library() == "what is imported already"
    del on_a_gpu["sys"]
    products._library.cache_clear()
    assert products.library() == "this"


def test_a_stream_that_is_captured_or_destroyed_is_refused(monkeypatch):
    x = put(np.ones(3, np.float32))
    device = driver.device(0)
    monkeypatch.setattr(device, "graph", [])
    with pytest.raises(RuntimeError, match="cannot be captured in a CUDA graph"):
        functional.relu(x)
    monkeypatch.setattr(device, "graph", None)
    monkeypatch.setattr(device, "destroyed", {driver.DEFAULT_STREAM})
    with pytest.raises(ValueError, match="is no stream any more"):
        functional.relu(x)


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
