"""Torch's tensors as arrays: what lies in this process, as real numbers, without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from fastgd.arrays import Array, as_array, dtype_named, lent

#: torch's C interface for reading tensors
INTERFACE = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
if INTERFACE is None:
    raise ImportError(
        f"fastgd.torch needs torch 2.10 or newer, whose tensors have DLPack's C interface; this is "
        f"torch {torch.__version__}: pip install 'fastgd[torch]'"
    )

_BFLOAT16 = dtype_named("bfloat16")


def is_wrapper(tensor: torch.Tensor) -> bool:
    """Whether it is a DTensor, which stands for shards in several processes."""
    return hasattr(tensor, "_local_tensor")


def local(tensor: torch.Tensor) -> torch.Tensor:
    """What lies in this process: of a DTensor its shard, of others all."""
    if not is_wrapper(tensor):
        return tensor
    found: torch.Tensor = tensor._local_tensor  # type: ignore[attr-defined]  # of DTensor
    wait = getattr(found, "wait", None)  # of a shard that is still on its way
    return found if wait is None else wait()


def grad_beside(p: torch.Tensor) -> torch.Tensor | None:
    """What of a parameter's gradient belongs to what lies here, lazy conjugation and negation done."""
    grad: Any = p.grad
    if grad is None:
        return None
    if is_wrapper(grad) and is_wrapper(p) and grad.placements != p.placements:  # type: ignore[attr-defined]
        grad = grad.redistribute(placements=p.placements)  # type: ignore[attr-defined]  # of DTensor
    found: torch.Tensor = local(grad).resolve_conj().resolve_neg()
    return found


def finds_grad_itself(p: torch.Tensor) -> bool:
    """Whether its class has a `.grad` of its own, which may be a tensor that nobody holds."""
    own, usual = type(p), torch.Tensor
    return own.grad is not usual.grad or own.__getattribute__ is not usual.__getattribute__


def is_direct(grad: torch.Tensor) -> bool:
    """Whether a gradient is what its memory says, and so are those after it that lie like it.

    Lazily conjugated ones are complex. Lazily negated ones are parts of these: see `may_be_negated`.
    """
    return not (is_wrapper(grad) or grad.is_complex() or grad.is_neg())


def may_be_negated(grad: torch.Tensor) -> bool:
    """Whether a gradient that lies like this one may be every other number of conjugated ones, or one."""
    is_dense = grad.layout == torch.strided and torch.ops.aten.is_non_overlapping_and_dense(grad)
    return grad.numel() == 1 or (grad.numel() > 1 and not is_dense)


def array_of(tensor: torch.Tensor, what: str) -> Array:
    """The tensor's own memory; complex numbers as pairs in a last dimension of 2. `what` names it in errors.

    TypeError for what has no memory (meta tensors), is sparse, or is in a dtype that fastgd does not take.
    """
    return as_array(memory_of(tensor, what), what)


def memory_of(tensor: torch.Tensor, what: str) -> Array:
    """As `array_of`, in any dtype that NumPy has."""
    plain = tensor.detach()
    if plain.is_complex():
        plain = torch.view_as_real(plain)
    if plain.device.type not in ("cpu", "cuda"):
        raise TypeError(f"{what} is on {plain.device}: fastgd updates tensors on cpu and cuda")
    if plain.layout != torch.strided:
        raise TypeError(f"{what} is {plain.layout}: fastgd updates strided tensors")
    if plain.is_cuda:
        return lent(plain, what)
    if plain.dtype == torch.bfloat16:
        return plain.view(torch.int16).numpy().view(_BFLOAT16)
    try:
        array: Array = plain.numpy()
    except TypeError:
        raise TypeError(f"{what} has dtype {plain.dtype}, which NumPy does not have") from None
    return array


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """Torch's dtype of that name."""
    found: torch.dtype = getattr(torch, dtype.name)
    return found
