"""The page of `fastgd train --report`: curves, gradient norms by layer, warnings and settings in one file."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import Any

from fastgd.commands.results import monitor_of, rows
from fastgd.machine import info
from fastgd.pages import embedded, save_page
from fastgd.plots import curves
from fastgd.runs import Result, Settings

__all__ = ["save_report"]


def save_report(path: str | os.PathLike[str], result: Result) -> None:
    """Writes the page of a run that was watched.

    Raises ModuleNotFoundError without matplotlib or jinja2, and OSError where it cannot be written.
    """
    from fastgd.monitor.pictures import draw

    watch = monitor_of(result)
    pictures = [("Training", embedded(curves(result)))] if result.history else []
    if watch.history.looks:
        pictures.append(("Layers", embedded(draw(watch.history))))
    data = result.dataset
    parts = f"{len(data.x_train):,} examples to train on, {len(data.x_test):,} to test on"
    if data.x_validation is not None:
        parts += f", {len(data.x_validation):,} to validate on"
    settings = result.settings
    save_page(
        path,
        "report.html",
        title=f"{Path(data.name).name}: {settings.model} trained with {settings.optimizer}",
        about=f"A {data.task} with {parts}. The model is {result.model}.",
        problem=result.problem,
        stopped=result.stopped,
        results=rows(result),
        findings=watch.findings(),
        pictures=pictures,
        settings=[(field.name, shown(getattr(settings, field.name))) for field in fields(Settings)],
        machine=[(name, shown(value)) for name, value in info().items() if not isinstance(value, dict)],
    )


def shown(value: Any) -> str:
    """A setting as it is read."""
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items()) or "the defaults"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value)) or "none"
    return str(value)
