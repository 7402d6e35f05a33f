"""Early stopping: training ends when a score has not improved for a while, and the best model is put back."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from fastgd.arrays import Array, owned_arrays
from fastgd.checks import entry, flag, named, number, one_of, optional, real, whole
from fastgd.interrupts import uninterrupted
from fastgd.lenders import is_torch
from fastgd.memory import memory_of, on_host, to_host

__all__ = ["EarlyStopping"]

#: what a score is multiplied by, so that less is better
_SIGNS = {"min": 1.0, "max": -1.0}


class EarlyStopping:
    """Says when a score has stopped improving, and keeps the model as it was at the best one.

    Prechelt 1998; with patience as in Bengio 2012, section 3.

        stopping = fastgd.EarlyStopping(model, patience=5)
        for epoch in range(100):
            ...
            if stopping.update(model.evaluate(x_valid, y_valid).loss):
                break
        stopping.restore()  # for the case that training ended first

    model: an nn.Sequential, a list of arrays such as parameters, or a torch module. What is kept is one copy
        of its parameters and buffers, of arrays on a device on the host; the optimizer's state is not in it.
    patience: that many updates in a row without improvement end it, 1 or more.
    min_delta: a score improves on the best one when it is better by more than this, 0 or more. The default 0
        takes every better score. NaN is no improvement.
    mode: "min" for losses, "max" for accuracies.
    restore_best: whether the update that ends it puts the best model back. With False nothing is kept, and
        model may be None.

    Raises TypeError or ValueError for arguments that are none.
    """

    def __init__(
        self,
        model: Any,
        patience: int = 5,
        min_delta: float = 0.0,
        mode: str = "min",
        restore_best: bool = True,
    ) -> None:
        self.patience = named("patience", whole(1), patience)
        self.min_delta = named("min_delta", number(0), min_delta)
        self._sign = _SIGNS[named("mode", one_of(*_SIGNS), mode)]
        keeps = named("restore_best", flag, restore_best)
        self._kept: _Kept | None = _kept_of(model) if keeps else None
        #: the best score so far; before the first that is a number, infinity of the worse sign
        self.best = self._sign * math.inf
        #: which update gave it, counted from 0; None: none yet
        self.best_at: int | None = None
        #: updates since then
        self.waited = 0
        #: updates in all
        self.count = 0

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.waited >= self.patience

    def update(self, score: float) -> bool:
        """Takes the score of the model as it is now; True: stop.

        The best model is then back, unless restore_best is False or no score was a number. TypeError, and no
        change, for what is no number.
        """
        value = named("score", real, score)
        if self._sign * value < self._sign * self.best - self.min_delta:
            with uninterrupted():
                if self._kept is not None:
                    self._kept.take()
                self.best, self.best_at = value, self.count
                self.waited, self.count = 0, self.count + 1
            return False
        self.waited, self.count = self.waited + 1, self.count + 1
        if self.exhausted and self._kept is not None and self.best_at is not None:
            self.restore()
        return self.exhausted

    def restore(self) -> None:
        """Puts the model back as it was at the best score; ValueError when there is none to put back."""
        if self._kept is None:
            raise ValueError("no model was kept: restore_best is False")
        if self.best_at is None:
            raise ValueError("there is no best model yet: no update had a score that is a number")
        with uninterrupted():
            self._kept.put_back()

    def state_dict(self) -> dict[str, Any]:
        """`{"best", "best_at", "waited", "count", "model"}`, to go on with after a resumption.

        "model": name -> copy of each array of the best model; of a torch module, of each entry of its state
        dict. None where nothing is kept.
        """
        counts = {"best": self.best, "best_at": self.best_at, "waited": self.waited, "count": self.count}
        is_kept = self._kept is not None and self.best_at is not None
        return {**counts, "model": copy.deepcopy(self._kept.best) if is_kept and self._kept else None}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave; the model itself stays as it is.

        TypeError or ValueError, and no change, for what does not fit the model.
        """
        best = named("best", real, entry(state, "best"))
        count = named("count", whole(0), entry(state, "count"))
        waited = named("waited", whole(0, count + 1), entry(state, "waited"))
        best_at = named("best_at", optional(whole(0, count)), entry(state, "best_at"))
        model = entry(state, "model")
        if self._kept is not None and best_at is not None:
            if model is None:
                raise ValueError("the state has no best model: it was taken with restore_best=False")
            self._kept.load(model)
        self.best, self.best_at, self.waited, self.count = best, best_at, waited, count


