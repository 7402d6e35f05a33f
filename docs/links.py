"""Code in the text becomes a link where it names something of the reference, or a file that is a page.

`fastgd.AdamW`, `schedules.Cosine(...)`, `Linear` where no other class is called so, `docs/models.md`.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from docutils import nodes
from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from sphinx.application import Sphinx

#: files outside docs/ -> their pages
FILES = {
    "CONTRIBUTING.md": "contributing",
    "csrc/fastgd.h": "reference/fastgd.h",
    "csrc/fastgd_layers.h": "reference/fastgd_layers.h",
    "csrc/fastgd_online.h": "reference/fastgd_online.h",
}

#: code of so many characters is not to be broken into lines (site.css)
SHORT = 30


def classes(app: Sphinx) -> dict[str, str]:
    """Last name -> full name of each class whose last name no other has."""
    objects = app.env.get_domain("py").objects
    named = [name for name, entry in objects.items() if entry.objtype == "class" and not entry.aliased]
    last = [name.rpartition(".")[2] for name in named]
    count = Counter(last)
    return {short: name for short, name in zip(last, named, strict=True) if count[short] == 1}


def target(app: Sphinx, text: str, unique: dict[str, str]) -> tuple[str, str] | None:
    """The page and the anchor that a piece of code is about; None for all else."""
    page = FILES.get(text) or text.removeprefix("docs/").removesuffix(".md")
    if "." in text and page in app.env.all_docs:
        return page, ""
    name = re.fullmatch(r"([A-Za-z_][\w.]*)(\(.*\))?", text)
    if not name:
        return None
    objects = app.env.get_domain("py").objects
    for full in (name[1], f"fastgd.{name[1]}", unique.get(name[1], "")):
        found = objects.get(full)
        if found and ("." in name[1] or found.objtype == "class"):
            return found.docname, found.node_id
    return None


def link(app: Sphinx, tree: nodes.document, page: str) -> None:
    unique = classes(app)
    for code in list(tree.findall(nodes.literal)):
        text = code.astext()
        if len(text) <= SHORT:
            code["classes"].append("short")
        if isinstance(code.parent, nodes.reference | nodes.title):
            continue
        to = target(app, text, unique)
        if to:
            code.replace_self(make_refnode(app.builder, page, to[0], to[1], code.deepcopy()))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
