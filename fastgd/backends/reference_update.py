"""One tensor's step in NumPy: its numbers are loaded, updated by the rule's body, and stored again."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import Array
from fastgd.backends.base import Block, Codes, Item, Options, State
from fastgd.backends.reference_factored import updated_moments
from fastgd.backends.reference_norms import smallest, tensor_norm, transformed, unit_coefs
from fastgd.rules import Orthogonal, Slot
from fastgd.settings import state_rounding
from fastgd.storage import (
    Bits,
    arithmetic,
    decode,
    encode,
    load,
    random_halves,
    split,
    split_join,
    store,
)


class Change(NamedTuple):
    """New values for an array, not yet written."""

    array: Array
    where: Any
    values: Array

    def write(self) -> None:
        self.array[self.where] = self.values


class Elements(NamedTuple):
    """The elements of a tensor that are updated, as one flat run."""

    #: of the parameter
    shape: tuple[int, ...]
    #: the axes, slowest first
    order: tuple[int, ...]
    #: the rows, axis 0, that are updated; None: all
    rows: Array | None

    def of(self, array: Array) -> Array:
        """These elements of an array of the parameter's shape."""
        chosen = array if self.rows is None else array[self.rows]
        return chosen.transpose(self.order).reshape(-1)

    def change(self, array: Array, values: Array) -> Change:
        """An array of the parameter's shape is to have these values for them."""
        target = array.transpose(self.order)
        if self.rows is None:
            return Change(target, ..., values.reshape(target.shape))
        return Change(target, self.rows, values.reshape(len(self.rows), *self.shape[1:]))

    def numbers(self) -> Array:
        """int64: where each of them stands among all elements of the parameter."""
        if self.rows is None:
            return np.arange(math.prod(self.shape))
        width = math.prod(self.shape[1:])
        numbers: Array = np.add.outer(self.rows * width, np.arange(width)).reshape(-1)
        return numbers


# ---- The parameter: what it is with nothing lost, and how it is stored ------------------------------


class Rounding(NamedTuple):
    """How a parameter is kept, and beside 16 bits of it, in a residual, what they lose."""

    #: (parameter, and residual if there is one) -> the numbers they stand for
    join: Callable[..., Array]
    #: (numbers, dtype of the parameter, random bits when called) -> (parameter, and residual)
    part: Callable[[Array, Any, Callable[[], Bits]], tuple[Array, ...]]


def _plain_join(param: Array) -> Array:
    return load(param, arithmetic(param.dtype))


def _kahan_join(param: Array, lost: Array) -> Array:
    """With what was lost, except where half of that reaches beyond the rounding of the parameter.

    There somebody has set the parameter since; half, because what was lost is itself rounded.
    """
    current, rest = load(param, np.float32), load(lost, np.float32)
    rounded = load(store(np.float32(0.5) * rest + current, param.dtype), np.float32)
    joined: Array = np.where(rounded == current, current + rest, current)
    return joined


def _kahan_part(x: Array, dtype: Any, random: Any) -> tuple[Array, ...]:
    param = store(x, dtype)
    return param, store(x - load(param, np.float32), dtype)


def _master_join(param: Array, master: Array) -> Array:
    """The master, except where the parameter is not its rounding: there somebody has set it since."""
    current = load(param, np.float32)
    return np.where(load(store(master, param.dtype), np.float32) == current, master, current)


#: by the names of the setting
ROUNDINGS = {
    "nearest": Rounding(_plain_join, lambda x, dtype, random: (store(x, dtype),)),
    "stochastic": Rounding(_plain_join, lambda x, dtype, random: (store(x, dtype, random=random()),)),
    "kahan": Rounding(_kahan_join, _kahan_part),
    "master": Rounding(_master_join, lambda x, dtype, random: (store(x, dtype), x)),
    "split": Rounding(split_join, lambda x, dtype, random: split(x, dtype)),
}


