"""Matrix products: each provider right in every form, choosing one, errors, and forked children."""

import importlib.util
import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

import fastgd
from fastgd import gemm
from fastgd._native import ffi, lib
from fastgd.arrays import DTYPE_CODES, DTYPES

BLAS_SGEMM = (
    "void(*)(char*, char*, int*, int*, int*, float*, float*, int*, float*, int*, float*, float*, int*)"
)


@pytest.fixture(autouse=True)
def several_threads_of_openblas():
    """As where its number is not set: conftest.py leaves it one."""
    found = [gemm._find(provider, "float64") for provider in ("scipy", "numpy")]
    threads = [f.threads for f in found if isinstance(f, gemm.Product) and f.threads]
    getters = [ffi.cast("fgd_threads_getter", get) for get, _ in threads]
    setters = [ffi.cast("fgd_threads_setter", set_) for _, set_ in threads]
    before = [getter() for getter in getters]
    for setter in setters:
        setter(2)
    yield
    for setter, number in zip(setters, before, strict=True):
        setter(number)


@pytest.fixture(autouse=True)
def best_product():
    yield
    gemm.use(None)
    for dtype in DTYPES:
        gemm._in_use.pop(dtype.name, None)
        gemm.ensure(dtype.name)


def pointer(array):
    return ffi.from_buffer(array) if array is not None else ffi.NULL


