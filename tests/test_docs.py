"""What the site is made of: docstrings and headers as pages, and the program in C that docs/c.md shows."""

import re
import sys

import pytest
from compiling import CSRC, ROOT, required, run

sys.path.insert(0, str(ROOT / "docs"))
import docstrings
import headers


def rst(text, *known):
    return "\n".join(docstrings.rst(text, known)).strip()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("d = |p - y| * 2, [n, *shape], w_", r"d = \|p - y\| \* 2, [n, \*shape], w\_"),
        ("A path C:\\x and `code_`s.", "A path C:\\\\x and \\ ``code_``\\ s."),
        ("A. Graves 2013", r"\ A. Graves 2013"),
        ("...", r"\ ..."),
        ("two\nlines", "two lines"),
    ],
)
def test_prose_is_not_markup(text, wanted):
    assert rst(text) == wanted


def test_arguments_become_a_list_where_they_are_known():
    text = "Moves. lr: the rate,\n    at first. x: not known.\nbetas, eps: two, see: this.\n\nNote: a word."
    assert rst(text, "lr", "betas", "eps").splitlines() == [
        "Moves.",
        "",
        ".. rst-class:: entries",
        "",
        "``lr``",
        "    the rate, at first. x: not known.",
        "``betas``, ``eps``",
        "    two, see: this.",
        "",
        "Note: a word.",
    ]


def test_a_name_behind_a_semicolon_is_one_only_within_a_list():
    assert "entries" not in rst("Kingma 2015; amsgrad: Reddi 2018.", "amsgrad")
    assert rst("x: [n]; y: [m].", "x", "y").count("``") == 4


def test_indented_blocks():
    assert rst("All:\n\n    lr: the rate.\n        More.\n    eps: small.", "lr", "eps").count("``") == 4
    assert rst("So:\n\n    opt = f(x)\n\n    for a in b:\n        c(a)").splitlines()[-6:] == [
        ".. code-block:: python",
        "",
        "    opt = f(x)",
        "",
        "    for a in b:",
        "        c(a)",
    ]
    assert ".. code-block:: text" in rst("with\n\n    c_t = f c_(t-1) + i g\n\nwhere").splitlines()
    assert "    min(1, c * x)" in rst("The factor is\n    `min(1, c * x)`\nat most.").splitlines()


def test_headers_lose_nothing_that_is_declared():
    for name in headers.HEADERS:
        text = "\n".join(line.strip() for line in headers.page(name))
        declared = re.findall(r"\bfgd_\w+\(", (CSRC / name).read_text())
        assert declared and all(each in text for each in declared)
        assert "cdef" not in text and "__cplusplus" not in text


def test_the_program_in_c_compiles():
    (source,) = re.findall(r"^```c\n(.*?)^```", (ROOT / "docs/c.md").read_text(), re.DOTALL | re.MULTILINE)
    flags = ["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{CSRC}"]
    run([required("gcc"), "-x", "c", *flags, "-"], input=source)
