"""Describes the extension fastgd._native to cffi: its interface is the marked region of fastgd.h."""

import re
from pathlib import Path

from cffi import FFI

HEADER = Path(__file__).with_name("fastgd.h")


def cdef() -> str:
    region = re.search(r"/\* cdef begin.*?\*/(.*?)/\* cdef end \*/", HEADER.read_text(), re.DOTALL)
    assert region, "fastgd.h has lost its cdef markers"
    return region.group(1)


# The matrix products fastgd/gemm.py provides when no library does.
PYTHON_GEMM = """
extern "Python" int fgd_numpy_sgemm(char transa, char transb, int64_t m, int64_t n, int64_t k, float alpha,
    const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c, int64_t ldc);
extern "Python" int fgd_numpy_dgemm(char transa, char transb, int64_t m, int64_t n, int64_t k, double alpha,
    const double *a, int64_t lda, const double *b, int64_t ldb, double beta, double *c, int64_t ldc);
"""

ffi = FFI()
ffi.cdef(cdef())
ffi.cdef(PYTHON_GEMM)
ffi.set_source("fastgd._native", '#include "fastgd.h"')
