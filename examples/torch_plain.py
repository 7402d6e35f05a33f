"""A plain PyTorch loop with fastgd.torch.AdamW: a schedule with warm-up, float16 with GradScaler, and SWA.

`pip install -e ".[clients]" && python examples/torch_plain.py`; `--epochs 4` is quicker.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
from torch.optim.swa_utils import SWALR, AveragedModel, update_bn
from torch.utils.data import DataLoader, TensorDataset

import fastgd.torch as fgt

N_TRAIN, BATCH = 1536, 64


def accuracy(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    model.eval()
    with torch.no_grad():
        right = (model(x).argmax(1) == y).float().mean().item()
    model.train()
    return right


def main(epochs: int) -> None:
    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(x[:N_TRAIN], y[:N_TRAIN]), batch_size=BATCH, shuffle=True)
    model = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10))

    # clipping is part of the step; so is unscaling, which is why scaler.unscale_ is not called
    opt = fgt.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01, clip_norm=1.0, fused=True)
    # float16 ends at 65504, so that the first steps are skipped and the scale comes down
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)

    steps, swa_from = epochs * len(loader), epochs * 3 // 4
    warm_up = steps // 10
    schedule = SequentialLR(
        opt,
        [LinearLR(opt, 0.1, total_iters=warm_up), CosineAnnealingLR(opt, steps - warm_up)],
        milestones=[warm_up],
    )
    averaged, swa_schedule = AveragedModel(model), SWALR(opt, swa_lr=1e-3, anneal_epochs=1)

    for epoch in range(epochs):
        losses, skipped = [], 0
        for inputs, targets in loader:
            with torch.autocast("cpu", torch.float16):
                loss = nn.functional.cross_entropy(model(inputs), targets)
            opt.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            if epoch < swa_from:
                schedule.step()
            losses.append(loss.item())
            skipped += opt.report.skipped
        if epoch >= swa_from:
            averaged.update_parameters(model)
            swa_schedule.step()
        print(
            f"epoch {epoch}: loss {sum(losses) / len(losses):.4f}, lr {opt.param_groups[0]['lr']:.5f}, "
            f"gradient norm {opt.report.grad_norm:.3f}, scale {scaler.get_scale():.0f}, skipped {skipped}"
        )
    update_bn(loader, averaged)
    x_test, y_test = x[N_TRAIN:], y[N_TRAIN:]
    print(
        f"accuracy on unseen digits {accuracy(model, x_test, y_test):.3f}, "
        f"of the averaged model {accuracy(averaged, x_test, y_test):.3f}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    main(parser.parse_args().epochs)
