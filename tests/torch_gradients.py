"""Gradients for tests of clipping, and whether results agree."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not a dependency; pip install torch==2.13.0")


def parameter(grad):
    p = torch.nn.Parameter(torch.zeros(grad.shape, dtype=grad.dtype))
    p.grad = grad
    return p


def random(shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def assert_close(mine, other, rel):
    assert mine.dtype == other.dtype and mine.shape == other.shape and mine.device == other.device
    wide = torch.complex128 if mine.is_complex() else torch.float64
    torch.testing.assert_close(mine.to(wide), other.to(wide), rtol=rel, atol=0, equal_nan=True)
