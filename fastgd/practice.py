"""What a training run does beside its steps: schedule, early stopping, averaged weights, a monitor."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastgd import nn, optim
from fastgd.arrays import Array
from fastgd.averaging import StochasticWeightAverage, refresh_batch_norm
from fastgd.data import Dataset, split
from fastgd.rules import RULES
from fastgd.schedules import Constant, Join, ReduceOnPlateau, Schedule
from fastgd.schedules.recipes import Run, from_text
from fastgd.stopping import EarlyStopping

if TYPE_CHECKING:
    from fastgd.monitor import Monitor
    from fastgd.runs import Settings

__all__ = ["Practice", "hold_out", "needs_validation"]

#: the share of the training part that is held out where something needs it and no share was asked for
VALIDATION_SIZE = 0.1

#: rows of a batch that statistics of batch norm are taken from
STATISTICS_ROWS = 256


def needs_validation(settings: Settings) -> bool:
    """Whether these settings follow a loss on examples that are not trained on."""
    follows = settings.schedule is not None and isinstance(_schedule(settings, Run(1, 1)), ReduceOnPlateau)
    return follows or settings.early_stopping is not None


def hold_out(settings: Settings, dataset: Dataset) -> Dataset:
    """The data set with a validation part, taken from its training part, if the settings want one."""
    share = settings.validation_size
    if share is None:
        share = VALIDATION_SIZE if needs_validation(settings) else 0.0
    if not share:
        return dataset
    labels = dataset.y_train if dataset.task == "classification" else None
    what = f"{dataset.name}, training part"
    train, held = split(what, labels, len(dataset.x_train), share, settings.seed)
    return replace(
        dataset,
        x_train=dataset.x_train[train],
        y_train=dataset.y_train[train],
        x_validation=dataset.x_train[held],
        y_validation=dataset.y_train[held],
    )


def base_rate(settings: Settings) -> float:
    """The learning rate that a schedule begins or peaks with."""
    rule = RULES[settings.optimizer]
    return float(settings.options.get("lr", rule.defaults.get("lr", math.nan)))


def _schedule(settings: Settings, run: Run) -> Schedule | ReduceOnPlateau:
    assert settings.schedule is not None
    return from_text(settings.schedule, base_rate(settings), run)


class Practice:
    """Of one run. Made anew when the run is resumed, and then given the state it had."""

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        model: nn.Sequential,
        optimizer: optim.Optimizer,
        last_epoch: int,
        monitors: bool = False,
    ) -> None:
        """last_epoch: the number of epochs at the end of the run, those before a resumption included.

        Raises ValueError for a schedule that will not do with these settings.
        """
        self._dataset, self._model, self._optimizer = dataset, model, optimizer
        n = len(dataset.x_train)
        size = n if settings.batch_size == "full" else min(settings.batch_size, n)
        per_epoch = -(-n // size)
        self._run = Run(last_epoch * per_epoch, per_epoch)
        #: the first epoch whose end is averaged
        self._averages_from = last_epoch - math.ceil((settings.swa or 0.0) * last_epoch) + 1
        self.schedule = None if settings.schedule is None else _schedule(settings, self._run)
        self.stopping = (
            None
            if settings.early_stopping is None
            else EarlyStopping(model, patience=settings.early_stopping)
        )
        self.swa = None if settings.swa is None else StochasticWeightAverage(optimizer)
        self.monitor: Monitor | None = None
        if monitors:
            from fastgd.monitor import Monitor

            self.monitor = Monitor(model, optimizer)
        if self.schedule is not None:
            optimizer.param_groups[0]["lr"] = self._held(self.schedule)

    def _held(self, schedule: Schedule | ReduceOnPlateau) -> Any:
        """The schedule, which stays where it is while weights are averaged, unless it comes in cycles."""
        begin = (self._averages_from - 1) * self._run.steps_per_epoch
        if self.swa is None or isinstance(schedule, ReduceOnPlateau) or schedule.cyclic or not begin:
            return schedule
        return Join([schedule, Constant(schedule(begin))], [begin])

    @property
    def steps_per_epoch(self) -> int:
        return self._run.steps_per_epoch

    @property
    def step(self) -> Callable[..., nn.TrainStep]:
        """(x, y, options of the step) -> what train_step gives."""
        if self.monitor is not None:
            return self.monitor.train_step
        return lambda x, y, **options: self._model.train_step(x, y, self._optimizer, **options)

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Around what is no training: the monitor's looks are a share of the time of training."""
        return contextlib.nullcontext() if self.monitor is None else self.monitor.paused()

    def after_epoch(self, number: int, validation_loss: float | None) -> str | None:
        """Takes note of an epoch's end; the sentence that says why it is to be the last, if it is."""
        if self.swa is not None and number >= self._averages_from and self._at_cycle_end(number):
            self.swa.update()
        if validation_loss is None:
            return None
        if isinstance(self.schedule, ReduceOnPlateau):
            self.schedule.update(validation_loss)
            if self.schedule.exhausted:
                return f"the loss no longer improves at the smallest learning rate, {self.schedule.floor:g}"
        if self.stopping is not None and self.stopping.update(validation_loss):
            waited = self.stopping.waited
            return (
                f"the validation loss has not improved for {waited} epoch{'' if waited == 1 else 's'}; "
                f"the weights are those of epoch {number - waited}"
            )
        return None

    def _at_cycle_end(self, number: int) -> bool:
        """Whether the rate, if it comes in cycles, is about to rise again."""
        schedule, step = self.schedule, number * self._run.steps_per_epoch
        if not isinstance(schedule, Schedule) or not schedule.cyclic or step < 2:
            return True
        before, last, now, next_ = (schedule(step + i) for i in (-2, -1, 0, 1))
        return last <= before and next_ > min(last, now)

    def finish(self) -> bool:
        """Puts the best weights into the model, or the average; whether there were any to put there."""
        if self.stopping is not None and self.stopping.best_at is not None:
            self.stopping.restore()
            return True
        if self.swa is not None and self.swa.count:
            for parameter, average in zip(self._model.parameters(), self.swa.averages, strict=True):
                parameter[...] = average
            refresh_batch_norm(self._model, self._training_batches())
            return True
        return False

    def _training_batches(self) -> Iterator[Array]:
        x = self._dataset.x_train
        for first in range(0, len(x), STATISTICS_ROWS):
            yield np.ascontiguousarray(x[first : first + STATISTICS_ROWS])

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs to go on in the same way."""
        parts: dict[str, Any] = {"stopping": self.stopping, "swa": self.swa}
        if isinstance(self.schedule, ReduceOnPlateau):
            parts["plateau"] = self.schedule
        return {name: part.state_dict() for name, part in parts.items() if part is not None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what there is a use for; what was not asked for before begins now."""
        if self.stopping is not None and "stopping" in state:
            self.stopping.load_state_dict(state["stopping"])
        if self.swa is not None and "swa" in state:
            self.swa.load_state_dict(state["swa"])
        if isinstance(self.schedule, ReduceOnPlateau) and "plateau" in state:
            self.schedule.load_state_dict(state["plateau"])
