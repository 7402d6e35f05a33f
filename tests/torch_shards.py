"""What ranks of the distributed tests do with parameters that are cut in several ways, without a model."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch_sharded import whole

import fastgd.torch as fgt

#: shapes, and the dimension that each is cut along: unevenly, and into fewer pieces than there are ranks
CUT = {(30, 40): 0, (3,): 0, (5, 9, 2): 1, (0, 4): 0, (600,): 0}

STEPS = 3


def numbers(seed: int, dtype: torch.dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in CUT]


def stepped(name: str, dtype: torch.dtype, settings: dict[str, Any], mesh: Any) -> dict[str, list[Any]]:
    """Parameters and all state after some steps. mesh: what they are cut over; None: they are not."""

    def cut(tensor: torch.Tensor, dim: int) -> torch.Tensor:
        return tensor if mesh is None else distribute_tensor(tensor, mesh, [Shard(dim)])

    starts = zip(numbers(0, dtype), CUT.values(), strict=True)
    params = [torch.nn.Parameter(cut(p, dim)) for p, dim in starts]
    opt = getattr(fgt, name)(params, **settings)
    for step in range(1, STEPS + 1):
        for p, grad, dim in zip(params, numbers(step, dtype), CUT.values(), strict=True):
            p.grad = cut(grad, dim)
        opt.step()
    found = {"param": [whole(p) for p in params]}
    for entry in opt.state_dict()["state"].values():
        for key, value in entry.items():
            found.setdefault(key, []).append(whole(value))
    return found


def all_stepped(cases: list[tuple[str, torch.dtype, dict[str, Any]]], cut: bool = True) -> list[Any]:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),)) if cut else None
    return [stepped(*case, mesh) for case in cases]


def refused(cases: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """The errors of optimizers that are made for a sharded matrix."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    errors = []
    for name, settings in cases:
        p = torch.nn.Parameter(distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)]))
        try:
            getattr(fgt, name)([p], **settings)
            errors.append("")
        except ValueError as error:
            errors.append(str(error))
    return errors


def replicated_with(name: str, settings: dict[str, Any], partial: bool) -> Any:
    """A parameter that all ranks have, after a step; partial: its gradient is the sum of what they have."""
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (ranks,))
    p = torch.nn.Parameter(distribute_tensor(torch.ones(8, 8), mesh, [Replicate()]))
    opt = getattr(fgt, name)([p], **settings)
    grad = torch.arange(64.0).reshape(8, 8) - 20
    if partial:
        p.grad = DTensor.from_local(grad / ranks, mesh, [Partial()], run_check=False)
    else:
        p.grad = DTensor.from_local(grad, mesh, [Replicate()], run_check=False)
    opt.step()
    return whole(p), opt.report.grad_norm


def one_broken() -> Any:
    """(parameter, whether it was skipped) after a step whose gradient has a NaN in the last rank's part."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    p = torch.nn.Parameter(distribute_tensor(torch.ones(8, 2), mesh, [Shard(0)]))
    opt = fgt.AdamW([p], skip_nonfinite=True)
    grad = torch.ones(8, 2)
    grad[-1, -1] = torch.nan
    p.grad = distribute_tensor(grad, mesh, [Shard(0)])
    opt.step()
    return whole(p), opt.report.skipped


def flattened(title: str, settings: dict[str, Any], use_orig_params: bool) -> Any:
    """(the error of a step or None, the loss before and after some steps) under FullyShardedDataParallel."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(7, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    sharded = FullyShardedDataParallel(model, device_id=torch.device("cpu"), use_orig_params=use_orig_params)
    x = torch.randn(4, 7)
    losses = []
    try:
        opt = getattr(fgt, title)(sharded.parameters(), lr=0.05, **settings)
        for _ in range(4):
            loss = sharded(x).square().mean()
            losses.append(float(loss.detach()))
            loss.backward()
            opt.step()
            opt.zero_grad()
    except ValueError as error:
        return str(error), losses
    return None, losses


def rounded(placed: str) -> list[list[float]]:
    """What each rank has, of a parameter with equal elements, after a step whose rounding is stochastic."""
    ranks = dist.get_world_size()
    mesh = init_device_mesh("cpu", (ranks,))
    placement = {"cut": Shard(0), "cut along another dimension": Shard(1), "everywhere": Replicate()}[placed]
    p = torch.nn.Parameter(distribute_tensor(torch.ones(64, 64, dtype=torch.bfloat16), mesh, [placement]))
    opt = fgt.SGD([p], lr=1e-3, rounding="stochastic", seed=5)
    p.grad = distribute_tensor(torch.ones(64, 64, dtype=torch.bfloat16), mesh, [placement])
    opt.step()
    everyone: list[Any] = [None] * ranks
    dist.all_gather_object(everyone, p.to_local().float().reshape(-1).tolist())
    return everyone
