"""Stored precisions: every rule, in every dtype of parameters, state and gradients and with every rounding,
has the bits of the reference on every instruction set, in any layout and with any number of threads.
"""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import contents

from fastgd import optim, verification
from fastgd.arrays import CODES, dtype_named
from fastgd.oracle import ORACLE
from fastgd.rules import RULES
from fastgd.settings import ROUNDINGS, STATE_ROUNDINGS

RUNNERS = verification.runners()
ONE_THREAD = [r for r in RUNNERS if r.backend == "native" and r.threads == 1]

FLOATS = tuple(CODES)

#: Muon's matrix products have other last bits in NumPy; test_muon.py has its precisions
EXACT = [name for name, rule in RULES.items() if rule.exact]
STATES = (None, *FLOATS, "8bit")

#: around a block of codes and the vector widths; with no elements, no dimensions, and more than two
SHAPES = [(3, 257), (), (0, 4), (256,), (2, 3, 5), (70, 9), (17,)]

OPTIONS: list[dict[str, Any]] = [
    {},
    {"clip_norm": 1.0},
    {"clip_norm": 0.5, "clip_scope": "group", "grad_scale": 3.0},
    {"clip_norm": 0.5, "clip_scope": "tensor", "clip_value": 0.4},
    {"clip_norm": 2.0, "normalize": True, "grad_scale": 2.0},
    {"clip_norm": 0.7, "normalize": True, "clip_scope": "tensor", "skip_nonfinite": True},
    {"clip_norm": 1.0, "total_norm": 3.5},
    {"clip_adaptive": 0.05},
    {"clip_adaptive": 0.2, "clip_adaptive_eps": 0.5, "clip_value": 0.6, "skip_nonfinite": True},
]


def packed(values):
    return values.copy()


def strided(values):
    memory = np.zeros((*values.shape, 3), values.dtype)
    memory[..., 1] = values
    return memory[..., 1]


def backwards(values):
    return values[::-1].copy()[::-1] if values.ndim else values.copy()


def fortran(values):
    return values.copy(order="F")


