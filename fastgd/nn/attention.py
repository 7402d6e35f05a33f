"""MultiheadAttention: each step of a sequence becomes a mean of what all steps have to say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.activations import Activation
from fastgd.nn.base import Backward, Layer
from fastgd.nn.layers import checked_dtype, checked_size
from fastgd.nn.program import Builder, Shape, Value


class MultiheadAttention(Layer):
    """Self-attention with several heads, for x [batch, time, embed_dim]; y has the same shape.

    Vaswani et al. 2017, section 3.2: of q, k, v = x in_proj_weight' + in_proj_bias, embed_dim columns each,
    every head has embed_dim / num_heads, and makes of them softmax(q k' / sqrt(embed_dim / num_heads)) v; the
    heads side by side go through out_proj. It is torch.nn.MultiheadAttention(batch_first=True) with x as
    query, key and value. Nothing in it knows the order of steps: see PositionalEmbedding.

    embed_dim: numbers of a step, 1 or more.
    num_heads: 1 or more; divides embed_dim.
    bias: whether both projections have a bias. Default True.
    causal: True: a step sees itself and those before it alone. Default False: all.
    dtype: of parameters and activations, float32 (default) or float64.
    seed: an integer or a numpy Generator the parameters are drawn with. Default None: differently each time.

    Parameters are in_proj_weight [3 embed_dim, embed_dim], in_proj_bias [3 embed_dim], out_proj.weight
    [embed_dim, embed_dim] and out_proj.bias [embed_dim], fixed arrays, to be changed in place. They start as
    torch's: in_proj_weight uniform in +-sqrt(6 / (4 embed_dim)) (Glorot and Bengio 2010, equation 16),
    out_proj.weight in +-1 / sqrt(embed_dim), and biases as 0.

    Where sequences have lengths of their own (Sequences), no step sees those behind the end, whose y is 0 and
    which have no gradient; their x must be finite. Memory grows with time, not with its square: probabilities
    are computed a second time for the gradients. Raises TypeError or ValueError for arguments that are none.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        bias: bool = True,
        *,
        causal: bool = False,
        dtype: Any = np.float32,
        seed: int | np.random.Generator | None = None,
    ) -> None:
        self.embed_dim = checked_size("embed_dim", embed_dim)
        self.num_heads = checked_size("num_heads", num_heads)
        if self.embed_dim % self.num_heads:
            raise ValueError(f"num_heads must divide embed_dim, but {num_heads} does not divide {embed_dim}")
        self.bias, self.causal, self.dtype = bool(bias), bool(causal), checked_dtype(dtype)
        shapes: dict[str, Shape] = {
            "in_proj_weight": (3 * self.embed_dim, self.embed_dim),
            "in_proj_bias": (3 * self.embed_dim,),
            "out_proj.weight": (self.embed_dim, self.embed_dim),
            "out_proj.bias": (self.embed_dim,),
        }
        self._parameters = {
            name: np.empty(shape, self.dtype)
            for name, shape in shapes.items()
            if self.bias or not name.endswith("bias")
        }
        self.reset_parameters(np.random.default_rng(seed))

    def __repr__(self) -> str:
        causal = ", causal=True" if self.causal else ""
        return f"MultiheadAttention({self.embed_dim}, {self.num_heads}, bias={self.bias}{causal})"

    def parameters(self) -> dict[str, Array]:
        return dict(self._parameters)

    def reset_parameters(self, rng: np.random.Generator) -> None:
        bounds = {
            "in_proj_weight": math.sqrt(6 / (4 * self.embed_dim)),
            "out_proj.weight": 1 / math.sqrt(self.embed_dim),
        }
        for name, array in self._parameters.items():
            bound = bounds.get(name, 0.0)
            array[...] = rng.uniform(-bound, bound, array.shape) if bound else 0

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 3 or shape[1] < 1 or shape[2] != self.embed_dim:
            raise ValueError(f"{self} takes [batch, time, {self.embed_dim}], not {list(shape)}")
        return shape

    def bind(self, to: Builder, x: Value, activation: Activation | None = None) -> tuple[Value, Backward]:
        batch, time, dim = x.shape
        weight_in, weight_out = self._parameters["in_proj_weight"], self._parameters["out_proj.weight"]
        bias_in, bias_out = self._parameters.get("in_proj_bias"), self._parameters.get("out_proj.bias")
        sizes_in, sizes_out = (batch * time, dim, 3 * dim), (batch * time, dim, dim)
        of = to.kernels.describe("attention", self.num_heads, self.causal)
        none = to.kernels.activation("identity")
        qkv, heads, y = to.value((batch, time, 3 * dim)), to.value(x.shape), to.value(x.shape)

        def scratch(backward: bool) -> Value:
            arguments = to.kernels.dtype(to.dtype), of, *x.shape, backward
            return to.value((to.kernels.attention_scratch(*arguments),), np.float64)

        def cut(steps: Value) -> None:
            if to.lengths is not None:
                to.emit("cut", to.kernels.null, x.shape, (to.lengths, steps))

        to.emit("linear_forward", none, sizes_in, (x, weight_in, bias_in, None, qkv))
        to.emit("attention_forward", of, x.shape, (qkv, to.lengths, heads, scratch(False)))
        to.emit("linear_forward", none, sizes_out, (heads, weight_out, bias_out, None, y))
        cut(y)

        def backward(dy: Value, needs_dx: bool) -> Value | None:
            cut(dy)
            dheads, dqkv = to.value(x.shape), to.value(qkv.shape)
            gradients = to.gradient(weight_out), to.gradient(bias_out)
            to.emit("linear_backward", none, sizes_out, (heads, weight_out, None, dy, dheads, *gradients))
            to.emit("attention_backward", of, x.shape, (qkv, to.lengths, dheads, dqkv, scratch(True)))
            dx = to.value(x.shape) if needs_dx else None
            gradients = to.gradient(weight_in), to.gradient(bias_in)
            to.emit("linear_backward", none, sizes_in, (x, weight_in, None, dqkv, dx, *gradients))
            return dx

        return y, backward
