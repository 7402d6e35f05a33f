"""States, gradients and packed arrays that are not those of the parameters: refused before a step begins."""

import numpy as np
import pytest

jax = pytest.importorskip("jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
fgd = pytest.importorskip("fastgd.jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
jnp = jax.numpy

pytestmark = pytest.mark.peer

SMALL = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
LARGE = {"a": jnp.ones(3000), "b": jnp.ones((200, 200))}


def ones_like(tree):
    return jax.tree.map(jnp.ones_like, tree)


def shortened(tree):
    return jax.tree.map(lambda array: array[:1], tree)


def narrow(tree):
    return jax.tree.map(lambda array: array.astype(jnp.bfloat16), tree)


@pytest.mark.parametrize("parameters", [np.ones(3), jnp.ones(3)], ids=["numpy", "jax"])
def test_gradients_of_numpy_in_float64_are_taken_as_jax_takes_them(parameters):
    opt = fgd.sgd(1.0)
    params = {"w": parameters}
    after, _ = opt.step(params, {"w": np.full(3, 0.5)}, opt.init(params))
    assert after["w"].tolist() == [0.5, 0.5, 0.5]


#: (the optimizer that steps, its parameters, the one that made the state, its parameters, what is said)
STATES = {
    "average of other parameters": (
        {"ema_decay": 0.9},
        LARGE,
        {"ema_decay": 0.9},
        SMALL,
        r"average has float32 of shape \[3\] for params\['a'\], which needs float32 of shape \[3000\]",
    ),
    "no average": ({"ema_decay": 0.9}, SMALL, {}, SMALL, "average has nothing"),
    "an average too many": ({}, SMALL, {"ema_decay": 0.9}, SMALL, "which needs nothing"),
    "residual of another rounding": (
        {"rounding": "kahan"},
        narrow(SMALL),
        {"rounding": "master"},
        narrow(SMALL),
        r"residual has float32 of shape \[3\]",
    ),
    "residual of other parameters": (
        {"rounding": "kahan"},
        narrow(LARGE),
        {"rounding": "kahan"},
        narrow(SMALL),
        r"residual has bfloat16 of shape \[3\]",
    ),
    "slot of another dtype": (
        {"momentum": 0.9},
        SMALL,
        {"momentum": 0.9, "state_dtype": "bfloat16"},
        SMALL,
        "needs float32",
    ),
    "slot in codes": (
        {"momentum": 0.9},
        SMALL,
        {"momentum": 0.9, "state_dtype": "8bit"},
        SMALL,
        r"has uint8 of shape \[3\] and float32 of shape \[1\]",
    ),
    "no slot": ({"momentum": 0.9}, SMALL, {}, SMALL, r"slots\['momentum_buffer'\] has nothing"),
}


@pytest.mark.parametrize("case", STATES)
@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "jit"])
def test_states_of_other_parameters_or_settings(case, compiled):
    settings, params, others, other_params, reason = STATES[case]
    opt = fgd.sgd(0.1, **settings)
    state = fgd.sgd(0.1, **others).init(other_params)
    step = jax.jit(opt.step) if compiled else opt.step
    with pytest.raises(ValueError, match=reason):
        step(params, ones_like(params), state)


def test_numbers_carried_by_other_groups_or_another_rule():
    groups = fgd.nadam(0.1, groups={"x": {}, "y": {"lr": 0.01}}, labels={"a": "x", "b": "y"})
    with pytest.raises(ValueError, match=r"carried has shape \(1, 1, 2\).* needs \(2, 1, 2\)"):
        groups.step(SMALL, ones_like(SMALL), fgd.nadam(0.1).init(SMALL))
    with pytest.raises(ValueError, match=r"carried has shape None"):
        fgd.nadam().step(SMALL, ones_like(SMALL), fgd.adam().init(SMALL))


@pytest.mark.parametrize("cut", ["params", "grads", "state"])
def test_arrays_together_that_are_shorter_than_their_parts(cut):
    params = fgd.pack(SMALL)
    opt = fgd.adamw(0.1)
    state = opt.init(params)
    grads = ones_like(params)
    if cut == "params":
        params, grads = shortened(params), shortened(grads)
    elif cut == "grads":
        grads = shortened(grads)
    else:
        state = state._replace(slots=shortened(state.slots))
    with pytest.raises(
        ValueError, match=rf"{cut}.* has an array of shape \(1,\) for small arrays of 7 elements"
    ):
        opt.step(params, grads, state)


def test_stacked_packed_parameters_need_vmap():
    opt = fgd.sgd(0.5)
    params = fgd.pack(SMALL)
    stacked = jax.tree.map(lambda array: jnp.stack([array, array]), params)
    state = opt.init(params)
    with pytest.raises(ValueError, match="vmap"):
        opt.step(stacked, stacked, state)
    after, _ = jax.vmap(opt.step, in_axes=(0, 0, None))(stacked, stacked, state)
    assert all((array == 0.5).all() for array in after.arrays)


def test_a_label_that_is_no_key_is_named():
    opt = fgd.adamw(0.1, groups={"x": {}}, labels={"a": np.ones(2), "b": "x"})
    with pytest.raises((TypeError, ValueError), match="params"):
        opt.init(SMALL)


def test_what_jax_says_of_a_traced_switch_is_told():
    with pytest.raises(TypeError, match="boolean conversion"):
        jax.jit(lambda lr: fgd.adamw(lr, decouple_lr=True).init(SMALL))(0.1)
