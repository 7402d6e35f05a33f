"""Communicator: what ranks say to each other, of which MPI is one way; and how they fail together."""

from __future__ import annotations

import math
import sys
import traceback
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import numpy as np

from fastgd.arrays import Array

__all__ = ["Communicator", "RankError", "guarded", "together"]

T = TypeVar("T")

#: as many of these as there are ranks add up to less than float64's largest number
MAX_SUMMED = 1e300


class RankError(RuntimeError):
    """Another rank could not begin; the message names it and the reason."""


class Communicator(ABC):
    """`size` processes (or threads) that are numbered by `rank` from 0, the first, and make the same calls.

    Every method but `share` and `abort` is collective: all ranks call it, in the same order.
    """

    rank: int
    size: int

    @abstractmethod
    def allgather(self, value: T) -> list[T]:
        """The values of all ranks, by rank, on all of them. Any that pickle takes."""

    @abstractmethod
    def gather(self, value: T) -> list[T] | None:
        """The values of all ranks, by rank, on the first; None on the others."""

    @abstractmethod
    def broadcast(self, value: T) -> T:
        """The first rank's value, on all ranks."""

    @abstractmethod
    def reduce_scatter(self, array: Array, piece: Array, counts: Sequence[int]) -> None:
        """Fills `piece` with this rank's piece of the sum of all ranks' arrays.

        array: float32 or float64 [sum(counts)], contiguous. counts: the elements of each rank's piece.
        """

    @abstractmethod
    def allgather_into(self, array: Array, counts: Sequence[int]) -> None:
        """Fills the pieces of the other ranks with what these have there.

        array: contiguous, [sum(counts)], of any dtype of 2, 4 or 8 bytes.
        """

    @abstractmethod
    def abort(self) -> None:
        """Ends all ranks at once, with a status that is not 0."""

    def numbers(self, values: Sequence[float]) -> Array:
        """float64 [size, len(values)]: the values of all ranks, the same bits on each."""
        return np.array(self.allgather(tuple(values)), np.float64)

    def sums(self, *values: float) -> list[float]:
        """The sum of each value over the ranks, correctly rounded: the same bits on each."""
        return [_sum(column) for column in self.numbers(values).T.tolist()]

    def share(self, rows: Array) -> Array:
        """The rows of a batch that are this rank's: consecutive ones, as many as others have or one more.

        All rows are shared out, the first rank has one where any has, and the last ones may have none.
        """
        least, more = divmod(len(rows), self.size)
        first = self.rank * least + min(self.rank, more)
        return rows[first : first + least + (self.rank < more)]


def _sum(values: list[float]) -> float:
    """Correctly rounded, unless it is beyond float64 or one of the values is not finite: fsum raises then."""
    is_safe = all(abs(value) < MAX_SUMMED for value in values)
    return math.fsum(values) if is_safe else sum(values)


@contextmanager
def together(comm: Communicator) -> Iterator[None]:
    """A block that all ranks leave in the same way: where one raises, all do.

    Collective at its end, with no collective call inside. Raises the rank's own error, or RankError with that
    of the first rank which had one.
    """
    error: Exception | None = None
    try:
        yield
    except Exception as raised:
        error = raised
    except BaseException:  # an interruption: others may be beyond theirs
        comm.abort()
        raise
    found = comm.allgather(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for rank, text in enumerate(found):
        if text is not None:
            raise RankError(f"rank {rank} of {comm.size}: {text}")


@contextmanager
def guarded(comm: Communicator) -> Iterator[None]:
    """A block in which an exception on one rank ends all: others would wait for it for ever.

    Writes the traceback and one line, with the rank and the reason, to standard error; then `comm.abort()`.
    """
    try:
        yield
    except BaseException as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {error}".rstrip(": ")
        print(f"rank {comm.rank} of {comm.size} failed, and all end: {reason}", file=sys.stderr, flush=True)
        comm.abort()
        raise
