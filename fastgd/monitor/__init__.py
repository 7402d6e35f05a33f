"""fastgd.monitor: watches a training, names what is wrong with it in words, and says what usually helps."""

from typing import Any as _Any

from fastgd.monitor.findings import Finding
from fastgd.monitor.kinds import KINDS
from fastgd.monitor.records import History, Layer, Look, Step
from fastgd.monitor.sequential import Monitor
from fastgd.monitor.spoiled import Spoiled
from fastgd.monitor.thresholds import THRESHOLDS

__all__ = [
    "KINDS",
    "THRESHOLDS",
    "Finding",
    "History",
    "Layer",
    "Look",
    "Monitor",
    "Spoiled",
    "Step",
    "TorchMonitor",
    "watch_torch",
]


def __getattr__(name: str) -> _Any:
    if name not in ("TorchMonitor", "watch_torch"):
        raise AttributeError(f"module 'fastgd.monitor' has no attribute {name!r}")
    from fastgd.monitor import torch_hooks

    return getattr(torch_hooks, name)
