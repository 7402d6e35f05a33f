"""Operators of torch.library over native kernels: how one is registered, differentiated and run.

An operator is `torch.ops.fastgd.<name>`. Its kernel gets plain tensors on the CPU. What else comes by (fake
and functional tensors of torch.compile, subclasses, dispatch modes, conjugated or negated views) goes through
torch's dispatcher, which knows what to do with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

Kernel = Callable[..., Any]


class Operator(NamedTuple):
    """A registered operator: what torch calls, and the kernel for plain tensors."""

    dispatched: torch._ops.OpOverload
    kernel: Kernel


# torch has no types for these
_library: Any = torch.library.Library
_LIBRARY = _library("fastgd", "FRAGMENT")

_GRADS = torch._C.is_grad_enabled
_REQUIRES = torch._C._any_requires_grad
_BELOW = torch._C._AutoDispatchBelowAutograd
_AFTER = torch._C._after_autograd_keyset
_KEYS = torch._C.DispatchKey
_KEYS_OF = torch._C._dispatch_keys
_MODES = torch._C._len_torch_dispatch_stack


def _bits(*keys: Any) -> int:
    found = torch._C.DispatchKeySet(keys[0])
    for key in keys[1:]:
        found = found | torch._C.DispatchKeySet(key)
    bits: int = found.raw_repr()
    return bits


#: all that says that there is something else about tensors than that they are on the CPU
_OTHERS = ~_bits(_KEYS.CPU, _KEYS.AutogradCPU, _KEYS.ADInplaceOrView, _KEYS.AutocastCPU)


def plainly(operator: Operator, *arguments: Any) -> Any:
    return operator.kernel(*arguments)


def dispatching(operator: Operator, *arguments: Any) -> Any:
    return operator.dispatched(*arguments)


def define(
    schema: str,
    kernel: Kernel,
    fake: Kernel,
    *,
    save: Callable[[Any, Sequence[Any], Any], None] | None = None,
    backward: Kernel | None = None,
    twice: Kernel | None = None,
    once: bool = False,
) -> Operator:
    """Registers an operator, with a differentiable form, a shape function and float32 under autocast.

    schema: name, arguments and results, without default values.
    kernel: from its arguments to new tensors, on the CPU.
    fake: the same without numbers, for tracing.
    save(ctx, arguments, results): keeps what the way back needs, where `backward` is given.
    backward(ctx, call, *gradients): a tuple of a gradient for each argument. `call(operator, ...)` runs an
        operator: on plain tensors its kernel at once.
    twice: for an operator that is itself a derivative, the same in terms of operators of torch's that can be
        differentiated. Where it is not given, nor `backward`, differentiation is refused.
    once: the gradients cannot be differentiated: an attempt raises RuntimeError.
    """
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, kernel, "CPU")
    torch.library.register_fake(f"fastgd::{name}", fake, lib=_LIBRARY)
    operator: torch._ops.OpOverload = getattr(torch.ops.fastgd, name).default

    def below(keys: Any, *arguments: Any) -> Any:
        with _BELOW():
            return operator.redispatch(keys & _AFTER, *arguments)

    differentiable = twice or _function(name, kernel, below, save, backward, once).apply

    def under_autograd(keys: Any, *arguments: Any) -> Any:
        if _GRADS() and _REQUIRES(*arguments):
            return differentiable(*arguments) if twice else differentiable(keys, *arguments)
        return below(keys, *arguments) if keys.raw_repr() & _OTHERS else kernel(*arguments)

    _LIBRARY.impl(name, under_autograd, "Autograd", with_keyset=True)
    torch.library.register_autocast(f"fastgd::{name}", "cpu", torch.float32, lib=_LIBRARY)
    return Operator(operator, kernel)


def _function(
    name: str,
    kernel: Kernel,
    below: Kernel,
    save: Callable[[Any, Sequence[Any], Any], None] | None,
    derivative: Kernel | None,
    once: bool,
) -> type[torch.autograd.Function]:
    def forward(ctx: Any, keys: Any, *arguments: Any) -> Any:
        plain = ctx.plain = not keys.raw_repr() & _OTHERS
        result = kernel(*arguments) if plain else below(keys, *arguments)
        if save is not None:
            save(ctx, arguments, result)
        return result

    def backward(ctx: Any, *gradients: Any) -> Any:
        if derivative is None:
            raise RuntimeError(f"fastgd::{name} cannot be differentiated: fastgd has no such derivative")
        if once and _GRADS():
            refused: Any = _Refusal.apply
            with torch.no_grad():
                found = derivative(ctx, dispatching, *gradients)
            return None, *(a if a is None else refused(a.requires_grad_(), name) for a in found)
        plain = ctx.plain and not _GRADS() and not _MODES()
        for gradient in gradients:
            if plain and gradient is not None:
                plain = not _KEYS_OF(gradient).raw_repr() & _OTHERS
        return None, *derivative(ctx, plainly if plain else dispatching, *gradients)

    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(name, (torch.autograd.Function,), methods)


class _Refusal(torch.autograd.Function):
    """A gradient as it is, which cannot be differentiated."""

    @staticmethod
    def forward(ctx: Any, gradient: Any, name: str) -> Any:
        ctx.name = name
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise RuntimeError(f"fastgd::{ctx.name} can be differentiated once only: take torch's function here")


def again(function: Kernel, inputs: Sequence[Any], grad_output: Any, wanted: Sequence[bool]) -> Sequence[Any]:
    """The gradients of torch's function that are wanted, else None, such that they can be differentiated."""
    with torch.enable_grad():
        given = [x if x.requires_grad else x.detach().requires_grad_() for x in inputs]
        asked = [x for x, want in zip(given, wanted, strict=True) if want]
        found = iter(torch.autograd.grad(function(*given), asked, grad_output, create_graph=True))
    return [next(found) if want else None for want in wanted]


def keeps_graph() -> bool:
    """Whether the backward pass that runs may come again, so that what is saved must stay as it is."""
    kept: bool = torch._C._autograd._get_current_graph_task_keep_graph()
    return kept
