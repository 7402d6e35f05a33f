"""From a function's signature to a rule and its optimizer class: `fastgd.jit`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from types import FunctionType
from typing import Any, NamedTuple, overload

import numpy as np

from fastgd._native import lib
from fastgd.checks import each, finite, flag
from fastgd.optim import KEYWORDS, Optimizer, optimizer_class
from fastgd.own.body import GRAD, PARAM, Body, replayed, slot_name, traced
from fastgd.own.scalars import Scalars, scalar_name
from fastgd.rules import HYPERPARAMETERS, Hyperparameter, Rule, Slot
from fastgd.settings import DEFAULTS
from fastgd.state import SCALES

#: hyperparameters that mean in every rule what they mean in those of the library
_SHARED = ("lr", "weight_decay", "eps")

#: what a parameter's state has beside slots
_KEPT = ("step", "residual", "average", "params")

_WHOLE = "a rule of one's own may use the parameter in any way"


@overload
def jit(function: Callable[..., Any]) -> type[Optimizer]: ...


@overload
def jit(
    *,
    source: str = "",
    initial: Mapping[str, str] | None = None,
    unsigned: Iterable[str] = (),
    precise: Iterable[str] = (),
) -> Callable[[Callable[..., Any]], type[Optimizer]]: ...


def jit(
    function: Callable[..., Any] | None = None,
    *,
    source: str = "",
    initial: Mapping[str, str] | None = None,
    unsigned: Iterable[str] = (),
    precise: Iterable[str] = (),
) -> Any:
    """Makes an optimizer class of a function that updates one element; for use as a decorator.

        @fastgd.jit(source="Chen et al. 2023, algorithm 2")
        def lion(p, g, exp_avg, *, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0):
            update = beta1 * exp_avg + (1 - beta1) * g
            exp_avg = beta2 * exp_avg + (1 - beta2) * g
            return (1 - lr * weight_decay) * p - lr * np.sign(update), exp_avg

        opt = lion(params, lr=3e-4)

    Positional arguments are the parameter, its gradient (clipped already) and the slots of state, which are 0
    before the first step. Keyword-only arguments are hyperparameters: their defaults are numbers, tuples of
    numbers, or True or False. A keyword-only `step` without default is the number of the step, from 1. The
    function returns the new parameter and the new slots in their order.

    It is called with symbols, when it is defined: + - * /, comparisons, branches, `min`, `max`, `abs`, roots,
    np.where, whole powers, loops of known length and other functions of such may be used. What follows from
    hyperparameters and the step alone is computed once a step, in float64; all else in float32, for
    float64 parameters in float64, each operation rounded, so that it has the same bits everywhere.

    source: paper and section, for the class's documentation. Default: where the function is.
    initial: slot -> the hyperparameter that is its first value. Default: none.
    unsigned: slots that are never negative and divide the step, or stand under a root. Default: none.
    precise: slots that always are as precise as the arithmetic, whatever state_dtype says. Default: none.

    On the backend "auto" its loops are compiled by Numba (extra `jit`) at the first step; on "reference" it
    runs in NumPy. Raises TypeError or ValueError that names what is wrong with the signature, and TypeError
    that names file and line for what a formula of one element cannot do.
    """
    kept = Kept(source, dict(initial or {}), tuple(unsigned), tuple(precise))
    return _defined(function, kept) if function is not None else lambda function: _defined(function, kept)


class Kept(NamedTuple):
    """What the decorator was told."""

    source: str
    initial: dict[str, str]
    unsigned: tuple[str, ...]
    precise: tuple[str, ...]


class Signature(NamedTuple):
    """What a function's arguments are."""

    slots: list[str]
    #: hyperparameters and their defaults
    defaults: dict[str, Any]
    takes_step: bool


def _defined(function: Callable[..., Any], told: Kept) -> type[Optimizer]:
    if not isinstance(function, FunctionType):
        raise TypeError(f"fastgd.jit is for a function written in Python, not {type(function).__name__}")
    what = f"rule {function.__name__!r}"
    signature = _signature(what, function)
    slots = _slots(what, signature, told)
    rule = _rule(function, signature, slots, told.source)
    cls = optimizer_class(rule, function.__module__)
    cls.__qualname__ = function.__qualname__
    return cls


# ---- The signature ----------------------------------------------------------------------------------


def _signature(what: str, function: FunctionType) -> Signature:
    positional: list[str] = []
    defaults: dict[str, Any] = {}
    takes_step = False
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise TypeError(f"{what}: *{name} names no slots and no hyperparameters")
        if parameter.kind is not parameter.KEYWORD_ONLY:
            if parameter.default is not parameter.empty:
                raise TypeError(f"{what}: {name!r} has a default: hyperparameters come after a bare *")
            positional.append(name)
        elif name == "step":
            if parameter.default is not parameter.empty:
                raise TypeError(f"{what}: 'step' is the number of the step, which has no default")
            takes_step = True
        elif parameter.default is parameter.empty:
            raise TypeError(f"{what}: hyperparameter {name!r} has no default")
        else:
            defaults[name] = _default(what, name, parameter.default)
    if len(positional) < 2:
        raise TypeError(f"{what}: the first two arguments are the parameter and its gradient")
    return Signature(positional[2:], defaults, takes_step)


