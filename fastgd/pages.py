"""HTML pages that stand alone: no scripts, and nothing from elsewhere, so that they open from disk."""

from __future__ import annotations

import base64
import io
import os
from typing import TYPE_CHECKING, Any

from fastgd.files import replacing
from fastgd.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["embedded", "save_page"]


def save_page(path: str | os.PathLike[str], template: str, **values: Any) -> None:
    """Writes a page from a file of fastgd/templates; every value in it is escaped.

    Raises ModuleNotFoundError without jinja2, and OSError where it cannot be written.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("fastgd"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(version=__version__, **values)
    with replacing(path) as file:
        file.write(text.encode())


def embedded(figure: Figure) -> str:
    """A picture as an address that holds the picture itself."""
    into = io.BytesIO()
    figure.savefig(into, format="png")
    return "data:image/png;base64," + base64.b64encode(into.getvalue()).decode()
