"""Gradient release: each parameter is updated in the backward pass, and its gradient freed at once."""

from __future__ import annotations

import math
import weakref
from typing import Any

import torch

from fastgd.report import StepReport
from fastgd.torch.members import Member
from fastgd.torch.modes import barred
from fastgd.torch.optimizer import Native
from fastgd.torch.planner import Planner
from fastgd.torch.sharded import combined
from fastgd.torch.sharded_state import is_piece
from fastgd.torch.tensors import is_wrapper

#: what `clip` may be
PREVIOUS = "previous"


def attach(model: torch.nn.Module, opt: Native, *, clip: str | None = None) -> Release:
    """Updates the parameters of a model in its backward pass, each as soon as its gradient is there.

    The gradient is freed then, so that those of all parameters are never in memory at once (as in Lv et al.
    2023, section 3.1). `opt.step()` then only ends the step; it is to be called as ever, with schedulers and
    hooks around it. `.grad` is None after backward. Frozen parameters are left alone. All state is made now.

    model: has all parameters of `opt` that require gradients.
    clip: how `opt.clip_norm` is kept though the norm is known only when all is done. "previous": by the norm
        of the step before; in the first step, each gradient by its own norm. None: not; ValueError then if
        `opt.clip_norm` is set. (LOMO, section 3.2, takes two backward passes for the true norm.)

    Returns a handle: `remove()` makes all as it was before.

    Gradients cannot be accumulated: a second backward pass before `step` raises RuntimeError, when it comes
    to the first parameter. ValueError for what needs all gradients at once: skip_nonfinite, parameters that
    are shared over machines (DistributedDataParallel, DTensor), differentiable. torch.amp.GradScaler, which
    looks at gradients after the backward pass, finds none.
    """
    if not isinstance(opt, Native):
        raise TypeError(f"opt is {type(opt).__name__}, not an optimizer of fastgd.torch")
    if clip not in (None, PREVIOUS):
        raise ValueError(f"clip must be None or {PREVIOUS!r}, not {clip!r}")
    if opt.clip_norm is not None and clip is None:
        raise ValueError(
            "clip_norm is of the norm of all gradients, which is not known before the backward pass ends: "
            f"clip={PREVIOUS!r} clips by the norm of the step before"
        )
    if opt.released is not None:
        raise ValueError("this optimizer is attached to a model: remove() that handle first")
    if opt.skip_nonfinite:
        raise ValueError("skip_nonfinite looks at all gradients before any parameter is changed")
    if opt.defaults.get("differentiable"):
        raise ValueError("differentiable=True hands the steps to torch, which needs all gradients")
    if isinstance(model, torch.nn.parallel.DistributedDataParallel):
        raise ValueError("DistributedDataParallel averages gradients after they would have been used")
    return Release(model, opt, clip)


class Release:
    """What `attach` returns."""

    def __init__(self, model: torch.nn.Module, opt: Native, clip: str | None) -> None:
        self._opt, self._clip = opt, clip
        inside = {id(p) for p in model.parameters()}
        members = [m for m in opt.members() if m.tensor.requires_grad]
        for m in members:
            if id(m.tensor) not in inside:
                raise ValueError(f"{m} of the optimizer is not in the model")
            if is_wrapper(m.tensor) or is_piece(m.tensor):
                raise ValueError(f"{m} is shared over machines, whose gradients come together later")
        planners = [opt.planner_for(m) for m in members]
        # before the first backward pass: else state would be spread among gradients that are freed, in holes
        # that the allocator does not close
        for planner in planners:
            planner.make_state(opt.param_groups, opt.state)
        #: numbers of the parameters that have been updated since the last step
        self._done: set[int] = set()
        #: norms of their gradients
        self._norms: list[float] = []
        #: of the last step; None: there was none
        self._previous: float | None = None
        self._least = 1.0
        self._hooks = []
        self._members: dict[int, tuple[Member, Planner]] = {}
        for m, planner in zip(members, planners, strict=True):
            tensor: Any = m.tensor
            self._members[m.number] = m, planner
            self._hooks.append(tensor.register_post_accumulate_grad_hook(self._hook(m)))
        opt.released = self

    def remove(self) -> None:
        """From now on, backward leaves gradients where they are, and `opt.step()` uses them."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        if self._opt.released is self:
            self._opt.released = None

    def _hook(self, m: Member) -> Any:
        # the parameter keeps its hook, which is not to keep the optimizer, and with it the parameter
        reference, number = weakref.ref(self), m.number

        def update(p: torch.Tensor) -> None:
            release = reference()
            try:
                if release is not None:
                    release._update(*release._members[number])
            finally:
                p.grad = None

        return update

    def _update(self, m: Member, planner: Planner) -> None:
        opt = self._opt
        reason = barred(opt)
        if reason is not None:
            raise RuntimeError(reason)
        if m.number in self._done:
            raise RuntimeError(
                f"{m} got a second gradient before step(): gradients are used and freed "
                "in the backward pass, so they cannot be accumulated: call opt.step() after each, or "
                "remove() what attach returned"
            )
        if opt.clip_norm is not None and self._clip is None:
            raise RuntimeError(
                f"clip_norm was set after attach(): remove() and attach(..., clip={PREVIOUS!r})"
            )
        options = opt.options()
        plan = planner.prepare(opt.param_groups, opt.__dict__, options)
        assert plan.run is not None
        try:
            if not math.isinf(options.clip_norm):
                norm = plan.run.measure(options._replace(measure=True)).norm
                total = norm if self._previous is None else self._previous
                options = options._replace(total_norm=total)
                self._norms.append(norm)
                self._least = min(self._least, options.clip_norm / (total + 1e-6))
            planner.step_begins(plan)
            plan.run.step(options)
        finally:
            plan.release()
        self._done.add(m.number)
        planner.step_made()
        torch.autograd.graph.increment_version([m.tensor])

    def ended(self) -> StepReport:
        """Ends a step, and says what it did.

        RuntimeError, naming it, for a parameter with a gradient that no hook has taken.
        """
        self._done.clear()
        norms, self._norms = self._norms, []
        least, self._least = self._least, 1.0
        for m in self._opt.members():
            if m.tensor.grad is not None:
                raise RuntimeError(
                    f"{m} has a gradient that was not used in the backward pass: it did not require "
                    "gradients when attach() was called, or the gradient is older: remove() and attach() "
                    "again"
                )
        norm = None
        if norms:
            norm = self._previous = combined(norms, 2.0)
        return StepReport(norm, least, False, None)
