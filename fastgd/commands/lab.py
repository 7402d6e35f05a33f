"""`fastgd lab`: runs experiments of the gallery, prints what they show, and writes their pictures."""

from __future__ import annotations

import textwrap
from pathlib import Path

import click

from fastgd.lab import EXPERIMENTS, Outcome, experiment

__all__ = ["lab"]

ALL = "all"
PAGE = "index.html"


class Names(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.3 on only
    """An experiment's name, or all of them."""

    name = "NAME"

    def convert(
        self, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if value == ALL:
            return EXPERIMENTS
        if value not in EXPERIMENTS:
            self.fail(f"{value!r} is none of {', '.join(EXPERIMENTS)}, {ALL}", param, ctx)
        return (value,)


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
@click.argument("names", type=Names(), metavar="NAME|all")
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


def show(console: object, outcome: Outcome) -> None:
    """Prints an experiment's table, what it says, and where the pictures are."""
    from rich.console import Console
    from rich.table import Table

    assert isinstance(console, Console)
    table = Table(title=outcome.title, title_justify="left")
    for i, column in enumerate(outcome.table.columns):
        table.add_column(column, justify="right" if i else "left")
    for row in outcome.table.rows:
        table.add_row(*row)
    console.print(table)
    console.print("\n".join(textwrap.wrap(outcome.verdict, console.width)), highlight=False)
    console.print(f"picture: {', '.join(map(str, outcome.pictures))}\n", highlight=False)
