"""Gradients of a few rows of a parameter, as embeddings have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastgd.arrays import Array, as_array, lent
from fastgd.backends.base import Options
from fastgd.groups import Parameter
from fastgd.kept import slot_dtype
from fastgd.memory import HOST, check_together, memory_of, on_host, placed
from fastgd.rules import Rule
from fastgd.storage import arithmetic


class Rows:
    """The gradient of some rows of a parameter; the others, and their state, are left alone.

    indices: which rows, integers [n] from 0 to len(parameter) - 1, in any order, on the host or a device.
        Gradients of a row that is there more than once are added up, in the order in which they come; those
        on a device are for that copied to the host and back.
    values: their gradients, [n, *parameter.shape[1:]], where the parameter is.

    It stands in place of an array in the gradients that `Optimizer.step` takes, which checks it. Rows are
    taken as torch.optim.SparseAdam takes them: the parameter counts the step for all its rows, and rows that
    are not there neither decay nor move by their momentum.
    """

    __slots__ = ("__weakref__", "indices", "values")

    def __init__(self, indices: Any, values: Any) -> None:
        self.indices, self.values = indices, values

    def __repr__(self) -> str:
        return f"Rows({self.indices!r}, {self.values!r})"


def check_rows_allowed(parameter: Parameter, rule: Rule, values: Mapping[str, Any], options: Options) -> None:
    """ValueError where a step of this parameter needs all of its rows."""
    what, param, copy = f"gradient of {parameter}", parameter.array, parameter.copy
    coded = any(s is not None and slot_dtype(s, values, param) is None for s in rule.active_slots(values))
    reasons = {
        f"{rule.title} takes norms of the whole parameter": rule.trust is not None,
        f"{rule.title} takes products of the whole parameter": rule.orthogonal is not None,
        "cautious updates count elements of the whole parameter": values["cautious"],
        "its state in 8 bits is stored in blocks that cross rows": coded,
        "clip_adaptive takes norms of the whole parameter": options.clips_units,
        "the parameter has no dimensions": param.ndim == 0,
        "the parameter must be C-contiguous for that": not param.flags.c_contiguous,
        "the copy of the parameter must be C-contiguous for that": copy is not None
        and not copy.flags.c_contiguous,
    }
    for reason, holds in reasons.items():
        if holds:
            raise ValueError(f"{what} is of rows: {reason}")


def checked_rows(rows: Rows, param: Array, what: str) -> tuple[Array, Array]:
    """(indices, gradients) of rows that fit the parameter: int64 [n], and [n, *param.shape[1:]] as given.

    what: the gradient's name in errors.
    """
    indices = on_host(lent(rows.indices, f"indices of the {what}"))
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise TypeError(
            f"{what}: indices must be integers in one dimension, not {indices.dtype} {indices.shape}"
        )
    values = as_array(rows.values, f"{what}: values")
    check_together(f"{what}: values", values, "the parameter", param)
    wanted = (*indices.shape, *param.shape[1:])
    if values.shape != wanted:
        raise ValueError(f"{what}: values have shape {values.shape}, {indices.size} rows have {wanted}")
    outside = (indices < 0) | (indices >= param.shape[0])
    if outside.any():
        bad = indices[outside][0]
        raise ValueError(f"{what}: there is no row {bad}, the parameter has {param.shape[0]}")
    return indices.astype(np.int64), values


def summed(indices: Array, values: Array, param: Array) -> tuple[Array, Array]:
    """Each row once: those that come more than once are added up in what the parameter is computed in."""
    unique, first, place = np.unique(indices, return_index=True, return_inverse=True)
    memory = memory_of(values)
    if unique.size == indices.size:
        if memory is HOST:
            return indices, np.asarray(values, order="C")
        return indices, values if values.flags.c_contiguous else values.copy()
    with np.errstate(all="ignore"):
        numbers = on_host(values).astype(arithmetic(param.dtype))
        total = numbers[first]
        again = np.ones(indices.size, np.bool_)
        again[first] = False
        np.add.at(total, place[again], numbers[again])
    return unique, placed(memory, total)
