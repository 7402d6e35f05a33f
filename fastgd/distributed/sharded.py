"""ShardedOptimizer: each rank keeps the optimizer's state for its own parameters only (ZeRO, stage 1)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array, as_array, listed
from fastgd.distributed.communicator import Communicator, together
from fastgd.distributed.lanes import lanes_of, owners_of
from fastgd.groups import by_name
from fastgd.interrupts import uninterrupted
from fastgd.memory import HOST, memory_of
from fastgd.nn import Sequential, TrainStep
from fastgd.nn.compiled import TRAIN
from fastgd.optimizer import Optimizer
from fastgd.options import asked_with, step_options
from fastgd.report import NonFinite, StepReport
from fastgd.rows import Rows
from fastgd.rules import Rule, at_step

__all__ = ["ShardedOptimizer"]


class ShardedOptimizer:
    """An optimizer over all ranks, whose step is that of one process on all rows together.

    Rajbhandari et al. 2020, section 5.1 (P_os). The parameters are on every rank, and whole tensors are
    assigned to ranks, balanced by size. A step sums the gradients of each tensor on its owner, which alone
    has state for it and updates it; then all ranks receive the parameters. Clipping goes by the norm of all
    gradients, and what is skipped is skipped by all.

    optimizer: of all parameters, made alike on every rank, and from now on stepped by this one only. Its
        parameters become those of the first rank; state that it has for others' parameters is freed.
    comm: the ranks. All methods but `learning_rates`, `parameters` and `state_bytes` are collective.

    Raises TypeError or ValueError for parameters on a device, for copies, and for `ema_decay`.
    """

    def __init__(self, optimizer: Optimizer, comm: Communicator) -> None:
        if not isinstance(optimizer, Optimizer):
            raise TypeError(f"optimizer must be one of fastgd's, not {optimizer!r}")
        if not isinstance(comm, Communicator):
            raise TypeError(f"comm must be a fastgd.distributed.Communicator, not {comm!r}")
        self.comm = comm
        #: of this rank: it holds all parameters, and steps those that the rank owns
        self.local = optimizer
        self._members = [p for group in optimizer.param_groups for p in group.members]
        for p in self._members:
            if memory_of(p.array) is not HOST:
                raise ValueError(f"{p} is on a device: ranks exchange memory of the host only")
            if p.copy is not None:
                raise ValueError(f"{p} has a copy, which other ranks' steps would not reach")
            self._check_group(p.group)
        self._arrays = [p.array for p in self._members]
        self.owners = owners_of([array.size for array in self._arrays], comm.size)
        self._lanes = lanes_of(self._arrays, self.owners, comm)
        #: made by each group, whoever owns its parameters
        self._steps: list[int] = []
        self.load_state_dict(optimizer.state_dict())
        self._spread(from_first=True)

    def _check_group(self, number: int) -> None:
        if self.param_groups[number]["ema_decay"] is not None:
            raise ValueError(
                "ema_decay: each rank would have averages of its own parameters only; "
                "fastgd.averaging.StochasticWeightAverage(sharded.local) averages all"
            )

    @property
    def rule(self) -> Rule:
        """The optimizer's."""
        return self.local.rule

    @property
    def param_groups(self) -> Any:
        """Those of every rank's optimizer. To be set alike on all ranks."""
        return self.local.param_groups

    def parameters(self) -> list[Any]:
        """All of them, as Optimizer.parameters."""
        return self.local.parameters()

    def learning_rates(self) -> list[float]:
        """As Optimizer.learning_rates, whoever owns the group's parameters."""
        pairs = zip(self.param_groups, self._steps, strict=True)
        return [float(at_step(self.rule, g.values_in_place, made + 1)["lr"]) for g, made in pairs]

    def state_bytes(self) -> int:
        """Bytes of state on this rank."""
        return self.local.state_bytes()

    # ---- steps ----

    def train_step(self, model: Sequential, x: Any, y: Any, **options: Any) -> TrainStep:
        """model.train_step of all ranks' rows as one batch. Arguments and errors as there.

        x, y: the rows of this rank, of which there may be none. Each counts as in one process, whatever the
        loss takes its mean over; losses that sum are summed. The loss that is returned is that of all rows.
        """
        if not len(getattr(x, "x", x)):
            return self._step(None, 0.0, 0.0, False, options)
        loss, grads = model.loss_and_grad(x, y)
        _, _, program = model._prepare(x, TRAIN)
        assert program.loss is not None
        weight = program.loss.weight(model._target(program, y))
        return self._step(grads, loss, weight or 0.0, weight is None, options)

    def step(self, grads: Any, *, weight: float = 1.0, **options: Any) -> StepReport:
        """Optimizer.step with the mean over the ranks of their gradients. Other arguments as there.

        grads: one for each parameter, none of them None and no Rows. None in place of them all: this rank
            has no rows in this batch.
        weight: what this rank's gradients count in the mean: its number of rows, where their losses are
            means over rows. Default 1.0.

        The report is the same on all ranks. `total_norm`, which is measured here, and with several groups
        `clip_scope="group"` are refused.
        """
        if not (isinstance(weight, (int, float)) and 0 <= weight < math.inf):
            raise ValueError(f"weight must be at least 0 and finite, not {weight!r}")
        report: StepReport = self._step(grads, 0.0, float(weight), False, options).report
        return report

    def _step(self, grads: Any, loss: float, weight: float, adds: bool, options: dict[str, Any]) -> TrainStep:
        local, comm = self.local, self.comm
        asked = step_options(local._narrowest, *asked_with(options))
        if asked.total_norm is not None:
            raise ValueError("total_norm is measured over the ranks: leave it out")
        if asked.scope == "group" and len(self.param_groups) > 1:
            raise ValueError('clip_scope="group": the norms of groups are not measured over the ranks')
        arrays = None if grads is None else self._checked(grads)
        for number in range(len(self.param_groups)):
            self._check_group(number)
        with uninterrupted():
            counted = loss if adds else loss * weight if weight else 0.0
            total, weights, summing = comm.sums(counted, weight, float(adds))
            if not summing:
                total = total / weights if weights else math.nan
            factor = 1.0 if summing or not weights else weight / weights
            for lane in self._lanes:
                lane.reduce(arrays if adds or weight or not weights else None, factor)
            report = self._update(asked, options)
        return TrainStep(total, report)

    def _update(self, asked: Any, options: dict[str, Any]) -> StepReport:
        """Steps this rank's parameters with the gradients that the lanes hold, and spreads them."""
        local, comm = self.local, self.comm
        reduced = {i: gradient for lane in self._lanes for i, gradient in lane.gradients.items()}
        own: list[Array | None] = [reduced.get(i) for i in range(len(self._arrays))]
        clips = not math.isinf(asked.clip_norm)
        norm = nonfinite = None
        if clips or asked.skip_nonfinite:
            squares = local.sumsq(own, clip_value=options.get("clip_value"), grad_scale=asked.grad_scale)
            norm = math.sqrt(comm.sums(squares)[0])
            if not math.isfinite(norm):
                nonfinite = self._nonfinite(own)
                if asked.skip_nonfinite:
                    return StepReport(norm, 1.0, True, nonfinite)
        told = clips and asked.scope == "all"
        # that nothing has to be skipped is known, and a second look at the gradients saved
        given: dict[str, Any] = {**options, "skip_nonfinite": False, "total_norm": norm if told else None}
        clip_coef = local.step(own, **given).clip_coef
        if not told and (clips or not math.isinf(asked.clip_unit)):
            clip_coef = float(comm.numbers([clip_coef]).min())
        self._spread()
        self._steps = [made + 1 for made in self._steps]
        return StepReport(norm, clip_coef, False, nonfinite)

    def _nonfinite(self, own: Sequence[Array | None]) -> NonFinite | None:
        """The first element of all ranks' gradients that is not finite."""
        found = None
        for p, gradient in zip(self._members, own, strict=True):
            if found is None and gradient is not None and not np.isfinite(gradient).all():
                element = tuple(np.argwhere(~np.isfinite(gradient))[0].tolist())
                found = NonFinite(p.group, p.index, p.name, element, float(gradient[element]))
        by_rank = [one for one in self.comm.allgather(found) if one is not None]
        return min(by_rank, key=lambda one: (one.group, one.parameter), default=None)

    def _checked(self, grads: Any) -> list[Array]:
        """An array of the right shape for each parameter."""
        if isinstance(grads, Mapping):
            grads = by_name(grads, self._members, "grads")
        given: Sequence[Any] = listed(grads, "grads")
        if len(given) != len(self._arrays):
            raise ValueError(f"got {len(given)} gradients for {len(self._arrays)} parameters")
        arrays = []
        for one, p, own in zip(given, self._members, self._arrays, strict=True):
            if one is None or isinstance(one, Rows):
                what = "None" if one is None else "Rows"
                raise TypeError(f"gradient of {p} is {what}: ranks sum whole arrays, give zeros there")
            array = as_array(one, f"gradient of {p}")
            if array.shape != own.shape:
                raise ValueError(f"gradient of {p} has shape {array.shape}, the parameter {own.shape}")
            arrays.append(array)
        return arrays

    def _spread(self, *, from_first: bool = False) -> None:
        for lane in self._lanes:
            lane.spread(from_first=from_first)

    # ---- averages and state ----

    def eval(self) -> None:
        """Optimizer.eval of all parameters."""
        self.local.eval()
        self._spread()

    def train(self) -> None:
        """Optimizer.train of all parameters."""
        self.local.train()
        self._spread()

    def state_dict(self) -> dict[str, Any] | None:
        """On the first rank the state of all parameters, as one process's optimizer has it; else None."""
        parts = self.comm.gather(self.local.state_dict())
        if parts is None:
            return None
        entries = [parts[rank]["state"].get(i) for i, rank in enumerate(self.owners)]
        groups = []
        for number, group in enumerate(parts[0]["param_groups"]):
            # what follows a schedule is as in the last step, which whoever owns one of the group's has made
            owner = self.owners[group["params"][0]] if group["params"] else 0
            groups.append(parts[owner]["param_groups"][number])
        state = {i: entry for i, entry in enumerate(entries) if entry is not None}
        return {**parts[0], "state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any], *, convert: bool = False) -> None:
        """Takes over this rank's part of a whole state, whatever number of ranks has written it.

        state_dict: the same on every rank. Errors as Optimizer.load_state_dict's, or RankError for what is
        wrong with another rank's part.
        """
        others = {i for i, rank in enumerate(self.owners) if rank != self.comm.rank}
        with together(self.comm):
            whole = dict(state_dict)
            entries = whole.get("state")
            if isinstance(entries, Mapping):
                whole["state"] = {i: entry for i, entry in entries.items() if i not in others}
            self.local.load_state_dict(whole, convert=convert)
        made = [state_dict["state"].get(i, {"step": 0})["step"] for i in range(len(self._members))]
        self._steps = [
            max((made[i] for i, p in enumerate(self._members) if p.group == number), default=0)
            for number in range(len(self.param_groups))
        ]
