"""The pages of the reference: one for each public module and header, and for each class where a module has many.

The names are those of `fastgd.__all__`, and of `__all__` of the modules among them. What a page says are docstrings.
"""

from __future__ import annotations

import importlib
import inspect
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

#: modules that `import fastgd` does not know, because they need more than it does
BESIDE = ("fastgd.torch", "fastgd.torch.functional")

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


def title(text: str, line: str = "=") -> list[str]:
    return [text, line * len(text), ""]


def directive(module: str, name: str, what: Any) -> list[str]:
    if inspect.isclass(what):
        return [f".. autoclass:: {module}.{name}", "   :members:", "   :show-inheritance:", ""]
    return [f".. {'autofunction' if callable(what) else 'autodata'}:: {module}.{name}", ""]


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
        lines += [*title(heading, "-"), *table(where, here)]
        if apart and inspect.isclass(next(iter(here.values()))):
            lines += [".. toctree::", "   :hidden:", ""]
            lines += [f"   {name} <{where}.{name}>" for name in here] + [""]
            for name, what in here.items():
                made[f"{where}.{name}"] = [*title(name), *directive(where, name, what)]
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
    return {"parallel_read_safe": True}
