"""The page that shows a gallery: every experiment with its picture, what it says, and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fastgd.lab import Outcome
from fastgd.pages import save_page

__all__ = ["save_gallery"]


def save_gallery(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Writes it beside the pictures, which it refers to by their names."""
    shown = [
        {
            **outcome._asdict(),
            "paragraphs": [" ".join(text.split()) for text in outcome.about.split("\n\n")],
            "pictures": [picture.name for picture in outcome.pictures],
            "columns": outcome.table.columns,
            "rows": outcome.table.rows,
        }
        for outcome in outcomes
    ]
    save_page(path, "gallery.html", title="Experiments with gradient descent", outcomes=shown)
