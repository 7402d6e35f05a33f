"""What a curve can be: a formula or a function, with its derivatives by the parameters."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fastgd.arrays import Array
from fastgd.fit.formula import Formula, FormulaError
from fastgd.fit.inputs import column

__all__ = ["FormulaModel", "FunctionModel", "OverRows"]

#: of a parameter: so small that its square is nothing, and no difference is taken
COMPLEX_STEP = 1e-30
#: where errors of the third derivative and of rounding are about the same
CENTRAL_STEP = float(np.cbrt(np.finfo(float).eps))


class OverRows(Protocol):
    """A curve over given data, as a function of its parameters."""

    derivatives: str

    def values(self, theta: Array) -> Array:
        """[rows]."""

    def jacobian(self, theta: Array) -> tuple[Array, Array]:
        """The values [rows] and their derivatives [rows, parameters]."""


def checked_start(start: Any) -> dict[str, Any]:
    if not isinstance(start, Mapping) or not all(isinstance(name, str) for name in start):
        raise TypeError(f'start must be a mapping such as {{"a": 1.0}}, not {type(start).__name__}')
    if not start:
        raise ValueError("start has no parameters: there is nothing to fit")
    return dict(start)


@dataclass(frozen=True)
class FormulaModel:
    """A formula of parameters, which have starting values, and columns of data."""

    formula: Formula
    start: dict[str, Any]
    #: the one column of the formula, which x may be; None where there are none or several
    single: str | None

    @classmethod
    def of(cls, text: str, start: Any, x: Any) -> FormulaModel:
        formula, start = Formula(text), checked_start(start)
        others = [name for name in formula.names if name not in start]
        if isinstance(x, Mapping):
            both = [name for name in start if name in x]
            if both:
                raise ValueError(f"{both[0]} is a column of x and has a starting value: rename one of them")
        elif len(others) != 1:
            named = ", ".join(others) or "none"
            raise FormulaError(
                f"x is one column: one name of the formula must be without a starting value, not {named}"
            )
        return cls(formula, start, others[0] if len(others) == 1 else None)

    @property
    def text(self) -> str:
        return self.formula.text

    def over(self, x: Any, rows: int | None = None) -> OverRows:
        given = x if self.single is None or isinstance(x, Mapping) else {self.single: x}
        if not isinstance(given, Mapping):
            raise TypeError(f"x must be a mapping from names to columns, not {type(x).__name__}")
        used: dict[str, Array] = {}
        for name in self.formula.names:
            if name not in self.start and name in given:
                used[name] = column(name, given[name], rows)
                rows = len(used[name])
        return self.formula.bind(used, tuple(self.start), rows)

    def predict(self, estimates: Array, x: Any) -> Array:
        return self.over(x).values(estimates).copy()

    def linearised(self, estimates: Array, x: Any) -> tuple[Array, Array]:
        return self.over(x).jacobian(estimates)

    def axis(self, x: Any) -> tuple[str, Array] | None:
        if self.single is None:
            return None
        return self.single, column(self.single, x[self.single] if isinstance(x, Mapping) else x)

    def outcome(self, values: Array) -> Array:
        return values


@dataclass(frozen=True)
class FunctionModel:
    """A function f(x, a, b, ...) -> [rows]."""

    function: Callable[..., Any]
    start: dict[str, Any]

    @classmethod
    def of(cls, function: Callable[..., Any], start: Any) -> FunctionModel:
        names = _parameters(function)
        if isinstance(start, Mapping):
            given = checked_start(start)
            if names is None:
                return cls(function, given)
            if set(names) != set(given):
                raise ValueError(
                    f"the function's parameters are {', '.join(names)}; start has {', '.join(given)}"
                )
            return cls(function, {name: given[name] for name in names})
        if not isinstance(start, (Sequence, np.ndarray)) or isinstance(start, str) or np.ndim(start) != 1:
            raise TypeError(f"start must be a mapping or a sequence of values, not {type(start).__name__}")
        if names is None:
            names = [f"p{i + 1}" for i in range(len(start))]
        if len(names) != len(start) or not names:
            raise ValueError(f"the function has {len(names)} parameters, and start {len(start)} values")
        return cls(function, dict(zip(names, start, strict=True)))

    @property
    def text(self) -> str:
        return str(getattr(self.function, "__name__", self.function))

    def over(self, x: Any, rows: int | None = None) -> FunctionOverRows:
        return FunctionOverRows(self, x, rows)

    def predict(self, estimates: Array, x: Any) -> Array:
        return self.over(x).values(estimates)

    def linearised(self, estimates: Array, x: Any) -> tuple[Array, Array]:
        return self.over(x).jacobian(estimates)

    def axis(self, x: Any) -> tuple[str, Array] | None:
        values = np.asarray(x)
        return ("x", values) if values.ndim == 1 and values.dtype.kind in "fiub" else None

    def outcome(self, values: Array) -> Array:
        return values


def _parameters(function: Callable[..., Any]) -> list[str] | None:
    """The names behind the first; None where the function takes any number, or does not say."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    kinds = {parameter.kind for parameter in parameters}
    if inspect.Parameter.VAR_POSITIONAL in kinds:
        return None
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [p.name for p in parameters if p.kind in positional and p.default is p.empty][1:]


