"""One element's step, traced from the reference: loaded from what it is stored in, updated, and stored again.

Nothing of the mathematics stands here: bodies of rules, formats, roundings, averages and random bits are the
functions that the reference backend calls, called with symbols.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from fastgd.arrays import dtype_named
from fastgd.backends.reference_norms import clipped
from fastgd.backends.reference_update import ROUNDINGS, kept_if_descending, moved
from fastgd.kept import RESIDUALS
from fastgd.rules import Rule, labelled
from fastgd.settings import CODED
from fastgd.storage import (
    HALF_CODE,
    arithmetic,
    decoded,
    encoded,
    half,
    hashed,
    is_broken,
    key_above,
    load,
    mixed,
    narrowed,
    random_below,
    store,
)
from fastgd.tracing import Trace

#: a symbol, by the type of what the reference's functions take
Value = Any

#: operand numbers of random bits: storage.noise_key
PARAM, SLOTS = 0, 2


#: all in one order without gaps; by the strides of each; or gapless, where the gradient has some rows only
LAYOUTS = ("gapless", "strided", "rows")


class Variant(NamedTuple):
    """All that decides what a kernel does with an element. Dtypes go by their names."""

    #: its label (fastgd.rules.label_of)
    rule: str
    #: which of the rule's switches are on, in their order
    on: tuple[bool, ...]
    param: str
    grad: str
    #: for each slot of the rule: its dtype, or "8bit"; None where it is not in use
    state: tuple[str | None, ...]
    rounding: str = "nearest"
    state_rounding: str = "nearest"
    maximize: bool = False
    #: whether gradients are clamped
    bounded: bool = False
    cautious: bool = False
    average: bool = False
    #: the dtype of the copy of the parameter
    copy: str | None = None
    #: whether each unit of the gradient has a coefficient of its own
    units: bool = False
    #: how arrays lie in memory: of LAYOUTS
    layout: str = "gapless"

    @property
    def of(self) -> Rule:
        return labelled(self.rule)

    @property
    def real(self) -> np.dtype[Any]:
        """What it is computed in."""
        real: np.dtype[Any] = np.dtype(arithmetic(dtype_named(self.param)))
        return real

    @property
    def narrow(self) -> bool:
        return dtype_named(self.param).itemsize == 2

    @property
    def rounds(self) -> str:
        """How the parameter is rounded; one as wide as its arithmetic has nothing to lose."""
        return self.rounding if self.narrow else "nearest"

    @property
    def residual(self) -> str | None:
        """What the residual is stored in; None where there is none."""
        kind = RESIDUALS.get(self.rounds)
        return kind.dtype(np.empty(0, dtype_named(self.param))).name if kind else None

    @property
    def slots(self) -> dict[str, str]:
        """Name of each slot in use -> what it is stored in."""
        named = zip(self.of.slots, self.state, strict=True)
        return {slot.name: stored for slot, stored in named if stored is not None}

    @property
    def lines(self) -> dict[str, int]:
        """Name of each slot in use that has a number for each row or column -> the axis that it is over."""
        over = {slot.name: slot.over for slot in self.of.slots}
        return {name: axis for name in self.slots if (axis := over[name]) is not None}

    def operand(self, slot: str) -> int:
        """Of its random bits."""
        return SLOTS + [s.name for s in self.of.slots].index(slot)

    def unsigned(self, slot: str) -> bool:
        return next(s.unsigned for s in self.of.slots if s.name == slot)

    @property
    def random(self) -> list[int]:
        """The even operands whose random bits it needs, each of which stands for the next as well."""
        operands = [PARAM] if self.rounds == "stochastic" else []
        if self.state_rounding == "stochastic":
            operands += [self.operand(s) & ~1 for s, kind in self.slots.items() if is_random(kind)]
        return sorted(set(operands))


def is_random(stored: str) -> bool:
    """Whether state that is stored so can be rounded stochastically."""
    return stored == CODED or dtype_named(stored).itemsize == 2


class Traced(NamedTuple):
    """What of a step there is to write down.

    Arguments by name. Of the element: p, g, x_<slot>, residual, average as they are stored, `low`, the lower
    half of its number, unit_coef, factor_<slot> of its row or column, and `work`, what is added to it by a
    rule that makes steps orthogonal. Of its block of 8-bit state: scale_<slot>. Of the tensor and the step:
    s_<scalar>, unscale, bound, coef, average_weight, trust, cautious_scale, key<operand>_first and _second.
    """

    trace: Trace
    #: what is stored, by the names of the arguments; of 8-bit state, "bits_<slot>": those of the float32
    outputs: dict[str, Value]
    #: what trust ratios and cautious updates are made of: param, other, descends
    tried: dict[str, Value]
    #: param and g as the rule sees them, and `prepared`, the gradient before it is clipped by units
    seen: dict[str, Value]


def traced(variant: Variant) -> Traced:
    """The operations of one element's step."""
    trace, real = Trace(), variant.real
    outputs: dict[str, Value] = {}

    def element(name: str, stored: str) -> Value:
        return trace.argument(name, dtype_named(stored))

    def uniform(name: str) -> Value:
        return trace.argument(name, real)

    param = element("p", variant.param)
    residual = [element("residual", variant.residual)] if variant.residual else []
    x = ROUNDINGS[variant.rounds].join(param, *residual)
    prepared = gradient(load(element("g", variant.grad), real), uniform, clamped=variant.bounded)
    g: Any = prepared * uniform("unit_coef") if variant.units else prepared
    seen = {"param": x, "g": g, "prepared": prepared}
    state: dict[str, Value] = {}
    if variant.of.orthogonal is not None:
        new_x, tried = _turned(variant, x, g, uniform)
    else:
        for name, kind in variant.slots.items():
            of_line = name in variant.lines
            state[name] = uniform(f"factor_{name}") if of_line else _loaded(trace, name, kind, real, variant)
        new_x, state, tried = _ruled(variant, trace, x, g, state, uniform)

    parts = ROUNDINGS[variant.rounds].part(new_x, param.dtype, lambda: _random(trace, PARAM))
    outputs["p"] = parts[0]
    if residual:
        outputs["residual"] = parts[1]
    outputs |= _stored(trace, {name: v for name, v in state.items() if name not in variant.lines}, variant)
    if variant.average:
        outputs["average"] = moved(element("average", real.name), new_x, uniform("average_weight"))
    if variant.copy:
        outputs["copy"] = store(new_x, dtype_named(variant.copy))
    return Traced(trace, outputs, tried, seen)


