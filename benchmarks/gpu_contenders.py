"""What fastgd is compared with on a GPU: torch's optimizers, CuPy's kernels, and layers of torch's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from gpu_time import OWN, Step

#: AdamW as torch has it by default, for an element
LR, BETA1, BETA2, EPS, DECAY = 1e-3, 0.9, 0.999, 1e-8, 0.01

_CUPY_ADAMW = """
    m = m + (1 - b1) * (g * c - m);
    v = v * b2 + (1 - b2) * (g * c) * (g * c);
    p = p * (1 - lr * decay) - lr / k1 * m / (sqrt(v / k2) + eps);
"""


def torch_adamw(variant: str) -> Callable[..., Step]:
    """One of torch's implementations, "fused" or "foreach"; clipping by its own function."""

    def make(memory: Any, params: list[Any], grads: list[Any], clip_norm: float | None) -> Step:
        torch = memory.torch
        if torch is None:
            raise NotImplementedError("torch is not there")
        tensors = [torch.nn.Parameter(p) for p in params]
        for tensor, grad in zip(tensors, grads, strict=True):
            # clipping changes them in place, and others have the same
            tensor.grad = grad.clone() if clip_norm is not None else grad
        opt = torch.optim.AdamW(tensors, capturable=True, **{variant: True})

        def step() -> None:
            if clip_norm is not None:
                torch.nn.utils.clip_grad_norm_(tensors, clip_norm, foreach=True)
            opt.step()

        return Step(step)

    return make


def cupy_adamw(memory: Any, params: list[Any], grads: list[Any], clip_norm: float | None) -> Step:
    """One elementwise kernel for each tensor."""
    cupy = memory.cupy
    if cupy is None:
        raise NotImplementedError("CuPy is not there")
    arrays = [cupy.asarray(p) for p in params]
    given = [cupy.asarray(g) for g in grads]
    state = [(cupy.zeros_like(p), cupy.zeros_like(p)) for p in arrays]
    types = "float32 g, float32 c, " + ", ".join(
        f"float32 {name}" for name in ("lr", "b1", "b2", "eps", "decay", "k1", "k2")
    )
    kernel = cupy.ElementwiseKernel(types, "float32 p, float32 m, float32 v", _CUPY_ADAMW, "adamw")
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1
        coef: Any = 1.0
        if clip_norm is not None:
            total = sum(cupy.vdot(g, g) for g in given)
            coef = cupy.minimum(1.0, clip_norm / (cupy.sqrt(total) + 1e-6)).astype("float32")
        k1, k2 = 1 - BETA1**steps, 1 - BETA2**steps
        for p, g, (m, v) in zip(arrays, given, state, strict=True):
            kernel(g, coef, LR, BETA1, BETA2, EPS, DECAY, k1, k2, p, m, v)

    # its bias corrections are arguments, which a graph would keep as they were
    return Step(step, captures=False)


#: contender -> (memory, params, grads, clip_norm) -> its step
COMPARED: dict[str, Callable[..., Step]] = {
    "torch fused": torch_adamw("fused"),
    "torch foreach": torch_adamw("foreach"),
    "CuPy": cupy_adamw,
}


# ---- Layers -------------------------------------------------------------------------------------------


class Layer(NamedTuple):
    """A function of fastgd.nn.functional, and the same of torch.nn.functional."""

    title: str
    function: str
    shape: tuple[int, ...]
    #: bytes that must be moved at least, for each element
    moved: int = 8
    #: arguments of torch's beside the array
    options: Mapping[str, Any] = MappingProxyType({})

    @property
    def nbytes(self) -> int:
        count = self.moved
        for n in self.shape:
            count *= n
        return count


ELEMENTS, ROWS = (64 << 20,), (16384, 4096)

LAYERS = (
    Layer("GELU forward", "gelu", ELEMENTS, options={"approximate": "tanh"}),
    Layer("SiLU forward", "silu", ELEMENTS),
    Layer("ReLU forward", "relu", ELEMENTS),
    Layer("softmax forward", "softmax", ROWS, options={"dim": -1}),
)


def layer_makers(layer: Layer, memory: Any) -> dict[str, Callable[[], Step]]:
    """fastgd's and torch's; NotImplementedError from one that lacks it."""

    def own() -> Step:
        from fastgd.nn import functional

        function = getattr(functional, layer.function)
        x = memory.random(layer.shape, 1)
        return Step(lambda: function(x), captures=False)

    def other() -> Step:
        if memory.torch is None:
            raise NotImplementedError("torch is not there")
        function = getattr(memory.torch.nn.functional, layer.function)
        x = memory.random(layer.shape, 1)
        return Step(lambda: function(x, **layer.options), captures=False)

    return {OWN: own, "torch": other}
