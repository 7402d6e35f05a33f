"""A history in files: CSV, and events for TensorBoard."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from fastgd.monitor.findings import Finding
from fastgd.monitor.records import History, Layer, Step

#: of a step, and of a layer
STEP_COLUMNS = ("loss", "grad_norm", "clip_coef", "skipped")
LAYER_COLUMNS = ("grad_norm", "param_norm", "update_ratio", "output_rms", "zeros", "dead", "saturated")
COLUMNS = ("step", "layer", *STEP_COLUMNS, *(name for name in LAYER_COLUMNS if name not in STEP_COLUMNS))


def rows(history: History) -> Iterator[tuple[int, str, Step | Layer]]:
    """(step, layer or "", what is known of it), in the order of steps, a step before its layers."""
    looks = {look.step: look for look in history.looks}
    numbered = {step.step: step for step in history.steps}
    for number in sorted({*looks, *numbered}):
        if number in numbered:
            yield number, "", numbered[number]
        if number in looks:
            for layer in looks[number].layers:
                yield number, layer.label, layer


def save_csv(path: str | os.PathLike[str], history: History) -> None:
    """Columns are `COLUMNS`; what is not known is empty. OSError where it cannot be written."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for number, layer, known in rows(history):
            values = [getattr(known, name, None) for name in COLUMNS[2:]]
            writer.writerow([number, layer, *(int(v) if isinstance(v, bool) else v for v in values)])


def save_tensorboard(folder: str | os.PathLike[str], history: History, findings: Sequence[Finding]) -> None:
    """Scalars "loss", "grad_norm" and so on, "<what>/<layer>" of each layer, and the findings as text."""
    try:
        from tensorboardX import SummaryWriter
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'event files need tensorboardX: pip install "fastgd[tensorboard]"', name=error.name
        ) from None
    with SummaryWriter(str(Path(folder))) as writer:
        for number, layer, known in rows(history):
            for name in LAYER_COLUMNS if layer else STEP_COLUMNS:
                value = getattr(known, name)
                if value is not None:
                    tag = f"{name}/{layer}" if layer else name
                    writer.add_scalar(tag, float(value), number)
        for finding in findings:
            writer.add_text(f"findings/{finding.kind}", str(finding), finding.last_step)
