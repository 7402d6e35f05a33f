"""`fastgd info`: what of the library works on this machine, as a table."""

from collections.abc import Iterator, Mapping
from typing import Any

import click

__all__ = ["info"]


@click.command()
def info() -> None:
    """Show versions, instruction sets, threads and backends."""
    from rich.console import Console
    from rich.table import Table

    import fastgd

    table = Table(show_header=False)
    for name, value in flatten(fastgd.info()):
        table.add_row(name, value)
    Console().print(table)


def flatten(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of nested tables, each with the names that lead to it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flatten(item, f"{name} {key.replace('_', ' ')}".strip())
    elif isinstance(value, (list, tuple)):
        yield name, ", ".join(map(str, value)) or "none"
    elif isinstance(value, bool):
        yield name, "yes" if value else "no"
    else:
        yield name, str(value)
