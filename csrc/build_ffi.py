"""Describes the extension fastgd._native to cffi: its interface is the marked regions of the headers."""

import re
from pathlib import Path

from cffi import FFI

HEADERS = ("fastgd.h", "fastgd_layers.h", "fastgd_online.h")


def cdef() -> str:
    regions = []
    for name in HEADERS:
        text = Path(__file__).with_name(name).read_text()
        region = re.search(r"/\* cdef begin.*?\*/(.*?)/\* cdef end \*/", text, re.DOTALL)
        assert region, f"{name} has lost its cdef markers"
        regions.append(region.group(1))
    return "".join(regions)


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
