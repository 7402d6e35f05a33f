"""Traced functions: the bits of the functions themselves, and refusals of what has no operation."""

from types import SimpleNamespace

import numpy as np
import pytest

from fastgd import storage
from fastgd.nn import elementary
from fastgd.rules import INTERNAL, RULES
from fastgd.tracing import Trace, TraceError

REALS = (np.float32, np.float64)

#: numbers of all sizes, and what is no number
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-40, 6e-8, 1e-3, 65520.0, 3e38, np.inf, -np.inf, np.nan]


def numbers(real, n=500, seed=0):
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.standard_normal(n), np.exp(rng.uniform(-90, 88, n)), SPECIAL]).astype(real)


def same(got, wanted):
    assert got.dtype == wanted.dtype
    kind = np.dtype(f"u{wanted.itemsize}")
    nan = wanted != wanted
    np.testing.assert_array_equal(got != got, nan)
    np.testing.assert_array_equal(got[~nan].view(kind), wanted[~nan].view(kind))


def traced(function, *arrays):
    """What the function gives by its operations."""
    trace = Trace()
    symbols = [trace.argument(f"a{i}", array.dtype) for i, array in enumerate(arrays)]
    outputs = trace.follow(lambda: function(*symbols))
    return trace.evaluate(outputs, {f"a{i}": array for i, array in enumerate(arrays)})


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("on", (False, True))
@pytest.mark.parametrize("name", [*RULES, *INTERNAL])
def test_bodies_have_the_bits_of_the_reference(name, on, real):
    rule = (RULES | INTERNAL)[name]
    switches = SimpleNamespace(**dict.fromkeys(rule.switches, on))
    rng = np.random.default_rng(1)
    scalars = {s: real(rng.uniform(0.1, 0.9)) for s in rule.scalars}
    arrays = [numbers(real, seed=i) for i in range(2 + len(rule.slots))]
    names = ["p", "g", *(slot.name for slot in rule.slots)]

    def body(p, g, slots, scalars):
        x = SimpleNamespace(**slots)
        p = rule.body(np, p, g, x, SimpleNamespace(**scalars), switches)
        return [p, *(getattr(x, slot.name) for slot in rule.slots)]

    trace = Trace()
    symbols = {name: trace.argument(name, real) for name in names}
    s = {name: trace.argument(f"s_{name}", real) for name in scalars}
    slots = {slot.name: symbols[slot.name] for slot in rule.slots}
    outputs = trace.follow(lambda: body(symbols["p"], symbols["g"], slots, s))
    given = {**dict(zip(names, arrays, strict=True)), **{f"s_{k}": v for k, v in scalars.items()}}
    with np.errstate(all="ignore"):
        wanted = body(*arrays[:2], dict(zip(slots, arrays[2:], strict=True)), scalars)
    for got, want in zip(trace.evaluate(outputs, given), wanted, strict=True):
        same(got, want)


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("function", (elementary.exp, elementary.expm1, elementary.log1p))
def test_elementary_functions(function, real):
    x = numbers(real)
    with np.errstate(all="ignore"):
        same(traced(lambda s: [function(s)], x)[0], function(x))


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("dtype", storage._16_BITS)
def test_formats_of_storage(dtype, real):
    x, bits = numbers(real), np.random.default_rng(0).integers(0, 1 << 16, 1013, np.uint32)
    kind = storage._16_BITS[dtype]
    with np.errstate(all="ignore"):
        same(traced(lambda s: [kind.nearest(storage.narrowed(s))], x)[0], kind.nearest(storage.narrowed(x)))
        wanted = kind.stochastic(storage.narrowed(x), bits)
        same(traced(lambda s, r: [kind.stochastic(storage.narrowed(s), r)], x, bits)[0], wanted)
    stored = np.arange(1 << 16).astype(np.uint16)
    same(traced(lambda s: [kind.decode(s)], stored)[0], kind.decode(stored))


def test_branches_go_both_ways():
    def function(x, y):
        if x > 0:
            y = x - y if y > x else y * 2
        for _ in range(3):
            y = y + 1
        return [y if abs(y) < 5 else min(x, y), max(x, 0.5), x**3]

    x, y = numbers(np.float32, seed=1), numbers(np.float32, seed=2)
    with np.errstate(all="ignore"):
        rows = [function(a, b)[:2] for a, b in zip(x, y, strict=True)]
        cubes = x * (x * x)
    got = traced(function, x, y)
    same(got[0], np.array([row[0] for row in rows], np.float32))
    same(got[1], np.array([row[1] for row in rows], np.float32))
    same(got[2], cubes)


def test_operations_are_there_once_and_only_where_needed():
    trace = Trace()
    x = trace.argument("x", np.float32)
    y = x * 2 + x * 2
    _ = x / 3
    source = trace.source([y])
    assert source.lines == ["v2 = mul_f32(x, c_f32_40000000)", "v3 = add_f32(v2, v2)"]
    assert (
        source.arguments == ["x"]
        and source.outputs == ["v3"]
        and list(source.functions) == ["mul_f32", "add_f32"]
    )


@pytest.mark.parametrize(
    ("function", "reason"),
    (
        (lambda x: [np.exp(x)], "np.exp has no operation of one element"),
        (lambda x: [float(x)], "not known yet"),
        (lambda x: [x[0]], "no elements"),
        (lambda x: [np.sum(x)], "np.sum"),
        (lambda x: [x**0.3], "whole powers"),
        (lambda x: [x.view(np.float64)], "another size"),
        (lambda x: [x + np.ones(3, np.float32)], "no place beside one element"),
        (lambda x: [x + 1] if x > 0 else [x, x], "different numbers of values"),
        (lambda x: [x for i in range(12) if x > i], "ways through its branches"),
    ),
)
def test_what_has_no_operation_is_refused(function, reason):
    trace = Trace()
    x = trace.argument("x", np.float32)
    with pytest.raises(TraceError, match=reason):
        trace.follow(lambda: function(x))


@pytest.mark.parametrize("real", REALS)
def test_numpy_s_sign_and_powers(real):
    x = numbers(real)
    with np.errstate(all="ignore"):
        same(traced(lambda x: [np.sign(x)], x)[0], np.sign(x))
        same(traced(lambda x: [np.power(x, 3)], x)[0], x * (x * x))
        same(traced(lambda x: [np.fabs(x)], x)[0], np.fabs(x))


def test_a_loop_that_depends_on_a_symbol_ends():
    def halved(x):
        while x > 1:
            x = x / 2
        return [x]

    with pytest.raises(TraceError, match="does a loop's end depend on them"):
        traced(halved, numbers(np.float32))


@pytest.mark.parametrize("power", [lambda x: x**x, lambda x: 2.0**x, lambda x: x**0.3, lambda x: x**65])
def test_powers_without_the_same_bits_everywhere(power):
    with pytest.raises(TraceError, match="the same bits everywhere"):
        traced(lambda x: [power(x)], numbers(np.float32))
