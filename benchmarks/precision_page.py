"""Draws the plots of docs/precision.md and writes its tables from the runs of precision_curves.py.

`python benchmarks/precision_page.py` does it, `--check` says whether the tables are up to date.
"""

from __future__ import annotations

import io
import json
import math
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from fastgd.arrays import Array

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks/results/precision-curves.json"
PAGE = ROOT / "docs/precision.md"
IMAGES = ROOT / "docs/images"

#: what the file has: one run's, and a whole file's
Run = dict[str, Any]
Results = dict[str, Any]

# ---- What is in the file -----------------------------------------------------------------------------


def regimes(runs: Iterable[Run]) -> list[tuple[str, float]]:
    """(task, rate), each once and in order."""
    return list(dict.fromkeys((run["task"], run["lr"]) for run in runs))


def in_regime(runs: Iterable[Run], regime: tuple[str, float]) -> list[Run]:
    return [run for run in runs if (run["task"], run["lr"]) == regime]


def is_float32(run: Run) -> bool:
    return run["setting"]["dtype"] == run["setting"]["state_dtype"] == "float32"


def final(run: Run) -> Array:
    """The last training loss of each seed."""
    return np.array(run["loss"])[:, -1]


def parameters_of(run: Run) -> str:
    setting = run["setting"]
    return setting["dtype"] + ("" if setting["dtype"] == "float32" else f", {setting['rounding']}")


def state_of(run: Run) -> str:
    setting = run["setting"]
    narrow = setting["state_dtype"] != "float32"
    return setting["state_dtype"] + (f", {setting['state_rounding']}" if narrow else "")


