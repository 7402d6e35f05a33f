"""Tensors to try functions on, and the comparison of fastgd's with torch's. Needs torch."""

import torch


def drawn(*shape, dtype=torch.float64, seed=0):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def leaf(x):
    """A tensor with its layout, which requires a gradient."""
    return x.detach().requires_grad_()


def assert_same(ours, theirs, inputs, **tolerance):
    """Outputs and the gradients of inputs, of both sides, for the same gradients of outputs."""
    ours, theirs = ([y] if torch.is_tensor(y) else [*y] for y in (ours, theirs))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True, **tolerance)
    dys = [drawn(*y.shape, dtype=y.dtype, seed=9) for y in theirs]
    found, wanted = (torch.autograd.grad(y, inputs, dys, allow_unused=True) for y in (ours, theirs))
    for mine, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, other, equal_nan=True, **tolerance)
