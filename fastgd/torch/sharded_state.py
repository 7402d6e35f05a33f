"""Parameters that other processes hold parts of: what can be done with them, their state in checkpoints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from fastgd.rules import Rule
from fastgd.torch.codes import decoded_entry
from fastgd.torch.state import AVERAGE, RESIDUAL
from fastgd.torch.tensors import is_wrapper, local

Entry = dict[str, Any]


def is_piece(p: Any) -> bool:
    """Whether a parameter is FullyShardedDataParallel's (FSDP1): a plain tensor, which does not tell what of
    it other processes have."""
    return getattr(p, "_fsdp_flattened", False) is True


def is_cut(p: Any) -> bool:
    """Whether other processes may hold other parts of a parameter."""
    return is_piece(p) or (is_wrapper(p) and not all(placement.is_replicate() for placement in p.placements))


#: why clipping and skipping are refused for pieces
OF_PIECES = (
    "clip_norm and skip_nonfinite look at all gradients, and parameters of FullyShardedDataParallel do not "
    "tell where the others are: call model.clip_grad_norm_(...) before the step, or use fully_shard"
)


def piece_number(p: Any) -> int:
    """The number of what lies here among the pieces that a parameter is cut into; the same on replicas."""
    if not is_wrapper(p):
        return 0
    mesh, number = p.device_mesh, 0
    for size, own, placement in zip(mesh.shape, mesh.get_coordinate(), p.placements, strict=True):
        if not placement.is_replicate():
            number = number * size + own
    return number


def check_cut(rule: Rule, values: Mapping[str, Any], p: torch.Tensor, what: str) -> None:
    """ValueError for a sharded parameter whose step depends on all of it at once; `what` names it."""
    if not is_cut(p):
        return
    remedy = "shard the optimizer by whole parameters instead (torch's ZeroRedundancyOptimizer)"
    if not rule.elementwise:
        raise ValueError(f"{what} is sharded, and a step of {rule.title} needs all of a tensor: {remedy}")
    if values["cautious"]:
        raise ValueError(f"{what} is sharded, and cautious updates count the elements of a tensor: {remedy}")


def settle_gradients(params: Iterable[Any]) -> None:
    """Brings gradients of DTensors to where these are: such as are sums of what ranks have are added up.

    A gradient that already is there is left alone; another is exchanged for a new tensor. All ranks must call
    it together.
    """
    for p in params:
        if is_wrapper(p) and p.grad is not None and p.grad.placements != p.placements:
            p.grad = p.grad.redistribute(p.device_mesh, p.placements)


def given_out(rule: Rule, p: torch.Tensor, entry: Mapping[str, Any]) -> Entry:
    """The state of a parameter as a state dict shows it: beside a DTensor as such, over the same memory.

    Codes and their scales belong to blocks of the shard that lies here and cannot be cut elsewhere. So they
    become float32. int16, which gloo and NCCL do not send, becomes int32. What is not of the parameter's
    shape, as the count of steps, is the same on all ranks.
    """
    if not is_wrapper(p):
        return dict(entry)
    found = decoded_entry(rule, entry)
    if RESIDUAL in found and found[RESIDUAL].dtype == torch.int16:
        found[RESIDUAL] = local(found[RESIDUAL]).to(torch.int32)
    for name in (RESIDUAL, AVERAGE, *(slot.name for slot in rule.slots if slot.over is None)):
        if name in found and not is_wrapper(found[name]):
            found[name] = _like(p, found[name])
    return found


def shown(optimizer: Any, state_dict: dict[str, Any]) -> dict[str, Any] | None:
    """A hook: the state dict with `given_out` states, where parameters are sharded."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(map(is_wrapper, params)):
        return None
    state = {
        key: given_out(optimizer.rule, params[key], entry) if isinstance(key, int) else entry
        for key, entry in state_dict["state"].items()
    }
    return {**state_dict, "state": state}


def taken_in(p: Any, entry: Any) -> Any:
    """What a state dict holds for a parameter, as it is kept here: of DTensors the shard.

    ValueError for DTensors that are cut in another way than the parameter.
    """
    if not isinstance(entry, Mapping):
        return entry
    found = {}
    for name, value in entry.items():
        found[name] = value
        if isinstance(value, torch.Tensor) and is_wrapper(value):
            given, own = _cut(value), _cut(p)
            if given != own:
                raise ValueError(f"the state's {name!r} is {given}, and its parameter is {own}")
            found[name] = local(value)
    if getattr(found.get(RESIDUAL), "dtype", None) == torch.int32:
        found[RESIDUAL] = found[RESIDUAL].to(torch.int16)
    return found


def _cut(p: Any) -> str:
    """How a tensor is cut, as errors say it."""
    return f"cut by {p.placements} over {p.device_mesh}" if is_wrapper(p) else "a plain tensor"


def _like(p: Any, shard: torch.Tensor) -> torch.Tensor:
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        shard, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    )
