"""CUDA: kernels that are made of traced reference code, and steps that are replayed in graphs."""

from __future__ import annotations

from fastgd.backends.base import UNMEASURED
from fastgd.checks import named, whole
from fastgd.optimizer import Optimizer
from fastgd.report import StepReport

__all__ = ["before_replay"]


def before_replay(opt: Optimizer, steps: int = 1) -> StepReport:
    """Readies an optimizer for the replay of a CUDA graph in which its step has been captured.

    The scalars of the steps to come, such as bias corrections and the learning rate as it is in the parameter
    groups now, are sent to the device; a graph that is replayed without them would take those of the last.

    opt: an Optimizer whose parameters are on one CUDA device, which has made a step since anything but its
        learning rates changed.
    steps: how many replays come before the next call, 1 to 64; they share the learning rate.

    Returns the report of the last of these steps, which waits for it when it is read; read it after replay.
    TypeError or ValueError for what is no optimizer, or no number of steps from 1 to 64. RuntimeError when no
    step has been made on one device, or none like those to come has been captured.

        opt.step(grads, clip_norm=1.0)              # makes the state and all that is sent once
        with torch.cuda.graph(graph):
            opt.step(grads, clip_norm=1.0)
        for batch in batches:
            fastgd.cuda.before_replay(opt)
            graph.replay()
    """
    from fastgd.cuda.scalars import MOST

    if not isinstance(opt, Optimizer):
        raise TypeError(f"opt is {type(opt).__name__}, not an optimizer of fastgd")
    count = named("steps", whole(1, MOST + 1), steps)
    with opt._lock:
        planner = opt._planner
        plan = planner.plan
        replay = getattr(plan.run, "before_replay", None) if plan and not opt._changed else None
        if plan is None or replay is None:
            raise RuntimeError(
                "there is no step on one CUDA device that could have been captured: call step() first, and "
                "again when anything but a learning rate has changed"
            )
        pending = replay(count)
        if pending is UNMEASURED:
            return StepReport(None, 1.0, False, None)
        gives_norm = opt._options.gives_norm
        return planner.report_later(plan, pending, gives_norm, [None] * len(planner.parameters))
