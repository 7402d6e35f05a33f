"""Averages of parameters beside an optimizer: stochastic weight averaging and Lookahead, made of moves.

An exponential moving average costs no pass of its own: every optimizer takes `ema_decay=`. Batch norm's
statistics for averaged weights and means over ensembles have files of their own, and their names here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd import backends
from fastgd.arrays import Array, Spans, addresses, as_arrays, memory_order, owned_arrays
from fastgd.backends.base import Block, Item, Options, Work
from fastgd.checks import entry, finite, named, number, whole
from fastgd.ensembles import mean_prediction
from fastgd.interrupts import uninterrupted
from fastgd.memory import check_together, like, memory_of, on_host, to_host
from fastgd.modes import holding, moving
from fastgd.nn.batch_statistics import refresh_batch_norm
from fastgd.rules import LERP
from fastgd.settings import DEFAULTS
from fastgd.storage import arithmetic, load

if TYPE_CHECKING:
    from fastgd.optimizer import Optimizer
    from fastgd.report import StepReport

__all__ = ["Lookahead", "StochasticWeightAverage", "lerp_", "mean_prediction", "refresh_batch_norm"]


def lerp_(arrays: Iterable[Any], towards: Iterable[Any], weight: float, *, backend: str = "auto") -> None:
    """Moves arrays by `weight` of the way to their counterparts, in place: a + weight (t - a), as torch.lerp.

    arrays: float32, float64, bfloat16 or float16, any shapes and strides, mixed; written, rounded to nearest.
    towards: an array for each of them, of its shape and any of these dtypes; read.
    weight: 0 leaves the arrays as they are, 1 gives the counterparts exactly, others go between or beyond.
    backend: "auto", or one that fastgd.info() lists.

    The same bits whatever the backend, instruction set and thread count. Raises TypeError or ValueError,
    naming the array, before anything is changed; also for a counterpart that shares memory with an array.
    """
    own, others = owned_arrays(arrays, "array"), as_arrays(towards, "counterpart")
    if len(own) != len(others):
        raise ValueError(f"got {len(others)} counterparts for {len(own)} arrays")
    for i, (array, other) in enumerate(zip(own, others, strict=True)):
        if other.shape != array.shape:
            raise ValueError(f"counterpart {i} has shape {other.shape}, the array {array.shape}")
        check_together(f"counterpart {i}", other, "the array", array)
    alias = Spans(own).find(others, addresses(others))
    if alias:
        raise ValueError(f"counterpart {alias[0]} shares memory with array {alias[1]}")
    values = {**DEFAULTS, **LERP.defaults, "weight": named("weight", finite, weight)}
    items = [Item(a, t, (), 0, 0, memory_order(a)) for a, t in zip(own, others, strict=True)]
    work = Work([Block(LERP, values, 0)], items, np.zeros(1, np.int64))
    backends.for_all(backend, map(memory_of, own)).plan(work).step(Options())


def _started(opt: Optimizer) -> list[Array]:
    """The parameters in the precision they are computed in, as new arrays."""
    params = [p.array for p in opt._planner.parameters]
    return [like(p, load(on_host(p), arithmetic(p.dtype))) for p in params]


def _checked(what: str, given: Any, wanted: Sequence[Array]) -> list[Array]:
    """Copies of as many arrays as there are, of the same shapes and dtypes."""
    arrays = as_arrays(given, what)
    count = len(wanted)
    if len(arrays) != count:
        raise ValueError(f"the state has {len(arrays)} arrays of {what}s, there are {count} parameters")
    for i, (array, own) in enumerate(zip(arrays, wanted, strict=True)):
        if array.shape != own.shape or array.dtype != own.dtype:
            raise ValueError(
                f"{what} {i} is {array.dtype} {array.shape}, the parameter's is {own.dtype} {own.shape}"
            )
    return [like(own, on_host(array)) for array, own in zip(arrays, wanted, strict=True)]


class StochasticWeightAverage:
    """The mean of the parameters at the moments of `update`: after every epoch, or cycle of the rate.

    Izmailov et al. 2018, section 3.2: average = (n average + parameter) / (n + 1). It is kept in float64 for
    float64 parameters and in float32 for all others.

        swa = fastgd.averaging.StochasticWeightAverage(opt)
        ...                       # after each of the last epochs, with a high constant or a cyclic rate
        swa.update()
        with swa.applied():       # the parameters hold the mean
            accuracy = evaluate(model)

    Statistics of batch norm belong to the parameters they were taken with: see `refresh_batch_norm`.
    """

    def __init__(self, opt: Optimizer) -> None:
        self.opt = opt
        #: how many moments it is the mean of
        self.count = 0
        self._averages = _started(opt)

    @property
    def averages(self) -> list[Array]:
        """The mean of each parameter; before the first `update`, the parameter as it was at first. Views."""
        return [average.view() for average in self._averages]

    def update(self) -> None:
        """Takes the parameters as they are now into the mean."""
        opt = self.opt
        with opt._lock:
            if opt._planner.barred:
                raise RuntimeError(opt._planner.barred)
            params = [p.array for p in opt._planner.parameters]
            with uninterrupted():
                lerp_(self._averages, params, 1.0 / (self.count + 1), backend=opt.backend.name)
                self.count += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block, parameters (and their copies) hold the mean; afterwards they are what they were.

        A step inside raises RuntimeError; ValueError before the first `update`.
        """
        if not self.count:
            raise ValueError("there is no mean yet: call update() first")
        with holding(self.opt, self._averages):
            yield

    def state_dict(self) -> dict[str, Any]:
        """`{"count", "averages"}`; the arrays are copies."""
        return {"count": self.count, "averages": [to_host(average) for average in self._averages]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave; ValueError or TypeError, and no change, when it does not fit."""
        count = named("count", whole(0), entry(state, "count"))
        averages = _checked("average", entry(state, "averages"), self._averages)
        self.count, self._averages = count, averages


class Lookahead:
    """k steps forward, one back: slow parameters that follow those of an optimizer.

    Zhang et al. 2019, algorithm 1. After every k steps that are not skipped, the slow parameters go by alpha
    of the way to the optimizer's, which then begin again from there. The optimizer's state goes on. The slow
    ones are kept in float64 for float64 parameters and in float32 for all others.

        opt = fastgd.averaging.Lookahead(fastgd.AdamW(params), k=5, alpha=0.5)
        report = opt.step(grads, clip_norm=1.0)

    k: steps between two meetings, 1 or more. alpha: in [0, 1]. Defaults as in the paper's experiments.
    """

    def __init__(self, opt: Optimizer, k: int = 5, alpha: float = 0.5) -> None:
        self.opt = opt
        self.k = named("k", whole(1), k)
        self.alpha = named("alpha", number(0, np.nextafter(1, 2)), alpha)
        #: steps since the last meeting
        self.count = 0
        self._slow = _started(opt)

    @property
    def param_groups(self) -> Any:
        """The optimizer's."""
        return self.opt.param_groups

    @property
    def slow(self) -> list[Array]:
        """The slow parameters; views."""
        return [slow.view() for slow in self._slow]

    def step(self, grads: Any, **options: Any) -> StepReport:
        """`Optimizer.step`, and a meeting after every k of them."""
        opt = self.opt
        with opt._lock:
            report = opt.step(grads, **options)
            # not asked in vain: whoever asks waits for a device
            if options.get("skip_nonfinite") and report.skipped:
                return report
            if self.count + 1 < self.k:
                self.count += 1
                return report
            planner = opt._planner
            params = [p.array for p in planner.parameters]
            back = moving(opt, self._slow, [1.0] * len(opt.param_groups))
            with uninterrupted():
                lerp_(self._slow, params, self.alpha, backend=opt.backend.name)
                back.step(Options())
                self.count = 0
        return report

    def state_dict(self) -> dict[str, Any]:
        """`{"optimizer", "count", "slow"}`; the arrays are copies."""
        with self.opt._lock:
            slow = [to_host(array) for array in self._slow]
            return {"optimizer": self.opt.state_dict(), "count": self.count, "slow": slow}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave; ValueError or TypeError, and no change, when it does not fit."""
        count = named("count", whole(0, self.k), entry(state, "count"))
        slow = _checked("slow parameter", entry(state, "slow"), self._slow)
        inner = entry(state, "optimizer")
        with self.opt._lock:
            self.opt.load_state_dict(inner)
            self.count, self._slow = count, slow
