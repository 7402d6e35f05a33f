"""The ranks of an MPI job, through mpi4py, which is imported only where a job is asked for."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from fastgd.arrays import Array
from fastgd.distributed.communicator import Communicator

__all__ = ["World", "launched", "world"]

T = TypeVar("T")

#: what launchers set for each rank: the variable, and whether its value is the number of ranks.
#: MPICH, Intel MPI and Slurm's PMI-2; Open MPI; MVAPICH; anything that speaks PMIx
VARIABLES = {
    "PMI_SIZE": True,
    "OMPI_COMM_WORLD_SIZE": True,
    "MV2_COMM_WORLD_SIZE": True,
    "PMIX_RANK": False,
}

REMEDY = 'pip install "fastgd[mpi]", and start with the mpiexec of the MPI library that mpi4py uses'


def launched() -> str | None:
    """The environment variable by which a launcher of MPI jobs is known to have started this process."""
    return next((name for name in VARIABLES if name in os.environ), None)


def world() -> World:
    """All ranks of the job that this process is in. Collective.

    Raises ImportError where mpi4py or the MPI library is missing, and RuntimeError where the library sees
    another number of ranks than the launcher has started, which belongs to another library then.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the latter when it finds no library
        raise ImportError(f"MPI is not there ({error}): {REMEDY}") from error
    name = launched()
    size = MPI.COMM_WORLD.Get_size()
    if name is not None and VARIABLES[name] and os.environ[name] != str(size):
        raise RuntimeError(
            f"{name} is {os.environ[name]}, but mpi4py sees {size} rank{'' if size == 1 else 's'}: {REMEDY}"
        )
    return World(MPI.COMM_WORLD)


class World(Communicator):
    """A communicator of mpi4py's. Collective, since it makes a duplicate to keep its messages apart."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm.Dup()
        self.rank, self.size = self._comm.Get_rank(), self._comm.Get_size()

    def allgather(self, value: T) -> list[T]:
        result: list[T] = self._comm.allgather(value)
        return result

    def gather(self, value: T) -> list[T] | None:
        result: list[T] | None = self._comm.gather(value)
        return result

    def broadcast(self, value: T) -> T:
        result: T = self._comm.bcast(value)
        return result

    def numbers(self, values: Sequence[float]) -> Array:
        result = np.empty((self.size, len(values)))
        self._comm.Allgather(np.array(values, np.float64), result)
        return result

    def reduce_scatter(self, array: Array, piece: Array, counts: Sequence[int]) -> None:
        self._comm.Reduce_scatter(array, piece, list(counts))

    def allgather_into(self, array: Array, counts: Sequence[int]) -> None:
        from mpi4py import MPI

        # MPI has no types of 16 bits for numbers
        words = array.view(f"u{array.itemsize}")
        self._comm.Allgatherv(MPI.IN_PLACE, [words, list(counts)])

    def abort(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(1)

    def threads(self) -> int:
        """Of the cores that this rank may run on, its share among the ranks that may run on the same ones.

        Ranks that the launcher has bound to cores of their own have all of those. At least 1. Collective.
        """
        from mpi4py import MPI

        has_affinity = hasattr(os, "sched_getaffinity")
        cores = tuple(sorted(os.sched_getaffinity(0))) if has_affinity else tuple(range(os.cpu_count() or 1))
        place = MPI.Get_processor_name(), cores
        return max(1, len(cores) // self.allgather(place).count(place))
