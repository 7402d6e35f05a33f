"""Attention in NumPy: what csrc/attention.c does, block by block of queries, in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.nn import reference_softmax

OK = 0

#: queries whose scores are computed together, as in csrc/attention.c
ROWS = 64

_PLAIN = reference_softmax.Softmax(False)


class Attention(NamedTuple):
    """What fgd_attention is in C."""

    heads: int
    causal: int


class _Head(NamedTuple):
    """Columns of one head, [length, width] each: of q, k and v or of their gradients, and of y or dy."""

    q: Array
    k: Array
    v: Array
    y: Array


def scratch(dtype: Any, of: Attention, batch: int, time: int, dim: int, backward: int) -> int:
    return 0


def _heads(
    of: Attention, batch: int, time: int, dim: int, qkv: Array, y: Array, lengths: Array | None
) -> Iterator[_Head]:
    width = dim // of.heads
    parts = qkv.reshape(batch, time, 3, of.heads, width)
    out = y.reshape(batch, time, of.heads, width)
    for row in range(batch):
        length = time if lengths is None else int(lengths[row])
        for head in range(of.heads):
            q, k, v = (parts[row, :length, i, head] for i in range(3))
            yield _Head(q, k, v, out[row, :length, head])


def _softmax_rows(of: Attention, first: int, p: Array, dp: Array | None = None) -> None:
    """Of scores p [rows, keys] in place, or of the gradients dp of its output p."""
    rows, keys = p.shape
    last = np.arange(first, first + rows) if of.causal else np.full(rows, keys)
    unseen = np.arange(keys) > last[:, None]
    # in sums they count as 0, as if they were not there
    if dp is None:
        p[unseen] = -np.inf
        reference_softmax.forward(p.dtype, _PLAIN, rows, keys, p, p)
        p[unseen] = 0
    else:
        dp[unseen] = 0
        reference_softmax.backward(p.dtype, _PLAIN, rows, keys, p, dp, dp)
        dp[unseen] = 0


def _probabilities(of: Attention, head: _Head, first: int) -> tuple[Array, Array]:
    """Of the block of queries from `first` on: the scaled queries, and the probabilities [rows, keys]."""
    end = min(first + ROWS, len(head.q))
    q = head.q[first:end] * head.q.dtype.type(_scale(head))
    p = np.matmul(q, head.k[: end if of.causal else len(head.k)].T)
    _softmax_rows(of, first, p)
    return q, p


def _scale(head: _Head) -> float:
    return float(1 / np.sqrt(float(head.q.shape[1])))


def forward(
    dtype: Any,
    of: Attention,
    batch: int,
    time: int,
    dim: int,
    qkv: Array,
    lengths: Array | None,
    y: Array,
    scratch: Array | None,
) -> int:
    y[...] = 0
    with np.errstate(all="ignore"):
        for head in _heads(of, batch, time, dim, qkv, y, lengths):
            for first in range(0, len(head.q), ROWS):
                _, p = _probabilities(of, head, first)
                np.matmul(p, head.v[: p.shape[1]], out=head.y[first : first + ROWS])
    return OK


def backward(
    dtype: Any,
    of: Attention,
    batch: int,
    time: int,
    dim: int,
    qkv: Array,
    lengths: Array | None,
    dy: Array,
    dqkv: Array,
    scratch: Array | None,
) -> int:
    dqkv[...] = 0
    heads = _heads(of, batch, time, dim, qkv, dy, lengths)
    gradients = _heads(of, batch, time, dim, dqkv, dy, lengths)
    with np.errstate(all="ignore"):
        for head, gradient in zip(heads, gradients, strict=True):
            last = (len(head.q) - 1) // ROWS * ROWS
            for first in range(last, -1, -ROWS):
                _backward_block(of, head, gradient, first, first < last)
    return OK


def _backward_block(of: Attention, head: _Head, gradient: _Head, first: int, accumulate: bool) -> None:
    def add(into: Array, left: Array, right: Array) -> None:
        if accumulate:
            into[...] = left @ right + into
        else:
            np.matmul(left, right, out=into)

    q, p = _probabilities(of, head, first)
    dy = head.y[first : first + ROWS]
    keys = slice(0, p.shape[1])
    add(gradient.v[keys], p.T, dy)
    dp = np.matmul(dy, head.v[keys].T)
    _softmax_rows(of, first, p, dp)
    add(gradient.k[keys], dp.T, q)
    dq = gradient.q[first : first + ROWS]
    np.matmul(dp, head.k[keys], out=dq)
    dq *= dq.dtype.type(_scale(head))


ENTRIES = {
    "attention_forward": forward,
    "attention_backward": backward,
    "attention_scratch": scratch,
}
DESCRIPTIONS = {"attention": Attention}
