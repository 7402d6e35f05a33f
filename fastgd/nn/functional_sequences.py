"""Functions of nn.functional for sequences x [batch, time, features]: recurrent ones and attention.

lengths: integers 1 to time, [batch], where sequences end at different places, as nn.Sequences has them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.attention import MultiheadAttention
from fastgd.nn.calls import Pair, backward_of, checked, given_array
from fastgd.nn.eager import passes, undrawn
from fastgd.nn.positions import PositionalEmbedding
from fastgd.nn.recurrent import GRU, LSTM, RNN, Recurrent
from fastgd.nn.sequential import checked_lengths

__all__ = [
    "gru",
    "gru_backward",
    "lstm",
    "lstm_backward",
    "multi_head_attention",
    "multi_head_attention_backward",
    "positional_embedding",
    "positional_embedding_backward",
    "rnn",
    "rnn_backward",
]


def _sequences(x: Any, lengths: Any) -> tuple[Array, Array | None]:
    x = checked("x", x, shape=("batch", "time", "features"))
    if lengths is None:
        return x, None
    if not isinstance(given_array("lengths", lengths), np.ndarray):
        raise ValueError("lengths must be on the host, wherever x is: they decide what is computed")
    return x, checked_lengths(lengths, x.shape)


def _together(**given: Any) -> bool:
    """Whether they are given; ValueError unless all are, or none."""
    there = {name: array is not None for name, array in given.items()}
    if len(set(there.values())) > 1:
        raise ValueError(f"{' and '.join(given)} must both be given, or neither")
    return all(there.values())


def _recurrent(
    name: str,
    cls: type[Recurrent],
    x: Any,
    parameters: tuple[Any, Any, Any, Any],
    lengths: Any,
    states: dict[str, Any],
    out: Any,
    backend: str,
    **options: Any,
) -> Pair:
    x, lengths = _sequences(x, lengths)
    weight_ih, weight_hh, bias_ih, bias_hh = parameters
    weight_ih = checked("weight_ih", weight_ih, x.dtype, ("rows", x.shape[2]), ("x", x))
    weight_hh = checked("weight_hh", weight_hh, x.dtype, ("rows", "hidden"), ("x", x))
    options["bias"] = _together(bias_ih=bias_ih, bias_hh=bias_hh)
    options["carry"] = _together(**states)
    layer = undrawn(cls)(x.shape[2], weight_hh.shape[1], dtype=x.dtype, **options)
    own = layer.carried_states(x.shape[0], 0)
    given = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
    changed = {
        state: (mine, states[state]) for state, mine in zip("hc", own, strict=True) if mine is not None
    }
    return passes(name, layer, x, given, out, backend, lengths=lengths, states=changed, spares=True)


def rnn(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    nonlinearity: str = "tanh",
    *,
    lengths: Any = None,
    h: Any = None,
    output: str = "sequence",
    out: Any = None,
    backend: str = "auto",
) -> Pair:
    """As nn.RNN with one layer and one direction, for x [batch, time, in].

    weight_ih, weight_hh, bias_ih, bias_hh: [hidden, in], [hidden, hidden], and [hidden] both, or neither.
    h: the state [batch, hidden] that sequences begin with, which is changed in place to that at their end.
        Gradients end there: it has none. Default None: they begin with 0.
    output: as the layer's.
    """
    parameters, options = (weight_ih, weight_hh, bias_ih, bias_hh), {"output": output}
    options["nonlinearity"] = nonlinearity
    return _recurrent("rnn", RNN, x, parameters, lengths, {"h": h}, out, backend, **options)


def lstm(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    lengths: Any = None,
    h: Any = None,
    c: Any = None,
    output: str = "sequence",
    out: Any = None,
    backend: str = "auto",
) -> Pair:
    """As nn.LSTM with one layer and one direction, for x [batch, time, in].

    weight_ih, weight_hh, bias_ih, bias_hh: [4 hidden, in], [4 hidden, hidden], and [4 hidden] both, or
        neither.
    h, c: the state, both or neither; with output, they are as rnn's.
    """
    parameters, states = (weight_ih, weight_hh, bias_ih, bias_hh), {"h": h, "c": c}
    return _recurrent("lstm", LSTM, x, parameters, lengths, states, out, backend, output=output)


def gru(
    x: Any,
    weight_ih: Any,
    weight_hh: Any,
    bias_ih: Any = None,
    bias_hh: Any = None,
    *,
    lengths: Any = None,
    h: Any = None,
    output: str = "sequence",
    out: Any = None,
    backend: str = "auto",
) -> Pair:
    """As nn.GRU with one layer and one direction, for x [batch, time, in].

    weight_ih, weight_hh, bias_ih, bias_hh: [3 hidden, in], [3 hidden, hidden], and [3 hidden] both, or
        neither.
    h, output: as rnn's.
    """
    parameters = weight_ih, weight_hh, bias_ih, bias_hh
    return _recurrent("gru", GRU, x, parameters, lengths, {"h": h}, out, backend, output=output)


rnn_backward = backward_of("rnn", "(dx, dweight_ih, dweight_hh, dbias_ih, dbias_hh)")
lstm_backward = backward_of("lstm", "(dx, dweight_ih, dweight_hh, dbias_ih, dbias_hh)")
gru_backward = backward_of("gru", "(dx, dweight_ih, dweight_hh, dbias_ih, dbias_hh)")


def multi_head_attention(
    x: Any,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    out_proj_weight: Any,
    out_proj_bias: Any,
    *,
    causal: bool = False,
    lengths: Any = None,
    out: Any = None,
    backend: str = "auto",
) -> Pair:
    """As nn.MultiheadAttention: self-attention for x [batch, time, dim].

    num_heads, causal: as the layer's.
    in_proj_weight, out_proj_weight: [3 dim, dim] and [dim, dim].
    in_proj_bias, out_proj_bias: [3 dim] and [dim], or None for both.
    """
    x, lengths = _sequences(x, lengths)
    dim = x.shape[2]
    bias = _together(in_proj_bias=in_proj_bias, out_proj_bias=out_proj_bias)
    layer = undrawn(MultiheadAttention)(dim, num_heads, bias, causal=causal, dtype=x.dtype)
    given = {
        "in_proj_weight": checked("in_proj_weight", in_proj_weight, x.dtype, (3 * dim, dim), ("x", x)),
        "in_proj_bias": in_proj_bias,
        "out_proj_weight": checked("out_proj_weight", out_proj_weight, x.dtype, (dim, dim), ("x", x)),
        "out_proj_bias": out_proj_bias,
    }
    return passes("multi_head_attention", layer, x, given, out, backend, lengths=lengths)


multi_head_attention_backward = backward_of(
    "multi_head_attention", "(dx, din_proj_weight, din_proj_bias, dout_proj_weight, dout_proj_bias)"
)


def positional_embedding(x: Any, weight: Any, *, out: Any = None, backend: str = "auto") -> Pair:
    """As nn.PositionalEmbedding: y = x + weight[:time], x being [batch, time, dim].

    weight: [max_time, dim]; its gradient is 0 for steps that x does not have.
    """
    x, _ = _sequences(x, None)
    weight = checked("weight", weight, x.dtype, ("max_time", x.shape[2]), ("x", x))
    layer = undrawn(PositionalEmbedding)(*weight.shape, dtype=x.dtype)
    return passes("positional_embedding", layer, x, {"weight": weight}, out, backend)


positional_embedding_backward = backward_of("positional_embedding", "(dx, dweight)")
