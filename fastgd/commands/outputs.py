"""The files that `fastgd train` writes beside a checkpoint: refused before the training, written after it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import click

from fastgd.training import Result

__all__ = ["UserError", "check_outputs", "save_plot", "save_run"]

PICTURES = (".png", ".svg", ".pdf")
PAGES = (".html", ".htm")


class UserError(click.ClickException):
    """What a user got wrong, as one line without a traceback."""

    exit_code = 2


def check_outputs(plot: str | None, save: str | None, report: str | None) -> None:
    """Refuses before the training what would be lost after it."""
    for path in filter(None, (plot, save, report)):
        folder = Path(path).resolve().parent
        if Path(path).is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
            raise UserError(f"cannot write {path}: it is a folder, or its folder is missing or not writable")
    if report:
        check_kind("--report", "the report", report, PAGES, ("matplotlib", "jinja2"))
    if plot:
        check_kind("--plot", "the picture", plot, PICTURES, ("matplotlib",))


def check_kind(option: str, what: str, path: str, suffixes: tuple[str, ...], needed: tuple[str, ...]) -> None:
    if Path(path).suffix.lower() not in suffixes:
        raise UserError(f"{what}'s name must end in {', '.join(suffixes)}, and {path} does not")
    for name in needed:
        if find_spec(name) is None:
            raise UserError(f'{option} needs {name}, which is missing: pip install "fastgd[cli]"')


def save_run(path: str, result: Result) -> None:
    from fastgd.commands.report import save_report

    try:
        save_report(path, result)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def save_plot(path: str, result: Result) -> None:
    from fastgd.plots import save_curves

    try:
        save_curves(path, result)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
