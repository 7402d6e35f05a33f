"""`fastgd bench`: the step and an epoch of training beside their peers, as a table or as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from fastgd import bench as benchmark
from fastgd import bench_epoch, bench_layers, bench_models, bench_precision, bench_products
from fastgd.machine import MAX_THREADS
from fastgd.rules import RULES

__all__ = ["bench"]

EPOCH = "epoch"

#: workload -> what times it
OTHERS: dict[str, Callable[..., dict[str, Any]]] = {
    "precision": bench_precision.run,
    "layers": bench_layers.run,
    "models": bench_models.run,
    "products": bench_products.run,
}


@click.command(short_help="Time the step, layers and an epoch beside torch, NumPy and scikit-learn.")
@click.option("--rule", type=click.Choice(list(RULES)), default="adamw", show_default=True)
@click.option(
    "--workload",
    "workloads",
    type=click.Choice([*benchmark.WORKLOADS, EPOCH, *OTHERS]),
    multiple=True,
    help="May be given several times. Default: all.",
)
@click.option(
    "--threads", type=click.IntRange(1, MAX_THREADS), help="Default: what fastgd.get_num_threads() says."
)
@click.option("--rounds", type=click.IntRange(1), default=15, show_default=True, help="Turns of each side.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def bench(rule: str, workloads: tuple[str, ...], threads: int | None, rounds: int, as_json: bool) -> None:
    """Time the step, clipping and the step, layers, and an epoch on digits beside what is installed.

    All sides take turns in one run. A ratio is the median over the rounds of the other side's time over
    fastgd's: above 1, fastgd is faster. GB/s are the bytes that must be moved at least over the time, and
    beside it stands their share of the bandwidth that NumPy's in-place passes reach in the same round.
    """
    from rich.console import Console

    chosen = list(workloads) or [*benchmark.WORKLOADS, EPOCH, *OTHERS]
    steps = [name for name in chosen if name in benchmark.WORKLOADS]
    console = Console(stderr=True)
    with console.status("starting") as status:
        result = benchmark.run(rule, steps, threads=threads, rounds=rounds, progress=status.update)
        if EPOCH in chosen:
            status.update("an epoch on digits")
            missing = bench_epoch.missing()
            result["epoch"] = {"missing": missing} if missing else bench_epoch.run(rounds=rounds)
        for name, run in OTHERS.items():
            if name in chosen:
                result[name] = run(threads=threads, rounds=rounds, progress=status.update)
    if as_json:
        click.echo(json.dumps(result, indent=1))
    else:
        show(result)


def show(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console, machine = Console(), result["machine"]
    console.print(
        f"{machine['processor']}, {result['threads']} threads, {machine['instruction_set']}; {result['rule']}"
    )
    if result["timings"]:
        table = Table("workload", "operation", "side", "time", "GB/s", "of bandwidth", "ratio to fastgd")
        for column in table.columns[3:]:
            column.justify = "right"
        for t in result["timings"]:
            rate = t["gigabytes_per_second"]
            share = "" if t["of_bandwidth"] is None else f"{t['of_bandwidth']:.2f}"
            sides = (t["workload"], t["operation"], t["contender"])
            table.add_row(*sides, duration(t["seconds"]), f"{rate:.1f}", share, f"{t['ratio']:.2f}")
        console.print(table)
    if result["bandwidth"]:
        console.print(f"bandwidth measured in between: {result['bandwidth'] / 1e9:.1f} GB/s")
    for name, (description, _) in benchmark.WORKLOADS.items():
        if any(t["workload"] == name for t in result["timings"]):
            console.print(f"{name}: {description}, float32")
    if "epoch" in result:
        show_epoch(console, result["epoch"])
    for name, show_one in SHOWN.items():
        if name in result:
            show_one(console, result[name])


def show_models(console: Any, models: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("a training step", "batch", "side", "time", "ratio to fastgd", "memory")
    for column in table.columns[3:]:
        column.justify = "right"
    for case in models["cases"]:
        for name, side in case["sides"].items():
            memory = f"{case['bytes'][name] / 1e6:.2f} MB" if name in case["bytes"] else ""
            cells = (case["name"], str(case["batch"]), name, duration(side["seconds"]))
            table.add_row(*cells, f"{side['ratio']:.2f}", memory)
    console.print(table)
    if models["missing"]:
        console.print(models["missing"])


def show_products(console: Any, products: dict[str, Any]) -> None:
    from rich.table import Table

    providers = list(dict.fromkeys(name for row in products["products"] for name in row["rates"]))
    table = Table("matrix product", "dtype", *providers, title="billions of operations a second")
    for column in table.columns[2:]:
        column.justify = "right"
    for row in products["products"]:
        rates = [f"{row['rates'][name] / 1e9:.0f}" if name in row["rates"] else "" for name in providers]
        table.add_row(f"{row['forms']} {row['m']} x {row['n']} x {row['k']}", row["dtype"], *rates)
    console.print(table)


def show_layers(console: Any, layers: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table("forward and backward", "shape", "time", "torch", "ratio")
    for column in table.columns[2:]:
        column.justify = "right"
    for case in layers["cases"]:
        peer = (duration(case["torch_seconds"]), f"{case['ratio']:.2f}x") if "ratio" in case else ("", "")
        shape = " x ".join(map(str, case["shape"]))
        table.add_row(case["name"], shape, duration(case["seconds"]), *peer)
    console.print(table)
    if layers["missing"]:
        console.print(layers["missing"])


def show_precision(console: Any, precision: dict[str, Any]) -> None:
    from rich.table import Table

    columns = ("step", "time", "bytes an element", "of bandwidth", "speed over the first")
    table = Table(*columns, title=f"{precision['elements'] / 1e6:.0f} M elements")
    for column in table.columns[1:]:
        column.justify = "right"
    for case in precision["cases"]:
        size, share = (
            "" if case[key] is None else f"{case[key]:.{digits}f}"
            for key, digits in (("bytes_per_element", 1), ("of_bandwidth", 2))
        )
        table.add_row(case["name"], duration(case["seconds"]), size, share, f"{case['speed']:.3g}x")
    console.print(table)
    console.print(f"bandwidth measured in between: {precision['bandwidth'] / 1e9:.1f} GB/s")
    if precision["missing"]:
        console.print(precision["missing"])


def show_epoch(console: Any, epoch: dict[str, Any]) -> None:
    from rich.table import Table

    if "missing" in epoch:
        console.print(epoch["missing"])
        return
    table = Table("an epoch on digits", "time", "test accuracy", "ratio to fastgd")
    for side in epoch["sides"]:
        accuracy = f"{side['accuracy']:.4f}"
        table.add_row(side["name"], duration(side["seconds"]), accuracy, f"{side['ratio']:.2f}")
    console.print(table)
    console.print(epoch["settings"])


SHOWN: dict[str, Callable[[Any, dict[str, Any]], None]] = {
    "precision": show_precision,
    "layers": show_layers,
    "models": show_models,
    "products": show_products,
}


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e6:.2f} us"
