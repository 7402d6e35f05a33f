"""Docstrings of this project as reStructuredText: they are plain text, whose few forms this file knows.

A paragraph is prose, in which nothing but `code` is marked. A line `name: text` tells of an argument or an
attribute and goes on in indented lines. A block that is indented for itself is code, a formula, or such
lines.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_NAMES = r"\*{0,2}[A-Za-z_]\w*(?:, \*{0,2}[A-Za-z_]\w*)*"
_ENTRY = re.compile(rf"({_NAMES}): (?=\S)")
#: what would be markup at the beginning of a paragraph
_MARKUP = re.compile(r"(?=[-+=:>.]|\(?[\w#]{1,3}[.)]\s)")


def prose(text: str) -> str:
    """One paragraph, of which only `code` is markup."""
    parts = re.split(r"(`[^`]+`)", " ".join(text.split()))
    for i, part in enumerate(parts):
        if i % 2:
            parts[i] = rf"\ `{part}`\ "
        else:
            parts[i] = re.sub(r"([\\*_|`])", r"\\\1", part)
    marked = "".join(parts)
    return rf"\ {marked}" if _MARKUP.match(marked) else marked


def summary(documentation: str) -> str:
    """The first paragraph of a docstring without indentation, as inspect.getdoc gives it."""
    return prose(documentation.split("\n\n")[0])


def _is_python(code: str) -> bool:
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return False
    return not all(isinstance(node, ast.Expr) and not isinstance(node.value, ast.Call) for node in tree.body)


def _code(lines: list[str]) -> list[str]:
    code = inspect.cleandoc("\n" + "\n".join(lines))
    if re.fullmatch("`[^`]*`", code):
        code = code.strip("`")
    language = "python" if _is_python(code) else "text"
    return [f".. code-block:: {language}", "", *(f"    {line}".rstrip() for line in code.splitlines()), ""]


def _split(lines: list[str], known: Collection[str]) -> list[tuple[str, str]]:
    """Pieces (names, text) of a paragraph; names are empty before the first that is known."""
    pieces, text = [("", "")], " ".join(line.strip() for line in lines)
    starts = {0}
    for line in lines:
        starts.add(max(starts) + len(line.strip()) + 1)
    at = 0
    for found in _ENTRY.finditer(text):
        names = [name.strip("* ") for name in found[1].split(",")]
        ends = (". ", "; ") if pieces[-1][0] else ". "
        begins = found.start() in starts or text[: found.start()].endswith(ends)
        if begins and all(name in known for name in names):
            pieces[-1] = (pieces[-1][0], text[at : found.start()].strip())
            pieces.append((found[1], ""))
            at = found.end()
    pieces[-1] = (pieces[-1][0], text[at:].strip())
    return [piece for piece in pieces if any(piece)]


def _paragraph(lines: list[str], known: Collection[str]) -> Iterator[str]:
    if lines[0].startswith("- "):
        for item in re.split(r"(?:^|\n)- ", "\n".join(lines))[1:]:
            yield f"- {prose(item)}"
        yield ""
        return
    open_list = False
    for names, text in _split(lines, known):
        if not names:
            yield from (prose(text), "")
            continue
        if not open_list:
            yield from (".. rst-class:: entries", "")
            open_list = True
        yield ", ".join(f"``{name}``" for name in names.split(", "))
        yield f"    {prose(text)}"
    yield ""


def rst(documentation: str, known: Collection[str] = ()) -> list[str]:
    """Such a docstring as lines. known: names of arguments and attributes that `name: text` may tell of."""
    out: list[str] = []
    blocks = re.split(r"\n{2,}", documentation)
    while blocks:
        lines = blocks.pop(0).splitlines()
        if not lines:
            continue
        if lines[0].startswith("    "):
            inner = [line[4:] for line in lines]
            if all(line.startswith(" ") or _ENTRY.match(line) for line in inner) and known:
                out += _paragraph(inner, known)
                continue
            while blocks and blocks[0].startswith("    "):
                lines += ["", *blocks.pop(0).splitlines()]
            out += _code(lines)
            continue
        # an indented line belongs to the entry above it; behind prose it is a formula
        first = next((i for i, line in enumerate(lines) if line.startswith("    ")), len(lines))
        if first < len(lines) and not any(names for names, _ in _split(lines[:first], known)):
            last = next((i for i in range(first, len(lines)) if not lines[i].startswith("    ")), len(lines))
            out += _paragraph(lines[:first], known)
            out += _code(lines[first:last])
            if lines[last:]:
                blocks.insert(0, "\n".join(lines[last:]))
            continue
        out += _paragraph(lines, known)
    return out


def names_of(what: Any) -> set[str]:
    """Of the arguments, and of a class's attributes."""
    try:
        names = set(inspect.signature(what).parameters)
    except (TypeError, ValueError):
        names = set()
    return names | set(dir(what)) if inspect.isclass(what) else names


def process(app: Sphinx, kind: str, name: str, what: Any, options: Any, lines: list[str]) -> None:
    lines[:] = rst("\n".join(lines), names_of(what))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", process)
    return {"parallel_read_safe": True}
