"""Writes what was found on a GPU: one JSON file and one table in Markdown, named by the card."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gpu_time import COPY, OWN


def named(card: str) -> str:
    """The name of a card as that of files."""
    return "gpu-" + re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


def write(results: dict[str, Any], folder: Path) -> list[Path]:
    """The paths of both files."""
    folder.mkdir(parents=True, exist_ok=True)
    base = folder / named(results["machine"]["card"])
    data, page = base.with_suffix(".json"), base.with_suffix(".md")
    data.write_text(json.dumps(results, indent=1) + "\n")
    page.write_text(table(results))
    return [data, page]


def table(results: dict[str, Any]) -> str:
    facts = results["machine"]
    lines = [
        f"# {facts['card']}",
        "",
        "; ".join(f"{k} {v}" for k, v in facts.items() if k != "card") + ".",
        "",
    ]
    if results["checks"]:
        lines += ["Checked before: " + "; ".join(check["what"] for check in results["checks"]) + ".", ""]
    lines += [
        "Times of one call on the device, medians of turns; a ratio above 1 means that fastgd is faster.",
        "",
        "| work | how | contender | ms | fastgd is faster by | of the copy bandwidth | wanted |",
        "|---|---|---|---:|---:|---:|---|",
    ]
    for row in results["timings"]:
        share, ratio = row["of_bandwidth"], row["ratio"]
        cells = [
            row["work"],
            row["how"],
            row["contender"],
            f"{1e3 * row['seconds']:.3f}",
            "" if ratio is None or row["contender"] in (OWN, COPY) else f"{ratio:.2f}",
            "" if share is None or row["contender"] == COPY else f"{share:.2f}",
            wanted(row),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if results["left_out"]:
        lines += ["", "Left out: " + "; ".join(results["left_out"]) + "."]
    return "\n".join(lines) + "\n"


def wanted(row: dict[str, Any]) -> str:
    """What was asked for, and whether it is reached: of fastgd the share of the bandwidth, else the ratio."""
    if row["wanted"] is None:
        return ""
    found = row["of_bandwidth"] if row["contender"] == OWN else row["ratio"]
    if found is None:
        return f"{row['wanted']}: not measured"
    return f"{row['wanted']}: {'reached' if found >= row['wanted'] else 'MISSED'}"
