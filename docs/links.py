"""Code in the text becomes a link where it names something of the reference, or a file that is a page.

`fastgd.AdamW`, `nn.Linear`, `schedules.cosine(...)`, `AdamW` for a class, and `docs/models.md`.
"""

from __future__ import annotations

import re
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
}

#: code of so many characters is not to be broken into lines (site.css)
SHORT = 30


def target(app: Sphinx, text: str) -> tuple[str, str] | None:
    """The page and the anchor that a piece of code is about; None for all else."""
    page = FILES.get(text) or text.removeprefix("docs/").removesuffix(".md")
    if "." in text and page in app.env.all_docs:
        return page, ""
    name = re.fullmatch(r"([A-Za-z_][\w.]*)(\(.*\))?", text)
    if not name:
        return None
    objects = app.env.get_domain("py").objects
    for full in (name[1], f"fastgd.{name[1]}"):
        found = objects.get(full)
        if found and ("." in name[1] or found.objtype == "class"):
            return found.docname, found.node_id
    return None


def link(app: Sphinx, tree: nodes.document, page: str) -> None:
    for code in list(tree.findall(nodes.literal)):
        if len(code.astext()) <= SHORT:
            code["classes"].append("short")
        parent = code.parent
        if isinstance(parent, nodes.reference | nodes.title) or "://" in code.astext():
            continue
        to = target(app, code.astext())
        if to:
            code.replace_self(make_refnode(app.builder, page, to[0], to[1], code.deepcopy()))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-resolved", link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
