"""Finds the matrix product the native layers use: oneDNN's, else SciPy's BLAS, else numpy.matmul.

Nothing is loaded before a product is needed or asked about. Products are the one thing whose last bits may
differ between machines, libraries and numbers of threads. All are computed on the OpenMP threads that all
else runs on: oneDNN uses them itself; OpenBLAS, which SciPy and NumPy bring, is called by each of them for a
part of the result, and for that time told not to use threads of its own.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.metadata
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastgd._native import ffi, lib
from fastgd.arrays import DTYPE_CODES

_CODES = {dtype.name: code for dtype, code in DTYPE_CODES.items()}


class Product(NamedTuple):
    """A function the native code can call."""

    #: its convention (fgd_gemm_kind)
    kind: int
    address: int
    #: of the functions that tell and set the number of its threads, where it has threads of its own
    threads: tuple[int, int] | None = None


class NotFound(Exception):
    """Why a provider cannot be used."""


def _onednn(dtype: str) -> Product:
    if dtype != "float32":
        raise NotFound("oneDNN has no float64 product")
    reasons = []
    for path in _onednn_paths():
        try:
            function = ctypes.CDLL(path).dnnl_sgemm
        except (OSError, AttributeError) as error:
            reasons.append(str(error))
            continue
        address = ctypes.cast(function, ctypes.c_void_p).value
        assert address is not None
        return Product(lib.FGD_GEMM_ROW_MAJOR, address)
    raise NotFound("; ".join(reasons) or "libdnnl was not found; install the package onednn-cpu-gomp")


def _onednn_paths() -> list[str]:
    """libdnnl of the package onednn-cpu-gomp, which lies outside every loader path, then the system's."""
    paths = []
    try:
        files = importlib.metadata.distribution("onednn-cpu-gomp").files or []
        paths = [str(file.locate()) for file in files if file.name in ("libdnnl.so", "libdnnl.dylib")]
    except importlib.metadata.PackageNotFoundError:
        pass
    system = None if paths else ctypes.util.find_library("dnnl")
    return [*paths, system] if system else paths


def _scipy(dtype: str) -> Product:
    try:
        from scipy.linalg import cython_blas
    except ImportError as error:
        raise NotFound(str(error)) from None
    api = ctypes.pythonapi
    name_of = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(("PyCapsule_GetName", api))
    pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    capsule = cython_blas.__pyx_capi__["sgemm" if dtype == "float32" else "dgemm"]
    signature = name_of(capsule)
    if signature.count(b" int *") != 6:
        raise NotFound("this SciPy's BLAS does not take 32-bit sizes")
    return Product(lib.FGD_GEMM_BLAS, pointer_of(capsule, signature), _own_threads(cython_blas))


def _numpy(dtype: str) -> Product:
    from numpy.linalg import _umath_linalg

    _define_numpy_products()
    function = lib.fgd_numpy_sgemm if dtype == "float32" else lib.fgd_numpy_dgemm
    address = int(ffi.cast("intptr_t", function))
    return Product(lib.FGD_GEMM_ROW_MAJOR, address, _own_threads(_umath_linalg))


def _own_threads(module: Any) -> tuple[int, int] | None:
    """OpenBLAS's functions for the number of its threads, if an extension module is linked to it."""
    library = ctypes.CDLL(module.__file__)
    for prefix in ("scipy_openblas", "openblas"):
        for suffix in ("64_", ""):
            names = [f"{prefix}_{verb}_num_threads{suffix}" for verb in ("get", "set")]
            if all(hasattr(library, name) for name in names):
                get, set_ = (ctypes.cast(library[name], ctypes.c_void_p).value for name in names)
                return get or 0, set_ or 0
    return None


@functools.cache
def _define_numpy_products() -> None:
    for name, dtype in (("fgd_numpy_sgemm", np.dtype(np.float32)), ("fgd_numpy_dgemm", np.dtype(np.float64))):
        ffi.def_extern(name=name, error=-1)(functools.partial(_matmul, dtype))


