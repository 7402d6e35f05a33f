"""What a training run asks of its ranks: of one process, which has nobody to ask, and of several."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from fastgd import nn
from fastgd.arrays import Array
from fastgd.distributed.communicator import Communicator, guarded, together
from fastgd.distributed.sharded import ShardedOptimizer

if TYPE_CHECKING:
    from fastgd.runs import Result

__all__ = ["Alone", "Team"]

T = TypeVar("T")


class Alone:
    """One process."""

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Around what comes before the training: if it fails on one rank, all say so and end."""
        return contextlib.nullcontext()

    def guarded(self) -> contextlib.AbstractContextManager[None]:
        """Around the training: if it fails on one rank, all are ended."""
        return contextlib.nullcontext()

    def join(self, result: Result) -> Callable[..., nn.TrainStep]:
        """Makes the run one of this team; (x, y, options of the step) -> what train_step gives."""
        assert result.practice is not None
        return result.practice.step

    def share(self, rows: Array) -> Array:
        """Of the rows of a batch, those of this rank."""
        return rows

    def agree(self, flag: bool) -> bool:
        """Whether any rank says so."""
        return flag

    def settle(self, model: nn.Sequential) -> None:
        """Brings what the ranks' models have besides parameters to one."""

    def by_first(self, compute: Callable[[], T]) -> T:
        """What the first rank computes, on all of them, so that all decide alike."""
        return compute()


class Team(Alone):
    """The ranks of a communicator."""

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm

    def together(self) -> contextlib.AbstractContextManager[None]:
        return together(self._comm)

    def guarded(self) -> contextlib.AbstractContextManager[None]:
        return guarded(self._comm)

    def join(self, result: Result) -> Callable[..., nn.TrainStep]:
        assert not isinstance(result.optimizer, ShardedOptimizer)
        sharded = result.optimizer = ShardedOptimizer(result.optimizer, self._comm)
        for layer in _all(result.model.layers):
            if isinstance(layer, nn.Dropout):
                layer.branch(self._comm.rank)
        return lambda x, y, **options: sharded.train_step(result.model, x, y, **options)

    def share(self, rows: Array) -> Array:
        return self._comm.share(rows)

    def agree(self, flag: bool) -> bool:
        return self._comm.sums(flag)[0] > 0

    def settle(self, model: nn.Sequential) -> None:
        """Running statistics become their means over the ranks, counters those of the first rank."""
        buffers = [array for _, array in model.named_buffers()]
        if not buffers:
            return
        for own, others in zip(buffers, zip(*self._comm.allgather(buffers), strict=True), strict=True):
            own[...] = np.mean(others, axis=0, dtype=np.float64) if own.dtype.kind == "f" else others[0]

    def by_first(self, compute: Callable[[], T]) -> T:
        return self._comm.broadcast(compute() if self._comm.rank == 0 else None)  # type: ignore[return-value]


def _all(layers: Sequence[nn.Layer]) -> Iterator[nn.Layer]:
    for layer in layers:
        yield layer
        yield from _all(layer.inside)
