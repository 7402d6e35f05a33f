"""Rules of users' own: the bits of the built-ins that they repeat, in all that an optimizer can do."""

from __future__ import annotations

import copy
import math
import pickle
import threading

import ml_dtypes
import numpy as np
import pytest
from snapshots import contents, random, unchanged
from user_rules import IDS, PAIRS, adam, lion, momentum

import fastgd
from fastgd.checkpoint import CheckpointError

pytest.importorskip("numba", reason="loops of users' rules are compiled by numba, extra jit")

#: rules of users' own are on "auto" what they are on "jit"
OWN = ("auto", "reference")
SHAPES = [(3, 257), (), (0, 4), (70_001,), (17,)]
BFLOAT16 = ml_dtypes.bfloat16

SETTINGS = [
    {},
    {"state_dtype": "bfloat16"},
    {"state_dtype": "float16", "state_rounding": "stochastic"},
    {"state_dtype": "8bit"},
    {"rounding": "stochastic"},
    {"rounding": "kahan", "ema_decay": 0.5},
    {"rounding": "master", "state_rounding": "stochastic"},
    {"ema_decay": 0.9, "maximize": True},
]
OPTIONS = [
    {},
    {"clip_norm": 1.0},
    {"clip_value": 0.3, "grad_scale": 2.0},
    {"clip_norm": 0.5, "clip_scope": "tensor", "normalize": True},
    {"clip_adaptive": 0.05},
    {"skip_nonfinite": True},
]


@pytest.fixture(params=PAIRS, ids=IDS)
def pair(request):
    return request.param


def state_of(opt):
    """All that is kept, without names of rules and hyperparameters."""
    params, state, _ = contents(opt)
    return params, state


def trained(make, dtype=np.float32, steps=4, options=({},), shapes=SHAPES, **settings):
    params = [random(shape, i, dtype) for i, shape in enumerate(shapes)]
    opt = make(params, **settings)
    for t in range(steps):
        grads = [random(shape, 100 * t + i, dtype) for i, shape in enumerate(shapes)]
        opt.step(grads, **options[t % len(options)])
    return state_of(opt)


# ---- The bits of the built-ins ----------------------------------------------------------------------


@pytest.mark.parametrize("backend", OWN)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, BFLOAT16, np.float16])
def test_bits(pair, dtype, backend, isa):
    own, given, built_in, settings = pair
    expected = trained(built_in, dtype, **settings)
    assert trained(own, dtype, backend=backend, **given) == expected


@pytest.mark.parametrize("beside", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, BFLOAT16])
def test_bits_in_every_way_of_storing(pair, dtype, beside):
    own, given, built_in, settings = pair
    expected = trained(built_in, dtype, seed=7, **settings, **beside)
    for backend in OWN:
        assert trained(own, dtype, seed=7, backend=backend, **given, **beside) == expected


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_bits_with_gradients_clipped(pair, options):
    own, given, built_in, settings = pair
    expected = trained(built_in, options=[options], **settings)
    for backend in OWN:
        assert trained(own, options=[options], backend=backend, **given) == expected


def test_bits_with_any_number_of_threads(pair, threads):
    own, given, built_in, settings = pair
    shapes = [(300_000,), (5,)]
    assert trained(own, shapes=shapes, **given) == trained(built_in, shapes=shapes, **settings)


def test_rows_and_strides_and_copies(pair):
    own, given, built_in, settings = pair

    def run(make, **settings):
        memory = random((40, 6, 2), 1)
        table, strided = random((20, 5), 2), memory[::2, ::-1, 1]
        copies = [np.zeros((20, 5), BFLOAT16), None]
        opt = make([table, strided], copies=copies, **settings)
        for t in range(3):
            rows = fastgd.Rows(np.array([3, 7, 3]), random((3, 5), 10 + t))
            opt.step([rows, random((20, 6), 20 + t)])
        return *state_of(opt), memory.tobytes()

    assert run(own, **given) == run(built_in, **settings)


def test_groups_with_settings_of_their_own():
    def run(make, groups):
        params = [random(1000, i) for i in range(2)]
        opt = make([{"params": [p], **group} for p, group in zip(params, groups, strict=True)], lr=0.01)
        for t in range(4):
            opt.step([random(1000, 10 * t + i) for i in range(2)])
            opt.param_groups[1]["lr"] = 0.1 / (t + 1)
            if t == 2:
                opt.param_groups[0]["weight_decay"] = 0.3
        return state_of(opt)

    own = run(lion, [{"beta1": 0.5, "beta2": 0.7}, {"weight_decay": 0.2, "maximize": True}])
    assert own == run(fastgd.Lion, [{"betas": (0.5, 0.7)}, {"weight_decay": 0.2, "maximize": True}])


