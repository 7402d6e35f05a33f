"""Recurrent layers in NumPy: the formulas of csrc/recurrent_kernels.c in the same order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.reference_activations import FUNCTIONS, logistic

OK = 0
ERROR_OPTION = -8

_tanh, _relu, _sigmoid = FUNCTIONS["tanh"], FUNCTIONS["relu"], FUNCTIONS["sigmoid"]


class Recurrent(NamedTuple):
    """What fgd_recurrent is in C."""

    cell: int
    reverse: int
    directions: int
    last: int
    add_dx: int


#: an array for each gate, of which cells work on one element
Gates = Sequence[Array]


class Cell(NamedTuple):
    """One step of rows, gates by gates: arrays and states [rows, hidden]."""

    gates: int
    shared: int
    has_cell: int
    #: from (of_x, of_h with biases, h, c): what is saved, and the new (h, c)
    forward: Callable[[Gates, Gates, Array, Array], tuple[Gates, Array, Array]]
    #: from (saved, h and c before, c, dh, dy, carry): the derivatives, and the new carry
    backward: Callable[[Gates, Array, Array, Array, Array, Array, Array], tuple[Gates, Array]]

    @property
    def columns(self) -> int:
        return 2 * self.gates - self.shared


def _tanh_of(z: Array) -> Array:
    return _tanh.forward(z, 0.0, 0.0)


def _tanh_back(y: Array, dy: Array) -> Array:
    return _tanh.backward(y, dy, 0.0, 0.0)


def _sigmoid_back(y: Array, dy: Array) -> Array:
    return _sigmoid.backward(y, dy, 0.0, 0.0)


def _rnn(name: str) -> Cell:
    function = FUNCTIONS[name]

    def forward(x: Gates, from_h: Gates, h: Array, c: Array) -> tuple[Gates, Array, Array]:
        y = function.forward(x[0] + from_h[0], 0.0, 0.0)
        return [y], y, c

    def backward(
        y: Gates, h: Array, c_before: Array, c: Array, dh: Array, dy: Array, carry: Array
    ) -> tuple[Gates, Array]:
        return [function.backward(y[0], dh + dy, 0.0, 0.0)], carry

    return Cell(1, 1, 0, forward, backward)


def _lstm_forward(x: Gates, from_h: Gates, h: Array, c: Array) -> tuple[Gates, Array, Array]:
    a = [from_x + of_h for from_x, of_h in zip(x, from_h, strict=True)]
    i, f, g, o = logistic(a[0]), logistic(a[1]), _tanh_of(a[2]), logistic(a[3])
    c = f * c + i * g
    return [i, f, g, o], o * _tanh_of(c), c


def _lstm_backward(
    saved: Gates, h: Array, c_before: Array, c: Array, dh: Array, dy: Array, carry: Array
) -> tuple[Gates, Array]:
    i, f, g, o = saved
    d, t = dh + dy, _tanh_of(c)
    dc = carry + _tanh_back(t, d * o)
    gates = (
        _sigmoid_back(i, dc * g),
        _sigmoid_back(f, dc * c_before),
        _tanh_back(g, dc * i),
        _sigmoid_back(o, d * t),
    )
    return gates, dc * f


def _gru_forward(x: Gates, from_h: Gates, h: Array, c: Array) -> tuple[Gates, Array, Array]:
    r, z = logistic(x[0] + from_h[0]), logistic(x[1] + from_h[1])
    n = _tanh_of(x[2] + r * from_h[2])
    return [r, z, n, from_h[2]], (h - n) * z + n, c


def _gru_backward(
    saved: Gates, h: Array, c_before: Array, c: Array, dh: Array, dy: Array, carry: Array
) -> tuple[Gates, Array]:
    r, z, n, from_h = saved
    d = (dh + carry) + dy
    dn = _tanh_back(n, d * (1 - z))
    return [_sigmoid_back(r, dn * from_h), _sigmoid_back(z, d * (h - n)), dn * r, dn], d * z


#: in the order of csrc/recurrent.def
CELLS = {
    "rnn_tanh": _rnn("tanh"),
    "rnn_relu": _rnn("relu"),
    "lstm": Cell(4, 4, 1, _lstm_forward, _lstm_backward),
    "gru": Cell(3, 2, 0, _gru_forward, _gru_backward),
}


def _cell(of: Recurrent) -> Cell:
    return list(CELLS.values())[of.cell]


class Steps:
    """The rows by descending length, and where each one's step s lies in x and y."""

    def __init__(self, of: Recurrent, batch: int, time: int, lengths: Array | None) -> None:
        length = np.full(batch, time) if lengths is None else lengths
        self.order = np.argsort(-length, kind="stable")
        self.length = length[self.order]
        #: rows that have step s, and how many steps of rows there are before
        self.rows = [int(np.sum(self.length > s)) for s in range(time)] + [0]
        self.first = np.cumsum([0, *self.rows])
        self.total = int(self.first[-1])
        at = [(self.length[:n] - 1 - s if of.reverse else np.full(n, s)) for s, n in enumerate(self.rows)]
        #: for each step of a row, its row of x and its time
        self.row = np.concatenate([self.order[:n] for n in self.rows])
        self.time = np.concatenate(at)


