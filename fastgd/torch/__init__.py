"""fastgd for PyTorch: drop-ins for torch.optim and for what is done to gradients around it.

import fastgd.torch

opt = fastgd.torch.AdamW(model.parameters(), lr=3e-4, clip_norm=1.0)
"""

from __future__ import annotations

from importlib.util import find_spec

if find_spec("torch") is None:
    raise ModuleNotFoundError("fastgd.torch needs PyTorch: pip install 'fastgd[torch]'", name="torch")

from fastgd.torch.clip import clip_grad_norm_, clip_grad_value_, clip_grads_with_norm_, get_total_norm
from fastgd.torch.codes import decode_state
from fastgd.torch.optimizers import CLASSES
from fastgd.torch.release import attach

globals().update(CLASSES)

__all__ = [
    *CLASSES,
    "attach",
    "clip_grad_norm_",
    "clip_grad_value_",
    "clip_grads_with_norm_",
    "decode_state",
    "get_total_norm",
]
