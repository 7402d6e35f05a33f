"""What ranks of the distributed tests do: a small model, trained, saved and loaded in pieces or whole."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
    set_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

import fastgd.torch as fgt

#: examples in a batch, whatever the number of ranks
BATCH = 8

#: 4 ranks share rows of weights unevenly, or do not have even one each; more than one block in 8 bits
WIDTHS = (40, 30, 3)


def network(dtype: torch.dtype, seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    first, hidden, last = WIDTHS
    model = nn.Sequential(nn.Linear(first, hidden), nn.Tanh(), nn.Linear(hidden, last)).to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / 4)
    return model


def sharded(model: nn.Sequential) -> nn.Sequential:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def own_part(whole: torch.Tensor, among: Any) -> torch.Tensor:
    """The rows of a batch that are this rank's; all of them where there are no ranks.

    among: the ranks that share a batch; None: all.
    """
    if not dist.is_initialized():
        return whole
    ranks = dist.get_world_size() if among is None else among.size()
    return whole.chunk(ranks)[dist.get_rank() if among is None else among.get_local_rank()]


def train(
    model: nn.Module,
    opt: torch.optim.Optimizer,
    steps: Iterable[int],
    clip_norm: float | None = None,
    among: Any = None,
) -> list[float]:
    """The norms of the gradients, of all ranks together.

    clip_norm: for clipping ahead of the step, where that is not the optimizer's. among: as in own_part.
    """
    dtype = next(model.parameters()).dtype
    norms = []
    for step in steps:
        generator = torch.Generator().manual_seed(100 + step)
        x = torch.randn(BATCH, WIDTHS[0], generator=generator).to(dtype)
        y = torch.randn(BATCH, WIDTHS[-1], generator=generator).to(dtype)
        opt.zero_grad()
        nn.functional.mse_loss(model(own_part(x, among)), own_part(y, among)).backward()
        if clip_norm is not None:
            norms.append(float(fgt.clip_grad_norm_(model.parameters(), clip_norm)))
        opt.step()
        if clip_norm is None and isinstance(opt, fgt.AdamW):
            norms.append(opt.report.grad_norm)
    return norms


def whole(tensor: Any) -> Any:
    """A tensor as NumPy array, of all ranks; bfloat16, which NumPy lacks, exactly as float32."""
    if not isinstance(tensor, torch.Tensor):
        return tensor
    tensor = tensor.detach()
    if hasattr(tensor, "full_tensor"):
        tensor = tensor.full_tensor()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


def learned(model: nn.Module) -> dict[str, np.ndarray]:
    return {name.removeprefix("module."): whole(p) for name, p in model.named_parameters()}


def kept(model: nn.Module, opt: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    """The state of every parameter by its name, of all ranks, as state dicts show it."""
    found = get_optimizer_state_dict(model, opt)["state"]
    return {name: {key: whole(value) for key, value in entry.items()} for name, entry in found.items()}


def alone(steps: int, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
    """(parameters, norms): the yardstick, in one process without ranks."""
    model = network(dtype)
    norms = train(model, fgt.AdamW(model.parameters(), **settings), range(steps))
    return learned(model), norms


def fully_sharded(steps: int, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
    model = sharded(network(dtype))
    norms = train(model, fgt.AdamW(model.parameters(), **settings), range(steps))
    return learned(model), norms


def sharded_twice(steps: int, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
    """Over 2 x 2 ranks: the first layer by columns and the other by rows, and each half as FSDP does it."""
    # what it imports warns of torch.jit
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = network(dtype)
    parallelize_module(model, mesh["tensor"], {"0": ColwiseParallel(), "2": RowwiseParallel()})
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh["data"])
    norms = train(model, fgt.AdamW(model.parameters(), **settings), range(steps), among=mesh["data"])
    return learned(model), norms


def sharded_and_replicated(steps: int, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
    """Over 2 x 2 ranks: two have a shard each, and so have the two others. They compute in bfloat16."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copy", "shard"))
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    model = network(dtype)
    for part in (model[0], model[2], model):
        fully_shard(part, mesh=mesh, mp_policy=policy)
    norms = train(model, fgt.AdamW(model.parameters(), **settings), range(steps))
    return learned(model), norms


def replicated(steps: int, dtype: torch.dtype, settings: dict[str, Any]) -> Any:
    model = DistributedDataParallel(network(dtype), gradient_as_bucket_view=True)
    opt = fgt.AdamW(model.parameters(), **settings)
    norms = train(model, opt, range(steps))
    return learned(model), norms, kept(model, opt)


