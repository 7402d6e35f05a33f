"""Ranks as threads of one process: what fastgd.distributed does, without MPI."""

from __future__ import annotations

import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from fastgd.distributed import Communicator


class Threads(Communicator):
    """One rank among `size` threads that share a table and a barrier."""

    def __init__(self, rank, size, table, barrier):
        self.rank, self.size = rank, size
        self._table, self._barrier = table, barrier

    def allgather(self, value):
        self._table[self.rank] = copy.deepcopy(value)
        self._barrier.wait(20)
        values = list(self._table)
        self._barrier.wait(20)
        return values

    def gather(self, value):
        values = self.allgather(value)
        return values if self.rank == 0 else None

    def broadcast(self, value):
        return self.allgather(value)[0]

    def reduce_scatter(self, array, piece, counts):
        first = sum(counts[: self.rank])
        piece[...] = sum(self.allgather(array))[first : first + counts[self.rank]]

    def allgather_into(self, array, counts):
        ends = np.cumsum(counts)
        array[...] = np.concatenate(
            [a[end - n : end] for a, end, n in zip(self.allgather(array), ends, counts, strict=True)]
        )

    def abort(self):
        self._barrier.abort()


def on_threads(size, function, *arguments):
    """What function(comm, *arguments) returns on each of `size` ranks; the first error that one raises."""
    table, barrier = [None] * size, threading.Barrier(size)

    def run(rank):
        try:
            return function(Threads(rank, size, table, barrier), *arguments)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
    errors = [future.exception() for future in futures]
    own = [error for error in errors if error and not isinstance(error, threading.BrokenBarrierError)]
    for error in own or filter(None, errors):
        raise error
    return [future.result() for future in futures]
