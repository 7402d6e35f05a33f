"""`fastgd lab`: runs experiments of the gallery, prints what they show, and writes their pictures."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fastgd.commands.outputs import UserError
from fastgd.commands.parsing import Parsed
from fastgd.data import DataError
from fastgd.lab import EXPERIMENTS, Outcome, experiment

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["lab"]

ALL = "all"
PAGE = "index.html"


def parse_names(text: str) -> tuple[str, ...]:
    """An experiment's name, or all of them."""
    if text != ALL and text not in EXPERIMENTS:
        raise ValueError(f"{text!r} is none of {', '.join(EXPERIMENTS)}, {ALL}")
    return EXPERIMENTS if text == ALL else (text,)


def epilog() -> str:
    """The experiments with their titles, as a list that click leaves as it is."""
    lines = [f"  {name:<12}{experiment(name).title}" for name in EXPERIMENTS]
    return "\b\nExperiments:\n" + "\n".join(lines)


class Gallery(click.Command):
    """Looks the experiments up when help is asked for, not before."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.epilog = epilog()
        super().format_epilog(ctx, formatter)


@click.command(cls=Gallery, short_help="Experiments with gradient descent: tables and pictures.")
@click.argument("names", type=Parsed("NAME", parse_names), metavar="NAME|all")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("lab"),
    show_default=True,
    help="Folder for the pictures; it is made if it is missing.",
)
def lab(names: tuple[str, ...], out: Path) -> None:
    """Run an experiment: it prints a table and writes NAME.png, and NAME.gif where something moves.

    `all` runs every one of them and writes index.html, a page that shows them and needs no network.
    """
    from rich.console import Console

    console = Console()
    try:
        out.mkdir(parents=True, exist_ok=True)
        outcomes = []
        for name in names:
            with console.status(f"{name} ..."):
                outcome = experiment(name).show(out)
            outcomes.append(outcome)
            show(console, outcome)
        if len(names) > 1:
            from fastgd.lab.page import save_gallery

            save_gallery(out / PAGE, outcomes)
            console.print(f"all of them: {out / PAGE}", highlight=False)
    except OSError as error:
        raise click.ClickException(f"cannot write to {out}: {error.strerror or error}") from error
    except (DataError, ModuleNotFoundError) as error:  # scikit-learn, SciPy or matplotlib is missing
        raise UserError(f'{error}; experiments need pip install "fastgd[demo]"') from error


def show(console: Console, outcome: Outcome) -> None:
    """Prints an experiment's table, what it says, and where the pictures are."""
    from rich.table import Table

    table = Table(title=outcome.title, title_justify="left")
    for i, column in enumerate(outcome.table.columns):
        table.add_column(column, justify="right" if i else "left")
    for row in outcome.table.rows:
        table.add_row(*row)
    console.print(table)
    console.print("\n".join(textwrap.wrap(outcome.verdict, console.width)), highlight=False)
    console.print(f"picture: {', '.join(map(str, outcome.pictures))}\n", highlight=False)
