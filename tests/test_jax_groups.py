"""Groups of fastgd.jax: hyperparameters by label and decay masks within one step, and what they refuse."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd import optim, schedules

jax = pytest.importorskip("jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
fgd = pytest.importorskip("fastgd.jax", reason="jax is not a dependency; pip install 'fastgd[jax]'")
optax = pytest.importorskip("optax", reason="optax is not a dependency; pip install optax")
jnp = jax.numpy
pytestmark = pytest.mark.peer

#: a label for all of "body", and one each below "head"
LABELS = {"body": "slow", "head": {"b": "bare", "w": "fast"}}
GROUPS = {
    "slow": {"lr": 0.01},
    "fast": {"lr": schedules.Cosine(0.1, 8), "betas": (0.8, 0.9), "ema_decay": 0.9},
    "bare": {"weight_decay": 0.0, "amsgrad": True},
}


def tree(seed):
    rng = np.random.default_rng(seed)
    shapes = {"body": {"b": (7,), "w": (3, 7)}, "head": {"b": (), "w": (7, 300)}}
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.standard_normal(shape), jnp.float32),
        shapes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def same(a, b):
    jax.tree.map(lambda one, other: np.testing.assert_array_equal(one, other, strict=True), a, b)


def by_path(params):
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: "slow" if path[0].key == "body" else "bare" if leaf.ndim == 0 else "fast", params
    )


@pytest.mark.parametrize("labels", [LABELS, by_path])
@pytest.mark.parametrize("packs", [False, True])
def test_groups_have_the_bits_of_the_core_optimizer_s(labels, packs):
    own = jax.tree.map(np.array, tree(0))
    members = {"slow": list(own["body"].values()), "fast": [own["head"]["w"]], "bare": [own["head"]["b"]]}
    core = optim.create(
        "adamw", [{"params": members[label], **GROUPS[label]} for label in GROUPS], lr=0.03, weight_decay=0.3
    )
    opt = fgd.adamw(0.03, weight_decay=0.3, clip_norm=0.5, groups=GROUPS, labels=labels)
    packed = fgd.pack if packs else lambda tree: tree
    params = packed(tree(0))
    state, step = opt.init(params), jax.jit(opt.step)
    assert step.lower(params, params, state).compile().as_text().count("custom-call(") == 1
    for t in range(1, 6):
        grads = tree(t)
        core.step([*grads["body"].values(), grads["head"]["w"], grads["head"]["b"]], clip_norm=0.5)
        params, state = step(params, packed(grads), state)
    same(params.tree() if packs else params, own)
    assert jax.tree.leaves(state.average.tree())[0].shape == (7, 300)
    evaluated = opt.eval_params(params, state)
    evaluated = evaluated.tree() if packs else evaluated
    same(evaluated["body"], own["body"])
    assert not np.array_equal(evaluated["head"]["w"], own["head"]["w"])


def steps_beside(ours, theirs):
    """Five steps of either: the same parameters but for what float32 rounds on the way."""
    params = other = tree(0)
    state, other_state = ours.init(params), theirs.init(other)
    for t in range(1, 6):
        params, state = jax.jit(ours.step)(params, tree(t), state)
        updates, other_state = theirs.update(tree(t), other_state, other)
        other = optax.apply_updates(other, updates)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), params, other)


@pytest.mark.parametrize("mask", [{"body": False, "head": True}, lambda p: {"body": False, "head": True}])
def test_a_mask_is_optax_s(mask):
    ours = fgd.adamw(0.05, weight_decay=0.5, mask=mask)
    theirs = optax.adamw(
        0.05, weight_decay=0.5, mask={"body": {"b": False, "w": False}, "head": {"b": True, "w": True}}
    )
    steps_beside(ours, theirs)


def test_groups_beside_optax_s_partition():
    by_label = {"slow": 0.01, "fast": 0.1, "bare": 0.03}
    ours = fgd.adam(groups={label: {"lr": lr} for label, lr in by_label.items()}, labels=LABELS)
    theirs = optax.partition({label: optax.adam(lr) for label, lr in by_label.items()}, LABELS)
    steps_beside(ours, theirs)


def test_rates_of_groups_may_be_functions_and_arguments():
    def stepped(params, state, lr):
        groups = {"slow": {"lr": lr}, "fast": {"lr": lambda count: 0.5 / (count + 2)}, "bare": {}}
        return fgd.sgd(0.125, groups=groups, labels=LABELS).step(params, params, state)

    ones = jax.tree.map(jnp.ones_like, tree(0))
    after, _ = jax.jit(stepped)(ones, fgd.sgd().init(ones), 0.5)
    found = {
        jax.tree_util.keystr(path): float(leaf.ravel()[0])
        for path, leaf in jax.tree_util.tree_leaves_with_path(after)
    }
    assert found == {
        "['body']['b']": 0.5,
        "['body']['w']": 0.5,
        "['head']['b']": 0.875,
        "['head']['w']": 0.75,
    }


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"groups": {"a": {}}}, TypeError, "groups needs labels"),
        ({"labels": "a"}, TypeError, "labels needs groups"),
        ({"groups": {}, "labels": "a"}, TypeError, "groups must be hyperparameters by label"),
        ({"groups": {"a": 3}, "labels": "a"}, TypeError, r"groups\['a'\]: must be a dict"),
        ({"groups": {"a": {"lr": -1.0}}, "labels": "a"}, ValueError, r"groups\['a'\]: lr must be at least 0"),
        ({"groups": {"a": {"clip_norm": 1.0}}, "labels": "a"}, TypeError, "'clip_norm' is none of what may"),
        (
            {"groups": {"a": {}}, "labels": "b"},
            ValueError,
            r"\['body'\]\['b'\] has the label 'b', and groups has 'a'",
        ),
        (
            {"groups": {"a": {}}, "labels": {"body": "a"}},
            ValueError,
            "labels has another structure than params",
        ),
        ({"mask": 3}, TypeError, r"mask of params\['body'\]\['b'\]"),
        ({"mask": [True]}, ValueError, "mask has another structure than params"),
    ],
)
def test_refusals(given, error, message):
    with pytest.raises(error, match=message):
        fgd.adamw(**given).init(tree(0))


def test_a_mask_needs_weight_decay():
    with pytest.raises(TypeError, match="mask says what has weight decay, and Rprop has none"):
        fgd.rprop(mask=True)


def test_a_state_of_other_groups_is_refused():
    opt = fgd.adamw(groups={"a": {"amsgrad": True}, "b": {}}, labels={"body": "a", "head": "b"})
    with pytest.raises(
        ValueError, match=r"slots\['max_exp_avg_sq'\] has nothing for params\['body'\]\['b'\]"
    ):
        opt.step(tree(0), tree(0), fgd.adamw().init(tree(0)))
    with pytest.raises(
        ValueError, match=r"slots\['exp_avg'\] has float32 of shape \[7\] for params\['body'\]\['b'\]"
    ):
        wider = tree(0)
        wider["body"]["b"] = jnp.ones(9)
        fgd.adam().step(wider, wider, fgd.adam().init(tree(0)))
