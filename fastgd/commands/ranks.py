"""`mpiexec -n N fastgd train`: the job that a command is part of, what it refuses, and what it says of it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import fastgd
from fastgd.commands.outputs import UserError
from fastgd.distributed.communicator import together
from fastgd.distributed.sharded import ShardedOptimizer
from fastgd.distributed.world import World, launched, world

if TYPE_CHECKING:
    from fastgd.training import Result

__all__ = ["Job", "job", "told"]

#: option -> why several ranks do not take it
REFUSED = {
    "monitor": "it watches the steps of one process; look at a run without mpiexec",
    "report": "its page shows what a monitor has watched in one process; --plot and --json do",
}


class Job:
    """comm: the ranks of the job; None when this process is all of it."""

    def __init__(self, comm: World | None) -> None:
        self.comm = comm

    @property
    def is_first(self) -> bool:
        """Whether this is the process that prints and writes."""
        return self.comm is None or self.comm.rank == 0

    def together(self) -> contextlib.AbstractContextManager[None]:
        """Around what comes before the training: if it fails on one rank, all end."""
        return contextlib.nullcontext() if self.comm is None else together(self.comm)

    def check(self, chosen: Mapping[str, Any]) -> None:
        """UserError for options that do not go with several ranks."""
        for name, reason in REFUSED.items():
            if self.comm is not None and chosen.get(name):
                raise UserError(f"--{name} does not go with several ranks: {reason}")

    def set_threads(self, asked: int | None) -> None:
        """As many as were asked for; else, of several ranks, each has its share of the cores."""
        number = self.comm.threads() if asked is None and self.comm is not None else asked
        if number is not None:
            fastgd.set_num_threads(number)

    def described(self, result: Result) -> dict[str, Any]:
        """For the result: threads, and bytes of the optimizer's state, of each of several ranks."""
        if self.comm is None:
            return {}
        assert isinstance(result.optimizer, ShardedOptimizer)
        found = self.comm.allgather((fastgd.get_num_threads(), result.optimizer.state_bytes()))
        threads, state_bytes = zip(*found, strict=True)
        return {"ranks": {"threads": threads, "state_bytes": state_bytes}}


def job() -> Job:
    """The job that this process is in. UserError where a launcher has started it and MPI is not there."""
    if launched() is None:
        return Job(None)
    try:
        comm = world()
    except (ImportError, RuntimeError) as error:
        raise UserError(f"this was started as an MPI job, but {error}") from error
    return Job(comm if comm.size > 1 else None)


def told(threads: Sequence[int], state_bytes: Sequence[int]) -> str:
    """What `described` says, as a line."""
    used = f"{min(threads)} to {max(threads)}" if min(threads) < max(threads) else f"{threads[0]}"
    share = f"{max(state_bytes):,} of {sum(state_bytes):,} bytes of the optimizer's state on one"
    return f"{len(threads)} ranks with {used} thread{'' if used == '1' else 's'} each; at most {share}"