def test_a_skipped_step_changes_nothing():
    p = random(100, 1)
    opt = adam([p], lr=0.1)
    opt.step([random(100, 2)])
    with unchanged(opt):
        assert opt.step([np.full(100, np.nan, np.float32)], skip_nonfinite=True).skipped


# ---- What a function may do -------------------------------------------------------------------------

SCALE = np.sqrt(2.0)


def soft(x, width):
    """Shrinks towards 0."""
    if x > width:
        return x - width
    return x + width if x < -width else x * 0


@fastgd.jit
def various(p, g, m, *, lr=0.1, on=False, sizes=(0.1, 2.0), step):
    m = max(abs(g), m) if on else np.where(np.logical_and(g > 0, p < 1), m - g, m + g)
    rate = lr / math.sqrt(step) if step > 2 else lr * min(step, 2)
    for k in range(3):
        p = p - rate * SCALE * sizes[k % 2] ** step * soft(g + k, sizes[0]) / (1 + (p - 1) ** 2)
        p = p + 0.001 * ((g > 0) * 2 - 1)
    return p, m


def various_in_numpy(p, g, m, real, step, lr, on, sizes):
    m = np.maximum(abs(g), m) if on else np.where((g > 0) & (p < 1), m - g, m + g)
    rate = lr / math.sqrt(step) if step > 2 else lr * min(step, 2)
    for k in range(3):
        x, width = g + real(k), real(sizes[0])
        shrunk = np.where(x > width, x - width, np.where(x < -width, x + width, x * real(0)))
        power = np.prod([sizes[k % 2]] * step)
        p = p - real(rate * SCALE * power) * shrunk / (real(1) + (p - real(1)) * (p - real(1)))
        p = p + real(0.001) * np.where(g > 0, real(1), real(-1))
    return p, m


@pytest.mark.parametrize("backend", OWN)
@pytest.mark.parametrize("real", [np.float32, np.float64])
@pytest.mark.parametrize("on", [False, True])
def test_branches_loops_helpers_and_constants(real, backend, on):
    p, m = random(500, 1, real), np.zeros(500, real)
    opt = various([p], backend=backend, on=on)
    expected = p.copy()
    for t in range(1, 5):
        g = random(500, 10 + t, real)
        expected, m = various_in_numpy(expected, g, m, real, t, 0.1, on, (0.1, 2.0))
        opt.step([g])
        np.testing.assert_array_equal(p, expected)
        np.testing.assert_array_equal(opt.state_dict()["state"][0]["m"], m)


def test_scalars_are_computed_once_in_float64():
    @fastgd.jit
    def rate(p, g, *, lr=0.3, beta=0.9, step):
        return p - g * (np.log(np.exp(lr)) * (1 - beta**step) / np.maximum(step - 1, 1))

    assert len(rate.rule.scalars) == 1
    (value,) = rate.rule.fold({"lr": 0.3, "beta": 0.9}, 3, ())
    # log and exp round once each
    assert value == pytest.approx(0.3 * (1 - 0.9**3) / 2, rel=1e-15)


def test_scalars_without_a_value_are_ieee_s():
    @fastgd.jit
    def odd(p, g, *, lr=0.0, step):
        return p - g * (1 / lr) * np.sqrt(-lr - step) * np.log(lr)

    values = odd.rule.fold({"lr": 0.0}, 1, ())
    assert values[0] == math.inf
    assert math.isnan(values[1])
    assert values[2] == -math.inf


def test_a_slot_that_depends_on_no_element():
    @fastgd.jit
    def counting(p, g, count, *, step):
        return p - g, step

    for backend in OWN:
        opt = counting([np.ones(3, np.float32)], backend=backend)
        for _ in range(3):
            opt.step([np.ones(3, np.float32)])
        assert opt.state_dict()["state"][0]["count"].tolist() == [3, 3, 3]


def test_nan_and_infinity_go_their_way(pair):
    own, given, built_in, settings = pair
    g = np.array([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45], np.float32)

    def run(make, **settings):
        p = np.array([1, 2, 3, -0.0, 0.0, 1e-45], np.float32)
        opt = make([p], **settings)
        opt.step([g])
        opt.step([g])
        return p

    for backend in OWN:
        np.testing.assert_array_equal(run(own, backend=backend, **given), run(built_in, **settings))


# ---- As any optimizer -------------------------------------------------------------------------------


