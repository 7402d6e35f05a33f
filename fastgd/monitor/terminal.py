"""A history on the terminal: a table of the layers as they were last seen, and the findings in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastgd.monitor.findings import Finding
from fastgd.monitor.records import History
from fastgd.monitor.trend import Trend


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.1e}"


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.0%}"


def show(history: History, findings: Sequence[Finding], file: Any = None) -> None:
    """Prints both. file: a text file; None is the terminal.

    gradient and weights are norms, update is the ratio of the change to the weights, output is a root mean
    square, the rest are shares.
    """
    from rich import box
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    console = Console(file=file, highlight=False)
    if history.looks:
        look = history.looks[-1]
        rate = "" if look.lr is None else f", lr {look.lr:g}"
        table = Table(
            title=f"step {look.step} of {history.count}{rate}",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("layer", overflow="fold")
        for name in ("gradient", "weights", "update", "output", "zeros", "dead", "saturated"):
            table.add_column(name, justify="right", no_wrap=True)
        for layer in look.layers:
            numbers = layer.grad_norm, layer.param_norm, layer.update_ratio, layer.output_rms
            shares = layer.zeros, layer.dead, layer.saturated if layer.two_sided else None
            table.add_row(layer.label, *map(_number, numbers), *map(_share, shares))
        console.print(table)
    console.print(Text(_summary(history)))
    for finding in findings:
        steps = f"steps {finding.first_step} to {finding.last_step}"
        console.print(Text(f"\n{finding.title}: {finding.where}, {steps}", style="bold"))
        for name, text in (("seen", finding.text), ("why", finding.reason)):
            console.print(Padding(Text(f"{name}: {text}"), (0, 0, 0, 2)))
        for remedy in finding.remedies:
            console.print(Padding(Text(f"- {remedy}"), (0, 0, 0, 4)))


def _summary(history: History) -> str:
    trend = Trend(history)
    way = f"loss {trend.start:.4g} at first, {trend.end:.4g} at last; " if len(trend.losses) else ""
    counts = (
        (history.clipped, "clipped"),
        (history.skipped, "skipped"),
        (history.nonfinite, "not finite"),
    )
    told = ", ".join(f"{count} {what}" for count, what in counts if count)
    return (
        f"{way}{history.count} steps{f', {told}' if told else ''}, {len(history.looks)} looked at in detail"
    )