class _Saved(NamedTuple):
    xs: Array
    hs: Array
    gates: Array
    cs: Array


def _saved_of(cell: Cell, batch: int, time: int, inside: int, hidden: int, memory: Array) -> _Saved:
    """x and the state before each step, the gates, and c before the first step and behind each."""
    n = batch * time
    cs = (batch + n) * hidden * cell.has_cell
    ends = np.cumsum([n * inside, n * hidden, n * cell.columns * hidden, cs])
    xs, hs, gates, cells = np.split(memory.reshape(-1)[: ends[-1]], ends[:-1])
    return _Saved(
        xs.reshape(n, inside), hs.reshape(n, hidden), gates.reshape(n, -1, hidden), cells.reshape(-1, hidden)
    )


def _output(of: Recurrent, y: Array, batch: int, hidden: int) -> Array:
    """The direction's half of y: [batch, time, hidden] or [batch, hidden]."""
    shaped = y.reshape(batch, *(() if of.last else (-1,)), of.directions, hidden)
    half: Array = shaped[..., of.directions - 1 if of.reverse else 0, :]
    return half


def saved(of: Recurrent, batch: int, time: int, inside: int, hidden: int) -> int:
    cell = _cell(of)
    n = batch * time
    return n * (inside + hidden + cell.columns * hidden) + cell.has_cell * (batch + n) * hidden


def scratch(dtype: Any, of: Recurrent, batch: int, time: int, hidden: int) -> int:
    return 0


def forward(
    dtype: Any,
    of: Recurrent,
    batch: int,
    time: int,
    inside: int,
    hidden: int,
    x: Array,
    lengths: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    h0: Array | None,
    c0: Array | None,
    y: Array,
    hn: Array | None,
    cn: Array | None,
    saved: Array,
    scratch: Array | None,
) -> int:
    cell, steps = _cell(of), Steps(of, batch, time, lengths)
    xs, hs, gates, cs = _saved_of(cell, batch, time, inside, hidden, saved)
    zero = np.zeros((cell.gates, 1, hidden), x.dtype)
    of_ih = zero if bias_ih is None else bias_ih.reshape(zero.shape)
    of_hh = zero if bias_hh is None else bias_hh.reshape(zero.shape)
    out = _output(of, y, batch, hidden)
    out[...] = 0
    with np.errstate(all="ignore"):
        xs[: steps.total] = x.reshape(batch, time, inside)[steps.row, steps.time]
        of_x = np.matmul(xs[: steps.total], weight_ih.T).reshape(steps.total, cell.gates, hidden)
        h, c = (np.zeros((batch, hidden), x.dtype) if a is None else a[steps.order] for a in (h0, c0))
        if cell.has_cell:
            cs[:batch] = c
        for s in range(time):
            n, begin = steps.rows[s], steps.first[s]
            here = slice(begin, begin + n)
            h, c = h[:n], c[:n]
            hs[here] = h
            of_h = np.matmul(h, weight_hh.T).reshape(n, cell.gates, hidden).swapaxes(0, 1)
            kept, h, c = cell.forward([*(of_x[here].swapaxes(0, 1) + of_ih)], [*(of_h + of_hh)], h, c)
            gates[here] = np.stack(kept, 1)
            if cell.has_cell:
                cs[batch + begin : batch + begin + n] = c
            ended = slice(steps.rows[s + 1], n)
            rows = steps.order[:n]
            if of.last:
                out[rows[ended]] = h[ended]
            else:
                out[rows, steps.time[here]] = h
            if hn is not None:
                hn[rows[ended]] = h[ended]
            if cn is not None and cell.has_cell:
                cn[rows[ended]] = c[ended]
    return OK


