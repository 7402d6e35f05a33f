"""The reference on stored numbers: a step is one of the numbers they stand for, each rounded once; and what
rounding loses is kept where that is asked for.
"""

from __future__ import annotations

import numpy as np
import pytest
from handmade import BF16, F16, F32, F64, FLOATS, Training, numbers, parts, random

import fastgd
from fastgd import oracle
from fastgd.backends.base import Codes
from fastgd.rules import RULES
from fastgd.settings import CODED
from fastgd.storage import BLOCK, arithmetic, decode, encode, load, random_halves, split_join, store

SETTINGS = [(rule, settings) for rule in RULES for settings in oracle.ORACLE[rule].settings]
every_setting = pytest.mark.parametrize(("rule", "settings"), SETTINGS, ids=str)
sixteen_bits = pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
#: matrices, because some rules have them only
SHAPE, SMALL = (20, 30), (5, 8)
SIZE = 600


def bits(seed, stream, step, operand, size=SIZE):
    return random_halves(seed, stream, step, operand, np.arange(size))


# ---- One rounding -----------------------------------------------------------------------------------


def loaded_twin(training):
    """The same training on what its arrays stand for now, with nothing rounded that is stored."""
    values = {
        k: v for k, v in training.values.items() if k not in ("rounding", "state_rounding", "state_dtype")
    }
    twin = Training(training.rule, [numbers(p) for p in training.params], state_dtype=F64, **values)
    twin.steps[:], twin.carried[:] = training.steps, training.carried
    for own, kept in zip(twin.state, training.state, strict=True):
        for slot, array, stored in zip(training.rule.slots, own, kept, strict=True):
            if array is not None:
                array[...] = loaded(stored, slot.unsigned, F64.type)
    return twin


def loaded(stored, unsigned, real):
    if isinstance(stored, tuple):
        return decode(*stored, real, unsigned=unsigned)
    return load(stored, real)


def assert_stored(array, values, slot, random):
    if isinstance(array, tuple):
        for part, expected in zip(array, encode(values, unsigned=slot.unsigned, random=random), strict=True):
            np.testing.assert_array_equal(part, expected)
    else:
        expected = store(values.reshape(-1), array.dtype, unsigned=slot.unsigned, random=random)
        assert array.tobytes() == expected.tobytes()


STATES = (*FLOATS, CODED)
STATE_ROUNDINGS = (None, "nearest", "stochastic")


