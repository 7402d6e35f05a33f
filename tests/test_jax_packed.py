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

#: whose steps depend on a parameter's shape, or on all of its elements
APART = ("adafactor", "lamb", "lars", "muon")


class Layer(NamedTuple):
    weight: object
    bias: object


def tree(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    shapes = (3, 4), (4,), (), (0, 2), (300,)
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
    assert repr(packed) == "Packed(6 arrays, in float32 and bfloat16)"


def test_gradients_are_those_of_the_tree_put_together_at_once():
    params = tree()

    def loss(params):
        return sum(jnp.sum(jnp.sin(leaf) * (i + 1)) for i, leaf in enumerate(jax.tree.leaves(params)))

    packed = fgd.pack(params)
    compiled = jax.jit(jax.grad(lambda packed: loss(packed.tree())))
    same(compiled(packed).tree(), jax.grad(loss)(params))
    # not as a sum of arrays as long as all, one for each part
    assert " pad(" not in compiled.lower(packed).compile().as_text()


@pytest.mark.parametrize("rule", [name for name in RULES if name not in APART])
def test_steps_have_the_bits_of_the_tree_s(rule):
    opt, params = getattr(fgd, rule)(0.1), tree()
    packed = fgd.pack(params)
    state, packed_state, step = opt.init(params), opt.init(packed), jax.jit(opt.step)
    for t in range(4):
        grads = tree(t + 1)
        params, state = step(params, grads, state)
        packed, packed_state = step(packed, fgd.pack(grads), packed_state)
        same(packed.tree(), params)
    same(opt.eval_params(packed, packed_state).tree(), opt.eval_params(params, state))


def test_the_norm_is_that_of_all_gradients():
    opt, params, grads = fgd.sgd(1.0, clip_norm=0.5), tree(), tree(1)
    packed = fgd.pack(params)
    after, _ = opt.step(params, grads, opt.init(params))
    packed, _ = opt.step(packed, fgd.pack(grads), opt.init(packed))
    for a, b in zip(jax.tree.leaves(packed.tree()), jax.tree.leaves(after), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_it_is_updated_in_place():
    opt, packed = fgd.adamw(0.1), fgd.pack(tree())
    step = jax.jit(opt.step, donate_argnums=(0, 2))
    packed, state = step(packed, fgd.pack(tree(1)), opt.init(packed))
    before = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((packed, state))]
    packed, state = step(packed, fgd.pack(tree(2)), state)
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves((packed, state))] == before


@pytest.mark.parametrize("rule", APART)
def test_what_looks_at_each_parameter_is_refused(rule):
    opt, packed = getattr(fgd, rule)(), fgd.pack(tree())
    message = f"params are packed, and {RULES[rule].title} looks at each parameter"
    for params in (packed, {"some": [packed]}):
        with pytest.raises(ValueError, match=message):
            opt.init(params)


def test_what_is_no_parameter_is_refused():
    with pytest.raises(TypeError, match=r"params\['a'\]\[1\] is int32; fastgd works on"):
        fgd.pack({"a": [jnp.ones(2), jnp.ones(2, jnp.int32)]})
    with pytest.raises(ValueError, match="params has no arrays"):
        fgd.pack({"a": None})


def test_gradients_of_another_layout_are_refused():
    opt, packed = fgd.sgd(), fgd.pack(tree())
    with pytest.raises(ValueError, match="grads has another structure than params"):
        opt.step(packed, fgd.pack({"other": jnp.ones(317)}), opt.init(packed))