def saved(folder: str, dtype: torch.dtype, settings: dict[str, Any], *, of: Any = fgt.AdamW) -> Any:
    """Saves after 3 steps. (parameters, state) at that time, and parameters 3 steps later."""
    model = sharded(network(dtype))
    opt = of(model.parameters(), **settings)
    train(model, opt, range(3))
    in_model, in_opt = get_state_dict(model, opt)
    dcp.save({"model": in_model, "opt": in_opt}, checkpoint_id=folder)
    before = learned(model), kept(model, opt)
    train(model, opt, range(3, 6))
    return before, learned(model)


def loaded(
    folder: str,
    dtype: torch.dtype,
    settings: dict[str, Any],
    *,
    cut: bool = True,
    of: Any = fgt.AdamW,
    partly: bool = False,
) -> Any:
    """As `saved`, of what is loaded into other numbers than it was saved from.

    cut: whether the model is sharded. of: the class of the optimizer. partly: whether what the file does not
    have stays as it is.
    """
    model = network(dtype, seed=1)
    if cut:
        sharded(model)
    opt = of(model.parameters(), **settings)
    if not cut and of is fgt.AdamW:
        opt.register_state_dict_post_hook(fgt.decode_state)
    in_model, in_opt = get_state_dict(model, opt)
    planner = dcp.DefaultLoadPlanner(allow_partial_load=partly)
    dcp.load({"model": in_model, "opt": in_opt}, checkpoint_id=folder, planner=planner)
    set_state_dict(model, opt, model_state_dict=in_model, optim_state_dict=in_opt)
    before = learned(model), kept(model, opt)
    train(model, opt, range(3, 6))
    return before, learned(model)


def handed_over(dtype: torch.dtype, settings: dict[str, Any], *, from_rank0: bool) -> Any:
    """Whole state dicts between sharded models: parameters of one that went on, and of one that took over.

    from_rank0: whether only that rank has them.
    """
    gathered = StateDictOptions(full_state_dict=True, cpu_offload=from_rank0)
    spread = StateDictOptions(full_state_dict=True, broadcast_from_rank0=from_rank0)
    model = sharded(network(dtype))
    opt = fgt.AdamW(model.parameters(), **settings)
    train(model, opt, range(3))
    # copies: whole tensors may be those of the optimizer
    in_model, in_opt = copy.deepcopy(get_state_dict(model, opt, options=gathered))
    train(model, opt, range(3, 6))
    other = sharded(network(dtype, seed=1))
    other_opt = fgt.AdamW(other.parameters(), **settings)
    # not set_state_dict, which does nothing on ranks that have nothing
    set_model_state_dict(other, in_model, options=spread)
    set_optimizer_state_dict(other, other_opt, in_opt, options=spread)
    train(other, other_opt, range(3, 6))
    return learned(model), learned(other)


def partitioned(
    steps: int, dtype: torch.dtype, settings: dict[str, Any], *, clip_norm: float, views: bool
) -> Any:
    """ZeRO: parameters, norms, rank 0's state dict of all ranks, and parameters 3 steps later."""
    model, opt = _partitioned(network(dtype), settings, views)
    norms = train(model, opt, range(steps), clip_norm)
    before = learned(model)
    opt.consolidate_state_dict(to=0)
    state = copy.deepcopy(opt.state_dict()) if dist.get_rank() == 0 else None
    train(model, opt, range(steps, steps + 3), clip_norm)
    return before, norms, state, learned(model)


def partitioned_again(
    params: dict[str, np.ndarray], state: Any, steps: range, settings: dict[str, Any], *, clip_norm: float
) -> Any:
    """ZeRO that goes on from these numbers, on any number of ranks: parameters."""
    model, opt = _partitioned(with_numbers(params), settings, False)
    opt.load_state_dict(state)
    train(model, opt, steps, clip_norm)
    return learned(model)


def _partitioned(model: nn.Module, settings: dict[str, Any], views: bool) -> Any:
    # here, because its import warns of torch.jit, and warnings are errors where tests are collected
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = DistributedDataParallel(model)
    opt = ZeroRedundancyOptimizer(
        model.parameters(), optimizer_class=fgt.AdamW, parameters_as_bucket_view=views, **settings
    )
    return model, opt


def refused_by_zero(settings: dict[str, Any]) -> str:
    """The error of an optimizer behind ZeRO with these settings; "" where there is none."""
    try:
        _partitioned(network(torch.float32), settings, False)
    except ValueError as error:
        return str(error)
    return ""


def with_numbers(params: dict[str, np.ndarray]) -> nn.Sequential:
    model = network(torch.from_numpy(next(iter(params.values()))).dtype)
    model.load_state_dict({name: torch.from_numpy(p) for name, p in params.items()})
    return model
