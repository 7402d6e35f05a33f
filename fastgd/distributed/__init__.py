"""fastgd.distributed: data-parallel training over the ranks of an MPI job, optimizer state spread over them.

Needs mpi4py and an MPI library for `world` alone (extra `mpi`); any other Communicator does without.
"""

from fastgd.distributed.communicator import Communicator, RankError, guarded
from fastgd.distributed.sharded import ShardedOptimizer
from fastgd.distributed.world import World, launched, world

__all__ = ["Communicator", "RankError", "ShardedOptimizer", "World", "guarded", "launched", "world"]
