"""Runs a function on several ranks of torch.distributed: processes on this machine that talk by gloo."""

from __future__ import annotations

import multiprocessing
import pickle
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

#: seconds until ranks that have not ended are stopped
TIMEOUT = 120.0

#: seconds that the other ranks have to say what went wrong with them too, once one has failed
GRACE = 2.0

#: imported once, by the process that all ranks are forked from
IMPORTED = ["torch", "torch.distributed.checkpoint", "torch.distributed.fsdp", "torch.distributed.tensor"]


def on_ranks(ranks: int, function: Callable[..., Any], *arguments: Any, **named: Any) -> list[Any]:
    """What function(*arguments, **named) returns on each rank of a process group; all of it is pickled.

    Raises AssertionError with the traceback of every rank that failed, and names those that did not end.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    # not as multiprocessing would, which lends tensors' memory to all ranks instead of copying it
    work = pickle.dumps((function, arguments, named))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "meeting")
        receivers, processes = {}, []
        for rank in range(ranks):
            receiver, sender = context.Pipe()
            process = context.Process(target=_rank, args=(sender, rank, ranks, path, work))
            process.start()
            sender.close()
            receivers[receiver] = rank
            processes.append(process)
        try:
            outcomes = _received(receivers, time.monotonic() + TIMEOUT)
        finally:
            for process in processes:
                process.kill()
                process.join()
    silent = [str(rank) for rank in range(ranks) if rank not in outcomes]
    failed = [f"rank {rank}:\n{what}" for rank, (good, what) in sorted(outcomes.items()) if not good]
    if silent:
        failed.append(f"no result within {TIMEOUT:g} s, of ranks {', '.join(silent)}")
    assert not failed, "\n".join(failed)
    return [outcomes[rank][1] for rank in range(ranks)]


def _received(receivers: dict[Connection, int], until: float) -> dict[int, tuple[bool, Any]]:
    """rank -> (whether it went well, its result or traceback)."""
    outcomes = {}
    waiting = dict(receivers)
    while waiting:
        for receiver in (ready := wait(list(waiting), max(0.0, until - time.monotonic()))):
            rank = waiting.pop(receiver)
            try:
                outcomes[rank] = pickle.loads(receiver.recv_bytes())
            except EOFError:
                outcomes[rank] = False, "ended without a word"
            if not outcomes[rank][0]:
                until = min(until, time.monotonic() + GRACE)
        if not ready:
            break
    for receiver in receivers:
        receiver.close()
    return outcomes


def _rank(sender: Connection, rank: int, ranks: int, path: str, work: bytes) -> None:
    import torch
    import torch.distributed as dist

    try:
        function, arguments, named = pickle.loads(work)
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{path}", rank=rank, world_size=ranks)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", module=r"fastgd")
            outcome = True, function(*arguments, **named)
    except BaseException:
        outcome = False, traceback.format_exc()
    sender.send_bytes(pickle.dumps(outcome))
    # until it is killed, or alone: a rank that leaves breaks the sends of others, and gloo's threads may
    # abort a process that destroys its group ("terminate called without an active exception")
    sender.poll(None)
