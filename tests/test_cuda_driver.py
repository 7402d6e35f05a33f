"""The driver of NVIDIA's, called through a library that stands in for it: memory, streams, errors, launches.

What kernels compute is no matter here; the tests in tests/cuda see to it.
"""

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent / "preload" / "fake_cuda.c"

pytestmark = [
    pytest.mark.skipif(find_spec("numba_cuda") is None, reason="needs the extra cuda"),
    pytest.mark.skipif(shutil.which("cc") is None, reason="the driver's stand-in needs a C compiler"),
    pytest.mark.skipif(sys.platform != "linux", reason="the driver's stand-in is a shared library of Linux"),
]

BEGIN = """
import numpy as np, fastgd
from fastgd.cuda.memory import device_of, memory
from fastgd.memory import placed
cuda = memory(0)
"""


@pytest.fixture(scope="module")
def fake_driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("driver")
    library = folder / "libcuda.so.1"
    command = [
        "cc",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-shared",
        "-fPIC",
        "-o",
        library,
        SOURCE,
        "-ldl",
    ]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture
def run(fake_driver, tmp_path):
    def run(script):
        path = os.pathsep.join(filter(None, (str(fake_driver), os.environ.get("LD_LIBRARY_PATH"))))
        environment = {**os.environ, "LD_LIBRARY_PATH": path, "FASTGD_CACHE": str(tmp_path)}
        environment.pop("NUMBA_ENABLE_CUDASIM", None)
        done = subprocess.run(
            [sys.executable, "-c", BEGIN + script],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_memory(run):
    lines = run("""
values = np.arange(12, dtype=np.float32).reshape(3, 4)
array = placed(cuda, values)
assert np.array_equal(array.host(), values) and np.array_equal(array.copy().host(), values)
swapped = cuda.zeros_like(array.transpose(), np.dtype(np.float64))
assert not swapped.host().any() and swapped.strides == (8, 32)
cuda.write(swapped, values.T.astype(np.float64))
assert np.array_equal(swapped.host(), values.T)
print(array.memory.name, cuda.device.title, cuda.device.capability, device_of(array.pointer))
try:
    cuda.zeros((1 << 26,), np.dtype(np.float32))
except MemoryError as error:
    print(error)
""")
    assert lines[0] == "cuda:0 Fake GPU 0 (9, 0) 0"
    assert lines[1].startswith("cuda:0 has no 268435456 bytes: ")
    assert lines[1].endswith(" of 16777216 are free (CUDA_ERROR_OUT_OF_MEMORY: out of memory)")


def test_a_step_is_launched(run):
    lines = run("""
params = [placed(cuda, np.ones(n, np.float32)) for n in (5, 5000)]
opt = fastgd.AdamW(params)
opt.step([placed(cuda, np.ones(p.shape, np.float32)) for p in params], clip_norm=1.0)
plan = opt._planner.plan.run
print(plan.judge.tensors.pointer, plan.judge.numbers.pointer)
rows = np.empty_like(plan.judge.tensors.host)
from fastgd.cuda.tables import COLUMN
with plan.device.current():
    plan.device.download(plan.judge.tensors.pointer, rows, 1)
assert rows[:, COLUMN["param"]].tolist() == [p.pointer for p in params]
opt.state_dict()
""")
    launches = [line.split() for line in lines if line.startswith("launch")]
    tensors, numbers = lines[-1].split()
    # two chunks of 16 threads each; one block that judges; a tile of the first, two of the second tensor
    assert [launch[1:4] for launch in launches] == [
        ["sums", "1", "128"],
        ["finish", "1", "128"],
        ["update", "3", "128"],
    ]
    assert [launch[4] for launch in launches] == [tensors, numbers, tensors]


def test_a_stream_that_is_none(run):
    lines = run("""
for stream in (1, 0x77):
    try:
        print(cuda.device.stream_state(stream).capturing)
    except ValueError as error:
        print(error)
""")
    assert lines[0] == "False"
    assert lines[1].startswith("stream 0x77 of cuda:0 is no stream any more (CUDA_ERROR_INVALID_HANDLE")


def test_kernels_are_kept_on_disk(run, tmp_path):
    step = """
import sys
opt = fastgd.SGD([placed(cuda, np.ones(3, np.float32))])
opt.step([placed(cuda, np.ones(3, np.float32))])
print(*(name for name in ("numba", "llvmlite") if name in sys.modules))
"""
    run(step)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert {path.name.split("-")[0] for path in kept} == {"finish", "update"}
    # the compiler is not even imported again
    assert run(step)[-1] == ""
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == kept
