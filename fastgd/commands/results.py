"""What `fastgd train` prints at its end: tables, a sample of text, or JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastgd.text import sample
from fastgd.training import Result

if TYPE_CHECKING:
    from fastgd.monitor import Monitor

SHOWN_EPOCHS = 10

#: score -> how a table names it, and shows its value
SCORES: dict[str, tuple[str, Callable[[float], str]]] = {
    "bits_per_character": ("test bits per character", lambda bits: f"{bits:.3f}"),
    "accuracy": ("test accuracy", lambda share: f"{100 * share:.2f} %"),
    "rmse": ("test error (root mean square)", lambda error: f"{error:.4g}"),
    "r2": ("test R²", lambda share: f"{share:.3f}"),
}


def print_table(result: Result) -> None:
    from rich.console import Console
    from rich.table import Table

    print_epochs(result)
    data = result.dataset
    n_train, n_test = len(data.x_train), len(data.x_test)
    table = Table(title=f"{Path(data.name).name}: {data.task}, {n_train} + {n_test} examples", min_width=44)
    table.add_column(result.settings.optimizer)
    epochs = len(result.history)
    table.add_column(f"{epochs} epoch{'' if epochs == 1 else 's'}", justify="right")
    for name, value in rows(result):
        table.add_row(name, value)
    Console().print(table)


def present(scores: dict[str, float]) -> list[tuple[str, tuple[str, Callable[[float], str]]]]:
    return [(name, shown) for name, shown in SCORES.items() if name in scores]


def print_epochs(result: Result) -> None:
    """How training went: the first epoch, the last one and some in between."""
    from rich.console import Console
    from rich.table import Table

    n = len(result.history)
    if n < 2:
        return
    shown = sorted({round(i * (n - 1) / (SHOWN_EPOCHS - 1)) for i in range(SHOWN_EPOCHS)})
    scores = present(result.history[-1].scores)
    validates = result.dataset.x_validation is not None
    losses = ("training loss", "validation loss") if validates else ("training loss",)
    table = Table("epoch", *losses, *(title for _, (title, _) in scores))
    for column in table.columns:
        column.justify = "right"
    for epoch in (result.history[i] for i in shown):
        values = [show(epoch.scores[name]) if name in epoch.scores else "" for name, (_, show) in scores]
        found = [epoch.train_loss, epoch.validation_loss][: len(losses)]
        table.add_row(str(epoch.epoch), *(f"{loss:.4g}" for loss in found), *values)
    Console().print(table)


def rows(result: Result) -> list[tuple[str, str]]:
    found = summary(result)
    lines = [("training loss", f"{found['train_loss']:.4g}")]
    if result.dataset.x_validation is not None:
        lines.append(("validation loss in the end", f"{found['validation_loss']:.4g}"))
    lines += [(title, show(result.scores[name])) for name, (title, show) in present(result.scores)]
    lines += [
        ("time per epoch", f"{1000 * result.seconds_per_epoch:.3g} ms"),
        ("steps", str(result.steps)),
        ("steps clipped", f"{100 * result.clipped_share:.1f} %"),
        ("largest gradient norm", f"{result.largest_grad_norm:.3g}"),
    ]
    if result.skipped_steps:
        lines.append(("steps skipped", str(result.skipped_steps)))
    if result.settings.schedule is not None:
        lines.append(("learning rate in the end", f"{result.optimizer.learning_rates()[0]:.3g}"))
    if result.interrupted:
        lines.append(("interrupted in epoch", str(result.history[-1].epoch)))
    return lines


def summary(result: Result) -> dict[str, Any]:
    """What --json prints: the numbers of the table, the settings and the history. seconds, shares of 1."""
    data, history = result.dataset, result.history
    return {
        "data": {
            "name": data.name,
            "task": data.task,
            "train": len(data.x_train),
            "test": len(data.x_test),
            "features": data.n_features,
            "outputs": data.n_outputs,
        },
        "settings": asdict(result.settings),
        "train_loss": history[-1].train_loss if history else math.nan,
        "validation_loss": history[-1].validation_loss if history else math.nan,
        **{f"test_{name}": score for name, score in result.scores.items()},
        "seconds_per_epoch": result.seconds_per_epoch,
        "steps": result.steps,
        "clipped_share": result.clipped_share,
        "skipped_steps": result.skipped_steps,
        "largest_grad_norm": result.largest_grad_norm,
        **({"sample": text_of(result)} if data.task == "text" else {}),
        "interrupted": result.interrupted,
        "problem": result.problem,
        "stopped": result.stopped,
        **findings(result),
        "history": [asdict(epoch) for epoch in history],
    }


def findings(result: Result) -> dict[str, Any]:
    """What the monitor has to say, where one watched."""
    if result.practice is None or result.practice.monitor is None:
        return {}
    return {"findings": [{**asdict(found), "title": found.title} for found in monitor_of(result).findings()]}


def monitor_of(result: Result) -> Monitor:
    """What has watched the run."""
    assert result.practice is not None and result.practice.monitor is not None
    return result.practice.monitor


def text_of(result: Result) -> str:
    """What the model writes, having read the text."""
    settings, names = result.settings, result.dataset.scaling.class_names
    return sample(result.model, names, context=settings.context, seed=settings.seed)


def finite(value: Any) -> Any:
    """The same with None for NaN and infinity, which JSON has not."""
    if isinstance(value, dict):
        return {name: finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
