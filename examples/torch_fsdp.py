"""Several processes train one model, each with a part of every weight: FSDP2, fastgd.torch and checkpoints.

    torchrun --nproc-per-node 2 examples/torch_fsdp.py

`fully_shard` cuts parameters into DTensors, the optimizer steps on the part of each that lies here, and
`clip_norm` limits the norm of all gradients on all processes. In the middle everything is saved; any number
of processes could load it, and here a new model does and goes on from there. Takes some seconds on CPUs.
"""

from __future__ import annotations

import argparse
import tempfile

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.fsdp import fully_shard

import fastgd.torch

WIDTH, BLOCKS, CLASSES, BATCH = 128, 4, 10, 64


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.layers(x)


def make(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(*(Block() for _ in range(BLOCKS)), nn.Linear(WIDTH, CLASSES))
    for part in model:
        fully_shard(part)
    fully_shard(model)
    # the optimizer is made of parameters that are sharded already
    opt = fastgd.torch.AdamW(model.parameters(), lr=1e-3, clip_norm=1.0, state_dtype="8bit", ema_decay=0.99)
    return model, opt


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Examples of this process: points, and the nearest of some centres."""
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(0))
    own = torch.Generator().manual_seed(1000 * step + dist.get_rank())
    labels = torch.randint(CLASSES, (BATCH,), generator=own)
    return centres[labels] + 3 * torch.randn(BATCH, WIDTH, generator=own), labels


def train(model: nn.Module, opt: torch.optim.Optimizer, steps: range) -> float:
    for step in steps:
        x, labels = batch(step)
        loss = nn.functional.cross_entropy(model(x), labels)
        loss.backward()
        opt.step()
        opt.zero_grad()
        if step % 10 == 9:
            mean = loss.detach() / dist.get_world_size()
            dist.all_reduce(mean)
            say(f"step {step + 1}: loss {mean.item():.4f}, norm of gradients {opt.report.grad_norm:.3f}")
    return mean.item()


def save(model: nn.Module, opt: torch.optim.Optimizer, folder: str) -> None:
    in_model, in_opt = get_state_dict(model, opt)
    dcp.save({"model": in_model, "optimizer": in_opt}, checkpoint_id=folder)


def load(model: nn.Module, opt: torch.optim.Optimizer, folder: str) -> None:
    in_model, in_opt = get_state_dict(model, opt)  # their tensors receive what is loaded
    dcp.load({"model": in_model, "optimizer": in_opt}, checkpoint_id=folder)
    set_state_dict(model, opt, model_state_dict=in_model, optim_state_dict=in_opt)


def say(line: str) -> None:
    if dist.get_rank() == 0:
        print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="a multiple of 20")
    parser.add_argument("--folder", help="for the checkpoint; by default a temporary one")
    arguments = parser.parse_args()
    dist.init_process_group("gloo")
    with tempfile.TemporaryDirectory() as temporary:
        folder = [arguments.folder or temporary]
        dist.broadcast_object_list(folder)  # that of rank 0
        model, opt = make(seed=0)
        half = arguments.steps // 2
        train(model, opt, range(half))
        save(model, opt, folder[0])
        expected = train(model, opt, range(half, arguments.steps))

        model, opt = make(seed=1)
        load(model, opt, folder[0])
        say(f"loaded on {dist.get_world_size()} processes, and on from step {half}:")
        loss = train(model, opt, range(half, arguments.steps))
        say("the same loss" if loss == expected else f"{loss} instead of {expected}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
