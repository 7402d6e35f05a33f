"""Recurrent layers with the signatures of torch.lstm, torch.gru, torch.rnn_tanh and torch.rnn_relu.

An operator is one direction of one layer; layers, directions and the order of dimensions are made of it here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastgd.torch.narrow import widened
from fastgd.torch.recurrent import CELLS, DIRECTION


def _ends(y: Tensor, lengths: Tensor | None, reverse: bool) -> Tensor:
    """The state behind all steps [batch, hidden], of the output [batch, time, hidden]."""
    if reverse or lengths is None:
        return y[:, 0 if reverse else -1]
    return y[torch.arange(y.shape[0]), lengths - 1]


def _directions(
    params: Sequence[Tensor], has_biases: bool, num_layers: int, bidirectional: bool, cell: str
) -> Iterator[list[tuple[Tensor | None, ...]]]:
    """For each layer, for each of its directions (weight_ih, weight_hh, bias_ih, bias_hh)."""
    each, ways = 4 if has_biases else 2, 2 if bidirectional else 1
    if len(params) != each * ways * num_layers:
        raise ValueError(
            f"params must hold {each * ways * num_layers} tensors, {each} for each direction of each layer, "
            f"not {len(params)}"
        )
    for first in range(0, len(params), each * ways):
        here = params[first : first + each * ways]
        yield [(*here[i : i + each], *(None,) * (4 - each)) for i in range(0, each * ways, each)]


def _check_shapes(parameters: Sequence[Tensor | None], inside: int, cell: str, layer: str) -> int:
    """The hidden size; RuntimeError that names what does not fit."""
    weight_hh = parameters[1]
    assert weight_hh is not None
    if weight_hh.dim() != 2:
        raise RuntimeError(f"weight_hh_{layer} must have 2 dimensions, not {weight_hh.dim()}")
    gates, hidden = CELLS[cell].gates, weight_hh.shape[1]
    rows = gates * hidden
    wanted = ((rows, inside), (rows, hidden), (rows,), (rows,))
    for name, array, shape in zip(
        ("weight_ih", "weight_hh", "bias_ih", "bias_hh"), parameters, wanted, strict=True
    ):
        if array is not None and tuple(array.shape) != shape:
            raise RuntimeError(f"{name}_{layer} must have shape {[*shape]}, not {[*array.shape]}")
    return hidden


def _checked_lengths(lengths: Any, batch: int, time: int) -> Tensor | None:
    if lengths is None:
        return None
    found = torch.as_tensor(lengths)
    if found.dtype.is_floating_point or tuple(found.shape) != (batch,) or found.device.type != "cpu":
        raise ValueError(f"lengths must be {batch} integers on the CPU, one for each sequence")
    if not torch.compiler.is_compiling() and bool(((found < 1) | (found > time)).any()):
        raise ValueError(f"lengths must be 1 to {time}, not {found.tolist()}")
    return found.to(torch.int64).contiguous()


def _recurrent(
    cell: str,
    input: Tensor,
    states: Sequence[Tensor | None],
    params: Sequence[Tensor] | Mapping[str, Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
    lengths: Any,
) -> tuple[Tensor, ...]:
    """The output, h_n, and c_n where the cell has it; states: h and c, or None for each."""
    if input.dim() not in (2, 3):
        raise RuntimeError(f"input must have 2 or 3 dimensions, not {input.dim()}")
    single = input.dim() == 2
    if single:
        x, states = input.unsqueeze(0), [None if s is None else s.unsqueeze(1) for s in states]
    else:
        x = input if batch_first else input.transpose(0, 1)
    batch, time, inside = x.shape
    if not x.numel():
        raise RuntimeError(f"input holds nothing (shape {[*input.shape]})")
    checked = _checked_lengths(lengths, batch, time)
    given = list(params.values()) if isinstance(params, Mapping) else list(params)
    ways, ends, cells = 2 if bidirectional else 1, [], []
    for k, layer in enumerate(_directions(given, has_biases, num_layers, bidirectional, cell)):
        outputs = []
        for way, parameters in enumerate(layer):
            hidden = _check_shapes(parameters, inside, cell, f"l{k}{'_reverse' * way}")
            for name, state in zip(("h", "c"), states, strict=False):
                wanted = (num_layers * ways, batch, hidden)
                if state is not None and tuple(state.shape) != wanted:
                    raise RuntimeError(f"{name} of hx must have shape {[*wanted]}, not {[*state.shape]}")
            begin = [None if s is None else s[k * ways + way] for s in states]
            y, c_n, _ = DIRECTION(
                x, *parameters, *begin, *[None] * (2 - len(begin)), checked, cell, bool(way)
            )
            outputs.append(y)
            ends.append(_ends(y, checked, bool(way)))
            cells.append(c_n)
        x = outputs[0] if ways == 1 else torch.cat(outputs, -1)
        inside = x.shape[-1]
        if dropout and train and k < num_layers - 1:
            x = torch.dropout(x, dropout, True)
    made = [torch.stack(ends), *([torch.stack(cells)] if len(states) == 2 else [])]
    if single:
        return (x[0], *(state[:, 0] for state in made))
    return (x if batch_first else x.transpose(0, 1), *made)


@widened
def lstm(
    input: Tensor,
    hx: Sequence[Tensor] | None,
    params: Sequence[Tensor] | Mapping[str, Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    lengths: Any = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(output, h_n, c_n) of long short-term memory (Hochreiter and Schmidhuber 1997), as torch.lstm.

    input: [time, batch, in], with batch_first [batch, time, in], or [time, in].
    hx: (h_0, c_0), each [num_layers * directions, batch, hidden]. None: zeros.
    params: of torch.nn.LSTM, in its order: weight_ih_l0 [4 hidden, in], weight_hh_l0, bias_ih_l0, bias_hh_l0,
        then those with _reverse, then the next layer's; or a mapping in this order, such as
        dict(module.named_parameters()). Without biases there are two for each.
    dropout: between layers, where `train` is True.
    lengths: integers 1 to time [batch], on the CPU: output is 0 behind a row's end, and h_n and c_n are the
        states there. Default None: all are of full length.
    """
    states = (None, None) if hx is None else tuple(hx)
    if len(states) != 2:
        raise RuntimeError(f"hx must be (h_0, c_0), not {len(states)} tensors")
    options = has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths
    output, h_n, c_n = _recurrent("lstm", input, states, params, *options)
    return output, h_n, c_n


