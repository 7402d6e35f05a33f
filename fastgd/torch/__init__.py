"""fastgd for PyTorch: drop-ins for torch.optim and for what is done to gradients around it.

    import fastgd.torch

    opt = fastgd.torch.AdamW(model.parameters(), lr=3e-4, clip_norm=1.0)
"""

from __future__ import annotations

from fastgd.torch.optimizers import CLASSES

globals().update(CLASSES)

__all__ = [*CLASSES]
