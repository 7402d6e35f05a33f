"""Ensembles: the mean of what several models, or one model at several moments, predict."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping
from contextlib import closing
from typing import Any

import numpy as np

from fastgd.arrays import Array, as_array
from fastgd.checks import named, one_of
from fastgd.memory import on_host
from fastgd.nn import Sequential
from fastgd.nn import functional as F
from fastgd.storage import arithmetic, load

__all__ = ["mean_prediction"]

#: what turns outputs into predictions: functions of nn.functional by their names, and nothing
LINKS = ("identity", "softmax", "sigmoid")


def mean_prediction(
    models: Any,
    x: Any,
    *,
    states: Iterable[Any] | None = None,
    link: str = "auto",
    batch_size: int = 1024,
) -> Array:
    """The mean over an ensemble's predictions for x [rows, ...]: probabilities, or outputs of a regression.

    Hansen and Salamon 1990; snapshots of one model at the ends of cycles of its rate: Huang et al. 2017.

        states.append(model.state_dict())  # at the end of each cycle
        probabilities = fastgd.averaging.mean_prediction(model, x, states=states)

    models: an nn.Sequential, a function of x that returns an array of floats, or an iterable of these. They
        are asked one behind the other, so that a generator can load or make them on the way.
    states: of one Sequential, what state_dict() gave or the paths of files that save() wrote. Afterwards its
        parameters and buffers are what they were. Default None: each model as it is.
    link: what is averaged: the outputs themselves ("identity"), their "softmax" over the last dimension, or
        their "sigmoid". "auto" (default) is what the model's loss says: softmax for CrossEntropyLoss, sigmoid
        for BCEWithLogitsLoss, else identity. Functions have no loss, and need another.
    batch_size: the rows that a Sequential is given at a time.

    The mean is taken in float64, and is returned as float64 where a model's outputs are and else as float32.
    There is never more than it and one model's predictions.

    Raises TypeError or ValueError for arguments that are none, for no models at all, and for outputs of
    different shapes; errors of loading and of Sequential.predict are theirs.
    """
    if link != "auto":
        named("link", one_of("auto", *LINKS), link)
    total: Array | None = None
    count, dtype = 0, np.dtype(np.float32)
    # closed at once where there is an error, so that the model has its own state again
    with closing(_members(models, states)) as members:
        for count, model in enumerate(members, 1):
            own = _predictions(model, x, link, batch_size, f"model {count - 1}")
            if total is None:
                total = np.zeros(own.shape)
            if own.shape != total.shape:
                what = f"{list(own.shape)}, that of model 0 {list(total.shape)}"
                raise ValueError(f"the prediction of model {count - 1} has shape {what}")
            total += own
            dtype = np.result_type(dtype, own.dtype)
    if total is None:
        raise ValueError("there is no model to ask" if states is None else "states holds no state")
    return (total / count).astype(dtype)


def _members(models: Any, states: Iterable[Any] | None) -> Generator[Any, None, None]:
    """One model after the other; the same one with one state after the other, and then with its own."""
    if states is None:
        if isinstance(models, Sequential) or callable(models):
            yield models
        elif isinstance(models, Iterable):
            yield from models
        else:
            kind = type(models).__name__
            raise TypeError(f"models must be an nn.Sequential, a function or several of them, not {kind}")
        return
    if not isinstance(models, Sequential):
        raise TypeError(f"states are those of one nn.Sequential, not of {type(models).__name__}")
    if isinstance(states, (Mapping, str, os.PathLike)):
        raise TypeError("states is one state: put it in a list")
    before = models.state_dict()
    try:
        for state in states:
            if isinstance(state, (str, os.PathLike)):
                models.load(state)
            else:
                models.load_state_dict(state)
            yield models
    finally:
        models.load_state_dict(before)


def _predictions(model: Any, x: Any, link: str, batch_size: int, what: str) -> Array:
    """float32 or float64."""
    if isinstance(model, Sequential):
        outputs = model.predict(x, batch_size=batch_size)
        loss = model.loss_function
        chosen = link if link != "auto" else loss.link if loss else "identity"
    elif callable(model):
        if link == "auto":
            raise ValueError(f"{what} is a function, of which no loss is known: link must not be 'auto'")
        given = as_array(model(x), f"the output of {what}")
        outputs, chosen = load(on_host(given), arithmetic(given.dtype)), link
    else:
        raise TypeError(f"{what} must be an nn.Sequential or a function, not {type(model).__name__}")
    return outputs if chosen == "identity" else np.asarray(getattr(F, chosen)(outputs)[0])