@pytest.mark.parametrize("state_rounding", STATE_ROUNDINGS)
@pytest.mark.parametrize("state_dtype", STATES, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_step_is_one_of_the_numbers_that_are_stored(dtype, state_dtype, state_rounding):
    """Whatever the rule: loaded, computed in float32 or float64, and rounded once each.

    A third of all: any three of rule with its settings, dtype, state_dtype and state_rounding come together.
    """
    turn = FLOATS.index(dtype) + STATES.index(state_dtype) + STATE_ROUNDINGS.index(state_rounding)
    for rule, settings in SETTINGS[turn % len(STATE_ROUNDINGS) :: len(STATE_ROUNDINGS)]:
        training = Training(
            rule,
            [random(0, SHAPE, dtype), random(1, SMALL, dtype, 1e-3)],
            state_dtype=state_dtype,
            state_rounding=state_rounding,
            seed=3,
            **settings,
        )
        by_chance = state_dtype == CODED if state_rounding is None else state_rounding == "stochastic"
        for t in range(1, 4):
            grads = [random(5 * t, SHAPE, FLOATS[t % 4]), random(5 * t + 1, SMALL, FLOATS[t % 4])]
            real = arithmetic(training.params[0].dtype)
            twin = loaded_twin(training)
            twin.step([load(g, real) for g in grads], clip_value=1.5)
            training.step(grads, clip_value=1.5)
            for i, (p, q) in enumerate(zip(training.params, twin.params, strict=True)):
                assert p.tobytes() == store(q, p.dtype).tobytes()
                state = zip(training.rule.slots, training.state[i], twin.state[i], strict=True)
                for k, (slot, array, full) in enumerate(state):
                    if array is not None:
                        noise = bits(3, i, t, 2 + k, full.size) if by_chance else None
                        assert_stored(array, full, slot, noise)


@sixteen_bits
def test_a_parameter_is_rounded_by_its_own_random_bits(dtype):
    params = [random(0, SIZE, dtype), random(1, SIZE, dtype)]
    training = Training("sgd", params, rounding="stochastic", seed=9, lr=0.01)
    for t in (1, 2):
        twin = loaded_twin(training)
        grads = [random(10 * t, SIZE, F32), random(10 * t + 1, SIZE, F32)]
        twin.step(grads)
        training.step(grads)
        for i, (p, q) in enumerate(zip(params, twin.params, strict=True)):
            assert p.tobytes() == store(q, dtype, random=bits(9, i, t, 0)).tobytes()


@sixteen_bits
def test_random_bits_go_by_the_elements_number_wherever_it_lies(dtype):
    """A transposed parameter, in C order as all that is keyed by the element, and a contiguous one."""
    values = random(0, (20, 30), dtype)
    across = values.T.copy().T
    settings = {"rounding": "stochastic", "state_rounding": "stochastic", "state_dtype": BF16, "lr": 0.01}
    outcomes = []
    for param in (values.copy(), across):
        training = Training("adam", [param], **settings)
        for t in range(3):
            training.step([random(t, (20, 30), F32)])
        outcomes.append(training.bytes())
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize("rounding", ["stochastic", "kahan", "master", "split"])
@pytest.mark.parametrize("dtype", [F32, F64], ids=str)
def test_what_is_as_wide_as_its_arithmetic_is_not_rounded_otherwise(dtype, rounding):
    outcomes = []
    for how in ("nearest", rounding):
        training = Training("adamw", [random(0, SIZE, dtype)], rounding=how, lr=0.01)
        training.step([random(1, SIZE, dtype)])
        outcomes.append(training.bytes())
    assert outcomes[0] == outcomes[1]


# ---- What rounding loses is kept --------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ["split", "master"])
@every_setting
def test_split_and_master_are_training_in_float32(rule, settings, rounding):
    """Bit for bit, over many steps; what the model sees is a rounding of it."""
    stored = random(0, SHAPE, BF16)
    training = Training(rule, [stored], rounding=rounding, state_dtype=F32, **settings)
    full = Training(rule, [load(stored, F32)], **settings)
    for t in range(20):
        grad = random(t + 1, SHAPE, BF16)
        training.step([grad], clip_norm=5.0)
        full.step([load(grad, F32)], clip_norm=5.0)
    residual, x = training.residuals[0], full.params[0]
    whole = split_join(stored, residual) if rounding == "split" else residual
    assert whole.tobytes() == x.tobytes()
    assert all(
        a.tobytes() == b.tobytes()
        for a, b in zip(training.state[0], full.state[0], strict=True)
        if b is not None
    )
    assert (np.abs(load(stored, F32) - x) <= np.abs(load(store(x, BF16), F32) - x)).all()


def test_master_is_training_in_float32_for_float16_too():
    stored = random(0, SIZE, F16)
    training = Training("adam", [stored], rounding="master", state_dtype=F32, lr=0.01)
    full = Training("adam", [load(stored, F32)], lr=0.01)
    for t in range(20):
        training.step([random(t, SIZE, F16)])
        full.step([load(random(t, SIZE, F16), F32)])
    assert training.residuals[0].tobytes() == full.params[0].tobytes()
    assert stored.tobytes() == store(full.params[0], F16).tobytes()


@sixteen_bits
def test_a_parameter_that_somebody_sets_wins_over_its_master(dtype):
    stored = store(np.full(4, 1.0, F32), dtype)
    training = Training("sgd", [stored], rounding="master", lr=2.0**-14)
    training.step([np.ones(4, F32)])
    assert (load(stored, F32) == 1).all()
    stored[1:3] = store(np.array([5.0, np.nan], F32), dtype)
    training.step([np.ones(4, F32)])
    kept = 1 - 2.0**-13
    np.testing.assert_array_equal(training.residuals[0], np.array([kept, 5 - 2.0**-14, np.nan, kept], F32))


@sixteen_bits
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_parameter_that_somebody_sets_wins_over_what_kahan_has_kept(dtype, backend):
    """What was lost of 1 would be 26 % of 2^-8. Where nothing was set, the sum goes on to the last bit."""
    stored = store(np.full(3, 1.0, F32), dtype)
    opt = fastgd.SGD([stored], lr=2.0**-14, rounding="kahan", backend=backend)
    for _ in range(3):
        opt.step([np.ones(3, F32)])
    assert (load(stored, F32) == 1).all()
    stored[1:] = store(np.array([2.0**-8, np.nan], F32), dtype)
    opt.step([np.zeros(3, F32)])
    np.testing.assert_array_equal(load(stored, F32), np.array([1, 2.0**-8, np.nan], F32))
    np.testing.assert_array_equal(load(opt.state_dict()["state"][0]["residual"], F32)[:2], [-3 * 2.0**-14, 0])


#: how far the parameters may be from where they belong after the small steps below, in units of the step
OFF = {"kahan": 3, "master": 1, "split": 1}


# float16 cannot be split from a float32, whose exponent is another
@pytest.mark.parametrize(
    ("rounding", "dtype"), [(r, d) for r in OFF for d in (BF16, F16) if (r, d) != ("split", F16)], ids=str
)
def test_small_steps_count(dtype, rounding):
    """1000 steps of 2^-14 from 1, none of which nearest rounding sees."""
    moved, stalled = (store(np.ones(50, F32), dtype) for _ in range(2))
    moving = Training("sgd", [moved], rounding=rounding, lr=2.0**-14)
    stalling = Training("sgd", [stalled], lr=2.0**-14)
    for _ in range(1000):
        moving.step([np.ones(50, F32)])
        stalling.step([np.ones(50, F32)])
    assert (load(stalled, F32) == 1).all()
    right = 1 - 1000 * 2.0**-14
    spacing = float(np.spacing(F32.type(0.9))) * 2.0 ** {BF16: 16, F16: 13}[dtype]
    assert np.abs(load(moved, F64) - right).max() <= spacing / 2 + OFF[rounding] * 2.0**-14


@sixteen_bits
def test_stochastic_rounding_takes_small_steps_in_the_mean(dtype):
    """Each of 1000 steps of 2^-14 moves a parameter by a spacing, or not at all, by chance."""
    n = 4000
    param = store(np.ones(n, F32), dtype)
    training = Training("sgd", [param], rounding="stochastic", lr=2.0**-14)
    for _ in range(1000):
        training.step([np.ones(n, F32)])
    spacing = float(np.spacing(F32.type(0.9))) * 2.0 ** {BF16: 16, F16: 13}[dtype]
    deviation = np.sqrt(1000 * 2.0**-14 * spacing)  # of as many chances of 2^-14 / spacing
    values = load(param, F64)
    assert abs(values.mean() - (1 - 1000 * 2.0**-14)) < 5 * deviation / np.sqrt(n)
    assert 0.8 * deviation < values.std() < 1.2 * deviation


@sixteen_bits
def test_kahan_loses_little(dtype):
    """Against float64, over steps of all sizes; plain rounding is many times as far off."""
    errors = {}
    for rounding in ("nearest", "kahan"):
        param = store(np.ones(SIZE, F32), dtype)
        training = Training("sgd", [param], rounding=rounding, lr=0.01)
        right = np.ones(SIZE)
        for t in range(300):
            grad = random(t, SIZE, F32)
            training.step([grad])
            right -= 0.01 * grad.astype(F64)
        rest = 0.0 if rounding == "nearest" else load(training.residuals[0], F64)
        errors[rounding] = float(np.abs(load(param, F64) + rest - right).mean())
    assert errors["kahan"] < errors["nearest"] / 30


# ---- State ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state_dtype", [BF16, F16, CODED], ids=str)
def test_a_running_average_stalls_when_rounded_to_nearest_and_not_by_chance(state_dtype):
    """Squares of 1.3 move an average of 1 by 0.0003 at first, less than half a spacing of any format.

    In 8 bits averages that all move alike are not rounded: one in each block is larger and stays.
    """
    n, steps = 4096, 300
    largest = np.arange(n) % BLOCK == 0
    averages = np.where(largest, 4, 1).astype(F32)
    grad = np.sqrt(np.where(largest, 4, 1.3)).astype(F32)
    for rounding in ("nearest", "stochastic"):
        training = Training(
            "adam", [np.zeros(n, F32)], state_dtype=state_dtype, state_rounding=rounding, betas=(0.9, 0.999)
        )
        average = training.state[0][1]
        coded = state_dtype == CODED
        first = Codes(*encode(averages, unsigned=True)) if coded else store(averages, state_dtype)
        for array, value in zip(parts(average), parts(first), strict=True):
            array[...] = value
        for _ in range(steps):
            training.step([grad])
        values = loaded(average, True, F64.type)[~largest]
        if rounding == "nearest":
            np.testing.assert_allclose(values, 1, rtol=1e-5)
        else:
            assert values.std() > 0
            spread = 5 * values.std() / np.sqrt(n)
            assert abs(values.mean() - (1.3 - 0.3 * 0.999**steps)) < spread


def test_codes_round_by_chance_unless_told_otherwise():
    outcomes = {}
    for rounding in (None, "stochastic", "nearest"):
        training = Training(
            "sgd", [random(0, SIZE, F32)], state_dtype=CODED, state_rounding=rounding, momentum=0.9
        )
        training.step([random(1, SIZE, F32)])
        outcomes[rounding] = training.bytes()
    assert outcomes[None] == outcomes["stochastic"] != outcomes["nearest"]


@pytest.mark.parametrize("state_dtype", [BF16, F16, CODED], ids=str)
def test_a_small_gradient_leaves_something_to_divide_by(state_dtype):
    """Its square is below the smallest number of the format; as 0 it would leave eps alone to divide by."""
    param = np.zeros(300, F32)
    grad = np.full(300, 1e-15, F32)
    grad[0] = 1e3
    training = Training(
        "rmsprop", [param], state_dtype=state_dtype, state_rounding="nearest", lr=1.0, eps=0.0
    )
    for _ in range(2):
        training.step([grad])
    assert (loaded(training.state[0][0], True, F32.type) > 0).all()
    assert np.isfinite(param).all()


def test_a_slot_that_a_switch_leaves_out_is_not_touched():
    training = Training("adam", [random(0, SIZE, F32)], amsgrad=True)
    training.step([random(1, SIZE, F32)])
    largest = training.state[0][2].copy()
    training.values["amsgrad"] = False
    training.state[0] = (*training.state[0][:2], None)
    before = training.params[0].copy()
    training.step([random(2, SIZE, F32)])
    assert (training.params[0] != before).any()
    assert largest.any()
    assert parts(training.state[0][2]) == []


# ---- Gradients --------------------------------------------------------------------------------------


def test_a_float64_gradient_is_rounded_before_all_else():
    grad = np.array([1 + 2.0**-30, 1e300, -1e300, 1e-300])
    param, same = np.zeros(4, F32), np.zeros(4, F32)
    Training("sgd", [param], lr=1.0).step([grad], grad_scale=4.0)
    with np.errstate(over="ignore"):
        Training("sgd", [same], lr=1.0).step([grad.astype(F32)], grad_scale=4.0)
    assert param.tobytes() == same.tobytes()
    report = Training("sgd", [param]).step([grad], skip_nonfinite=True)
    assert (report.skipped, report.nonfinite) == (True, 0)


@pytest.mark.parametrize("grad_dtype", FLOATS, ids=str)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_norms_are_of_the_numbers_in_the_arithmetic_of_the_parameter(dtype, grad_dtype):
    grads = [random(k, n, grad_dtype) for k, n in enumerate((17, 0, 20000))]
    params = [np.zeros(g.shape, dtype) for g in grads]
    report = Training("sgd", params, lr=0.0).step(grads, measure=True)
    seen = [load(load(g, F64), arithmetic(np.dtype(dtype))) for g in grads]
    squares = sum(float(np.sum(np.square(s.astype(np.longdouble)))) for s in seen)
    assert report.norm == pytest.approx(squares**0.5, rel=1e-15)
