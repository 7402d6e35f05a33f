"""`fastgd verify`: every rule on every backend, instruction set and thread count here, as a table."""

from __future__ import annotations

import sys

import click

__all__ = ["verify"]


@click.command(short_help="Compare backends, instruction sets and thread counts on this machine.")
def verify() -> None:
    """Compare all that can compute on this machine, bit for bit and with the float64 oracle.

    Ends with 1 when something differs.
    """
    from rich.console import Console
    from rich.table import Table

    from fastgd.rules import RULES
    from fastgd.verification import verify as verify_rules

    console, verdicts = Console(), []
    with Console(stderr=True).status("") as status:
        for rule in RULES:
            status.update(rule)
            verdicts += verify_rules([rule])
    table = Table("rule", "dtype", "error against the oracle", "allowed", "bits as the reference's", "")
    for v in verdicts:
        same = len(v.runners) - len(v.different)
        bits = f"{same} of {len(v.runners)} runners" if RULES[v.rule].exact else "not promised"
        table.add_row(
            v.rule, v.dtype, f"{v.error:.1e}", f"{v.tolerance:.0e}", bits, "ok" if v.ok else "WRONG"
        )
    console.print(table)
    console.print("runners: " + "; ".join(verdicts[0].runners))
    for v in verdicts:
        if v.different:
            console.print(f"{v.rule} {v.dtype} differs on: {'; '.join(v.different)}")
    if not all(v.ok for v in verdicts):
        sys.exit(1)
