"""fastgd.jax: steps under jit have the bits of the core optimizer, and are made in place."""

from __future__ import annotations

import numpy as np
import pytest

import fastgd
from fastgd import optim, schedules
from fastgd.oracle.settings import SETTINGS
from fastgd.rules import RULES

jax = pytest.importorskip("jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
fgd = pytest.importorskip("fastgd.jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
jnp = jax.numpy
pytestmark = pytest.mark.peer

STEPS = 12


def shapes_for(rule):
    matrices = [(20, 30), (30, 20), (1, 5)]
    return matrices if RULES[rule].ndim else [*matrices, (7,), (300,), (), (0, 4), (2, 3, 5)]


def named(arrays):
    return {f"p{i}": jnp.array(array) for i, array in enumerate(arrays)}


def both(rule, settings, *, lr=None, dtype=np.float32, grad_dtype=None, steps=STEPS, scale=1.0, **options):
    """(the core optimizer's parameters, those of fastgd.jax, its state) after some steps.

    lr: what fastgd.jax is given in its place.
    """
    rng = np.random.default_rng(0)

    def normal(shape, of):
        return np.asarray(rng.standard_normal(shape) * scale).astype(of)

    own = [normal(shape, dtype) for shape in shapes_for(rule)]
    params = named(own)
    core = optim.create(rule, own, **settings)
    opt = getattr(fgd, rule)(**{**settings, **({} if lr is None else {"lr": lr})}, **options)
    state, step = opt.init(params), jax.jit(opt.step, donate_argnums=(0, 2))
    for _ in range(steps):
        grads = [normal(p.shape, grad_dtype or dtype) for p in own]
        core.step(grads, **options)
        params, state = step(params, named(grads), state)
    return own, list(map(np.asarray, params.values())), state


def assert_same_bits(found):
    mine, theirs, _ = found
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize(("rule", "number"), [(r, i) for r in RULES for i in range(len(SETTINGS[r]))])
def test_bits_of_the_core_optimizer(rule, number):
    found = both(rule, SETTINGS[rule][number])
    assert_same_bits(found)
    assert found[2].count == STEPS


@pytest.mark.parametrize("rule", [name for name, rule in RULES.items() if rule.hyperparameter("lr").folded])
def test_bits_with_a_rate_known_in_the_step_only(rule):
    # 0.03125 is the same number in float32
    lr = 0.03125
    assert_same_bits(both(rule, {"lr": lr}, lr=lambda count: jnp.float32(lr) + 0 * count))


@pytest.mark.parametrize("rule", RULES)
def test_bits_in_float64(rule):
    with jax.enable_x64(True):
        assert_same_bits(both(rule, SETTINGS[rule][-1], dtype=np.float64))


@pytest.mark.parametrize(
    ("dtype", "settings"),
    [
        ("bfloat16", {}),
        ("float16", {}),
        ("bfloat16", {"rounding": "stochastic"}),
        ("bfloat16", {"rounding": "kahan"}),
        ("bfloat16", {"rounding": "split"}),
        ("float16", {"rounding": "master"}),
        ("float32", {"state_dtype": "bfloat16", "state_rounding": "stochastic"}),
        ("float32", {"state_dtype": "8bit"}),
        ("float32", {"ema_decay": 0.9}),
        ("float32", {"cautious": True}),
    ],
)
@pytest.mark.parametrize("rule", ["adamw", "adafactor", "adagrad"])
def test_bits_in_other_formats(rule, dtype, settings):
    assert_same_bits(both(rule, settings, dtype=jnp.dtype(dtype)))


def test_gradients_may_have_another_dtype():
    assert_same_bits(both("adamw", {}, grad_dtype=jnp.bfloat16))


def test_denormal_numbers_are_numbers():
    """XLA's threads take them for 0; squares of such gradients are denormal."""
    assert_same_bits(both("adamw", {"eps": 0.0}, scale=1e-21, steps=3))


@pytest.mark.parametrize(
    "options",
    [{"clip_norm": 0.5}, {"clip_value": 0.3}, {"clip_norm": 2.0, "clip_value": 0.9, "skip_nonfinite": True}],
)
def test_bits_with_clipping(options):
    assert_same_bits(both("adamw", {}, **options))


def test_many_threads_give_the_bits_of_one():
    rng = np.random.default_rng(0)
    params, grads = ({"w": jnp.array(rng.standard_normal(300_000), jnp.float32)} for _ in range(2))
    opt, found = fgd.adamw(1e-2, clip_norm=1.0), []
    before = fastgd.get_num_threads()
    try:
        for threads in (1, 3):
            fastgd.set_num_threads(threads)
            found.append(np.asarray(jax.jit(opt.step)(params, grads, opt.init(params))[0]["w"]).tobytes())
    finally:
        fastgd.set_num_threads(before)
    assert found[0] == found[1]


SCHEDULES = [
    schedules.Constant(0.01),
    schedules.InverseTime(0.01, 0.1, steps_per_epoch=3),
    schedules.InverseTime(0.01, 0.1, steps_per_epoch=3, whole_epochs=False),
    schedules.InverseSquareRoot(0.01, 5),
    schedules.Step(0.01, every=4, factor=0.3),
    schedules.MultiStep(0.01, (3, 9, 17), 0.3),
    schedules.Exponential(0.01, 0.97),
    schedules.Polynomial(0.01, 20, end=1e-3),
    schedules.Polynomial(0.01, 20, power=3.0),
    schedules.Cosine(0.01, 21, end=1e-4),
    schedules.WarmRestarts(0.01, 7),
    schedules.WarmRestarts(0.01, 4, multiplier=2),
    schedules.Triangular(1e-3, 0.01, up=4, down=3),
    schedules.Triangular(1e-3, 0.01, up=4, mode="triangular2"),
    schedules.Triangular(1e-3, 0.01, up=4, mode="exp_range", factor=0.98),
    schedules.OneCycle(0.01, 25),
    schedules.OneCycle(0.01, 25, anneal="linear", three_phases=True),
    schedules.WarmupStableDecay(0.01, 24, 5, 9),
    schedules.WarmupStableDecay(0.01, 24, 5, 9, shape="cosine"),
    schedules.Cosine(0.01, 10).warmup(5),
    schedules.Exponential(0.01, 0.5).per_epoch(6) * schedules.Cosine(1.0, 30),
    schedules.Join((schedules.Constant(0.01), schedules.Cosine(0.02, 9)), (8,)),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_bits_with_schedules(schedule):
    assert_same_bits(both("sgd", {"lr": schedule}, steps=30))


def test_every_kind_of_schedule_is_tried():
    assert set(schedules.KINDS) <= {type(schedule) for schedule in SCHEDULES}


# ---- In place -----------------------------------------------------------------------------------------


def pointers(*trees):
    return [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(trees)]


@pytest.mark.parametrize("rule", ["adamw", "nadam", "adafactor"])
def test_donated_arrays_are_updated_where_they_are(rule):
    params = {"w": jnp.ones((64, 32)), "b": jnp.ones(64)}
    opt = getattr(fgd, rule)(1e-2, clip_norm=1.0)
    state, grads = opt.init(params), jax.tree.map(jnp.ones_like, params)
    step = jax.jit(opt.step, donate_argnums=(0, 2))
    before = pointers(params, state)
    for _ in range(3):
        params, state = step(params, grads, state)
        assert pointers(params, state) == before


def test_the_compiled_step_is_one_call_without_copies():
    params = {"w": jnp.ones((1000, 100)), "b": jnp.ones(64)}
    opt = fgd.adamw(1e-2, clip_norm=1.0)
    arguments = params, jax.tree.map(jnp.ones_like, params), opt.init(params)
    compiled = jax.jit(opt.step, donate_argnums=(0, 2)).lower(*arguments).compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    assert text.count("custom-call(") == 1
    assert " copy(" not in text
    assert " fusion(" not in text
    kept = sum(leaf.nbytes for leaf in jax.tree.leaves((params, arguments[2])))
    assert memory.alias_size_in_bytes == kept
    assert memory.temp_size_in_bytes < 20_000


def test_arrays_that_are_not_donated_stay():
    params = {"w": jnp.ones(10)}
    opt = fgd.sgd(0.5, momentum=0.9)
    state = opt.init(params)
    after, _ = jax.jit(opt.step)(params, {"w": jnp.ones(10)}, state)
    assert (params["w"] == 1).all()
    assert (state.slots["momentum_buffer"].tree()["w"] == 0).all()
    assert (after["w"] == 0.5).all()