# ---- Tables ------------------------------------------------------------------------------------------


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def deviation(values: Array) -> float:
    """Over the seeds."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def spread(values: Array) -> str:
    """Mean and deviation, with about three digits of the mean."""
    mean, around = float(np.mean(values)), deviation(values)
    places = 2 - math.floor(math.log10(mean))
    if around:
        places = min(max(places, -math.floor(math.log10(around))), places + 1)
    return f"{mean:.{max(places, 0)}f} ± {around:.{max(places, 0)}f}"


def ratio(run: Run, exact: Run) -> str:
    """Of the final losses, seed by seed."""
    ratios = final(run) / final(exact)
    places = 3 if np.mean(ratios) < 10 else 1
    return f"{np.mean(ratios):.{places}f} ± {deviation(ratios):.{places}f}"


def percent(shares: list[float]) -> str:
    values = 100 * np.array(shares)
    return f"{np.mean(values):.1f} ± {deviation(values):.1f}"


def course(values: list[list[float]]) -> str:
    """The mean over a run, the least and the largest, all of the mean over the seeds."""
    mean = np.mean(values, axis=0)
    return f"{mean.mean():.2f} ({mean.min():.2f} to {mean.max():.2f})"


def regimes_table(found: Results) -> str:
    rows = []
    for run in filter(is_float32, found["runs"]):
        lost = np.mean(run["lost"], axis=0)
        shares = [f"{100 * share:.0f} %" for share in (lost[0], lost[-1])]
        rows.append([run["task"], f"{run['lr']:g}", str(run["steps"]), *shares])
    return table(["task", "rate", "steps", "lost at first", "lost at the end"], rows)


def losses_table(task: str, found: Results) -> str:
    rates = [regime for regime in regimes(found["runs"]) if regime[0] == task]
    head = ["parameters", "state", "bytes"]
    for _, rate in rates:
        head += [f"loss at {rate:g}", "of float32's", "accuracy, %"]
    rows: dict[tuple[str, ...], list[str]] = {}
    for regime in rates:
        runs = in_regime(found["runs"], regime)
        exact = next(filter(is_float32, runs))
        for run in runs:
            names = parameters_of(run), state_of(run), f"{run['bytes']:.3g}"
            row = rows.setdefault(names, [*names])
            row += [spread(final(run)), ratio(run, exact), percent(run["accuracy"])]
    return table(head, rows.values())


def steps_table(found: Results) -> str:
    shown = regimes(found["runs"])
    rows: dict[str, list[str]] = {}
    for run in found["runs"]:
        if run["setting"]["dtype"] == "float32" and not is_float32(run):
            rows.setdefault(state_of(run), [state_of(run)]).append(course(run["step"]))
    return table(["state", *(f"{task}, {rate:g}" for task, rate in shown)], rows.values())


def formats_table(found: Results) -> str:
    head = ["format"]
    rows: dict[str, list[str]] = {}
    for regime in regimes(found["trials"]):
        head += [f"{regime[0]}: error", "step", "loss", "of float32's"]
        trials = in_regime(found["trials"], regime)
        for run in trials:
            row = rows.setdefault(run["trial"], [run["trial"]])
            row += [f"{100 * np.mean(run['error']):.0f} %", course(run["step"])]
            row += [spread(final(run)), ratio(run, trials[0])]
    return table(head, rows.values())


def tables(found: Results) -> dict[str, str]:
    """Marker in the page -> what stands behind it."""
    tasks = dict.fromkeys(run["task"] for run in found["runs"])
    return {
        "regimes": regimes_table(found),
        **{f"losses of {task}": losses_table(task, found) for task in tasks},
        "steps": steps_table(found),
        "formats": formats_table(found),
    }


def page(found: Results, text: str) -> str:
    for name, new in tables(found).items():
        begin, end = f"<!-- {name} begin: made by benchmarks/precision_page.py -->", f"<!-- {name} end -->"
        pattern = re.compile(f"({re.escape(begin)}\n).*?({re.escape(end)})", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"{PAGE.name} has lost its markers: {begin} ... {end}")
        text = pattern.sub(lambda m, new=new: f"{m[1]}{new}\n{m[2]}", text)
    return text


# ---- Plots -------------------------------------------------------------------------------------------

#: of the lines, by what differs among them; that of float32 lies wide and grey below all others
ROUNDINGS: dict[str, dict[str, Any]] = {
    "nearest": {"color": "tab:red"},
    "stochastic": {"color": "tab:blue"},
    "kahan": {"color": "tab:orange", "ls": (0, (4, 2))},
    "master": {"color": "tab:green", "ls": (0, (1, 1.5))},
    "split": {"color": "tab:purple", "ls": (0, (5, 2, 1, 2))},
}
STATE_DTYPES = {"bfloat16": "tab:blue", "float16": "tab:orange", "8bit": "tab:green"}
STATE_ROUNDINGS = {"nearest": "--", "stochastic": "-"}


def style_of_parameters(run: Run) -> dict[str, Any] | None:
    """The line of a run with parameters in bfloat16 and moments in float32; None for other runs."""
    setting = run["setting"]
    if setting["dtype"] == "float32" or setting["state_dtype"] != "float32":
        return None
    return {"label": parameters_of(run), **ROUNDINGS[setting["rounding"]]}


def style_of_state(run: Run) -> dict[str, Any] | None:
    """The line of a run with parameters in float32 and moments in fewer bits; None for other runs."""
    setting = run["setting"]
    if setting["dtype"] != "float32" or is_float32(run):
        return None
    dashes = STATE_ROUNDINGS[setting["state_rounding"]]
    return {"label": state_of(run), "color": STATE_DTYPES[setting["state_dtype"]], "ls": dashes}


def loss_of_float32s(run: Run, exact: Run) -> Array:
    return np.array(run["loss"]) / np.array(exact["loss"])


def length_of_steps(run: Run, exact: Run) -> Array:
    return np.array(run["step"])


def draw(
    path: Path,
    found: Results,
    style_of: Callable[[Run], dict[str, Any] | None],
    below: Callable[[Run, Run], Array],
    label: str,
    limits: tuple[float, float],
) -> None:
    """A column for each regime: losses above, and below them what `below` makes of a run and float32's."""
    from matplotlib.figure import Figure
    from PIL import Image

    shown = regimes(found["runs"])
    figure = Figure(figsize=(13, 6), layout="constrained")
    grid = figure.subplots(2, len(shown), sharex="col")
    for (upper, lower), regime in zip(grid.T, shown, strict=True):
        runs = in_regime(found["runs"], regime)
        exact = next(filter(is_float32, runs))
        at = exact["steps"] * (1 + np.arange(len(exact["loss"][0]))) / len(exact["loss"][0])
        draw_band(upper, at, np.array(exact["loss"]), label="float32", color="0.75", lw=6)
        lower.axhline(1, color="0.75", lw=4)
        for run in runs:
            style = style_of(run)
            if style:
                draw_band(upper, at, np.array(run["loss"]), **style)
                draw_band(lower, at, below(run, exact), **style)
        upper.set_title(f"{regime[0]}, rate {regime[1]:g}", fontsize=10)
        if np.ptp(np.log(exact["loss"])) > 2:
            upper.set_yscale("log")
        lower.set(xlim=(0, exact["steps"]), ylim=limits, xlabel="step")
        upper.grid(alpha=0.3)
        lower.grid(alpha=0.3)
    grid[0, 0].set_ylabel("training loss (nats)")
    grid[1, 0].set_ylabel(label)
    handles, labels = upper.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=85)
    # a palette is enough, in a third of the bytes
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def draw_band(axes: Any, at: Array, values: Array, **style: Any) -> None:
    """The mean over the seeds, in the band from the least of them to the largest."""
    axes.plot(at, values.mean(axis=0), **{"lw": 1.6, **style})
    axes.fill_between(at, values.min(axis=0), values.max(axis=0), color=style["color"], alpha=0.25, lw=0)


def draw_all(found: Results, folder: Path) -> None:
    draw(
        folder / "precision-parameters.png",
        found,
        style_of_parameters,
        loss_of_float32s,
        "loss, as a multiple\nof float32's",
        (0.95, 1.15),
    )
    draw(
        folder / "precision-state.png",
        found,
        style_of_state,
        length_of_steps,
        "length of a step, as a multiple\nof that with float32 moments",
        (0.3, 2.1),
    )


# ---- The command -------------------------------------------------------------------------------------


def write() -> None:
    found = json.loads(RESULTS.read_text())
    PAGE.write_text(page(found, PAGE.read_text()))
    draw_all(found, IMAGES)


def is_stale() -> bool:
    """Whether the page's tables are not those of the results."""
    text = PAGE.read_text()
    return page(json.loads(RESULTS.read_text()), text) != text


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(f"out of date, run python benchmarks/{Path(__file__).name}" if is_stale() else 0)
    write()
