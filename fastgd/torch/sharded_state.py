"""Parameters that other processes hold parts of: what can be done with them, their state in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fastgd.rules import Rule
from fastgd.torch.codes import decoded_entry
from fastgd.torch.state import AVERAGE, RESIDUAL
from fastgd.torch.tensors import is_wrapper, local

Entry = dict[str, Any]


def is_cut(p: Any) -> bool:
    """Whether a parameter is a DTensor of which other processes hold other parts."""
    return is_wrapper(p) and not all(placement.is_replicate() for placement in p.placements)


def check_cut(rule: Rule, values: Mapping[str, Any], p: torch.Tensor, what: str) -> None:
    """ValueError for a sharded parameter whose step depends on all of it at once; `what` names it."""
    if not is_cut(p):
        return
    remedy = "shard the optimizer by whole parameters instead (torch's ZeroRedundancyOptimizer)"
    if not rule.elementwise:
        raise ValueError(f"{what} is sharded, and a step of {rule.title} needs all of a tensor: {remedy}")
    if values["cautious"]:
        raise ValueError(f"{what} is sharded, and cautious updates count the elements of a tensor: {remedy}")


def shard_number(p: Any) -> int:
    """What tells this shard of a parameter from its others, and not from copies of itself; 0 for the first.

    Random bits depend on it, so that shards are not rounded alike and copies are.
    """
    if not is_cut(p):
        return 0
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offsets = compute_local_shape_and_global_offset(p.shape, p.device_mesh, p.placements)
    number = 0
    for offset, size in zip(offsets, p.shape, strict=True):
        number = number * size + offset
    return number


def given_out(rule: Rule, p: torch.Tensor, entry: Mapping[str, Any]) -> Entry:
    """The state of a parameter as a state dict shows it: beside a DTensor as such, over the same memory.

    Codes and their scales belong to blocks of the shard that lies here and cannot be cut elsewhere. So they
    become float32. What is not of the parameter's shape, as the count of steps, is the same on all ranks.
    """
    if not is_wrapper(p):
        return dict(entry)
    found = decoded_entry(rule, entry)
    for name in (RESIDUAL, AVERAGE, *(slot.name for slot in rule.slots if slot.over is None)):
        if name in found and not is_wrapper(found[name]):
            found[name] = _like(p, found[name])
    return found


def taken_in(p: Any, entry: Mapping[str, Any], what: str) -> Entry:
    """What a state dict holds for a parameter, as it is kept here: of DTensors the shard.

    ValueError, naming the state by `what`, for DTensors that are cut in another way than the parameter.
    """
    found = {}
    for name, value in entry.items():
        found[name] = value
        if isinstance(value, torch.Tensor) and is_wrapper(value):
            given, own = _cut(value), _cut(p)
            if given != own:
                raise ValueError(f"{what}: {name!r} is {given}, and the parameter is {own}")
            found[name] = local(value)
    return found


def _cut(p: Any) -> str:
    """How a tensor is cut, as errors say it."""
    return f"cut by {p.placements} over {p.device_mesh}" if is_wrapper(p) else "a plain tensor"


def _like(p: Any, shard: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        shard, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    )
