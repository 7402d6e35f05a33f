"""Hugging Face's Trainer with fastgd.torch.AdamW: a small GPT-2 learns the README, byte by byte.

`pip install -e ".[clients]" && python examples/torch_huggingface.py`; `--steps 40` is quicker.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Trainer,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

import fastgd.torch as fgt

CONTEXT = 64
ADAMW: dict[str, Any] = {"lr": 3e-3, "weight_decay": 0.01, "clip_norm": 1.0}


def windows() -> list[dict[str, torch.Tensor]]:
    text = Path(__file__).parents[1].joinpath("README.md").read_bytes()
    parts = torch.tensor(list(text)).unfold(0, CONTEXT, CONTEXT // 2)
    return [{"input_ids": part, "labels": part} for part in parts]


def small_gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    size = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": CONTEXT}
    return GPT2LMHeadModel(GPT2Config(vocab_size=256, bos_token_id=0, eos_token_id=0, **size))


def settings(folder: str, steps: int) -> TrainingArguments:
    return TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=16,
        max_grad_norm=0.0,  # the optimizer clips, as part of its step
        logging_steps=steps // 4,
        save_steps=steps // 2,
        use_cpu=True,
        disable_tqdm=True,
        report_to="none",
    )


def with_optimizer(folder: str, steps: int) -> Trainer:
    """A Trainer with an optimizer and a schedule that were made for it."""
    model = small_gpt2()
    opt = fgt.AdamW(model.parameters(), **ADAMW)
    schedule = get_cosine_schedule_with_warmup(opt, steps // 10, steps)
    return Trainer(model, settings(folder, steps), train_dataset=windows(), optimizers=(opt, schedule))


def with_class(folder: str, steps: int) -> Trainer:
    """A Trainer that makes the optimizer, with weight decay for matrices only, and its own schedule."""
    return Trainer(
        small_gpt2(),
        settings(folder, steps),
        train_dataset=windows(),
        optimizer_cls_and_kwargs=(fgt.AdamW, ADAMW),
    )


def main(steps: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        print("optimizers=(opt, schedule)")
        whole = with_optimizer(folder, steps)
        whole.train()

        print(f"the same, resumed from step {steps // 2}")
        resumed = with_optimizer(folder, steps)
        resumed.train(resume_from_checkpoint=f"{folder}/checkpoint-{steps // 2}")
        pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
        print("same parameters at the end:", all(torch.equal(a, b) for a, b in pairs))

    with tempfile.TemporaryDirectory() as folder:
        print("optimizer_cls_and_kwargs=(fgt.AdamW, ...)")
        with_class(folder, steps).train()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=200)
    main(parser.parse_args().steps)