def test_the_class_documents_itself():
    assert lion.__name__ == "lion"
    assert lion.__module__ == "user_rules"
    assert issubclass(lion, fastgd.Optimizer)
    assert "Lion, in ten lines." in lion.__doc__
    assert "Chen et al. 2023, algorithm 2" in lion.__doc__
    assert "user_rules.adam" in adam.__doc__
    opt = lion([np.ones(2)], 3e-4)
    assert opt.param_groups[0]["lr"] == 3e-4
    assert opt.backend.name == "jit"
    assert "lion (1 parameters, backend jit)" in repr(opt)


def test_bad_values_and_settings_are_refused():
    p = np.ones(2)
    with pytest.raises(ValueError, match="lr must be at least 0"):
        lion([p], lr=-1)
    with pytest.raises(TypeError, match="beta1 must be a number, not 'x'"):
        lion([p], beta1="x")
    with pytest.raises(TypeError, match="betas must be 2 numbers"):
        adam([p], betas=(0.1, 0.2, 0.3))
    with pytest.raises(TypeError, match="'gamma'"):
        lion([p], gamma=1)
    with pytest.raises(ValueError, match="lion has no cautious updates: a rule of one's own may use"):
        lion([p], cautious=True).step([p.copy()])
    with pytest.raises(TypeError, match="the native backend has no lion in float64"):
        lion([p], backend="native")


def test_state_goes_on_from_dicts_files_and_copies(pair, tmp_path):
    own, given, _, _ = pair
    p = random(1000, 1)
    opt = own([("w", p)], **given, state_dtype="8bit", ema_decay=0.9)
    opt.step([random(1000, 2)])
    opt.save(tmp_path / "opt.safetensors")
    others = [copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))]
    loaded = own([("w", p.copy())], state_dtype="8bit", ema_decay=0.9)
    loaded.load(tmp_path / "opt.safetensors")
    others.append(loaded)
    opt.step([random(1000, 3)])
    for other in others:
        other.step([random(1000, 3)])
        assert contents(other) == contents(opt)


def test_a_state_of_another_definition_is_refused(tmp_path):
    opt = lion([np.ones(4)])
    opt.step([np.ones(4)])
    opt.save(tmp_path / "opt.safetensors")

    def redefined():
        @fastgd.jit
        def lion(p, g, *, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0):
            return p - lr * g

        return lion

    other = redefined()([np.ones(4)])
    with unchanged(other), pytest.raises(ValueError, match="lion has no 'exp_avg'"):
        other.load(tmp_path / "opt.safetensors")
    with pytest.raises(ValueError, match="the state is of rule 'lion', this optimizer is 'momentum'"):
        momentum([np.ones(4)]).load(tmp_path / "opt.safetensors")
    with pytest.raises(CheckpointError):
        momentum([np.ones(4)]).load(tmp_path / "none")


def test_two_rules_of_one_name_are_two():
    def make(rate):
        @fastgd.jit
        def same(p, g):
            return p - rate * g

        return same

    first, second = make(1.0), make(2.0)
    p, q = np.zeros(3), np.zeros(3)
    opts = first([p]), second([q])
    for opt in opts:
        opt.step([np.ones(3)])
    assert p.tolist() == [-1, -1, -1]
    assert q.tolist() == [-2, -2, -2]


def test_what_the_function_used_is_what_it_was_when_it_was_defined():
    rate = 1.0

    @fastgd.jit
    def fixed(p, g):
        return p - rate * g

    rate = 2.0
    p = np.zeros(1)
    fixed([p]).step([np.ones(1)])
    assert p[0] == -rate / 2


def test_rules_are_compiled_by_several_threads_at_once():
    def make(k):
        @fastgd.jit
        def rule(p, g):
            return p - k * g

        return rule

    arrays = [np.zeros(10, np.float32) for _ in range(8)]
    opts = [make(float(k % 4))([p]) for k, p in enumerate(arrays)]
    threads = [threading.Thread(target=opt.step, args=([np.ones(10, np.float32)],)) for opt in opts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [p[0] for p in arrays] == [-float(k % 4) for k in range(8)]


def test_a_model_trains_in_one_call_with_a_user_s_rule():
    from fastgd import nn

    def run(make, **settings):
        model = nn.Sequential(nn.Linear(8, 4), loss=nn.CrossEntropyLoss(), seed=0)
        opt = make(model.named_parameters(), lr=0.01, **settings)
        for t in range(3):
            model.train_step(random((6, 8), t), np.arange(6) % 4, opt, clip_norm=0.1)
        return state_of(opt)

    assert run(lion) == run(fastgd.Lion)
