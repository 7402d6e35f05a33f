"""Optimizers of the C library: scalars of a step from hyperparameters, with the bits of fastgd/rules."""

import math
import random
import struct
import sys

import pytest
from compiling import CSRC

from fastgd._native import ffi, lib
from fastgd.oracle.settings import SETTINGS
from fastgd.rules import RULES, resolved
from fastgd.rules.powers import real_power

sys.path.insert(0, str(CSRC))
import folds

STEPS = (1, 2, 3, 10, 1000, 2**31 - 1)
CODES = {"float32": lib.FGD_F32, "float64": lib.FGD_F64, "bfloat16": lib.FGD_BF16, "float16": lib.FGD_F16}


def cases():
    """(rule, settings, shape, dtype): more than one of the latter where scalars depend on them."""
    for name, rule in RULES.items():
        shapes = [(30, 20), (20, 30), *([] if rule.ndim else [(7,)])] if rule.traits else [(7,)]
        for given in ({}, *SETTINGS[name]):
            for shape in shapes:
                for dtype in CODES if rule.traits else ["float32"]:
                    yield name, given, shape, dtype


def bits(values):
    """The bytes of numbers; all NaN are one."""
    return [struct.pack("d", math.nan if math.isnan(value) else value) for value in map(float, values)]


def optimizer(name):
    """(its index, its row)"""
    found = lib.fgd_optimizer_find(name.encode())
    assert found >= 0
    return found, lib.fgd_optimizer_at(found)


def in_c(rule, values):
    """All hyperparameters as numbers."""
    parts = [folds.in_c(rule.hyperparameter(name).check, values[name]) for name in rule.defaults]
    return ffi.new("double[]", [number for part in parts for number in part])


def tensor_of(rule, shape, dtype):
    tensor = ffi.new("fgd_tensor *", {"size": math.prod(shape), "dtype": CODES[dtype]})
    if rule.orthogonal:
        tensor.matrix_rows = shape[0]
    elif len(shape) > 1:
        tensor.factor_rows, tensor.factor_cols = shape
    return tensor


def folded(name, values, step, tensor=ffi.NULL, carried=()):
    """(code, group, what is carried out)"""
    numbers, group = ffi.new("double[]", list(carried) or 1), ffi.new("fgd_group *")
    code = lib.fgd_fold(optimizer(name)[0], values, tensor, step, numbers, group)
    return code, group, list(numbers)[: len(carried)]


def test_the_committed_programs_are_those_of_the_rules():
    assert folds.COMMITTED.read_text() == folds.text(), "run python csrc/folds.py"


def test_all_optimizers_are_listed():
    count = lib.fgd_optimizer_count()
    assert [ffi.string(lib.fgd_optimizer_at(i).name).decode() for i in range(count)] == list(RULES)
    assert lib.fgd_optimizer_at(-1) == lib.fgd_optimizer_at(count) == ffi.NULL
    assert lib.fgd_optimizer_find(b"adamv") == lib.fgd_optimizer_find(ffi.NULL) == lib.FGD_ERROR_RULE


@pytest.mark.parametrize("name", RULES)
def test_rows_are_those_of_the_table(name):
    rule = RULES[name]
    found, row = optimizer(name)
    assert ffi.string(lib.fgd_rule_at(row.rule).name).decode() == rule.kernel
    names = [ffi.string(row.hyperparameters[i].name).decode() for i in range(row.n_hyperparameters)]
    assert list(dict.fromkeys(text.split("[")[0] for text in names)) == list(rule.defaults)
    values = ffi.new("double[]", [7.0] * lib.FGD_MAX_HYPERPARAMETERS)
    assert lib.fgd_hyperparameter_defaults(found, values) == lib.FGD_OK
    assert bits(values) == bits([*in_c(rule, rule.defaults), *[7.0] * (len(values) - len(names))])
    for slot, initial in zip(rule.slots, row.slot_initial, strict=False):
        assert (names[initial] if initial >= 0 else None) == slot.initial
    carried = [(ffi.string(row.carried[i]).decode(), row.carried_at_first[i]) for i in range(row.n_carried)]
    assert tuple(carried) == rule.carried


