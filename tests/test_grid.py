"""The grid: every rule, setting, dtype, backend, instruction set and thread count, against the float64 oracle
and bit for bit against the reference.
"""

import functools
import itertools

import numpy as np
import pytest

from fastgd import oracle, verification
from fastgd.arrays import DTYPES
from fastgd.rules import RULES

RUNNERS = verification.runners()

#: each instruction set once, in turn with more threads: for tests through all rules, dtypes and settings
FEW = [
    r
    for i, r in enumerate(RUNNERS)
    if r.backend == "reference" or i % len(verification.THREADS) == i // 5 + 1
]


@functools.cache
def cases(rule, dtype):
    return list(verification.cases(rule, dtype))


@functools.cache
def reference(rule, dtype):
    return [verification.compute(case, verification.Runner("reference")) for case in cases(rule, dtype)]


@functools.cache
def right(rule, dtype):
    return [verification.right(case) for case in cases(rule, dtype)]


@pytest.mark.parametrize("runner", RUNNERS, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rule", RULES)
def test_values_and_bits(rule, dtype, runner):
    wanted = zip(cases(rule, dtype), reference(rule, dtype), right(rule, dtype), strict=True)
    for case, expected, values in wanted:
        outcome = verification.compute(case, runner)
        assert outcome.same_bits(expected) or not RULES[rule].exact, case.settings
        assert verification.oracle_error(values, outcome) <= verification.TOLERANCE[dtype], case.settings


def strided(values):
    memory = np.full((*values.shape, 3), np.nan, values.dtype)
    memory[..., 1] = values
    return memory[..., 1]


def reversed_in_memory(values):
    return values[::-1].copy()[::-1]


def misaligned(values):
    memory = np.zeros(values.nbytes + 1, np.uint8)[1:].view(values.dtype).reshape(values.shape)
    memory[...] = values
    return memory


@pytest.mark.parametrize("place", [strided, reversed_in_memory, misaligned])
@pytest.mark.parametrize("runner", FEW, ids=str)
def test_where_elements_lie_changes_no_bit(runner, place):
    assert not place(np.ones(5)).flags.carray
    for rule in (name for name, rule in RULES.items() if rule.exact):
        for dtype in DTYPES:
            for case in verification.cases(rule, dtype, sizes=[0, 1, 5, 17, 100, 16385]):
                expected = packed(case)
                assert verification.compute(case, runner, place).same_bits(expected), (rule, case.settings)


def packed(case):
    return verification.compute(case, verification.Runner("native", threads=1))


def faced(rule, values):
    """What the rule sees of the values beside a vector and beside a matrix, where it takes them."""
    shapes = [shape for shape in [(3,), (2, 3)] if rule.ndim in (None, len(shape))]
    return [rule.seen(values, shape, "float32") for shape in shapes]


def test_the_grid_has_every_rule_and_every_switch():
    assert oracle.ORACLE.keys() == RULES.keys()
    for rule in RULES.values():
        settings = [{**rule.defaults, **s} for s in oracle.ORACLE[rule.name].settings]
        numbers = [n for n, value in rule.defaults.items() if isinstance(value, (bool, int, float))]
        extremes = [
            {
                **rule.defaults,
                **{n: type(rule.defaults[n])(on) for n, on in zip(numbers, values, strict=True)},
            }
            for values in itertools.product((0, 1), repeat=len(numbers))
        ]
        for switch in rule.switches:
            seen = {rule.active(h)[switch] for values in settings for h in faced(rule, values)}
            possible = {rule.active(h)[switch] for values in extremes for h in faced(rule, values)}
            assert seen == possible, (rule.name, switch)
        for name, value in rule.defaults.items():
            assert {h[name] for h in settings} != {value}, (rule.name, name)
        assert {h["maximize"] for h in settings} == {True, False}, rule.name


def test_the_grid_reaches_every_instruction_set_of_this_machine():
    usable = {name for name, ok in verification.machine.instruction_sets().items() if ok}
    assert {r.instruction_set for r in RUNNERS if r.backend == "native"} == usable
    assert {r.threads for r in RUNNERS if r.backend == "native"} == {1, 2, 3, 8}


def test_forcing_an_instruction_set_runs_its_kernels():
    """Otherwise the grid would compare the widest set with itself."""
    from fastgd._native import lib

    for i, (name, runs) in enumerate(verification.machine.instruction_sets().items()):
        if runs:
            with verification.Runner("native", name, 1).active():
                assert lib.fgd_get_isa() == i


@pytest.mark.parametrize("runner", FEW, ids=str)
def test_a_split_of_the_tensors_changes_no_bit(runner):
    """One long parameter, and the same elements as several parameters cut between and inside chunks."""
    cuts = [1, 17, 16384, 16384 * 2, 40003]
    for rule in (name for name, rule in RULES.items() if rule.elementwise):
        whole = verification.cases(rule, np.float32, sizes=[50000])
        for case in whole:
            together = verification.compute(case._replace(clip_norm=None), runner)
            pieces = case._replace(
                params=np.split(case.params[0], cuts),
                grads=[np.split(grads[0], cuts) for grads in case.grads],
                clip_norm=None,
            )
            apart = verification.compute(pieces, runner)
            assert np.concatenate(apart.params).tobytes() == together.params[0].tobytes()


def test_a_difference_is_seen():
    """same_bits and oracle_error tell a wrong result from a right one."""
    case, outcome = cases("adamw", DTYPES[0])[1], reference("adamw", DTYPES[0])[1]
    assert not outcome.same_bits(reference("adamw", DTYPES[0])[0])
    moved = outcome._replace(params=[np.nextafter(p, np.inf, dtype=p.dtype) for p in outcome.params])
    assert not outcome.same_bits(moved)
    wrong = verification.right(case._replace(settings={**case.settings, "weight_decay": 0.31}))
    assert verification.oracle_error(wrong, outcome) > verification.TOLERANCE[DTYPES[0]]


def test_verify_reports_every_rule_and_dtype():
    verdicts = verification.verify(["sgd", "adagrad"])
    assert [(v.rule, v.dtype) for v in verdicts] == [
        (rule, dtype.name) for rule in ("sgd", "adagrad") for dtype in DTYPES
    ]
    assert all(v.ok and len(v.runners) == len(RUNNERS) for v in verdicts)
    assert verification.verify([]) == []
    with pytest.raises(ValueError, match="there is no rule 'adamx'; there are sgd, "):
        verification.verify(["sgd", "adamx"])
