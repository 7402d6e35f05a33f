"""Forward and backward passes on plain arrays, a function each: for models that are no Sequential.

    import fastgd
    import numpy as np
    from fastgd.nn import functional as F

    rng = np.random.default_rng(0)
    x = rng.standard_normal((32, 10), dtype=np.float32)
    labels = np.argmax(x[:, :3], axis=1)
    w1, b1 = rng.uniform(-0.3, 0.3, (20, 10)).astype(np.float32), np.zeros(20, np.float32)
    w2, b2 = rng.uniform(-0.2, 0.2, (3, 20)).astype(np.float32), np.zeros(3, np.float32)
    opt = fastgd.AdamW([w1, b1, w2, b2], lr=0.01)

    for _ in range(100):
        h, of_h = F.linear(x, w1, b1, activation="relu")
        logits, of_logits = F.linear(h, w2, b2)
        loss, dlogits = F.cross_entropy(logits, labels)
        dh, dw2, db2 = F.linear_backward(dlogits, of_logits)
        _, dw1, db1 = F.linear_backward(dh, of_h, needs_dx=False)
        opt.step([dw1, db1, dw2, db2])

A function `name` returns (y, saved), and `name_backward(dy, saved)` returns its gradients, in the order of
its arguments. A loss returns (loss, its gradient with respect to the prediction). There is a function for
every activation, by its name: `relu`, `gelu`, `leaky_relu` and so on. Convolutions and pooling
are written in functional_spatial.py, recurrent layers and attention in functional_sequences.py.

x is [..., features] of float32 or float64 where nothing else is said, and other arrays are of its dtype.
What went in and came out must stay as it is until the backward pass. out: an array to put y in, or the
gradient of a loss; it shares no memory with what goes in. backend: "auto" (default), "native", "reference"
(NumPy) or "cuda".

Arrays may lie on a CUDA device, all of a call on the same one: CuPy's, torch's, Numba's, or what came of
another function, with the bits that they have on the CPU but for matrix products, which are torch's or
CuPy's. Results are fastgd.memory.DeviceArray, whose host() is a copy; a loss is one as well, float64 [].
Nothing waits for the device, which is why labels and indices out of range give NaN there and no error.
Lengths of sequences stay on the host. Convolutions, pooling and attention are not there yet.

Raises TypeError or ValueError, naming the argument, for what is wrong with one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn import losses
from fastgd.nn.activations import ACTIVATIONS, Activation, activation_of, bound, finite
from fastgd.nn.base import Loss
from fastgd.nn.calls import (
    Call,
    Pair,
    backward_of,
    checked,
    loss_and_grad,
    optional,
    presented,
    room,
)
from fastgd.nn.dropout import checked_probability
from fastgd.nn.embedding import INT64, checked_padding, out_of_range
from fastgd.nn.functional_sequences import *  # noqa: F403  (what their __all__ names)
from fastgd.nn.functional_spatial import *  # noqa: F403  (what their __all__ names)
from fastgd.nn.layers import checked_size

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Any]:
        """The activations and their backward passes, which come of the table of activations."""


# ---- Activations -------------------------------------------------------------------------------------


def _activation(kind: str, cls: type[Activation]) -> Callable[..., Pair]:
    def forward(x: Any, *parameters: Any, out: Any = None, backend: str = "auto", **named: Any) -> Pair:
        x = checked("x", x)
        call = Call(backend, x)
        does, saves_input = bound(call.kernels, cls(*parameters, **named))
        y = room("out", out, x.shape, ("x", x), [x])
        call("activation_forward", does, (x.size,), (x, y))
        kept = x if saves_input else y

        def backward(dy: Array, dx: Array | None) -> None:
            if dx is not None:
                call("activation_backward", does, (dy.size,), (kept, dy, dx))

        return y, call.saved(kind, y, {"dx": x}, [kept], backward, in_place=True)

    return presented(forward, kind, cls)


for _kind, _cls in ACTIVATIONS.items():
    globals()[_kind] = _activation(_kind, _cls)
    globals()[f"{_kind}_backward"] = backward_of(_kind, "dx")


# ---- Layers with parameters --------------------------------------------------------------------------


def linear(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    activation: str | Activation | None = None,
    out: Any = None,
    backend: str = "auto",
) -> Pair:
    """y = activation(x weight' + bias), for x [..., in], weight [out, in] and bias [out].

    activation: a name or a layer such as nn.GELU(). Default None.
    """
    x = checked("x", x, shape=(..., "in"))
    weight = checked("weight", weight, x.dtype, ("out", x.shape[-1]), ("x", x))
    bias = optional("bias", bias, x.dtype, weight.shape[:1], ("x", x))
    call = Call(backend, x)
    does, saves_input = bound(call.kernels, activation_of(activation))
    sizes = math.prod(x.shape[:-1]), weight.shape[1], weight.shape[0]
    y = room("out", out, (*x.shape[:-1], weight.shape[0]), ("x", x), [x, weight, bias])
    z = call.empty(y.shape) if saves_input else None
    call("linear_forward", does, sizes, (x, weight, bias, z, y))
    kept = y if z is None else z

    def backward(dy: Array, *gradients: Array | None) -> None:
        call("linear_backward", does, sizes, (x, weight, kept, call.copy(dy), *gradients))

    inputs = {"dx": x, "dweight": weight, "dbias": bias}
    return y, call.saved("linear", y, inputs, [x, weight, kept], backward)


linear_backward = backward_of("linear", "(dx, dweight, dbias)")


def _row_norm(
    name: str,
    x: Any,
    shape: Any,
    weight: Any,
    bias: Any,
    centered: bool,
    eps: float | None,
    out: Any,
    backend: str,
) -> Pair:
    sizes = shape if isinstance(shape, Iterable) else [shape]
    wanted = tuple(checked_size("normalized_shape", size) for size in sizes)
    x = checked("x", x, shape=(..., *wanted))
    weight, bias = (
        optional(n, a, x.dtype, wanted, ("x", x)) for n, a in (("weight", weight), ("bias", bias))
    )
    if bias is not None and weight is None:
        raise ValueError("bias needs a weight")
    call = Call(backend, x)
    chosen = float(np.finfo(x.dtype).eps) if eps is None else finite("eps", eps, 0)
    of = call.kernels.describe("layer_norm", centered, chosen)
    cols = math.prod(wanted)
    rows = x.size // cols
    y = room("out", out, x.shape, ("x", x), [x, weight, bias])
    stats = call.empty((rows, 2), np.float64)
    call("layer_norm_forward", of, (rows, cols), (x, weight, bias, stats, y))

    def backward(dy: Array, dx: Array | None, dweight: Array | None, dbias: Array | None = None) -> None:
        scratch = call.empty((call.kernels.layer_norm_scratch(rows, cols),), np.float64)
        given = (x, weight, stats, dy, dx, dweight, dbias, scratch)
        call("layer_norm_backward", of, (rows, cols), given)

    inputs = {"dx": x, "dweight": weight, **({"dbias": bias} if centered else {})}
    return y, call.saved(name, y, inputs, [x, weight], backward, in_place=True)


def layer_norm(
    x: Any,
    normalized_shape: int | Iterable[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *,
    out: Any = None,
    backend: str = "auto",
) -> Pair:
    """As nn.LayerNorm: x [..., *normalized_shape], weight and bias of normalized_shape."""
    return _row_norm("layer_norm", x, normalized_shape, weight, bias, True, eps, out, backend)


layer_norm_backward = backward_of("layer_norm", "(dx, dweight, dbias)")


def rms_norm(
    x: Any,
    normalized_shape: int | Iterable[int],
    weight: Any = None,
    eps: float | None = None,
    *,
    out: Any = None,
    backend: str = "auto",
) -> Pair:
    """As nn.RMSNorm: x [..., *normalized_shape], weight of normalized_shape."""
    return _row_norm("rms_norm", x, normalized_shape, weight, None, False, eps, out, backend)


rms_norm_backward = backward_of("rms_norm", "(dx, dweight)")


def batch_norm(
    x: Any,
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    out: Any = None,
    backend: str = "auto",
) -> Pair:
    """As nn.BatchNorm1d and 2d: x [batch, channels, ...], the others [channels].

    training: whether mean and variance are the batch's, and running_mean and running_var are changed, in
        place, if they are given. They are the batch's, too, where none are given.
    """
    x = checked("x", x)
    if x.ndim < 2 or not x.size:
        raise ValueError(f"x must have shape [batch, channels, ...] and hold numbers, not {list(x.shape)}")
    sizes = (x.shape[0], x.shape[1], math.prod(x.shape[2:]))
    given = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    mean, var, weight, bias = (optional(n, a, x.dtype, x.shape[1:2], ("x", x)) for n, a in given.items())
    if (mean is None) != (var is None) or (bias is not None and weight is None):
        raise ValueError("running_mean needs running_var, and bias a weight")
    if training and sizes[0] * sizes[2] < 2:
        raise ValueError(f"x must hold more than 1 value per channel when training, not {list(x.shape)}")
    for name, own in (("running_mean", mean), ("running_var", var)):
        if training and own is not None:
            room(name, given[name], own.shape, ("x", x), [])
    call = Call(backend, x)
    part = finite("momentum", momentum, 0)
    if part > 1:
        raise ValueError(f"momentum must be at most 1, not {momentum}")
    of = call.kernels.describe("batch_norm", mean is not None and not training, finite("eps", eps, 0), part)
    y = room("out", out, x.shape, ("x", x), [x, weight, bias, mean, var])
    stats = call.empty((sizes[1], 2), np.float64)
    count = None if mean is None else np.zeros(1, np.int64)
    call("batch_norm_forward", of, sizes, (x, weight, bias, mean, var, count, stats, y))

    def backward(dy: Array, *gradients: Array | None) -> None:
        call("batch_norm_backward", of, sizes, (x, weight, stats, dy, *gradients))

    inputs = {"dx": x, "dweight": weight, "dbias": bias}
    return y, call.saved("batch_norm", y, inputs, [x, weight], backward, in_place=True)


batch_norm_backward = backward_of("batch_norm", "(dx, dweight, dbias)")


def embedding(
    x: Any, weight: Any, padding_idx: int | None = None, *, out: Any = None, backend: str = "auto"
) -> Pair:
    """y [..., dim] = the rows of weight [rows, dim] that x [...], int64, says.

    padding_idx: an index that has no gradient. Default None. ValueError that names an index out of range.
    """
    x = checked("x", x, INT64)
    weight = checked("weight", weight, shape=("rows", "dim"), beside=("x", x))
    padding = checked_padding(padding_idx, weight.shape[0])
    if isinstance(x, np.ndarray) and ((x < 0) | (x >= weight.shape[0])).any():
        raise out_of_range(x, weight.shape[0])
    call = Call(backend, weight)
    of = call.kernels.describe("embedding", -1 if padding is None else padding)
    sizes = x.size, *weight.shape
    y = room("out", out, (*x.shape, weight.shape[1]), ("weight", weight), [x, weight])
    call("embedding_forward", of, sizes, (x, weight, y))

    def backward(dy: Array, dweight: Array) -> None:
        call("embedding_backward", of, sizes, (x, dy, dweight))

    return y, call.saved("embedding", y, {"dweight": weight}, [x], backward)


embedding_backward = backward_of("embedding", "dweight")

# ---- Layers without parameters -----------------------------------------------------------------------


def _softmax(name: str, log: bool, x: Any, out: Any, backend: str) -> Pair:
    x = checked("x", x, shape=(..., "classes"))
    call = Call(backend, x)
    of, sizes = call.kernels.describe("softmax", log), (math.prod(x.shape[:-1]), x.shape[-1])
    y = room("out", out, x.shape, ("x", x), [x])
    call("softmax_forward", of, sizes, (x, y))

    def backward(dy: Array, dx: Array | None) -> None:
        if dx is not None:
            call("softmax_backward", of, sizes, (y, dy, dx))

    return y, call.saved(name, y, {"dx": x}, [y], backward, in_place=True)


def softmax(x: Any, *, out: Any = None, backend: str = "auto") -> Pair:
    """As nn.Softmax, over the last dimension of x [..., classes]."""
    return _softmax("softmax", False, x, out, backend)


def log_softmax(x: Any, *, out: Any = None, backend: str = "auto") -> Pair:
    """As nn.LogSoftmax, over the last dimension of x [..., classes]."""
    return _softmax("log_softmax", True, x, out, backend)


softmax_backward = backward_of("softmax", "dx")
log_softmax_backward = backward_of("log_softmax", "dx")


def dropout(x: Any, p: float = 0.5, *, seed: int, out: Any = None, backend: str = "auto") -> Pair:
    """As nn.Dropout while training; calls with one seed, 0 to 2^64 - 1, have one mask."""
    x = checked("x", x)
    call = Call(backend, x)
    of = call.kernels.describe("dropout", checked_probability("p", p), 0)
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**64:
        raise ValueError(f"seed must be an integer from 0 to 2^64 - 1, not {seed!r}")
    bits = np.array([seed], np.uint64), np.zeros(1, np.uint64)
    y = room("out", out, x.shape, ("x", x), [x])
    call("dropout_forward", of, (x.size,), (x, *bits, y))

    def backward(dy: Array, dx: Array | None) -> None:
        if dx is not None:
            call("dropout_backward", of, (dy.size,), (dy, *bits, dx))

    return y, call.saved("dropout", y, {"dx": x}, [], backward, in_place=True)


dropout_backward = backward_of("dropout", "dx")

# ---- Losses ------------------------------------------------------------------------------------------


def _loss(name: str, cls: type[Loss]) -> Callable[..., tuple[float, Array]]:
    def call(
        prediction: Any, y: Any, *parameters: Any, out: Any = None, backend: str = "auto", **named: Any
    ) -> tuple[float, Array]:
        return loss_and_grad(cls(*parameters, **named), prediction, y, out, backend)

    return presented(call, name, cls)


cross_entropy = _loss("cross_entropy", losses.CrossEntropyLoss)
mse_loss = _loss("mse_loss", losses.MSELoss)
l1_loss = _loss("l1_loss", losses.L1Loss)
huber_loss = _loss("huber_loss", losses.HuberLoss)
smooth_l1_loss = _loss("smooth_l1_loss", losses.SmoothL1Loss)
binary_cross_entropy_with_logits = _loss("binary_cross_entropy_with_logits", losses.BCEWithLogitsLoss)