def product(transa, transb, a, b, c, accumulate=0):
    (m, n), k = c.shape, a.shape[0] if transa == "T" else a.shape[1]
    at = [pointer(array if array.base is None else array.base) for array in (a, b, c)]
    lda, ldb, ldc = (array.strides[0] // array.itemsize for array in (a, b, c))
    sizes = transa.encode(), transb.encode(), m, n, k
    return lib.fgd_gemm(DTYPE_CODES[a.dtype], *sizes, at[0], lda, at[1], ldb, accumulate, at[2], ldc)


def padded(rng, rows, cols, dtype):
    """[rows, cols] inside rows of cols + 3 elements, so that a wrong leading dimension shows."""
    return rng.standard_normal((rows, cols + 3)).astype(dtype)[:, :cols]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("provider", gemm._PROVIDERS)
def test_products_in_all_four_forms(provider, dtype):
    available = gemm.info()[dtype.name]
    if provider not in available["available"]:
        pytest.skip(available["unavailable"][provider])
    gemm.use(provider)
    assert gemm.ensure(dtype.name) == provider
    rng = np.random.default_rng(1)
    for m, n, k in [(1, 1, 1), (5, 3, 7), (3, 5, 1), (1, 9, 4), (33, 17, 65), (130, 70, 90)]:
        for transa in "NT":
            for transb in "NT":
                for accumulate in (0, 1):
                    a = padded(rng, *((k, m) if transa == "T" else (m, k)), dtype)
                    b = padded(rng, *((n, k) if transb == "T" else (k, n)), dtype)
                    c = padded(rng, m, n, dtype)
                    gap = c.base[:, n:].copy()
                    left, right = (a.T if transa == "T" else a), (b.T if transb == "T" else b)
                    exact = left.astype(np.longdouble) @ right.astype(np.longdouble) + accumulate * c
                    bound = np.abs(left).astype(float) @ np.abs(right).astype(float) + np.abs(c)
                    assert product(transa, transb, a, b, c, accumulate) == 0
                    # Higham 2002, section 3.5: |error| <= k u |a| |b| in whatever order it is summed
                    assert np.all(np.abs(c - exact) <= (k + 2) * np.finfo(dtype).eps * bound)
                    assert np.array_equal(c.base[:, n:], gap)


def test_an_empty_product_is_zero_or_leaves_c():
    gemm.ensure("float32")
    a, b = np.empty((2, 0), np.float32), np.empty((0, 3), np.float32)
    c = np.full((2, 3), 7, np.float32)
    call = (lib.FGD_F32, b"N", b"N", 2, 3, 0, pointer(a), 0, pointer(b), 3)
    assert lib.fgd_gemm(*call, 1, pointer(c), 3) == 0
    assert np.all(c == 7)
    assert lib.fgd_gemm(*call, 0, pointer(c), 3) == 0
    assert np.all(c == 0)


def test_bad_calls_change_nothing():
    gemm.ensure("float32")
    a, b, c = (np.full((2, 2), v, np.float32) for v in (1, 2, 3))

    def call(dtype=0, ta=b"N", tb=b"N", m=2, n=2, k=2, x=a, lda=2, y=b, ldb=2, out=c, ldc=2):
        return lib.fgd_gemm(dtype, ta, tb, m, n, k, pointer(x), lda, pointer(y), ldb, 0, pointer(out), ldc)

    assert call(dtype=7) == lib.FGD_ERROR_DTYPE
    assert call(ta=b"C") == call(tb=b"?") == lib.FGD_ERROR_OPTION
    assert call(m=-1) == call(n=-1) == call(k=-1) == lib.FGD_ERROR_SIZE
    assert call(lda=1) == call(ldb=1) == call(ldc=1) == lib.FGD_ERROR_SIZE
    assert call(x=None) == call(y=None) == call(out=None) == lib.FGD_ERROR_NULL
    assert np.all(c == 3)
    assert call() == 0


def test_set_gemm_checks_and_a_product_that_is_missing_or_fails():
    assert lib.fgd_set_gemm(2, lib.FGD_GEMM_NONE, ffi.NULL) == lib.FGD_ERROR_DTYPE
    assert lib.fgd_set_gemm(0, 3, ffi.NULL) == lib.FGD_ERROR_OPTION
    assert lib.fgd_set_gemm(0, lib.FGD_GEMM_BLAS, ffi.NULL) == lib.FGD_ERROR_NULL
    a, b, c = (np.ones((2, 2), np.float32) for _ in range(3))
    assert lib.fgd_set_gemm(0, lib.FGD_GEMM_NONE, ffi.NULL) == 0
    assert product("N", "N", a, b, c) == lib.FGD_ERROR_GEMM
    failing = ffi.callback("fgd_sgemm", lambda *arguments: 1)
    assert lib.fgd_set_gemm(0, lib.FGD_GEMM_ROW_MAJOR, ffi.cast("fgd_function", failing)) == 0
    assert product("N", "N", a, b, c) == lib.FGD_ERROR_GEMM


def test_blas_refuses_sizes_beyond_32_bits():
    called = []
    blas = ffi.callback(BLAS_SGEMM, lambda *arguments: called.append(1))
    assert lib.fgd_set_gemm(0, lib.FGD_GEMM_BLAS, ffi.cast("fgd_function", blas)) == 0
    one = np.ones(1, np.float32)
    big = 2**31
    at = pointer(one)
    identity = ffi.new("fgd_activation *", {"kind": lib.fgd_activation_find(b"identity")})
    assert lib.fgd_gemm(0, b"N", b"N", big, 1, 1, at, 1, at, 1, 0, at, 1) == lib.FGD_ERROR_SIZE
    assert lib.fgd_gemm(0, b"N", b"N", 1, 1, 1, at, big, at, 1, 0, at, 1) == lib.FGD_ERROR_SIZE
    assert (
        lib.fgd_linear_forward(0, identity, big, 1, 1, at, at, ffi.NULL, ffi.NULL, at) == lib.FGD_ERROR_SIZE
    )
    assert lib.fgd_linear_backward(0, identity, 1, 1, big, at, at, at, at, at, at, at) == lib.FGD_ERROR_SIZE
    assert not called and one[0] == 1
    assert lib.fgd_gemm(0, b"N", b"N", big - 1, 1, 1, at, 1, at, 1, 0, at, 1) == 0
    assert called


def test_use_and_info():
    with pytest.raises(ValueError, match="provider must be one of onednn, scipy, numpy"):
        gemm.use("cublas")
    gemm.use("numpy")
    report = gemm.info()
    assert set(report) == {"float32", "float64"}
    for found in report.values():
        assert found["in_use"] == "numpy"
        assert set(found["available"]) | set(found["unavailable"]) == set(gemm._PROVIDERS)
        assert all(found["unavailable"].values())
    assert "float64" in report["float64"]["unavailable"]["onednn"]
    gemm.use(None)
    assert gemm.info()["float32"]["in_use"] == report["float32"]["available"][0]


def test_a_provider_that_is_missing_is_refused_with_its_reason(monkeypatch):
    def missing(dtype):
        raise gemm.NotFound("no such library")

    gemm.use("numpy")
    monkeypatch.setitem(gemm._PROVIDERS, "onednn", missing)
    gemm._find.cache_clear()
    try:
        with pytest.raises(RuntimeError, match="onednn cannot be used: no such library"):
            gemm.use("onednn")
        assert gemm.info()["float32"]["in_use"] == "numpy"
        gemm.use(None)
        assert gemm.info()["float32"]["in_use"] == ("scipy" if importlib.util.find_spec("scipy") else "numpy")
    finally:
        gemm._find.cache_clear()


def test_importing_loads_no_library():
    code = "import sys, fastgd.nn, fastgd.gemm as g; assert 'scipy' not in sys.modules and not g._in_use"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


FORKING = """
import os, sys
import numpy as np
import fastgd
from fastgd import gemm
from fastgd._native import ffi, lib

def product():
    at = [ffi.from_buffer(array) for array in (a, b, c)]
    return lib.fgd_gemm(0, b"N", b"N", 300, 300, 300, at[0], 300, at[1], 300, 0, at[2], 300)

if gemm.ensure("float32") != "onednn":
    print("only oneDNN runs on the OpenMP pool that a fork loses")
    sys.exit()
a = np.random.default_rng(0).standard_normal((300, 300)).astype(np.float32)
b, c = np.eye(300, dtype=np.float32), np.zeros_like(a)
lib.fgd_set_num_threads(2)
assert product() == 0
c[...] = 0
child = os.fork()
if child == 0:
    os._exit(0 if product() == 0 and np.array_equal(a, c) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_products_in_a_forked_child_do_not_hang():
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORKING], stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        try:
            skipped = parent.communicate(timeout=30)[0].decode()
        except subprocess.TimeoutExpired:
            os.killpg(parent.pid, signal.SIGKILL)
            pytest.fail("the child hung")
    assert parent.returncode == 0
    if skipped:
        pytest.skip(skipped)


def test_a_product_with_threads_of_its_own_has_one_on_each_of_ours(threads):
    told = [7]

    @ffi.callback("fgd_threads_getter")
    def getter():
        return told[-1]

    @ffi.callback("fgd_threads_setter")
    def setter(n):
        told.append(n)

    gemm.use("scipy")
    gemm.ensure("float32")
    assert lib.fgd_set_gemm_threads(2, getter, setter) == lib.FGD_ERROR_DTYPE
    assert lib.fgd_set_gemm_threads(0, getter, ffi.NULL) == lib.FGD_ERROR_NULL
    assert lib.fgd_set_gemm_threads(0, getter, setter) == 0
    large, small = np.ones((200, 200), np.float32), np.ones((3, 3), np.float32)
    assert product("N", "N", large, large, np.empty_like(large)) == 0
    assert told == [7, 1, 7]
    assert product("N", "N", small, small, np.empty_like(small)) == 0
    assert told == [7, 1, 7, 1, 7]


@pytest.mark.parametrize("provider", ["scipy", "numpy"])
def test_the_number_of_openblas_threads_is_the_users_after_a_product(provider):
    found = gemm._find(provider, "float64")
    if not isinstance(found, gemm.Product) or found.threads is None:
        pytest.skip(f"{provider} is not linked to OpenBLAS here")
    getter = ffi.cast("fgd_threads_getter", found.threads[0])
    setter = ffi.cast("fgd_threads_setter", found.threads[1])
    before, wanted = getter(), fastgd.get_num_threads()
    try:
        setter(2)
        fastgd.set_num_threads(1)
        gemm.use(provider)
        gemm.ensure("float64")
        large = np.ones((200, 200))
        assert product("N", "N", large, large, np.empty_like(large)) == 0
        assert getter() == 2
    finally:
        setter(before)
        fastgd.set_num_threads(wanted)


@pytest.mark.parametrize("provider", ["scipy", "numpy"])
def test_slices_of_a_product_are_all_of_it(provider, threads):
    """Sizes at which more than one thread computes, and slices of 16 do not come out even."""
    if not isinstance(gemm._find(provider, "float64"), gemm.Product):
        pytest.skip(f"{provider} is not installed")
    gemm.use(provider)
    gemm.ensure("float64")
    rng = np.random.default_rng(2)
    for m, n, k in [(400, 33, 401), (33, 411, 400), (170, 170, 170), (1, 5000, 1000), (5000, 1, 1000)]:
        for transa, transb in itertools.product("NT", "NT"):
            a = padded(rng, *((k, m) if transa == "T" else (m, k)), np.float64)
            b = padded(rng, *((n, k) if transb == "T" else (k, n)), np.float64)
            c = padded(rng, m, n, np.float64)
            whole = np.einsum("ik,kj", a.T if transa == "T" else a, b.T if transb == "T" else b)
            beside, expected = c.base[:, n:].copy(), c + whole
            assert product(transa, transb, a, b, c, accumulate=1) == 0
            np.testing.assert_allclose(c, expected, rtol=1e-11, atol=1e-11)
            assert np.array_equal(c.base[:, n:], beside)