def traced_momentum(variant: Variant) -> Traced:
    """The first part of a step that is made orthogonal: new state, and `work`, minus the step so far."""
    trace, real = Trace(), variant.real

    def uniform(name: str) -> Value:
        return trace.argument(name, real)

    stored: Value = trace.argument("g", dtype_named(variant.grad))
    prepared = gradient(load(stored, real), uniform, clamped=variant.bounded)
    g: Any = prepared * uniform("unit_coef") if variant.units else prepared
    state = {name: _loaded(trace, name, kind, real, variant) for name, kind in variant.slots.items()}
    change, state = _body(variant, trace, trace.constant(0, real), g, state, uniform, decay=0.0)
    return Traced(trace, {**_stored(trace, state, variant), "work": change}, {}, {})


def traced_line(variant: Variant, slot: str) -> Traced:
    """The new average of a row or a column of squares, which is computed in float64.

    Arguments: x_<slot>, and scale_<slot> of its codes; `total`, the sum of squares; `length`, of how many;
    s_<scalar>. Outputs: the state; `total`, the average before it is stored; and of columns `factor`, in what
    the parameter is computed in.
    """
    trace = Trace()
    factored = variant.of.factored
    assert factored is not None
    s = SimpleNamespace(**{name: trace.argument(f"s_{name}", np.float64) for name in variant.of.scalars})
    before = _loaded(trace, slot, variant.slots[slot], np.dtype(np.float64), variant)
    total, length = (trace.argument(name, np.float64) for name in ("total", "length"))
    average: Value = factored.average(before, total / length, s)
    outputs = _stored(trace, {slot: average}, variant)
    if variant.lines[slot] == -1:
        outputs["total"] = average
    else:
        outputs["factor"] = factored.col_factor(np, average).astype(variant.real)
    return Traced(trace, outputs, {}, {})


def gradient(g: Value, uniform: Any, *, clamped: bool) -> Value:
    """What happens to a gradient before its rule: reference_norms.transformed."""
    if clamped:
        return clipped(g, uniform("unscale"), uniform("bound"), uniform("coef"))
    return g * uniform("coef")


def _loaded(trace: Trace, name: str, kind: str, real: Any, variant: Variant) -> Value:
    if kind != CODED:
        stored: Value = trace.argument(f"x_{name}", dtype_named(kind))
        return load(stored, real)
    code: Value = trace.argument(f"x_{name}", np.uint8).astype(np.uint32)
    scale: Value = trace.argument(f"scale_{name}", np.float32)
    return decoded(code, scale, variant.unsigned(name)).astype(real)


def _stored(trace: Trace, state: dict[str, Value], variant: Variant) -> dict[str, Value]:
    """New state as it is stored; "bits_<slot>" of 8-bit state."""
    outputs: dict[str, Value] = {}
    for name, value in state.items():
        kind = variant.slots[name]
        if kind == CODED:
            outputs[f"bits_{name}"] = narrowed(value).astype(np.uint32)
            continue
        stochastic = variant.state_rounding == "stochastic" and is_random(kind)
        bits = _random(trace, variant.operand(name)) if stochastic else None
        unsigned = variant.unsigned(name)
        outputs[f"x_{name}"] = store(value, dtype_named(kind), unsigned=unsigned, random=bits)
    return outputs


