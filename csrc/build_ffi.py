"""Describes the extension fastgd._native to cffi: its interface is the marked region of fastgd.h."""

import re
from pathlib import Path

from cffi import FFI

HEADER = Path(__file__).with_name("fastgd.h")


def cdef() -> str:
    region = re.search(r"/\* cdef begin.*?\*/(.*?)/\* cdef end \*/", HEADER.read_text(), re.DOTALL)
    assert region, "fastgd.h has lost its cdef markers"
    return region.group(1)


ffi = FFI()
ffi.cdef(cdef())
ffi.set_source("fastgd._native", '#include "fastgd.h"')
