"""Memory of results on a device: taken again rather than allocated."""

import contextlib
import gc

import numpy as np
import pytest
from layers import put

import fastgd
from fastgd import nn
from fastgd.cuda import driver
from fastgd.cuda.pool import SMALLEST, Pool, rounded
from fastgd.nn import functional


@pytest.fixture
def allocated(monkeypatch):
    """The sizes that the device is asked for."""
    device, sizes = driver.device(0), []
    allocate = device.allocate

    def counted(nbytes):
        sizes.append(nbytes)
        return allocate(nbytes)

    monkeypatch.setattr(device, "allocate", counted)
    return sizes


@pytest.fixture
def without_collection():
    """What is in a cycle would keep a device's memory until it is collected some day."""
    gc.disable()
    yield
    gc.enable()


def test_steps_allocate_nothing_from_the_second_on(allocated, without_collection):
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), loss=nn.CrossEntropyLoss())
    on_device = nn.OnDevice(model)
    opt = fastgd.SGD(on_device.named_parameters(), lr=0.1)
    x, y = put(np.ones((3, 4), np.float32)), put(np.array([0, 1, 0]))
    on_device.train_step(x, y, opt)
    before = len(allocated)
    for _ in range(2):
        on_device.train_step(x, y, opt)
    assert len(allocated) == before


def test_functions_allocate_nothing_from_the_second_call_on(allocated, without_collection):
    x, weight = put(np.ones((2, 3, 2), np.float32)), put(np.ones((12, 2), np.float32))
    weight_hh = put(np.ones((12, 3), np.float32))

    def run():
        y, saved = functional.lstm(x, weight, weight_hh)
        functional.lstm_backward(y, saved)

    run()
    before = len(allocated)
    run()
    assert len(allocated) == before


class _Device:
    """Has so much memory."""

    def __init__(self, nbytes):
        self.left = nbytes

    def current(self):
        return contextlib.nullcontext()

    def allocate(self, nbytes):
        if nbytes > self.left:
            raise MemoryError
        device = self
        device.left -= nbytes

        class Buffer:
            pointer = 1

            def __init__(self):
                self.nbytes = nbytes

            def __del__(self):
                device.left += nbytes

        return Buffer()


def test_what_is_kept_is_given_back_when_there_is_no_more():
    pool = Pool(_Device(4 * SMALLEST))
    lent = pool.take(SMALLEST, 1)
    del lent
    whole = pool.take(4 * SMALLEST, 1)
    with pytest.raises(MemoryError):
        pool.take(1, 1)
    del whole
    assert pool.take(1, 1) is not None


def test_memory_of_one_stream_is_not_anothers():
    pool = Pool(_Device(10 * SMALLEST))
    buffer = pool.take(10, 1)._buffer
    other = pool.take(10, 2)
    assert other._buffer is not buffer
    assert pool.take(20, 1)._buffer is buffer


@pytest.mark.parametrize("nbytes", [0, 1, 512, 513, 4096, 4097, 10**6, 3 * 10**9 + 7])
def test_sizes_are_rounded_by_a_quarter_at_most(nbytes):
    size = rounded(nbytes)
    assert size >= nbytes and size % SMALLEST == 0
    assert size - nbytes <= max(SMALLEST, nbytes / 4)
    assert rounded(size) == size
