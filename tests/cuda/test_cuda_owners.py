"""Arrays of other owners on the device, and the page about it."""

import re
import sys
from pathlib import Path

import fake_cupy
import numpy as np
import pytest

import fastgd
from fastgd.cuda import driver
from fastgd.cuda.simulation import SIMULATED

pytestmark = pytest.mark.skipif(not SIMULATED, reason="CuPy's stand-in has arrays of the simulated device")

DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy)
    return fake_cupy


def test_arrays_by_their_interface(cupy):
    values = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    array, wanted = cupy.ndarray(values), values.copy()
    opt, reference = fastgd.Adam([array], lr=0.1), fastgd.Adam([wanted], lr=0.1, backend="reference")
    for _ in range(2):
        opt.step([cupy.ndarray(values)])
        reference.step([values])
    assert opt.backend.name == "cuda" and opt.parameters()[0] is array
    assert array.get().tobytes() == wanted.tobytes()


def test_steps_run_on_the_owners_stream(cupy, monkeypatch):
    seen = []
    device = driver.device(0)
    state_of = device.stream_state

    def watched(stream):
        seen.append(stream)
        return state_of(stream)

    monkeypatch.setattr(device, "stream_state", watched)
    array = cupy.ndarray(np.ones(3, np.float32))
    opt = fastgd.SGD([array])
    grads = [cupy.ones_like(array)]
    opt.step(grads)
    monkeypatch.setattr(fake_cupy._Stream, "ptr", 0x1234)
    opt.step(grads)
    # CuPy calls its default stream 0
    assert seen == [driver.DEFAULT_STREAM, 0x1234]


def test_the_blocks_of_the_page(cupy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (DOCS / "cuda.md").read_text().replace("(512, 784)", "(5, 7)").replace("zeros(512,", "zeros(5,")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert blocks
    for block in blocks:
        exec(block, {"__name__": "page"})
