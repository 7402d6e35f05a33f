"""fastgd.jax.pack: the same steps of fewer arrays, gradients of parts, and what cannot be packed."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from fastgd.rules import RULES

jax = pytest.importorskip("jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
fgd = pytest.importorskip("fastgd.jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
jnp = jax.numpy
pytestmark = pytest.mark.peer


class Layer(NamedTuple):
    weight: object
    bias: object


def tree(seed=0, dtype=jnp.float32, matrices=False):
    rng = np.random.default_rng(seed)
    shapes = ((3, 4), (4, 4), (1, 1), (5, 2), (30, 10)) if matrices else ((3, 4), (4,), (), (0, 2), (300,))
    arrays = [jnp.asarray(rng.standard_normal(shape), dtype) for shape in shapes]
    return {"first": Layer(*arrays[:2]), "rest": [arrays[2], None, *arrays[3:]]}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()


def test_what_is_packed_comes_out_again():
    params = tree()
    params["half"] = jnp.ones((2, 2), jnp.bfloat16)
    packed = fgd.pack(params)
    same(packed.tree(), params)
    same(jax.jit(lambda packed: packed.tree())(packed), params)
    paths, _ = jax.tree_util.tree_flatten_with_path(packed)
    assert [jax.tree_util.keystr(path) for path, _ in paths] == ["['float32']", "['bfloat16']"]
    assert [leaf.shape for leaf in jax.tree.leaves(packed)] == [(317,), (4,)]
    assert repr(packed) == "Packed(6 arrays in float32 and bfloat16)"


def test_gradients_are_those_of_the_tree_put_together_at_once():
    params = tree()

    def loss(params):
        return sum(jnp.sum(jnp.sin(leaf) * (i + 1)) for i, leaf in enumerate(jax.tree.leaves(params)))

    packed = fgd.pack(params)
    compiled = jax.jit(jax.grad(lambda packed: loss(packed.tree())))
    same(compiled(packed).tree(), jax.grad(loss)(params))
    # not as a sum of arrays as long as all, one for each part
    assert " pad(" not in compiled.lower(packed).compile().as_text()


@pytest.mark.parametrize("settings", [{}, {"state_dtype": "8bit", "ema_decay": 0.9, "clip_norm": 0.5}])
@pytest.mark.parametrize("rule", RULES)
def test_steps_have_the_bits_of_the_tree_s(rule, settings):
    opt, matrices = getattr(fgd, rule)(0.1, **settings), RULES[rule].ndim == 2
    params = tree(matrices=matrices)
    packed = fgd.pack(params)
    state, packed_state, step = opt.init(params), opt.init(packed), jax.jit(opt.step)
    for t in range(4):
        grads = tree(t + 1, matrices=matrices)
        params, state = step(params, grads, state)
        packed, packed_state = step(packed, fgd.pack(grads), packed_state)
        same(packed.tree(), params)
    same(packed_state, state)
    same(opt.eval_params(packed, packed_state).tree(), opt.eval_params(params, state))


def test_trees_with_packed_parts():
    opt, params, grads = fgd.adamw(0.1, clip_norm=0.5), tree(), tree(1)
    some, grads_of_some = (
        {**params, "rest": fgd.pack(params["rest"])},
        {**grads, "rest": fgd.pack(grads["rest"])},
    )
    after, state = opt.step(some, grads_of_some, opt.init(some))
    wanted, wanted_state = opt.step(params, grads, opt.init(params))
    same({**after, "rest": after["rest"].tree()}, wanted)
    same(state, wanted_state)
    alone, _ = opt.step(some, {**grads, "rest": None}, opt.init(some))
    same(alone["rest"], some["rest"])


def test_it_is_updated_in_place():
    opt, packed = fgd.adamw(0.1), fgd.pack(tree())
    step = jax.jit(opt.step, donate_argnums=(0, 2))
    packed, state = step(packed, fgd.pack(tree(1)), opt.init(packed))
    before = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((packed, state))]
    packed, state = step(packed, fgd.pack(tree(2)), state)
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((packed, state))] == before


def test_what_is_no_parameter_is_refused():
    with pytest.raises(TypeError, match=r"params\['a'\]\[1\] is int32; fastgd works on"):
        fgd.pack({"a": [jnp.ones(2), jnp.ones(2, jnp.int32)]})
    with pytest.raises(ValueError, match="params has no arrays"):
        fgd.pack({"a": None})


def test_gradients_of_another_layout_are_refused():
    opt, packed = fgd.sgd(), fgd.pack(tree())
    with pytest.raises(ValueError, match="grads has another structure than params"):
        opt.step(packed, fgd.pack({"other": jnp.ones(317)}), opt.init(packed))