@pytest.mark.parametrize(("name", "given", "shape", "dtype"), list(cases()))
def test_bits_of_the_core(name, given, shape, dtype):
    rule = RULES[name]
    values = resolved(rule, {**rule.defaults, **given})
    h, tensor = rule.seen(values, shape, dtype), tensor_of(rule, shape, dtype)
    carried = rule.carried_at_first
    for step in STEPS:
        code, group, after = folded(name, in_c(rule, values), step, tensor, carried)
        assert code == lib.FGD_OK
        assert bits(group.scalars) == bits([*rule.fold(h, step, carried), *[0.0] * 16][:16])
        assert group.switches == sum(on << i for i, on in enumerate(rule.active(h).values()))
        assert group.maximize == values["maximize"]
        carried = rule.carry(h, step, carried)
        assert bits(after) == bits(carried)


def values_at_random(rule, rng):
    """Hyperparameters near their defaults, at edges of their ranges, or anywhere in these."""
    rows = folds.hyperparameters(rule)
    near = [rng.choice([row.default, row.low, row.default * rng.random()]) for row in rows]
    for i, row in enumerate(rows):
        if row.whole:
            near[i] = float(rng.randrange(int(row.low), int(min(row.high, 50)) + 1))
        elif row.high < 1:
            near[i] = rng.choice([1 - 10 ** -rng.uniform(0.1, 7), near[i]])
        near[i] = row.default if not row.low <= near[i] <= row.high else near[i]
    return near


@pytest.mark.parametrize("name", RULES)
def test_bits_of_the_core_anywhere(name):
    """Where Python refuses what does not go together, C does."""
    rule, rng, refused = RULES[name], random.Random(name), 0
    for _ in range(100):
        numbers, step = values_at_random(rule, rng), rng.choice([1, 2, 30, 4000, 2**31 - 1])
        given = iter(numbers)
        values = {key: plain(rule.hyperparameter(key).check, given) for key in rule.defaults}
        shape = (rng.randrange(1, 9), rng.randrange(1, 9))
        h, carried = rule.seen(values, shape, "bfloat16"), tuple(rng.random() for _ in rule.carried)
        tensor = tensor_of(rule, shape, "bfloat16")
        code, group, after = folded(name, ffi.new("double[]", numbers), step, tensor, carried)
        try:
            rule.check(values)
            expected = rule.fold(h, step, carried)
        except (ValueError, TypeError):
            refused += 1
            assert code == lib.FGD_ERROR_HYPERPARAMETER
            assert after == list(carried)
            continue
        except ZeroDivisionError:
            continue
        assert code == lib.FGD_OK
        assert bits(group.scalars) == bits([*expected, *[0.0] * 16][:16]), (values, step)
        assert bits(after) == bits(rule.carry(h, step, carried))
    assert refused < 100


def plain(check, given):
    """A value of Python from numbers of C."""
    value = folds.in_python(check, given)
    if isinstance(value, float) and isinstance(check, folds.whole):
        return int(value)
    return bool(value) if check is folds.flag else value


