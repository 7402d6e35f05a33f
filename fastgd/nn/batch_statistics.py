"""Batch norm's running statistics taken anew, for weights no training pass has seen, such as averages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.nn.base import Layer
from fastgd.nn.batch_norm import BatchNorm
from fastgd.nn.compiled import BUFFERS
from fastgd.nn.sequential import Sequences, Sequential

__all__ = ["refresh_batch_norm"]


def refresh_batch_norm(model: Sequential, batches: Iterable[Any]) -> AbstractContextManager[Any]:
    """Takes the running statistics of every batch norm anew: their means over these batches.

    Izmailov et al. 2018, section 3.2; the numbers of torch.optim.swa_utils.update_bn. Each batch goes through
    training's forward pass once. All batches count alike, whatever their size and whatever the layers'
    momentum, which holds again from the next training step on; num_batches_tracked is their number.

    model: as it is now, so within swa.applied() or opt.averaged(): their means. Its parameters and other
        buffers, such as the counters of dropout's masks, stay as they are; dropout drops, as torch's does.
        What layers with carry=True hand from batch to batch goes on, as in every pass.
    batches: each x [batch, ...], Sequences(x, lengths), or a tuple or list that begins with one of these.

    It is done at once. As a context manager it also puts the former statistics back at the block's end:

        with swa.applied(), fastgd.averaging.refresh_batch_norm(model, batches):
            accuracy = model.evaluate(x, y).accuracy

    A model without running statistics is left alone, and the batches unread. Raises TypeError for what is no
    Sequential, ValueError where there is no batch, and what a training step raises for one that does not fit;
    the statistics are then what they were.
    """
    if not isinstance(model, Sequential):
        raise TypeError(f"model must be an nn.Sequential, not {type(model).__name__}")
    norms = [layer for layer in _all(model.layers) if isinstance(layer, BatchNorm) and layer.buffers()]
    own = {id(array) for norm in norms for array in norm.buffers().values()}
    statistics = [array for _, array in model.named_buffers() if id(array) in own]
    others = [array for _, array in model.named_buffers() if id(array) not in own]
    before, untouched = [a.copy() for a in statistics], [a.copy() for a in others]
    momenta = [norm.momentum for norm in norms]
    try:
        if norms:
            _average(model, norms, statistics, batches)
    except BaseException:
        _write(statistics, before)
        raise
    finally:
        _write(others, untouched)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    put_back = ExitStack()
    put_back.callback(_write, statistics, before)
    return put_back


def _average(
    model: Sequential, norms: Sequence[BatchNorm], statistics: Sequence[Array], batches: Iterable[Any]
) -> None:
    """Without a momentum, running statistics are means over all batches since their number was 0.

    That is compiled into the programs for BUFFERS, which are run here only.
    """
    for norm in norms:
        norm.momentum = None
    for array in statistics:
        array[...] = 0
    count = 0
    for batch in batches:
        is_pair = isinstance(batch, (tuple, list)) and type(batch) is not Sequences
        x, lengths, program = model._prepare(batch[0] if is_pair else batch, BUFFERS)
        program.run(x, lengths)
        count += 1
    if not count:
        raise ValueError("batches holds no batch: there is nothing to take statistics from")


def _all(layers: Sequence[Layer]) -> Iterator[Layer]:
    for layer in layers:
        yield layer
        yield from _all(layer.inside)


def _write(arrays: Sequence[Array], values: Sequence[Array]) -> None:
    for array, own in zip(arrays, values, strict=True):
        np.copyto(array, own)
