"""Fixtures that several files of tests need."""

import os

# Before NumPy is loaded: threads of OpenBLAS wait for each other awake, and where other processes keep the
# cores busy, such as tests beside these, products take ten times as long. test_gemm.py sets its own numbers.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from snapshots import BACKENDS

from fastgd import gemm
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPE_CODES
from fastgd.verification import THREADS

#: kernels for GPUs run in a process of their own, where the simulator stands in for one
if os.environ.get("NUMBA_ENABLE_CUDASIM") != "1":
    collect_ignore = ["cuda"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


@pytest.fixture(
    params=[i for i in range(lib.fgd_isa_count()) if lib.fgd_isa_supported(i)],
    ids=lambda isa: ffi.string(lib.fgd_isa_name(isa)).decode(),
)
def isa(request):
    before = lib.fgd_get_isa()
    assert lib.fgd_set_isa(request.param) == 0
    yield request.param
    lib.fgd_set_isa(before)


@pytest.fixture(params=THREADS)
def threads(request):
    before = lib.fgd_get_num_threads()
    assert lib.fgd_set_num_threads(request.param) == 0
    yield request.param
    lib.fgd_set_num_threads(before)


@pytest.fixture
def numpy_products():
    """Native products are NumPy's, on as many threads as in the reference: so they have its bits."""
    gemm.use("numpy")
    for dtype, code in DTYPE_CODES.items():
        gemm.ensure(dtype.name)
        lib.fgd_set_gemm_threads(code, ffi.NULL, ffi.NULL)
    yield
    gemm.use(None)


@pytest.fixture
def device(monkeypatch):
    """Arrays on CUDA are those of tests/standin.py while the test runs."""
    import standin

    from fastgd import backends, memory

    monkeypatch.setitem(memory.DEVICES, "cuda", "standin")
    monkeypatch.setitem(backends.MODULES, backends.AUTO["cuda"], "standin")
    standin.BACKEND.reset()
    for cached in (backends.get, backends.unavailable):
        cached.cache_clear()
    yield standin
    for cached in (backends.get, backends.unavailable):
        cached.cache_clear()


@pytest.fixture
def counters_in_float64():
    """torch keeps its counters and products of scalars in the default dtype, whatever the parameters'."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
