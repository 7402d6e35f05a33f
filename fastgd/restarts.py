"""Restarts: the same training from several starting points, each in a process of its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from fastgd.checks import named, optional, real, whole

__all__ = ["Restart", "restarts"]

#: what the libraries of matrix products and OpenMP read when they are loaded
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_ENVIRONMENT = threading.Lock()


class Restart(NamedTuple):
    """What became of one start."""

    seed: int
    #: NaN where it failed
    loss: float
    #: what train returned beside the loss; None where it failed
    value: Any
    #: the traceback, or how the process ended; None where it did not fail
    error: str | None = None


def restarts(
    train: Callable[[int], tuple[float, Any]], seeds: Iterable[int], processes: int | None = None
) -> list[Restart]:
    """train(seed) for every seed, in parallel processes; the results, the smallest loss first.

    train: returns (loss, anything that can be pickled), and is a function at the top of a module: processes
        import it by its name, so that lambdas, functions within functions and those typed into a session do
        not do. A script calls `restarts` under `if __name__ == "__main__":`.
    seeds: whole numbers, each once.
    processes: how many run at a time, 1 or more. Default None: as many as there are cores to run on.

    Every start has a new process, with one thread for kernels and matrix products: results depend neither on
    `processes` nor on each other. A process is spawned, not forked, which OpenMP would not survive; it takes
    as long as importing what train's module imports. Ctrl-C ends all of them.

    A start that fails, by an exception or the death of its process, is warned of (RuntimeWarning) and comes
    last, with its `error`; losses that are NaN come before those. Equal losses are in the order of the seeds.

    Raises TypeError or ValueError for arguments that are none, among them a function that processes cannot
    import, and RuntimeError, with the first one's error, when all starts fail.
    """
    wanted = [named("a seed", whole(0), seed) for seed in seeds]
    if len(set(wanted)) < len(wanted):
        raise ValueError("seeds must differ, or they would give the same result")
    most = named("processes", optional(whole(1)), processes) or _cores()
    task = _pickled(train)
    found = dict(_run(task, wanted, most))
    results = sorted((found[seed] for seed in wanted), key=_place)
    failed = [result for result in results if result.error is not None]
    if failed and len(failed) == len(results):
        first = failed[0]
        raise RuntimeError(f"all {len(failed)} starts failed, that with seed {first.seed}:\n{first.error}")
    for result in failed:
        reason = str(result.error).rstrip().rpartition("\n")[2]
        warnings.warn(f"the start with seed {result.seed} failed: {reason}", RuntimeWarning, stacklevel=2)
    return results


def _place(result: Restart) -> tuple[bool, bool, float]:
    is_nan = math.isnan(result.loss)
    return result.error is not None, is_nan, 0.0 if is_nan else result.loss


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _pickled(train: Any) -> bytes:
    if not callable(train):
        raise TypeError(f"train must be a function, not {type(train).__name__}")
    try:
        task = pickle.dumps(train)
    except Exception as error:
        raise TypeError(
            f"train must be a function at the top of a module, which other processes can import ({error})"
        ) from None
    if b"__main__" in task and not hasattr(sys.modules["__main__"], "__file__"):
        raise TypeError(
            "train was defined in an interactive session, which other processes cannot import: "
            "put it into a file and import it from there"
        )
    return task


def _run(task: bytes, seeds: list[int], most: int) -> Iterator[tuple[int, Restart]]:
    """(seed, what became of it), in the order in which they end."""
    context = multiprocessing.get_context("spawn")
    waiting = deque(seeds)
    running: dict[Connection, tuple[int, Any]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < most:
                receiver, sender = context.Pipe(duplex=False)
                seed = waiting.popleft()
                process = context.Process(target=_start, args=(task, seed, sender), daemon=True)
                running[receiver] = seed, process
                with _one_thread():
                    process.start()
                sender.close()
            ready = wait(list(running))
            for receiver in [receiver for receiver in running if receiver in ready]:
                seed, process = running[receiver]
                result = _received(receiver, seed, process)
                del running[receiver]
                yield seed, result
    finally:
        for receiver, (_, process) in running.items():
            if process.pid is not None:
                process.kill()
                process.join()
            receiver.close()


def _received(receiver: Connection, seed: int, process: Any) -> Restart:
    try:
        result = Restart(seed, *receiver.recv())
    except EOFError:
        process.join()
        ended = f"its process ended with exit code {process.exitcode}"
        # what becomes of a script that would start processes while one of them imports it
        hint = '; does the script call restarts under if __name__ == "__main__"?'
        result = Restart(seed, math.nan, None, ended + hint if process.exitcode == 1 else ended)
    except Exception:  # whatever unpickling what train returned may raise
        result = Restart(seed, math.nan, None, traceback.format_exc())
    process.join()
    receiver.close()
    return result


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that are started within the block have one thread for all libraries."""
    with _ENVIRONMENT:
        before = {name: os.environ.get(name) for name in _THREADS}
        os.environ.update(dict.fromkeys(_THREADS, "1"))
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def _start(task: bytes, seed: int, sender: Connection) -> None:
    """A process: sends (loss, value), or (NaN, None, the traceback)."""
    # Ctrl-C reaches all processes of a terminal; the parent ends this one
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        outcome = pickle.loads(task)(seed)
        if not isinstance(outcome, tuple) or len(outcome) != 2:
            raise TypeError(f"train must return (loss, anything), not {type(outcome).__name__}")
        message = pickle.dumps((named("the loss", real, outcome[0]), outcome[1]))
    except (Exception, SystemExit):
        message = pickle.dumps((math.nan, None, traceback.format_exc()))
    sender.send_bytes(message)