def _rounding(item: Item, block: Block) -> Rounding:
    """A parameter as wide as its arithmetic has nothing to lose."""
    return ROUNDINGS[block.values["rounding"] if item.param.dtype.itemsize == 2 else "nearest"]


# ---- State ------------------------------------------------------------------------------------------


class Kept(NamedTuple):
    """The state of one slot."""

    slot: Slot
    #: number of its random bits
    operand: int
    state: State

    def load(self, elements: Elements, real: Any) -> Array:
        elements, real = self._placed(elements), np.float64 if self._of_lines else real
        if isinstance(self.state, Codes):
            codes, scales = self.state
            return decode(elements.of(codes), scales, real, unsigned=self.slot.unsigned)
        return load(elements.of(self.state), real)

    @property
    def _of_lines(self) -> bool:
        """Whether it has a number for each row or column, which is computed in float64."""
        return self.slot.over is not None

    def _placed(self, elements: Elements) -> Elements:
        """Its own elements beside those of the parameter."""
        shape = self.slot.shape(elements.shape)
        return Elements(shape, tuple(range(len(shape))), None) if self._of_lines else elements

    def store(
        self, elements: Elements, values: Array, rounding: str, random: Callable[[int, Elements], Bits]
    ) -> list[Change]:
        elements = self._placed(elements)
        bits = random(self.operand, elements) if rounding == "stochastic" else None
        if isinstance(self.state, Codes):
            codes, scales = encode(values, unsigned=self.slot.unsigned, random=bits)
            return [elements.change(self.state.codes, codes), Change(self.state.scales, ..., scales)]
        stored = store(values, self.state.dtype, unsigned=self.slot.unsigned, random=bits)
        return [elements.change(self.state, stored)]


# ---- The step ---------------------------------------------------------------------------------------


class Step(NamedTuple):
    """One step of a block."""

    block: Block
    #: the rule's switches, as they were when the state was made
    on: SimpleNamespace
    #: the rule's scalars, in float64
    scalars: dict[str, float]
    #: its number, counted from 1
    number: int
    #: of the random bits
    seed: int


def updated(item: Item, grad: Array, step: Step, options: Options, coef: float) -> tuple[list[Change], float]:
    """What the step changes of a tensor, and the smallest coefficient of its units when they are clipped.

    grad: flat, in the order of the item's elements and the precision they are computed in.
    coef: what it is multiplied by, the sign of maximize included.
    """
    rule, values, real = step.block.rule, step.block.values, grad.dtype.type
    elements = Elements(item.param.shape, item.order, item.rows)
    rounding = _rounding(item, step.block)
    params = [array for array in (item.param, item.residual) if array is not None]
    slots = [
        Kept(slot, 2 + k, state)
        for k, (slot, state) in enumerate(zip(rule.slots, item.state, strict=True))
        if state is not None
    ]

    def random(operand: int, of: Elements) -> Bits:
        return random_halves(step.seed, item.stream, step.number, operand, of.numbers())

    x = rounding.join(*map(elements.of, params))
    g, unit_coef = _clipped_by_units(x, transformed(grad, options, coef), item.param.shape, options)
    state = {kept.slot.name: kept.load(elements, real) for kept in slots}
    x, state = _ruled(x, g, state, step, item.param.shape)

    parts = rounding.part(x, item.param.dtype, partial(random, 0, elements))
    changes = [elements.change(array, part) for array, part in zip(params, parts, strict=True)]
    for kept in slots:
        changes += kept.store(elements, state[kept.slot.name], state_rounding(values), random)
    if item.average is not None:
        average = elements.of(item.average)
        average = moved(average, x, real(1.0 - values["ema_decay"]))
        changes.append(elements.change(item.average, average))
    if item.copy is not None:
        changes.append(elements.change(item.copy, store(x, item.copy.dtype)))
    return changes, unit_coef