class _Kept(Protocol):
    """One copy of a model."""

    best: dict[str, Any]

    def take(self) -> None:
        """The copy is the model as it is now, in the memory that it had before."""

    def put_back(self) -> None:
        """The model is the copy."""

    def load(self, state: Mapping[str, Any]) -> None:
        """The copy is another that was made of the same model; TypeError or ValueError when it was not."""


class _KeptArrays:
    """Of arrays by name, which stay the same objects."""

    def __init__(self, arrays: Mapping[str, Array]) -> None:
        self._arrays = arrays
        self.best: dict[str, Array] = {}

    def take(self) -> None:
        for name, array in self._arrays.items():
            if name in self.best:
                np.copyto(self.best[name], on_host(array))
            else:
                self.best[name] = to_host(array)

    def put_back(self) -> None:
        for name, array in self._arrays.items():
            memory_of(array).write(array, self.best[name])

    def load(self, state: Mapping[str, Any]) -> None:
        _check_names(self._arrays, state)
        arrays = {name: np.array(state[name]) for name in self._arrays}
        for name, own in self._arrays.items():
            given = arrays[name]
            if (given.shape, given.dtype) != (own.shape, own.dtype):
                what = f"{given.dtype} {given.shape}, the model's is {own.dtype} {own.shape}"
                raise ValueError(f"the state's array {name} is {what}")
        self.best = arrays


class _KeptModule:
    """Of a torch module, through its state dict."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.best: dict[str, Any] = {}

    def take(self) -> None:
        state = self._module.state_dict()
        self.best = {name: _copied(value, self.best.get(name)) for name, value in state.items()}

    def put_back(self) -> None:
        self._module.load_state_dict(self.best)

    def load(self, state: Mapping[str, Any]) -> None:
        own = self._module.state_dict()
        _check_names(own, state)
        for name, value in own.items():
            shapes = [getattr(of.get(name), "shape", None) for of in (state, own)]
            if is_torch(value) and shapes[0] != shapes[1]:
                raise ValueError(f"the state's tensor {name} has shape {shapes[0]}, the module's {shapes[1]}")
        self.best = {name: _copied(state[name]) for name in own}


def _copied(value: Any, into: Any = None) -> Any:
    """A copy of an entry of a module's state dict, in the memory of another where it fits."""
    if is_torch(value) and is_torch(into) and (value.shape, value.dtype) == (into.shape, into.dtype):
        return into.copy_(value)
    return copy.deepcopy(value)


def _check_names(own: Mapping[str, Any], state: Any) -> None:
    if not isinstance(state, Mapping):
        raise TypeError(f"the state's model is {type(state).__name__}, not a dict")
    if set(own) != set(state):
        missing, unknown = sorted(set(own) - set(state)), sorted(map(str, set(state) - set(own)))
        raise ValueError(f"the state lacks {missing} and has {unknown}, which the model does not")


def _kept_of(model: Any) -> _Kept:
    from fastgd.nn import Sequential

    if isinstance(model, Sequential):
        return _KeptArrays(dict(model.named_parameters() + model.named_buffers()))
    # torch is only looked up among what was imported
    if isinstance(model, getattr(sys.modules.get("torch.nn"), "Module", ())):
        return _KeptModule(model)
    return _KeptArrays({str(i): array for i, array in enumerate(owned_arrays(model, "array"))})