def _ruled(
    variant: Variant, trace: Trace, x: Value, g: Value, state: dict[str, Value], uniform: Any
) -> tuple[Value, dict[str, Value], dict[str, Value]]:
    """(new parameter, new state, what is tried): reference_update._ruled for one element."""
    rule = variant.of

    def body(**instead: float) -> tuple[Value, dict[str, Value]]:
        return _body(variant, trace, x, g, state, uniform, **instead)

    tried: dict[str, Value] = {}
    if rule.trust is not None:
        tried["param"] = x
        tried["other"] = g if rule.trust.of == "gradient" else body(decay=0.0, trust=1.0)[0]
    if not variant.cautious:
        return *body(), tried
    change, new_state = body(decay=0.0)
    # the trust ratio, which is not known yet, does not change a sign
    tried["change"], tried["g"] = body(decay=0.0, trust=1.0)[0] if rule.trust else change, g
    scaled = uniform("cautious_scale") * kept_if_descending(change, g)
    return uniform("s_decay") * x + scaled, new_state, tried


def _body(
    variant: Variant,
    trace: Trace,
    x: Value,
    g: Value,
    state: dict[str, Value],
    uniform: Any,
    **instead: float,
) -> tuple[Value, dict[str, Value]]:
    """What the rule's body makes of a parameter and its state; instead: scalars that have another value."""
    rule, names = variant.of, list(state)
    on = SimpleNamespace(**dict(zip(rule.switches, variant.on, strict=True)))
    s = {name: uniform(f"s_{name}") for name in rule.scalars}
    s |= {name: trace.constant(value, variant.real) for name, value in instead.items()}

    def run() -> list[Any]:
        slots = SimpleNamespace(**state)
        return [rule.body(np, x, g, slots, SimpleNamespace(**s), on), *(getattr(slots, n) for n in names)]

    new_x, *new_state = trace.follow(run)
    return new_x, dict(zip(names, new_state, strict=True))


def _turned(variant: Variant, x: Value, g: Value, uniform: Any) -> tuple[Value, dict[str, Value]]:
    """(new parameter, what is tried) once `work` is what is added: the end of reference_update._ruled."""
    change, scale = uniform("work"), uniform("s_lr")
    if not variant.cautious:
        return uniform("s_decay") * x + scale * change, {}
    scaled = uniform("cautious_scale") * kept_if_descending(change, g)
    return uniform("s_decay") * x + scaled, {"change": change, "g": g}


# ---- Random bits ------------------------------------------------------------------------------------


def _random(trace: Trace, operand: int) -> Value:
    """The 16 random bits of an operand."""
    return half(_random_word(trace, operand & ~1), operand)


def _random_word(trace: Trace, operand: int) -> Value:
    first, second = (trace.argument(f"key{operand}_{part}", np.uint32) for part in ("first", "second"))
    return hashed(trace.argument("low", np.uint32), first, second)


def traced_keys(variant: Variant) -> tuple[Trace, dict[str, Value]]:
    """The keys to random bits, by the arguments noise, step and high, uint64.

    noise: of the tensor, storage.mixed(mixed(seed) + stream). high: the upper half of elements' numbers.
    """
    trace = Trace()
    noise, step, high = (trace.argument(name, np.uint64) for name in ("noise", "step", "high"))
    keys: dict[str, Value] = {}
    for operand in variant.random:
        key = key_above(mixed(noise + step * 16 + operand), high)
        keys[f"key{operand}_first"] = key.astype(np.uint32)
        keys[f"key{operand}_second"] = (key >> 32).astype(np.uint32)
    return trace, keys


# ---- 8-bit state ------------------------------------------------------------------------------------


def traced_codes(variant: Variant, slot: str) -> tuple[Trace, Value]:
    """The code of an element of 8-bit state.

    Arguments: bits_<slot> of the element; inverse_<slot> of the scale and largest_<slot>, the bits of the
    largest magnitude, of its block; `low` and the keys where it is rounded stochastically.
    """
    trace = Trace()
    bits = trace.argument(f"bits_{slot}", np.uint32)
    below: Any = HALF_CODE
    if variant.state_rounding == "stochastic":
        below = random_below(_random(trace, variant.operand(slot)))
    inverse: Value = trace.argument(f"inverse_{slot}", np.float32)
    code: Any = encoded(bits, inverse, below, variant.unsigned(slot))
    largest = trace.argument(f"largest_{slot}", np.uint32)
    return trace, np.where(is_broken(largest), np.uint8(0), code)