def moved(average: Array, x: Array, weight: Any) -> Array:
    """A running average, with x in it by this weight."""
    result: Array = average + weight * (x - average)
    return result


def descends(change: Array, g: Array) -> Array:
    """Where a change goes against the gradient (Liang et al. 2024, algorithm 1)."""
    return ((change < 0) & (g > 0)) | ((change > 0) & (g < 0))


def kept_if_descending(change: Array, g: Array) -> Array:
    """The change where it descends, and NaN, which so stays visible; else 0."""
    return np.where(descends(change, g) | np.isnan(change), change, change.dtype.type(0))


def counted(share: Any) -> Any:
    """What a cautious change is divided by, so that what descends makes up for the rest (the authors' code).

    share: of the elements whose change descends.
    """
    return max(share, 1e-3)


def _clipped_by_units(x: Array, g: Array, shape: tuple[int, ...], options: Options) -> tuple[Array, float]:
    """The gradient with each unit clipped, and the smallest of their coefficients."""
    if math.isinf(options.clip_unit):
        return g, 1.0
    unit = math.prod(shape[1:]) if len(shape) >= 2 else g.size
    coefs = unit_coefs(x, g, unit, options)
    return g * np.repeat(coefs, unit).astype(g.dtype), smallest(coefs.tolist())


def _ruled(
    x: Array, g: Array, state: dict[str, Array], step: Step, shape: tuple[int, ...]
) -> tuple[Array, dict[str, Array]]:
    """The new parameter and state, in the precision they are computed in.

    x, g, state: flat. shape: of the parameter, for rules that need matrices; their elements are in C order.
    """
    rule, real = step.block.rule, x.dtype.type
    scalars = dict(step.scalars)
    moments: dict[str, Array] = {}
    if any(slot.over is not None and slot.name in state for slot in rule.slots):
        moments, factors = updated_moments(g, shape, rule, state, scalars)
        state = {**state, **factors}

    def body(at: Array, **instead: float) -> tuple[Array, dict[str, Array]]:
        s = SimpleNamespace(**{name: real(value) for name, value in {**scalars, **instead}.items()})
        slots = SimpleNamespace(**state)
        return rule.body(np, at, g, slots, s, step.on), {**vars(slots), **moments}

    if rule.trust is not None:
        measured = g if rule.trust.of == "gradient" else body(x, decay=0.0, trust=1.0)[0]
        scalars["trust"] = rule.trust.ratio(
            tensor_norm(x), tensor_norm(measured), math.sqrt(x.size), step.scalars
        )
    cautious, scale = step.block.values["cautious"], 1.0
    if rule.orthogonal is None and not cautious:
        return body(x)
    # without the parameter, which enters the step of such a rule only where it decays
    change, new_state = body(x if rule.orthogonal is None else np.zeros_like(x), decay=0.0)
    if rule.orthogonal is not None:
        change, scale = _turned(rule.orthogonal, change, shape, scalars), scalars["lr"]
    if cautious:
        share = np.count_nonzero(descends(change, g)) / x.size
        change, scale = kept_if_descending(change, g), scale / counted(share)
    return real(scalars["decay"]) * x + real(scale) * change, new_state


def _turned(
    orthogonal: Orthogonal, change: Array, shape: tuple[int, ...], scalars: dict[str, float]
) -> Array:
    """A flat change made orthogonal as a matrix of that shape, in its precision."""
    real = change.dtype.type
    s = SimpleNamespace(**{name: real(value) for name, value in scalars.items()})
    first = orthogonal.scale(tensor_norm(change), SimpleNamespace(**scalars))

    def polynomial(gram: Array, square: Array) -> Array:
        value: Array = orthogonal.polynomial(np.eye(len(gram), dtype=real), gram, square, s)
        return value

    matrix = change.reshape(shape) * real(first)
    turned: Array = orthogonal.turned(matrix, polynomial, int(scalars[orthogonal.steps]))
    return turned.reshape(-1)
