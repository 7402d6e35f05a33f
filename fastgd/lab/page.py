"""The page that shows a gallery: every experiment with its picture, what it says, and its numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fastgd.lab import Outcome
from fastgd.pages import save_page

if TYPE_CHECKING:
    from markupsafe import Markup

__all__ = ["save_gallery"]


def save_gallery(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes it beside the pictures, which it refers to by their names."""
    shown = [
        {
            **outcome._asdict(),
            "paragraphs": [with_code(" ".join(text.split())) for text in outcome.about.split("\n\n")],
            "pictures": [picture.name for picture in outcome.pictures],
            "columns": outcome.table.columns,
            "rows": outcome.table.rows,
        }
        for outcome in outcomes
    ]
    save_page(path, "gallery.html", title="Experiments with gradient descent", outcomes=shown)


def with_code(text: str) -> Markup:
    """Text as HTML, in which what stands between backquotes is code."""
    from markupsafe import Markup, escape

    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))