def misaligned(values):
    memory = np.zeros(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
    memory[...] = values
    return memory


PLACES = [packed, packed, strided, backwards, fortran, misaligned]


class Cell(NamedTuple):
    """One way to train."""

    rule: str
    hyperparameters: dict[str, Any]
    settings: dict[str, Any]
    param: str
    grad: str
    copy: str | None
    options: dict[str, Any]
    #: where parameters, gradients and copies lie
    places: tuple[Any, Any, Any]
    seed: int
    shapes: tuple[tuple[int, ...], ...] = tuple(SHAPES)


def dtypes_and_roundings():
    """(parameter, state, rounding): every one that there is."""
    for param in FLOATS:
        for rounding in ROUNDINGS if dtype_named(param).itemsize == 2 else ROUNDINGS[:1]:
            if (param, rounding) != ("float16", "split"):
                for state in STATES:
                    yield param, state, rounding


def goes_cautiously(rule):
    return RULES[rule].whole is None


def cells(rule):
    """A cell for each of `dtypes_and_roundings`; everything else is drawn, always the same."""
    return [cell for _, cell in numbered(rule)]


def some_cells(rule):
    """A third of them, other ones from rule to rule.

    Each of `dtypes_and_roundings` is tried with every third rule, and with every rule each of its parameters
    and roundings, with some state.
    """
    return [cell for turn, cell in numbered(rule) if (turn + EXACT.index(rule)) % 3 == 0]


def numbered(rule):
    """(the sum of the places of its parameter, state and rounding, cell)"""
    for k, (param, state, rounding) in enumerate(dtypes_and_roundings()):
        draw = random.Random(f"{rule} {k}").choice
        turn = FLOATS.index(param) + STATES.index(state) + ROUNDINGS.index(rounding)
        yield (
            turn,
            Cell(
                rule,
                draw(ORACLE[rule][1]),
                {
                    "state_dtype": state,
                    "state_rounding": draw([None, *STATE_ROUNDINGS]),
                    "rounding": rounding,
                    "cautious": draw([False, False, True]) and goes_cautiously(rule),
                    "ema_decay": draw([None, 0.9]),
                },
                param,
                draw(FLOATS),
                draw([None, *FLOATS]),
                draw(OPTIONS),
                (draw(PLACES), draw(PLACES), draw(PLACES)),
                k,
            ),
        )


def numbers(shape, seed, dtype):
    """Of all magnitudes that matter, zeros among them, and rounded to fewer bits here and there."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) * 2.0 ** rng.integers(-12, 2, shape)
    return np.asarray(np.where(rng.random(shape) < 0.05, 0.0, values), dtype_named(dtype))


def trained(cell, runner, steps=3):
    """What is left of an optimizer and its reports after some steps."""
    in_param, in_grad, in_copy = cell.places
    params = [in_param(numbers(s, [cell.seed, i], cell.param)) for i, s in enumerate(cell.shapes)]
    copies = None
    if cell.copy:
        copies = [in_copy(p.astype(dtype_named(cell.copy))) for p in params]
    groups = [{"params": params[:3]}, {"params": params[3:], "lr": 0.03}]
    with runner.active():
        opt = optim.create(
            cell.rule,
            groups,
            backend=runner.backend,
            seed=cell.seed,
            copies=copies,
            **{**cell.hyperparameters, **cell.settings},
        )
        reports = []
        for t in range(steps):
            grads = [in_grad(numbers(s, [cell.seed, i, t + 1], cell.grad)) for i, s in enumerate(cell.shapes)]
            if t == 1:
                grads[-1] = None
            reports.append(opt.step(grads, **cell.options))
    return contents(opt), reports


@pytest.mark.parametrize("chosen", [some_cells, pytest.param(cells, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("rule", EXACT)
def test_bits(rule, chosen):
    for cell in chosen(rule):
        right = trained(cell, RUNNERS[0])
        for runner in ONE_THREAD:
            assert trained(cell, runner) == right, (cell, runner)


@pytest.mark.parametrize("runner", [r for r in RUNNERS if r.threads > 1], ids=str)
def test_threads_change_no_bit(runner):
    """Enough elements for several threads, in chunks and blocks that end anywhere."""
    for k, cell in enumerate(cells("adamw")):
        if k % 5 == runner.threads % 5:
            large = cell._replace(shapes=((5, 16391), (), (16384,), (401, 7)))
            assert trained(large, runner, 2) == trained(large, ONE_THREAD[-1], 2), cell


#: with fewer cells of their own
SETTINGS = st.fixed_dictionaries(
    {
        "state_dtype": st.sampled_from(STATES),
        "state_rounding": st.sampled_from([None, *STATE_ROUNDINGS]),
        "rounding": st.sampled_from(ROUNDINGS),
        "cautious": st.booleans(),
        "ema_decay": st.none() | st.floats(0, 0.999),
    }
)
SHAPE = st.lists(st.integers(0, 7), max_size=3).map(tuple)


@settings(max_examples=150, deadline=None, database=None)
@given(
    rule=st.sampled_from(EXACT),
    data=st.data(),
    setting=SETTINGS,
    dtypes=st.tuples(*[st.sampled_from(FLOATS)] * 2, st.none() | st.sampled_from(FLOATS)),
    options=st.sampled_from(OPTIONS),
    places=st.tuples(*[st.sampled_from(PLACES)] * 3),
    seed=st.integers(0, 2**32),
    shapes=st.lists(SHAPE, min_size=4, max_size=5).map(tuple),
    runner=st.sampled_from(RUNNERS[1:]),
)
def test_anything_goes_with_anything(rule, data, setting, dtypes, options, places, seed, shapes, runner):
    hyperparameters = data.draw(st.sampled_from(ORACLE[rule][1]))
    param, grad, copy = dtypes
    if param == "float16" and setting["rounding"] == "split":
        setting["rounding"] = "kahan"
    setting["cautious"] &= goes_cautiously(rule)
    cell = Cell(rule, hyperparameters, setting, param, grad, copy, options, places, seed, shapes)
    assert trained(cell, runner, 2) == trained(cell, RUNNERS[0], 2)


@pytest.mark.parametrize("place", [strided, backwards, fortran, misaligned])
def test_where_elements_lie_changes_no_bit(place, backend):
    """Random bits, codes and units go by an element's number, whatever the order in memory."""
    options = [{}, {"clip_adaptive": 0.05}]
    for k, cell in enumerate(some_cells("adamw")):
        runner = verification.Runner(backend)
        # norms of whole gradients are summed in the order of memory: no clip_norm here
        cell = cell._replace(options=options[k % 2])
        plain, placed = (trained(cell._replace(places=(w,) * 3), runner, 2) for w in (packed, place))
        assert plain == placed, cell


def test_a_difference_is_seen():
    """`contents` tells one bit of anything from another."""
    settings = {"state_dtype": "8bit", "rounding": "kahan", "ema_decay": 0.9}
    places = (packed, packed, packed)
    cell = Cell("adamw", {"lr": 0.02}, settings, "bfloat16", "float32", "float16", {}, places, 0)
    plain = trained(cell, RUNNERS[0])
    others = [
        cell._replace(seed=cell.seed + 1),
        cell._replace(settings={**cell.settings, "ema_decay": 0.91}),
        cell._replace(settings={**cell.settings, "state_rounding": "nearest"}),
        cell._replace(settings={**cell.settings, "rounding": "nearest"}),
        cell._replace(options={"grad_scale": 1.5}),
    ]
    assert trained(cell, RUNNERS[0]) == plain
    assert all(trained(other, RUNNERS[0]) != plain for other in others)
