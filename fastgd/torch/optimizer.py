"""What all optimizers of fastgd.torch share: torch's contract around one native step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch.autograd import profiler
from torch.optim import optimizer as torch_optimizer

from fastgd.backends.base import Measured, Options, Pending
from fastgd.checks import named, whole
from fastgd.optim import KEYWORDS
from fastgd.options import LASTING, step_options
from fastgd.report import PendingReport, StepReport
from fastgd.rules import Rule, resolved
from fastgd.settings import DEFAULTS, SETTINGS
from fastgd.torch._gather import are_as_seen, is_as_seen
from fastgd.torch.again import STATE
from fastgd.torch.loading import left_alone, taken
from fastgd.torch.members import Member, members_of
from fastgd.torch.modes import TRAINING, barred, holding_averages, set_training
from fastgd.torch.planner import Planner
from fastgd.torch.prepared import Prepared
from fastgd.torch.settings import checked
from fastgd.torch.sharded_state import OF_PIECES, check_cut, settle_gradients, shown
from fastgd.torch.tensors import is_wrapper
from fastgd.torch.total import norm_over_ranks

if TYPE_CHECKING:
    from fastgd.torch.release import Release

#: hooks around the steps of all optimizers
_BEFORE_ALL, _AFTER_ALL = (
    torch_optimizer._global_optimizer_pre_hooks,
    torch_optimizer._global_optimizer_post_hooks,
)

UNREAD = StepReport(None, 1.0, False, None)

#: settings of an optimizer as a whole and their defaults
WHOLE: dict[str, Any] = {
    name: default
    for name, (_, default, _) in {**LASTING, **KEYWORDS}.items()
    if name != "copies"  # of parameters: a model has its own
}

#: those of WHOLE that depend on all gradients together
OF_ALL_GRADIENTS = ("clip_norm", "skip_nonfinite")

#: where they stand in what is pickled
_WHOLE = "fastgd"

_FIXED = [name for name, (_, entry) in SETTINGS.items() if entry.fixed]


class Outcome:
    """What the last step has found, and whether it gives a norm."""

    def __init__(self) -> None:
        self.found: StepReport | Measured = UNREAD
        self.gives_norm = False


class Native(torch.optim.Optimizer):
    """Base of all optimizers here, beside torch's class where there is one; `rule` says which."""

    rule: ClassVar[Rule]
    #: names of hyperparameters that torch's class does not have, with their defaults
    own: ClassVar[Mapping[str, Any]]
    #: torch's class of this name; None: it has none
    torch_class: ClassVar[type[torch.optim.Optimizer] | None]

    def _make(self, params: Any, given: dict[str, Any]) -> None:
        """given: arguments by name."""
        if callable(given.get("lr")):
            raise TypeError(
                "lr is a number in torch's optimizers: make it 1.0, and give the function of the step to "
                "torch.optim.lr_scheduler.LambdaLR(opt, function)"
            )
        self._set_whole({name: given.pop(name, default) for name, default in WHOLE.items()})
        self._own_defaults = {name: given.pop(name, default) for name, default in self.own.items()}
        self._begin()
        if self.torch_class is None:
            given = {"defaults": {}}
        super().__init__(params, **given)
        self._tell_scaler()
        # Adagrad has made state as torch keeps it; where another is asked for it is made at the first step
        for group in self.param_groups:
            if any(group[name] != default for name, default in DEFAULTS.items()):
                for p in group["params"]:
                    self.state.pop(p, None)

    def _tell_scaler(self) -> None:
        """As torch: with fused=True, torch.amp.GradScaler leaves unscaling and skipping to `step`.

        Otherwise it unscales gradients itself, and trainers can clip them before the step.
        """
        self._step_supports_amp_scaling = bool(self.defaults.get("fused"))

    def _set_whole(self, values: Mapping[str, Any]) -> None:
        limits = values["clip_norm"], values["clip_value"]
        step_options(np.dtype(np.float32), *limits, 1.0, values["skip_nonfinite"])
        #: of the random bits of stochastic rounding
        self.seed: int = named("seed", whole(0, 2**64), values["seed"])
        #: "auto", or the name of what runs the kernels
        self.backend: str = values["backend"]
        #: upper limit of the global norm of all gradients; None: no limit
        self.clip_norm = values["clip_norm"]
        #: each element of a gradient is limited to [-clip_value, clip_value]; None: no limit
        self.clip_value = values["clip_value"]
        #: whether a step with a gradient that is not finite changes nothing
        self.skip_nonfinite = values["skip_nonfinite"]

    def _begin(self) -> None:
        self.planner = Planner(self.rule, self.backend, self.seed)
        self._asked: tuple[Any, ...] = ()
        self._options = Options()
        #: whether they ask for a measurement
        self._measures = False
        self._outcome = Outcome()
        #: whether there are DTensors among the parameters
        self._has_wrappers = False
        #: what updates the parameters in the backward pass; None: `step` does
        self.released: Release | None = None

    def members(self) -> list[Member]:
        """All parameters, through all groups."""
        return members_of(self.param_groups)

    def planner_for(self, member: Member) -> Planner:
        """What makes steps of this parameter alone."""
        planner = Planner(self.rule, self.backend, self.seed, member)
        planner.counts = self.planner.counts_of(self.param_groups, self.state)
        return planner

    def options(self, grad_scale: float = 1.0) -> Options:
        """What is done to gradients, checked."""
        asked = self.clip_norm, self.clip_value, grad_scale, self.skip_nonfinite
        if asked != self._asked:
            self._options, self._asked = step_options(np.dtype(np.float32), *asked), asked
            self._measures = self._options.needs_measure
        return self._options

    @property
    def report(self) -> StepReport:
        """What the last step did."""
        outcome = self._outcome
        found = outcome.found
        if isinstance(found, Measured):
            norm = found.norm if outcome.gives_norm else None
            outcome.found = found = StepReport(norm, found.clip_coef, found.skipped, None)
        return found

    def eval(self) -> None:
        """Puts the average that the rule keeps into the parameters, which are then what it has learned.

        A rule that keeps none leaves them as they are. Until `train` is called, `step` raises RuntimeError.
        """
        set_training(self, False)

    def train(self) -> None:
        """Undoes `eval`, but for a rounding or two; so every optimizer begins."""
        set_training(self, True)

    def averaged(self) -> AbstractContextManager[None]:
        """Within the block, parameters with `ema_decay` hold their running averages; after it what they were.

        ValueError when there are none. RuntimeError for a step within the block.
        """
        return holding_averages(self)

    # ---- groups and state ----

    @property
    def state(self) -> Any:
        """Parameter -> what is kept of it by name, as torch's: the dict that steps read and write."""
        planner = self.__dict__.get("planner")
        if planner is not None:
            planner.alarm()
        return self.__dict__[STATE]

    @state.setter
    def state(self, state: Any) -> None:
        self.__dict__[STATE] = state
        planner = self.__dict__.get("planner")
        if planner is not None:
            planner.forget()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's. Hyperparameters and settings that only fastgd has may be given, too."""
        if isinstance(param_group, dict):
            self._refuse_whole(param_group)
        for name, default in self._own_defaults.items():
            self.defaults.setdefault(name, default)
        if self.rule.average is not None:
            param_group.setdefault(TRAINING, True)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            group.update(resolved(self.rule, {k: group[k] for k in self.rule.defaults}))
            values = checked(self.rule, group, len(self.param_groups) - 1)
            # by name, as torch.load(weights_only=True) takes them
            group.update({name: values[name] for name in DEFAULTS})
            for index, p in enumerate(group["params"]):
                check_cut(self.rule, group, p, f"parameter {index} of group {len(self.param_groups) - 1}")
                self._has_wrappers |= is_wrapper(p)
        except BaseException:
            del self.param_groups[-1]
            raise

    def _refuse_whole(self, group: Mapping[str, Any]) -> None:
        """ValueError for what is not a group's to say. What only repeats the optimizer's is left in it."""
        for name in WHOLE:
            own = getattr(self, name)
            if group.get(name, own) != own:
                raise ValueError(f"{name} is set for the optimizer, not for a group; here is {group[name]!r}")
            if name in OF_ALL_GRADIENTS and group.get(name):
                raise ValueError(
                    f"{name} is set for the optimizer, not for a group. torch's ZeroRedundancyOptimizer puts "
                    "it there, but shows each process some gradients only: call fastgd.torch.clip_grad_norm_"
                )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), _WHOLE: {name: getattr(self, name) for name in WHOLE}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        if _WHOLE in state:  # not from load_state_dict
            self._set_whole(state.pop(_WHOLE))
            self._own_defaults = {name: state["defaults"][name] for name in self.own}
            self._begin()
            params = [p for group in state["param_groups"] for p in group["params"]]
            self._has_wrappers = any(map(is_wrapper, params))
        before = {id(group["params"]): group for group in self.__dict__.get("param_groups", [])}
        state["state"] = taken(state["state"])
        for group in state.get("param_groups", []):
            for name, default in self._own_defaults.items():
                group.setdefault(name, default)
            old = before.get(id(group["params"]))
            if old is not None:
                group.update({name: old[name] for name in _FIXED})
            group.update(resolved(self.rule, {k: group[k] for k in self.rule.defaults if k in group}))
        super().__setstate__(state)
        self._tell_scaler()
        self.planner.forget()

    def state_dict(self) -> dict[str, Any]:
        """As torch's. State of sharded parameters is DTensors like these, in float32 where it is 8-bit."""
        handle = self.register_state_dict_post_hook(shown, prepend=True)
        try:
            return super().state_dict()
        finally:
            handle.remove()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As torch's, of this class or of torch's.

        State is copied. It is kept in what this optimizer was made to keep it in, not in the parameter's
        dtype, and converted where it comes in another; rounding stays as it is, too.
        """
        # the last of the hooks: what torch would cast to the parameter's dtype is put out of its sight
        handle = self.register_load_state_dict_pre_hook(left_alone)
        try:
            super().load_state_dict(state_dict)
        finally:
            handle.remove()

    # ---- the step ----

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Makes one step; returns what the closure does, which is called first, with gradients enabled.

        Parameters whose `.grad` is None are left alone. Gradients are not written. Raises TypeError,
        ValueError or RuntimeError, naming the parameter, before any parameter is changed.
        """
        hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks or _BEFORE_ALL or _AFTER_ALL
        if hooks or profiler._is_profiler_enabled:
            return self._observed(closure)
        return self._step(closure)

    #: torch wraps what is not marked so; `_observed` does what its wrapper does, where that is anything
    step.hooked = True  # type: ignore[attr-defined]

    def _observed(self, closure: Callable[[], Any] | None) -> Any:
        arguments: tuple[Any, ...] = (self, closure) if closure is not None else (self,)
        return _hooked(*arguments)

    def _step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self.torch_class is not None and self.defaults.get("differentiable"):
            self._by_torch()
        elif torch.compiler.is_dynamo_compiling():
            self._update_uncompiled()
        else:
            self._update()
        return loss

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # torch does not annotate it
    def _update_uncompiled(self) -> None:
        """As `_update`; for the compiler, which does not look into it."""
        self._update()

    def _update(self) -> None:
        own, planner, found = self.__dict__, self.planner, None
        again, groups = planner.again, self.param_groups
        if again is not None and is_as_seen(own, again.own) and are_as_seen(groups, again.groups):
            planner.step_begins(again.plan)
            measured = again.make()
            if measured is not None:
                self._note(again.plan, measured, self._options)
                return
            found = again.plan.gathered.fetched()
        planner.again = None  # what follows may change what it calls
        scale, found_inf = own.get("grad_scale"), own.get("found_inf")
        options = self.options(1.0 if scale is None else float(scale))
        if found_inf is not None and float(found_inf):
            self._outcome.found = UNREAD._replace(skipped=True)
            return
        if planner.barred is not None or self.rule.average is not None:
            reason = barred(self)
            if reason is not None:
                raise RuntimeError(reason)
        if self.released is not None:
            self._outcome.found = self.released.ended()
            return
        if self._has_wrappers:
            settle_gradients(m.tensor for m in self.members())
        if self._measures and found is None:
            plan = planner.as_seen(groups)
            make = plan.run.fetching(options, plan.fetch) if plan and plan.run and plan.fetch else None
            if plan is not None and make is not None:
                planner.step_begins(plan)
                measured = make()
                if measured is not None:
                    self._note(plan, measured, options)
                    if scale is None and found_inf is None:
                        planner.repeat(own, plan, make)
                    return
                found = plan.gathered.fetched()
        plan = planner.prepare(groups, own, options, found)
        if plan.has_pieces and self._measures:
            raise ValueError(OF_PIECES)
        if plan.is_sharded and self._measures:
            total = norm_over_ranks(plan.members, options, self.backend)
            options = options._replace(total_norm=total)
        if plan.run is None or not plan.members:
            self._outcome.found = UNREAD
            return
        # before the step, because what it touches was just looked at; if the step fails it does no harm
        torch.autograd.graph.increment_version(plan.tensors)
        planner.step_begins(plan)
        try:
            made = plan.run.step(options)
        finally:
            plan.release()
        self._note(plan, made, options)

    def _note(self, plan: Prepared, made: Measured | Pending, options: Options) -> None:
        """A step was made: keeps what it has found, and brings states up to date."""
        if isinstance(made, Measured):
            # the report is made when it is read; what is not finite has to be looked for in these gradients
            self._outcome.found = made if made.nonfinite is None else self._reported(plan, made, options)
            self._outcome.gives_norm = self._measures
        else:
            if options.skip_nonfinite and plan.run is not None:
                plan.run.settle()
            self._outcome.found = PendingReport.of(lambda: self._reported(plan, made.read(), options))
        self.planner.step_made()

    def _reported(self, plan: Prepared, measured: Measured, options: Options) -> StepReport:
        norm, clip_coef, tensor, skipped = measured
        nonfinite = None if tensor is None else self.planner.locate(plan, tensor)
        return StepReport(norm if options.gives_norm else None, clip_coef, skipped, nonfinite)

    def _by_torch(self) -> None:
        """The step of torch's own class, through which gradients can flow."""
        asks = [name for name in ("clip_norm", "clip_value", "skip_nonfinite") if getattr(self, name)]
        for group in self.param_groups:
            asks += [name for name, default in DEFAULTS.items() if group[name] != default]
        if asks:
            raise RuntimeError(f"differentiable=True hands the step to torch, which has no {asks[0]}")
        assert self.torch_class is not None
        step = self.torch_class.step
        getattr(step, "__wrapped__", step)(self) if getattr(step, "hooked", False) else step(self)
        self.planner.forget()
        self._outcome.found = UNREAD


_hooked = torch.optim.Optimizer.profile_hook_step(Native._step)
