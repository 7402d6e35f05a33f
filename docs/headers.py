"""The pages of the C ABI: its headers, with introductions as text and sections under headings."""

from __future__ import annotations

import re
from pathlib import Path

from docstrings import prose

CSRC = Path(__file__).parent.parent / "csrc"

#: fastgd.h and the headers that it includes
HEADERS = ("fastgd.h", "fastgd_layers.h", "fastgd_online.h")

_COMMENT = re.compile(r"/\*(.*?)\*/", re.DOTALL)
_SECTION = re.compile(r"^/\* -+ (.*?) -+ \*/$", re.MULTILINE)
#: between them is what cffi reads, too
_BEGIN, _END = '/* cdef begin: from here to "cdef end" the text is also read by cffi */', "/* cdef end */"


def _text(comment: str) -> str:
    return prose(re.sub(r"^ \*", "", comment, flags=re.MULTILINE))


def _block(code: str) -> list[str]:
    code = re.sub(r"\n{3,}", "\n\n", code).strip()
    return (
        [".. code-block:: c", "", *(f"    {line}".rstrip() for line in code.splitlines()), ""] if code else []
    )


def page(name: str) -> list[str]:
    """Comments before the first declaration as prose, then code under the headings of sections."""
    before, _, declared = (CSRC / name).read_text().partition(_BEGIN)
    declared, _, _ = declared.partition(_END)
    lines = [name, "=" * len(name), ""]
    for comment in _COMMENT.findall(before):
        lines += [_text(comment), ""]
    first, *rest = _SECTION.split(declared)
    if first.strip():
        lines += ["Constants and kinds", "-------------------", "", *_block(first)]
    for heading, code in zip(rest[::2], rest[1::2], strict=True):
        lines += [heading, "-" * len(heading), "", *_block(code)]
    return lines