@widened
def gru(
    input: Tensor,
    hx: Tensor | None,
    params: Sequence[Tensor] | Mapping[str, Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    lengths: Any = None,
) -> tuple[Tensor, Tensor]:
    """(output, h_n) of gated recurrent units (Cho et al. 2014), as torch.gru; hx: h_0. The rest is lstm's."""
    options = has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths
    output, h_n = _recurrent("gru", input, [hx], params, *options)
    return output, h_n


@widened
def rnn_tanh(
    input: Tensor,
    hx: Tensor | None,
    params: Sequence[Tensor] | Mapping[str, Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    lengths: Any = None,
) -> tuple[Tensor, Tensor]:
    """(output, h_n) of h_t = tanh(W x_t + b + V h_(t-1) + c) (Elman 1990); hx: h_0. The rest is lstm's."""
    options = has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths
    output, h_n = _recurrent("rnn_tanh", input, [hx], params, *options)
    return output, h_n


@widened
def rnn_relu(
    input: Tensor,
    hx: Tensor | None,
    params: Sequence[Tensor] | Mapping[str, Tensor],
    has_biases: bool = True,
    num_layers: int = 1,
    dropout: float = 0.0,
    train: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
    *,
    lengths: Any = None,
) -> tuple[Tensor, Tensor]:
    """rnn_tanh with max(z, 0) for tanh."""
    options = has_biases, num_layers, dropout, train, bidirectional, batch_first, lengths
    output, h_n = _recurrent("rnn_relu", input, [hx], params, *options)
    return output, h_n
