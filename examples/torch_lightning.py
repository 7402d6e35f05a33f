"""Lightning with fastgd.torch.AdamW: a schedule by steps, clipping by either side, a checkpoint resumed.

`pip install -e ".[clients]" && python examples/torch_lightning.py`; `--epochs 4` is quicker.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import lightning
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import DataLoader, TensorDataset

import fastgd.torch as fgt

N_TRAIN, BATCH = 1536, 64


def digits(train: bool) -> DataLoader[Any]:
    """Always in the same order, so that a resumed run sees what the whole one saw."""
    data = load_digits()
    part = slice(N_TRAIN) if train else slice(N_TRAIN, None)
    x, y = torch.tensor(data.data[part], dtype=torch.float32) / 16, torch.tensor(data.target[part])
    return DataLoader(TensorDataset(x, y), batch_size=BATCH)


class Classifier(lightning.LightningModule):
    """clip_norm: what the optimizer limits the norm of all gradients to as part of its step, or None."""

    def __init__(self, clip_norm: float | None) -> None:
        super().__init__()
        self.clip_norm = clip_norm
        self.layers = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
        self.losses: list[float] = []

    def training_step(self, batch: list[torch.Tensor], _: int) -> torch.Tensor:
        inputs, targets = batch
        loss = nn.functional.cross_entropy(self.layers(inputs), targets)
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: list[torch.Tensor], _: int) -> None:
        inputs, targets = batch
        self.log("accuracy", (self.layers(inputs).argmax(1) == targets).float().mean())

    def configure_optimizers(self) -> dict[str, Any]:
        opt = fgt.AdamW(self.parameters(), lr=1e-2, weight_decay=0.01, clip_norm=self.clip_norm)
        schedule = OneCycleLR(opt, max_lr=1e-2, total_steps=int(self.trainer.estimated_stepping_batches))
        return {"optimizer": opt, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def trained(
    folder: str, epochs: int, clip_norm: float | None, resume: str | None = None, **settings: Any
) -> Classifier:
    lightning.seed_everything(0, verbose=False)
    model = Classifier(clip_norm)
    keep = lightning.pytorch.callbacks.ModelCheckpoint(folder, "{epoch}", save_top_k=-1)
    trainer = lightning.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[keep],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **settings,
    )
    trainer.fit(model, digits(True), digits(False), ckpt_path=resume)
    print(
        f"loss at first {model.losses[0]:.4f}, at last {model.losses[-1]:.4f}, "
        f"accuracy {trainer.callback_metrics['accuracy']:.3f}"
    )
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def main(epochs: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("the optimizer clips, as part of its step: AdamW(clip_norm=0.5)")
        whole = trained(f"{folder}/whole", epochs, 0.5)
        print("the Trainer clips, before the step: Trainer(gradient_clip_val=0.5)")
        trained(f"{folder}/trainer", epochs, None, gradient_clip_val=0.5)
        print("the optimizer clips, resumed from half-way")
        half = f"{folder}/whole/epoch={epochs // 2 - 1}.ckpt"
        resumed = trained(f"{folder}/resumed", epochs, 0.5, resume=half)
        print("same parameters at the end:", same(whole, resumed))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=10)
    main(parser.parse_args().epochs)
