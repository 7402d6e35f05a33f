"""fastgd.jax among JAX's libraries: pytrees, optax, flax, equinox, vmap and scan; what it refuses."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from fastgd.rules import RULES
from fastgd.schedules import ReduceOnPlateau

jax = pytest.importorskip("jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
fgd = pytest.importorskip("fastgd.jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
optax = pytest.importorskip("optax", reason="optax is not a dependency; pip install optax")
peers = pytest.importorskip("test_optax", reason="optax is not a dependency; pip install optax")
jnp = jax.numpy
pytestmark = pytest.mark.peer

#: roundings in 100 steps, of numbers near 1
TOLERANCE = {"float32": 2e-5, "float64": 1e-10}

#: rule -> why it is compared in float64: 100 steps in float32 drift apart further than roundings
IN_FLOAT64 = {
    "lion": "a sign turns with one rounding, and with it a whole step",
    "signum": "a sign turns with one rounding, and with it a whole step",
    "muon": "its iteration multiplies each rounding by 3.4 to the 5th power",
}

#: fastgd's rate is the paper's, min(lr, 1 / sqrt(step)), and optax's lr: in 100 steps the same up to 0.1
OTHER_SETTINGS = {"adafactor": {"lr": 0.05}}


class Pair(NamedTuple):
    first: object
    second: object


def test_rules_compared_in_float64_have_a_peer():
    assert peers.PEERS.keys() >= IN_FLOAT64.keys() | OTHER_SETTINGS.keys()


@pytest.mark.parametrize("rule", peers.PEERS)
def test_100_steps_of_optax(rule):
    dtype = "float64" if rule in IN_FLOAT64 else "float32"
    with jax.enable_x64(dtype == "float64"):
        compare_100_steps(rule, dtype)


def compare_100_steps(rule, dtype):
    peer, rng = peers.PEERS[rule], np.random.default_rng(0)
    settings, shape = {**peer.settings[0], **OTHER_SETTINGS.get(rule, {})}, peer.shapes[0]
    h = RULES[rule].seen({**RULES[rule].defaults, **settings}, shape, dtype)
    theirs = peer.make(h)
    if RULES[rule].active(h).get("weight_decay") and not (RULES[rule].average or RULES[rule].trust):
        theirs = optax.chain(optax.add_decayed_weights(h["weight_decay"]), theirs)
    if h["maximize"]:
        theirs = optax.chain(optax.scale(-1.0), theirs)
    ours = getattr(fgd, rule)(**settings)
    params = other = {"w": jnp.asarray(rng.standard_normal(shape), dtype)}
    state, other_state, step = ours.init(params), theirs.init(other), jax.jit(ours.step)
    update = theirs.update if rule == "ademamix" else jax.jit(theirs.update)
    for _ in range(peers.STEPS if rule == "ademamix" else 100):  # whose peer has tables of so many steps
        grads = {"w": jnp.asarray(rng.standard_normal(shape), dtype)}
        params, state = step(params, grads, state)
        updates, other_state = update(grads, other_state, other)
        other = optax.apply_updates(other, updates)
    size = float(jnp.abs(other["w"]).max())
    np.testing.assert_allclose(params["w"], other["w"], rtol=0, atol=TOLERANCE[dtype] * max(size, 1))


def test_the_transformation_makes_the_same_steps():
    params = {"w": jnp.linspace(-1, 1, 12).reshape(3, 4), "b": jnp.ones(3)}
    grads = jax.tree.map(jnp.cos, params)
    tx = fgd.adamw(0.01, clip_norm=1.0)
    after, state = jax.jit(tx.step)(params, grads, tx.init(params))
    chained = optax.chain(optax.identity(), tx)
    updates, (_, other) = jax.jit(chained.update)(grads, chained.init(params), params)
    found = optax.apply_updates(params, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after, found)
    jax.tree.map(np.testing.assert_array_equal, state, other)
    with pytest.raises(ValueError, match="params are needed"):
        tx.update(grads, state)


def test_trees_keep_their_structure_and_none_is_left_alone():
    params = {"a": [jnp.ones(3), None], "b": Pair(jnp.ones((2, 2)), (jnp.ones(()),))}
    grads = {"a": [jnp.ones(3), None], "b": Pair(None, (jnp.ones(()),))}
    opt = fgd.adam(0.1)
    after, state = jax.jit(opt.step)(params, grads, opt.init(params))
    assert jax.tree.structure(after) == jax.tree.structure(params)
    assert jax.tree.structure(state) == jax.tree.structure(opt.init(params))
    assert (after["b"].first == 1).all()
    assert (after["a"][0] < 1).all()
    assert after["b"].second[0] < 1


def test_flax_and_equinox():
    flax = pytest.importorskip("flax", reason="not a dependency; pip install flax")
    eqx = pytest.importorskip("equinox", reason="not a dependency; pip install equinox")
    frozen = flax.core.freeze({"dense": {"kernel": jnp.ones((2, 3))}})
    opt = fgd.sgd(0.5)
    after, _ = jax.jit(opt.step)(frozen, frozen, opt.init(frozen))
    assert isinstance(after, flax.core.FrozenDict)
    assert (after["dense"]["kernel"] == 0.5).all()

    model = eqx.nn.MLP(2, 1, 8, 1, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_array)
    loss = lambda p: jnp.mean(jax.vmap(eqx.combine(p, static))(jnp.ones((4, 2))) ** 2)  # noqa: E731
    state, step = opt.init(params), jax.jit(opt.step, donate_argnums=(0, 2))
    before = loss(params)
    for _ in range(20):
        params, state = step(params, jax.grad(loss)(params), state)
    assert loss(params) < before / 10


def test_scan_and_vmap():
    opt, params = fgd.nadam(0.1), {"w": jnp.ones((3, 5)) * jnp.arange(3.0)[:, None]}

    def trained(params):
        def body(carry, _):
            params, state = carry
            return opt.step(params, jax.tree.map(jnp.sin, params), state), None

        return jax.lax.scan(body, (params, opt.init(params)), None, length=6)[0]

    together, states = jax.jit(jax.vmap(trained))(params)
    assert (states.count == 6).all()
    for i in range(3):
        alone, _ = jax.jit(trained)({"w": params["w"][i]})
        np.testing.assert_array_equal(together["w"][i], alone["w"])


def test_nonfinite_gradients_are_skipped():
    opt, params = fgd.nadam(0.1, skip_nonfinite=True), {"w": jnp.ones(4)}
    state = opt.init(params)
    after, skipped = jax.jit(opt.step)(params, {"w": jnp.array([1.0, jnp.nan, 1.0, 1.0])}, state)
    assert (after["w"] == 1).all()
    jax.tree.map(np.testing.assert_array_equal, skipped, state)


def test_averages_to_evaluate_with():
    from fastgd import optim

    rng = np.random.default_rng(0)
    own = rng.standard_normal(9).astype(np.float32)
    opt, core = fgd.sgd_schedule_free(0.1), optim.create("sgd_schedule_free", [own], lr=0.1)
    params = {"w": jnp.array(own)}
    state = opt.init(params)
    np.testing.assert_array_equal(opt.eval_params(params, state)["w"], own)
    for _ in range(5):
        grad = rng.standard_normal(9).astype(np.float32)
        core.step([grad])
        params, state = jax.jit(opt.step)(params, {"w": jnp.array(grad)}, state)
    core.eval()
    np.testing.assert_allclose(opt.eval_params(params, state)["w"], own, rtol=1e-6)


def test_a_rate_may_be_an_argument_of_the_compiled_function():
    params = {"w": jnp.ones(4)}
    after, _ = jax.jit(lambda p, s, lr: fgd.adamw(lr).step(p, p, s))(params, fgd.adamw().init(params), 0.25)
    expected, _ = jax.jit(fgd.adamw(0.25).step)(params, params, fgd.adamw().init(params))
    np.testing.assert_array_equal(after["w"], expected["w"])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fgd.adamw(-1.0), ValueError, "lr must be at least 0"),
        (lambda: fgd.adamw(1e-3, beta=0.9), TypeError, "unexpected keyword argument 'beta'"),
        (lambda: fgd.adamw(1e-3, clip_norm=-1.0), ValueError, "clip_norm"),
        (lambda: fgd.adamw(ReduceOnPlateau(0.1)), TypeError, "ReduceOnPlateau changes between steps"),
        (lambda: fgd.adam(0.1).init({"n": jnp.ones(2, int)}), TypeError, r"params\['n'\] is int32"),
        (lambda: fgd.muon(0.1).init({"b": jnp.ones(2)}), ValueError, r"params\['b'\] has shape \(2,\)"),
    ],
)
def test_refusals(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_gradients_of_other_trees_and_shapes_are_refused():
    opt, params = fgd.adam(0.1), {"w": jnp.ones(3)}
    state = opt.init(params)
    with pytest.raises(ValueError, match=r"grads\['w'\] has shape \(2,\)"):
        opt.step(params, {"w": jnp.ones(2)}, state)
    with pytest.raises(ValueError, match="grads has another structure than params"):
        opt.step(params, {"v": jnp.ones(3)}, state)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        jax.grad(lambda p: opt.step(p, params, state)[0]["w"].sum())(params)


def test_other_devices_refuse_in_words():
    from fastgd._native import ffi, lib
    from fastgd.jax._handler import bind

    names = "fgd_update", "fgd_error_text"
    _, refusal = bind(*(int(ffi.cast("uintptr_t", ffi.addressof(lib, name))) for name in names))
    jax.ffi.register_ffi_target("fastgd_refused", refusal, platform="cpu")
    call = jax.ffi.ffi_call("fastgd_refused", jax.ShapeDtypeStruct((), jnp.float32))
    with pytest.raises(Exception, match=r"fastgd\.jax works on CPU"):
        call().block_until_ready()
