"""What the arguments of a fit may be: data as float64 without gaps, names, weights, and how to search."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastgd.arrays import Array
from fastgd.checks import named, number, one_of, whole
from fastgd.fit.descent import Search
from fastgd.rules import RULES

__all__ = ["INTERCEPT", "column", "design", "penalty", "refuse_dependent", "refuse_few", "search_of"]
__all__ += ["weights_of"]

INTERCEPT = "intercept"
#: columns whose part that the others do not explain is relatively smaller are none of their own
DEPENDENT = 1e-12


def numbers(name: str, values: Any) -> Array:
    """Real numbers as float64, in whatever shape."""
    given = np.asarray(values)
    if given.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be real numbers, not {given.dtype}")
    return given.astype(np.float64)


def column(name: str, values: Any, rows: int | None = None) -> Array:
    """Finite numbers [rows]; TypeError or ValueError, naming the first row that is none."""
    checked = numbers(name, values)
    if checked.ndim != 1:
        raise ValueError(f"{name} must have one dimension, not shape {list(checked.shape)}")
    if rows is not None and len(checked) != rows:
        raise ValueError(f"{name} has {len(checked)} rows, and others have {rows}")
    if not len(checked):
        raise ValueError(f"{name} has no rows")
    wrong = ~np.isfinite(checked)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ValueError(f"{name}[{row}] is {checked[row]}{gaps(wrong)}")
    return checked


def gaps(wrong: Array) -> str:
    count = int(np.count_nonzero(wrong))
    return f"; leave out the {count} rows that are not finite" if count > 1 else "; leave that row out"


def design(x: Any, names: Sequence[str] | None = None) -> tuple[tuple[str, ...], Array]:
    """The names of the columns and the columns [rows, columns].

    x: [rows], [rows, columns], a mapping from names to columns, or a data frame. names: of the columns, which
    a mapping has to have in any order; default those of x, or x1, x2 and so on.
    """
    if isinstance(x, Mapping):
        wanted = tuple(x) if names is None else tuple(names)
        missing = [name for name in wanted if name not in x]
        if missing or not wanted:
            raise ValueError(f"x has no column {missing[0]!r}" if missing else "x has no columns")
        columns: list[Array] = []
        for name in wanted:
            columns.append(column(str(name), x[name], len(columns[0]) if columns else None))
        return tuple(map(str, wanted)), np.stack(columns, axis=1)
    own = getattr(x, "columns", None)
    table = numbers("x", x)
    if table.ndim == 1:
        table = table[:, np.newaxis]
    if table.ndim != 2 or not table.size:
        raise ValueError(f"x must be [rows] or [rows, columns], not empty, and is {list(table.shape)}")
    found = tuple(f"x{i + 1}" for i in range(table.shape[1])) if own is None else tuple(map(str, own))
    if names is not None:
        if len(names) != table.shape[1]:
            raise ValueError(f"x has {table.shape[1]} columns, and {len(names)} are needed")
        found = tuple(names)
    if len(set(found)) != len(found):
        raise ValueError("x has two columns of the same name")
    wrong = ~np.isfinite(table)
    if wrong.any():
        row, at = (int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"x[{row}] has {table[row, at]} in column {found[at]}{gaps(np.any(wrong, axis=1))}")
    return found, table


def weights_of(weights: Any, rows: int) -> Array:
    """A weight for each row, all 1 where none are given."""
    if weights is None:
        return np.ones(rows)
    checked = column("weights", weights, rows)
    if (checked < 0).any() or not checked.any():
        raise ValueError("weights must not be negative, and not all 0")
    return checked


def refuse_dependent(names: Sequence[str], columns: Array, lengths: Array, intercept: bool) -> None:
    """ValueError for a column that is a combination of those before it, or constant beside an intercept.

    columns: [rows, columns], of which the means were subtracted where there is an intercept. lengths: of the
    columns before that.
    """
    own = np.linalg.norm(columns, axis=0)
    for name, length, left in zip(names, lengths, own, strict=True):
        if left <= DEPENDENT * length:
            reason = "constant, which the intercept is already" if length else "0 everywhere"
            raise ValueError(f"column {name} is {reason}; leave it out")
    alone = np.abs(np.diag(np.linalg.qr(columns / own, mode="r")))
    for name, left in zip(names, alone, strict=False):
        if left <= DEPENDENT:
            beside = " and the intercept" if intercept else ""
            raise ValueError(
                f"column {name} is a linear combination of those before it{beside}; leave it out, or use l2"
            )


def refuse_few(rows: int, parameters: int) -> None:
    if rows <= parameters:
        raise ValueError(
            f"{rows} rows are too few for {parameters} parameters; there must be more rows than parameters"
        )


def _rate(value: Any) -> float | Callable[[int], float]:
    return value if callable(value) else number(0)(value)


def _above_zero(value: Any) -> float:
    checked = number(0)(value)
    if checked == 0:
        raise ValueError("must be above 0")
    return checked


def search_of(
    optimizer: str | None, lr: Any, options: Mapping[str, Any] | None, max_iterations: int, tol: float
) -> Search:
    """Checked settings of a search; see fastgd.fit.linear for their meaning."""
    if options and optimizer is None:
        raise ValueError("options are an optimizer's: say which")
    return Search(
        None if optimizer is None else named("optimizer", one_of(*RULES), optimizer),
        None if lr is None else named("lr", _rate, lr),
        dict(options or {}),
        named("max_iterations", whole(1), max_iterations),
        named("tol", _above_zero, tol),
    )


def penalty(l2: Any) -> float:
    return named("l2", number(0, math.inf), l2)