@pytest.mark.parametrize("name", RULES)
def test_what_is_out_of_range_is_refused(name):
    rule = RULES[name]
    found, row = optimizer(name)
    tensor = tensor_of(rule, (2, 3), "float32")
    values = in_c(rule, resolved(rule, rule.defaults))
    for i in range(row.n_hyperparameters):
        one = row.hyperparameters[i]
        bad = [math.nextafter(one.low, -math.inf), math.nextafter(one.high, math.inf), math.inf, -math.inf]
        bad += [] if one.optional else [math.nan]
        bad += [0.5] if one.whole else []
        before = values[i]
        for value in map(float, bad):
            group = ffi.new("fgd_group *", {"switches": 77})
            assert lib.fgd_hyperparameter_set(found, values, one.name, value) == lib.FGD_ERROR_HYPERPARAMETER
            assert bits([values[i]]) == bits([before])
            values[i] = value
            carried = ffi.new("double[]", [5.0] * lib.FGD_MAX_CARRIED)
            code = lib.fgd_fold(found, values, tensor, 1, carried, group)
            assert code == lib.FGD_ERROR_HYPERPARAMETER
            assert (group.switches, list(carried)) == (77, [5.0] * lib.FGD_MAX_CARRIED)
            values[i] = before
        for value in (one.low, one.high, *([math.nan] if one.optional else [])):
            assert lib.fgd_hyperparameter_set(found, values, one.name, value) == lib.FGD_OK
            assert bits([values[i]]) == bits([value])
        values[i] = before
    assert lib.fgd_hyperparameter_set(found, values, b"learning_rate", 1) == lib.FGD_ERROR_HYPERPARAMETER


def test_what_does_not_go_together_is_refused():
    rule = RULES["sgd"]
    values = in_c(rule, {**rule.defaults, "nesterov": True})
    assert folded("sgd", values, 1)[0] == lib.FGD_ERROR_HYPERPARAMETER
    rule = RULES["adamw"]
    values = in_c(rule, {**rule.defaults, "decouple_lr": True})
    assert folded("adamw", values, 1)[0] == lib.FGD_ERROR_HYPERPARAMETER
    values = in_c(rule, {**rule.defaults, "decouple_lr": True, "max_lr": 0.1})
    assert folded("adamw", values, 1)[0] == lib.FGD_OK


def test_pointers_and_steps_that_are_none_are_refused():
    values = in_c(RULES["adamw"], RULES["adamw"].defaults)
    assert folded("adamw", ffi.NULL, 1)[0] == lib.FGD_ERROR_NULL
    assert [folded("adamw", values, step)[0] for step in (0, -1, 2**53 + 1)] == [lib.FGD_ERROR_SIZE] * 3
    assert folded("adamw", values, 2**53)[0] == lib.FGD_OK
    nadam, group = in_c(RULES["nadam"], RULES["nadam"].defaults), ffi.new("fgd_group *")
    assert lib.fgd_fold(optimizer("nadam")[0], nadam, ffi.NULL, 1, ffi.NULL, group) == lib.FGD_ERROR_NULL
    assert lib.fgd_fold(optimizer("adamw")[0], values, ffi.NULL, 1, ffi.NULL, ffi.NULL) == lib.FGD_ERROR_NULL
    assert lib.fgd_fold(-1, values, ffi.NULL, 1, ffi.NULL, group) == lib.FGD_ERROR_RULE
    muon = in_c(RULES["muon"], RULES["muon"].defaults)
    assert folded("muon", muon, 1)[0] == lib.FGD_ERROR_NULL
    tensor = tensor_of(RULES["muon"], (2, 3), "float32")
    tensor.matrix_rows = -1
    assert folded("muon", muon, 1, tensor)[0] == lib.FGD_ERROR_MATRIX
    tensor.matrix_rows, tensor.dtype = 2, lib.FGD_CODES
    assert folded("muon", muon, 1, tensor)[0] == lib.FGD_ERROR_DTYPE


def test_powers_are_rounded_correctly():
    """Through a rule that hands them on: (1 + lambd lr (step - 1)) ^ alpha of ASGD."""
    rule, rng = RULES["asgd"], random.Random(0)
    for _ in range(300):
        lambd, alpha = 10 ** rng.uniform(-9, 9), rng.choice([rng.random(), 10 ** rng.uniform(-3, 1.5)])
        values = in_c(rule, {**rule.defaults, "lr": 1.0, "lambd": lambd, "alpha": alpha})
        _, group, _ = folded("asgd", values, 2)
        assert bits([group.scalars[0]]) == bits([1.0 / real_power(1.0 + lambd, alpha)])
