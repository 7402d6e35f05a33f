"""The pages of the reference: one for each public module and header, and for each class of a large module.

Names are those of `fastgd.__all__`, and of `__all__` of the modules among them; pages say what docstrings do.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import headers
from docstrings import summary

import fastgd
from fastgd import nn

if TYPE_CHECKING:
    from sphinx.application import Sphinx

#: public modules that are no attributes of fastgd: what trains and is shown with it, and what needs torch
BESIDE = (
    "fastgd.checkpoint",
    "fastgd.data",
    "fastgd.lab",
    "fastgd.sklearn",
    "fastgd.torch",
    "fastgd.torch.functional",
)

#: a module with more classes than this gives each a page
ON_ONE_PAGE = 8

#: headings of a page, and what stands under each: the first that fits
HEADINGS = {
    "Optimizers": lambda what: inspect.isclass(what) and hasattr(what, "rule") and what.rule is not None,
    "Layers": lambda what: inspect.isclass(what) and issubclass(what, nn.Layer),
    "Losses": lambda what: inspect.isclass(what) and issubclass(what, nn.Loss),
    "Classes": inspect.isclass,
    "Functions": callable,
    "Values": lambda what: True,
}


def public(module: ModuleType) -> dict[str, Any]:
    """What a module offers: what __all__ names; without it, what is defined there or in parts of it."""
    names = getattr(module, "__all__", None)
    if names is None:
        names = [
            name
            for name, what in vars(module).items()
            if not name.startswith("_") and str(getattr(what, "__module__", "")).startswith(module.__name__)
        ]
    return {name: getattr(module, name) for name in names if not name.startswith("__")}


def modules(module: ModuleType = fastgd) -> Iterator[ModuleType]:
    """A module and the public ones inside, each before its own."""
    yield module
    for what in public(module).values():
        if inspect.ismodule(what):
            yield from modules(what)
    if module is fastgd:
        for name in BESIDE:
            yield importlib.import_module(name)


def show_public_bases(app: Sphinx, name: str, what: type, options: Any, bases: list[type]) -> None:
    """Of a class that is not public, what is behind it."""
    known = {each for module in modules() for each in public(module).values() if inspect.isclass(each)}
    bases[:] = [next((c for c in getattr(base, "__mro__", ()) if c in known), base) for base in bases]


def name_classes(
    app: Sphinx, kind: str, name: str, what: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Defaults that are classes by their names: <class 'numpy.float32'> could not be read as Python."""
    return signature and re.sub(r"<class '([\w.]+)'>", r"\1", signature), returns


def title(text: str, line: str = "=") -> list[str]:
    return [text, line * len(text), ""]


def directive(module: str, name: str, what: Any) -> list[str]:
    if inspect.isclass(what):
        bases = [] if what.__bases__ == (object,) else ["   :show-inheritance:"]
        return [f".. autoclass:: {module}.{name}", "   :members:", *bases, ""]
    if callable(what):
        return [f".. autofunction:: {module}.{name}", ""]
    return [f".. autodata:: {module}.{name}", "   :no-value:", ""]


def table(module: str, members: dict[str, Any]) -> list[str]:
    lines = [".. list-table::", "   :class: summary", ""]
    for name, what in members.items():
        lines += [
            f"   * - :py:obj:`{name} <{module}.{name}>`",
            f"     - {summary(inspect.getdoc(what) or '')}",
        ]
    return [*lines, ""]


def pages(module: ModuleType) -> dict[str, list[str]]:
    """Name of a page -> its lines."""
    where = module.__name__
    members = {name: what for name, what in public(module).items() if not inspect.ismodule(what)}
    apart = sum(map(inspect.isclass, members.values())) > ON_ONE_PAGE
    lines = [*title(where), f".. automodule:: {where}", "   :no-members:", ""]
    made = {}
    rest = dict(members)
    for heading, fits in HEADINGS.items():
        here = {name: rest.pop(name) for name, what in list(rest.items()) if fits(what)}
        if not here:
            continue
        lines += title(heading, "-")
        if heading != "Values":  # whose documentation is a comment
            lines += table(where, here)
        if apart and inspect.isclass(next(iter(here.values()))):
            lines += [".. toctree::", "   :hidden:", ""]
            lines += [f"   {name} <{where}.{name}>" for name in here] + [""]
            for name, what in here.items():
                made[f"{where}.{name}"] = [*title(f"{where}.{name}"), *directive(where, name, what)]
        else:
            for name, what in here.items():
                lines += directive(where, name, what)
    return {where: lines, **made}


def write(app: Sphinx) -> None:
    """All pages into the folder `reference`, of which those that have not changed are left as they are."""
    folder = Path(app.srcdir, "reference")
    folder.mkdir(exist_ok=True)
    every = {}
    index = [*title("Reference"), ".. toctree::", "   :maxdepth: 1", ""]
    for module in modules():
        made = pages(module)
        every |= made
        index.append(f"   {module.__name__}")
    for header in headers.HEADERS:
        every[header] = headers.page(header)
        index.append(f"   {header}")
    every["index"] = index
    for old in folder.iterdir():
        if old.name.removesuffix(".rst") not in every:
            old.unlink()
    for name, lines in every.items():
        path, text = folder / f"{name}.rst", "\n".join(lines) + "\n"
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write)
    app.connect("autodoc-process-bases", show_public_bases)
    app.connect("autodoc-process-signature", name_classes)
    return {"parallel_read_safe": True}