def _matmul(
    dtype: np.dtype[Any],
    transa: bytes,
    transb: bytes,
    m: int,
    n: int,
    k: int,
    alpha: float,
    a: Any,
    lda: int,
    b: Any,
    ldb: int,
    beta: float,
    c: Any,
    ldc: int,
) -> int:
    """dnnl_sgemm's convention:  c [m, n] = alpha op(a) op(b) + beta c,  in row order."""

    def matrix(pointer: Any, rows: int, cols: int, stride: int) -> np.ndarray[Any, Any]:
        memory = ffi.buffer(pointer, ((rows - 1) * stride + cols) * dtype.itemsize)
        strides = (stride * dtype.itemsize, dtype.itemsize)
        return np.ndarray((rows, cols), dtype, memory, strides=strides)

    left = matrix(a, k, m, lda).T if transa == b"T" else matrix(a, m, k, lda)
    right = matrix(b, n, k, ldb).T if transb == b"T" else matrix(b, k, n, ldb)
    out = matrix(c, m, n, ldc)
    with np.errstate(all="ignore"):
        if alpha == 1 and beta == 0:
            np.matmul(left, right, out=out)
        else:
            out[...] = alpha * (left @ right) + (beta * out if beta else 0)
    return 0


_PROVIDERS: dict[str, Callable[[str], Product]] = {"onednn": _onednn, "scipy": _scipy, "numpy": _numpy}
_preferred: str | None = None
_in_use: dict[str, str] = {}


@functools.cache
def _find(provider: str, dtype: str) -> Product | NotFound:
    try:
        return _PROVIDERS[provider](dtype)
    except NotFound as error:
        return error


def ensure(dtype: str) -> str:
    """Sees to it that products of `dtype` ("float32" or "float64") can be computed.

    Returns the name of the provider in use. The first available is taken, in the order onednn, scipy, numpy
    after the one that `use` named.
    """
    if dtype not in _in_use:
        for provider in sorted(_PROVIDERS, key=lambda name: name != _preferred):
            found = _find(provider, dtype)
            if isinstance(found, Product):
                function = ffi.cast("fgd_function", found.address)
                code = lib.fgd_set_gemm(_CODES[dtype], found.kind, function)
                assert code == lib.FGD_OK
                if found.threads:
                    kinds = ("fgd_threads_getter", "fgd_threads_setter")
                    functions = map(ffi.cast, kinds, found.threads)
                    lib.fgd_set_gemm_threads(_CODES[dtype], *functions)
                _in_use[dtype] = provider
                break
    return _in_use[dtype]


def use(provider: str | None) -> None:
    """Chooses the matrix product: "onednn", "scipy" or "numpy"; None chooses the best there is.

    Where the provider has no product of a dtype (oneDNN has none in float64) the best other one is used. Not
    to be called while another thread computes. Raises ValueError when there is no such provider, and
    RuntimeError, with the reason, when it is not available here; nothing has changed then.
    """
    global _preferred
    if provider is not None:
        if provider not in _PROVIDERS:
            raise ValueError(f"provider must be one of {', '.join(_PROVIDERS)} or None, not {provider!r}")
        found = _find(provider, "float32")
        if isinstance(found, NotFound):
            raise RuntimeError(f"{provider} cannot be used: {found}")
    _preferred = provider
    before = list(_in_use)
    _in_use.clear()
    for dtype in before:
        ensure(dtype)


def info() -> dict[str, dict[str, Any]]:
    """For each dtype: "in_use", the provider of its products; "available"; "unavailable", name -> reason.

    Loads every provider there is in order to find out.
    """
    report = {}
    for dtype in _CODES:
        found = {provider: _find(provider, dtype) for provider in _PROVIDERS}
        report[dtype] = {
            "in_use": ensure(dtype),
            "available": [name for name, what in found.items() if isinstance(what, Product)],
            "unavailable": {name: str(what) for name, what in found.items() if isinstance(what, NotFound)},
        }
    return report