def backward(
    dtype: Any,
    of: Recurrent,
    batch: int,
    time: int,
    inside: int,
    hidden: int,
    lengths: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    dy: Array,
    dx: Array | None,
    dweight_ih: Array,
    dweight_hh: Array,
    dbias_ih: Array | None,
    dbias_hh: Array | None,
    saved: Array,
    scratch: Array | None,
) -> int:
    given = lengths, weight_ih, weight_hh, dy, None, dx, dweight_ih, dweight_hh, dbias_ih, dbias_hh
    return backward_states(dtype, of, batch, time, inside, hidden, *given, None, None, saved, scratch)


def backward_states(
    dtype: Any,
    of: Recurrent,
    batch: int,
    time: int,
    inside: int,
    hidden: int,
    lengths: Array | None,
    weight_ih: Array,
    weight_hh: Array,
    dy: Array,
    dcn: Array | None,
    dx: Array | None,
    dweight_ih: Array,
    dweight_hh: Array,
    dbias_ih: Array | None,
    dbias_hh: Array | None,
    dh0: Array | None,
    dc0: Array | None,
    saved: Array,
    scratch: Array | None,
) -> int:
    cell, steps = _cell(of), Steps(of, batch, time, lengths)
    if not cell.has_cell and not (dcn is dc0 is None):
        return ERROR_OPTION
    xs, hs, gates, cs = _saved_of(cell, batch, time, inside, hidden, saved)
    out = _output(of, dy, batch, hidden)
    of_gates = cell.gates * hidden
    with np.errstate(all="ignore"):
        carry = np.zeros((0, hidden), weight_hh.dtype)
        for s in range(time - 1, -1, -1):
            n, after, begin = steps.rows[s], steps.rows[s + 1], steps.first[s]
            here, behind = slice(begin, begin + n), slice(begin + n, begin + n + after)
            new = np.zeros((n - after, hidden), weight_hh.dtype)
            d_next = gates[behind, : cell.gates].reshape(after, of_gates)
            dh = np.concatenate([np.matmul(d_next, weight_hh), new])
            rows = steps.order[:n]
            carry = np.concatenate([carry, new if dcn is None else dcn[rows[after:]]])
            if of.last:
                here_dy = np.zeros_like(dh)
                here_dy[after:] = out[rows[after:]]
            else:
                here_dy = out[rows, steps.time[here]]
            c_from = batch + steps.first[s - 1] if s else 0
            c_before, c = cs[c_from : c_from + n], cs[batch + begin : batch + begin + n]
            kept = gates[here].swapaxes(0, 1)
            given, carry = cell.backward([*kept], hs[here], c_before, c, dh, here_dy, carry)
            gates[here] = np.stack(given, 1)
        if dh0 is not None:
            of_h = np.matmul(gates[:batch, : cell.gates].reshape(batch, of_gates), weight_hh)
            dh0[steps.order] = of_h if cell.has_cell else of_h + carry
        if dc0 is not None:
            dc0[steps.order] = carry
        total, shared = steps.total, cell.shared * hidden
        d = gates[:total].reshape(total, -1)
        if dbias_ih is not None and dbias_hh is not None:
            sums = np.zeros(d.shape[1])
            for row in d:
                sums += row
            dbias_hh.reshape(-1)[...] = sums[:of_gates]
            dbias_ih.reshape(-1)[...] = np.concatenate([sums[:shared], sums[of_gates:]])
        np.matmul(d[:, :of_gates].T, hs[:total], out=dweight_hh)
        np.matmul(d[:, :shared].T, xs[:total], out=dweight_ih[:shared])
        if shared < of_gates:
            np.matmul(d[:, of_gates:].T, xs[:total], out=dweight_ih[shared:])
        if dx is not None:
            dxs = np.matmul(d[:, :shared], weight_ih[:shared])
            if shared < of_gates:
                dxs = np.matmul(d[:, of_gates:], weight_ih[shared:]) + dxs
            into = dx.reshape(batch, time, inside)
            if not of.add_dx:
                into[...] = 0
                into[steps.row, steps.time] = dxs
            else:
                into[steps.row, steps.time] += dxs
    return OK


ENTRIES = {
    "recurrent_forward": forward,
    "recurrent_backward": backward,
    "recurrent_backward_states": backward_states,
    "recurrent_saved": saved,
    "recurrent_scratch": scratch,
    "cell_find": lambda name: list(CELLS).index(name.decode()),
}
DESCRIPTIONS = {"recurrent": Recurrent}