def _default(what: str, name: str, value: Any) -> Any:
    if name in (*DEFAULTS, *KEYWORDS, "params", "maximize"):
        raise ValueError(f"{what}: every optimizer has {name!r}; call the hyperparameter something else")
    try:
        return _check_of(name, value)(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{what}: the default of {name!r} {error}") from None


def _check_of(name: str, default: Any) -> Callable[[Any], Any]:
    """What a hyperparameter's values are checked by."""
    if name in _SHARED:
        return HYPERPARAMETERS[name].check
    if isinstance(default, (bool, np.bool_)):
        return flag
    if isinstance(default, (tuple, list)):
        return each(*(finite for _ in default))
    return finite


def _slots(what: str, signature: Signature, told: Kept) -> tuple[Slot, ...]:
    names = signature.slots
    if len(names) > lib.FGD_MAX_SLOTS:
        raise ValueError(f"{what} has {len(names)} slots, and there is room for {lib.FGD_MAX_SLOTS}")
    for option in ("initial", "unsigned", "precise"):
        for name in getattr(told, option):
            if name not in names:
                raise ValueError(f"{what}: {option} names {name!r}, which is no slot of it")
    for name in names:
        if name in _KEPT or any(name == SCALES.format(other) for other in names):
            raise ValueError(f"{what}: no slot can be called {name!r}, which a state has beside slots")
    for slot, name in told.initial.items():
        if not isinstance(signature.defaults.get(name), float):
            raise ValueError(f"{what}: the first value of {slot!r} is {name!r}, which is no number of it")
    return tuple(
        Slot(
            name,
            initial=told.initial.get(name),
            unsigned=name in told.unsigned,
            precise=name in told.precise,
        )
        for name in names
    )


# ---- The rule ---------------------------------------------------------------------------------------


def _rule(function: FunctionType, signature: Signature, slots: tuple[Slot, ...], source: str) -> Rule:
    what, scalars = f"rule {function.__name__!r}", Scalars()
    keywords = {name: _given(scalars, name, value) for name, value in signature.defaults.items()}
    if signature.takes_step:
        keywords["step"] = scalars.given("step")
    bodies = {
        dtype: traced(function, len(slots), keywords, scalars, dtype)
        for dtype in (np.dtype(np.float32), np.dtype(np.float64))
    }
    if len(scalars.met) > lib.FGD_MAX_SCALARS:
        raise ValueError(
            f"{what}: {len(scalars.met)} numbers that follow from hyperparameters and the step alone meet "
            f"elements, and there is room for {lib.FGD_MAX_SCALARS}"
        )
    fold = scalars.fold()
    try:
        fold(signature.defaults, 1, ())
    except (TypeError, ValueError, ArithmeticError) as error:
        raise TypeError(f"{what}: its scalars cannot be computed: {error}") from error
    own = {
        name: Hyperparameter(_check_of(name, value), _meaning(name), folded=True)
        for name, value in signature.defaults.items()
    }
    doc = inspect.getdoc(function) or ""
    return Rule(
        name=function.__name__,
        title=function.__name__,
        summary=doc or f"The rule {function.__name__}, written in Python.",
        source=source or f"{function.__module__}.{function.__qualname__}",
        defaults={**signature.defaults, "maximize": False},
        kernel="",
        slots=slots,
        switches={},
        scalars=tuple(scalar_name(i) for i in range(len(scalars.met))),
        fold=fold,
        body=_body(bodies, slots, len(scalars.met)),
        in_torch=False,
        whole=_WHOLE,
        own=own,
    )


def _given(scalars: Scalars, name: str, default: Any) -> Any:
    """What the function is given for a hyperparameter."""
    if isinstance(default, tuple):
        return tuple(scalars.given(f"h[{name!r}][{i}]") for i in range(len(default)))
    return scalars.given(f"h[{name!r}]")


def _meaning(name: str) -> str:
    return HYPERPARAMETERS[name].meaning if name in _SHARED else "as the function has it"


def _body(bodies: dict[Any, Body], slots: tuple[Slot, ...], n_scalars: int) -> Callable[..., Any]:
    def body(xp: Any, p: Any, g: Any, x: Any, s: Any, on: Any) -> Any:
        arguments = {PARAM: p, GRAD: g}
        arguments |= {slot_name(k): getattr(x, slot.name) for k, slot in enumerate(slots)}
        arguments |= {scalar_name(i): getattr(s, scalar_name(i)) for i in range(n_scalars)}
        values = replayed(xp, bodies[p.dtype], arguments)
        if isinstance(p, np.ndarray):  # also what does not depend on the element is an array
            values = [np.array(np.broadcast_to(value, p.shape), p.dtype) for value in values]
        for slot, value in zip(slots, values[1:], strict=True):
            setattr(x, slot.name, value)
        return values[0]

    return body