class FunctionOverRows:
    """A function over given data, with derivatives by complex steps or else by central differences."""

    def __init__(self, model: FunctionModel, x: Any, rows: int | None) -> None:
        self._function, self._x, self._rows = model.function, x, rows
        start = np.abs(np.array([float(value) for value in model.start.values()]))
        self._sizes = np.where(start > 0, start, 1.0)
        self._differentiate = self._central
        self.derivatives = "central differences"
        theta = np.array([float(value) for value in model.start.values()])
        if self._is_analytic(theta):
            self._differentiate = self._complex
            self.derivatives = "complex step"

    def values(self, theta: Array) -> Array:
        with np.errstate(all="ignore"):
            given = np.asarray(self._function(self._x, *theta))
        if given.dtype.kind not in "fiub":
            raise TypeError(f"the function must return real numbers, not {given.dtype}")
        if given.ndim != 1 or (self._rows is not None and len(given) != self._rows):
            wanted = "[rows]" if self._rows is None else f"[{self._rows}]"
            raise ValueError(f"the function must return shape {wanted}, not {list(given.shape)}")
        return given.astype(np.float64)

    def jacobian(self, theta: Array) -> tuple[Array, Array]:
        values = self.values(theta)
        with np.errstate(all="ignore"):
            return values, np.stack([self._differentiate(theta, i) for i in range(len(theta))], axis=1)

    def _complex(self, theta: Array, i: int) -> Array:
        """Im f(theta + i h) / h."""
        step = COMPLEX_STEP * max(abs(theta[i]), self._sizes[i])
        moved = theta.astype(complex)
        moved[i] += 1j * step
        result: Array = np.imag(self._function(self._x, *moved)) / step
        return result

    def _central(self, theta: Array, i: int) -> Array:
        step = CENTRAL_STEP * max(abs(theta[i]), self._sizes[i])
        above, below = theta.copy(), theta.copy()
        above[i] += step
        below[i] -= step
        result: Array = (self.values(above) - self.values(below)) / (above[i] - below[i])
        return result

    def _is_analytic(self, theta: Array) -> bool:
        """Whether complex steps give what differences do."""
        try:
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("error", np.exceptions.ComplexWarning)
                for i in range(len(theta)):
                    exact, near = self._complex(theta, i), self._central(theta, i)
                    if exact.shape != near.shape or not np.isfinite(exact).all():
                        return False
                    if not np.allclose(exact, near, rtol=1e-3, atol=1e-5 * np.abs(near).max()):
                        return False
        except Exception:  # whatever a function does with complex numbers; it is called with real ones, too
            return False
        return True
