"""The optimizer around the rules: groups, plans that are reused, step counts, reports."""

from __future__ import annotations

import array
import ctypes
import gc
import itertools
import warnings
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import BACKENDS, check_step, random, unchanged

import fastgd
from fastgd.rules import RULES
from fastgd.settings import SETTINGS

F32 = np.float32


# ---- groups and names ----


def test_groups_share_defaults_and_differ_where_they_say(backend):
    params = [np.full(3, 1, F32) for _ in range(3)]
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": 0.5, "maximize": True}]
    opt = fastgd.SGD(groups, lr=0.25, backend=backend)
    opt.step([np.ones(3, F32)] * 3)
    assert [p[0] for p in params] == [0.75, 1.5, 1.5]
    assert [g["lr"] for g in opt.param_groups] == [0.25, 0.5]
    assert all(a is b for a, b in zip(opt.param_groups[1]["params"], params[1:], strict=True))


def test_positional_hyperparameters_are_in_torchs_order():
    group = fastgd.Adam([np.ones(1, F32)], 0.5, (0.5, 0.75), 1e-3).param_groups[0]
    assert (group["lr"], group["betas"], group["eps"]) == (0.5, (0.5, 0.75), 1e-3)


def test_a_group_is_a_mapping():
    group = fastgd.SGD([np.ones(1, F32)], lr=0.5).param_groups[0]
    assert list(group) == ["params", *RULES["sgd"].defaults, *SETTINGS]
    assert len(group) == len(list(group))
    group.update(lr=0.25, momentum=np.float32(0.5))
    assert dict(group)["lr"] == 0.25
    assert type(group["momentum"]) is float


def test_gradients_by_name(backend):
    params = {"a": np.zeros(2, F32), "b": np.zeros(3, F32), "c": np.zeros(4, F32)}
    opt = fastgd.SGD(params, lr=1.0, backend=backend)
    for _ in range(2):
        opt.step({"c": np.full(4, 3, F32), "a": np.full(2, 1, F32)})
    assert [p[0] for p in params.values()] == [-2, 0, -6]


@pytest.mark.parametrize("make", [list, tuple, iter, lambda x: (g for g in x)])
def test_gradients_in_any_order_giving_collection(backend, make):
    params = [np.zeros(2, F32), np.zeros(3, F32)]
    opt = fastgd.SGD(params, lr=1.0, backend=backend)
    opt.step(make([np.full(2, 1, F32), np.full(3, 2, F32)]))
    assert [p[0] for p in params] == [-1, -2]


def test_nothing_to_update(backend):
    for params in ([], [{"params": []}, {"params": []}], [np.zeros((0, 3), F32)]):
        opt = fastgd.Adam(params, backend=backend)
        grads = [np.zeros((0, 3), F32)] if isinstance(params[:1] and params[0], np.ndarray) else []
        for _ in range(2):
            report = opt.step(grads, clip_norm=1.0, skip_nonfinite=True)
        assert report == (0.0, 1.0, False, None)
        opt.load_state_dict(opt.state_dict())


class Matrix(np.ndarray):
    pass


def lenders(a):
    """The same memory by every way in."""
    flat = a.reshape(-1)
    yield a
    yield a.view(Matrix)
    yield memoryview(a)
    yield type("Lender", (), {"__array_interface__": a.__array_interface__, "keep": a})()
    yield type("Dlpack", (), {n: getattr(a, n) for n in ("__dlpack__", "__dlpack_device__")})()
    if a.ndim == 1:
        yield (ctypes.c_float * flat.size).from_buffer(flat)


def test_owners_other_than_numpy(backend):
    count = len(list(lenders(np.zeros(4, F32))))
    for i in range(count):
        p = np.zeros(4, F32)
        opt = fastgd.SGD([list(lenders(p))[i]], lr=1.0, backend=backend)
        for k in range(count):
            opt.step([list(lenders(np.full(4, 10.0**k, F32)))[k]])
        assert np.all(p == -sum(F32(10.0**k) for k in range(count)))
    stock = array.array("d", [0.0] * 5)
    opt = fastgd.SGD([stock], lr=1.0, backend=backend)
    opt.step([array.array("d", [1.0, 2, 3, 4, 5])])
    assert stock.tolist() == [-1, -2, -3, -4, -5]


# ---- the plan: gradients fresh, reused, freed ----


def test_gradients_reused_rewritten_and_fresh(backend):
    opt = fastgd.AdamW([random(s, 0) for s in (5, (3, 4), 0, 1)], amsgrad=True, backend=backend)
    kept = [random(s, 1) for s in (5, (3, 4), 0, 1)]
    for t in range(6):
        check_step(opt, kept)
        kept[0] *= -2
        if t % 2:
            kept[1] = random((3, 4), t)
        if t == 3:
            kept[1] = np.asfortranarray(kept[1])
        check_step(opt, [random(s, 50 + t) for s in (5, (3, 4), 0, 1)], clip_norm=0.5)


#: a copy of an array in another memory order
ORDERS = {
    "C": np.ascontiguousarray,
    "F": np.asfortranarray,
    "gaps": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
}


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_may_change_their_order_from_step_to_step(backend, order):
    """Whichever order the plan was made for, and whether or not it is the parameter's."""
    for before, after in itertools.permutations(ORDERS, 2):
        opt = fastgd.AdamW([ORDERS[order](random((3, 4), 0))], backend=backend)
        for t, of in enumerate([before, before, after, before, after]):
            check_step(opt, [ORDERS[of](random((3, 4), t))])


def test_gradients_may_change_their_dtype_from_step_to_step(backend):
    opt = fastgd.AdamW([random((3, 4), 0), random(5, 1, np.float64)], backend=backend)
    for before, after in itertools.permutations([np.float32, np.float64, np.float16], 2):
        for t, of in enumerate([before, before, after, before]):
            check_step(opt, [random((3, 4), t, of), random(5, t, before)], clip_norm=0.5)


def test_an_id_taken_over_by_another_array_is_noticed(backend):
    """A freed gradient's id is given to the next array, whose memory is elsewhere."""
    p = np.zeros(1000, F32)
    opt = fastgd.SGD([p], lr=1.0, backend=backend)
    # the reference leaves cycles, which keep memory from being taken again until they are collected
    memories = [np.full(1000, t, F32) for t in range(300)]
    total, ids = F32(0), set()
    for memory in memories:
        grad = memory[:]
        ids.add(id(grad))
        opt.step([grad])
        total += memory[0]
        del grad
        assert np.all(p == -total)
    assert len(ids) < len(memories)


ACTIONS = st.one_of(
    st.tuples(st.just("pattern"), st.tuples(*[st.sampled_from(["keep", "fresh", "none", "order"])] * 3)),
    st.tuples(
        st.just("set"), st.sampled_from([0, 1]), st.sampled_from(["lr", "weight_decay"]), st.floats(0, 0.5)
    ),
    st.tuples(
        st.just("set"), st.sampled_from([0, 1]), st.just("betas"), st.tuples(*[st.floats(0, 0.99)] * 2)
    ),
    st.tuples(
        st.just("set"), st.sampled_from([0, 1]), st.sampled_from(["amsgrad", "maximize"]), st.booleans()
    ),
    st.tuples(st.just("skip")),
    st.tuples(st.just("reload")),
)


@settings(max_examples=60, deadline=None, database=None)
@given(
    backend=st.sampled_from(BACKENDS),
    order=st.sampled_from("CF"),
    actions=st.lists(ACTIONS, min_size=1, max_size=12),
)
def test_any_history_leaves_what_a_new_optimizer_has(backend, order, actions):
    shapes = [(3, 4), (5,), ()]
    params = [np.asarray(random(s, i), order=order) for i, s in enumerate(shapes)]
    opt = fastgd.Adam([{"params": params[:2]}, {"params": params[2:]}], backend=backend)
    grads = [random(s, 9 + i) for i, s in enumerate(shapes)]
    for t, (what, *rest) in enumerate(actions):
        if what == "pattern":
            for i, how in enumerate(rest[0]):
                if how == "fresh" or (grads[i] is None and how != "none"):
                    grads[i] = random(shapes[i], 100 * t + i)
                elif how == "order":
                    grads[i] = np.asfortranarray(grads[i])[::-1] if shapes[i] else grads[i].copy()
                elif how == "none":
                    grads[i] = None
        elif what == "set":
            opt.param_groups[rest[0]][rest[1]] = rest[2]
        elif what == "skip":
            bad = [None if g is None else np.full_like(g, np.nan) for g in grads]
            with unchanged(opt):
                assert opt.step(bad, skip_nonfinite=True).skipped == any(b is not None for b in bad)
        else:
            opt.load_state_dict(opt.state_dict())
        check_step(opt, grads, clip_norm=1.0 if t % 2 else None)


def test_gradients_are_not_kept_and_nothing_goes_in_circles(backend):
    opt = fastgd.Adam([np.zeros(3, F32)], backend=backend)
    gc.disable()
    try:
        for make in (np.ones, lambda *a: np.ones(*a).view(Matrix)):
            for _ in range(2):
                grad = make(3, F32)
                gone = weakref.ref(grad)
                opt.step([grad], clip_norm=1.0)
                del grad
                assert gone() is None
        gone = weakref.ref(opt)
        del opt
        assert gone() is None
    finally:
        gc.enable()


def test_memory_that_only_the_loan_holds_lives_through_the_step(backend):
    p = np.zeros(4, F32)
    at_death = []

    class Copier:
        def __dlpack__(self, **kwargs):
            made = np.ones(4, F32)
            weakref.finalize(made, lambda: at_death.append(float(p[0])))
            return made.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return (1, 0)

    opt = fastgd.SGD([p], lr=1.0, backend=backend)
    for t in range(1, 4):
        opt.step([Copier()], clip_value=2.0)
        assert at_death[-1] == -t
    assert len(at_death) == 3


def test_memory_in_use_cannot_be_moved_away(backend):
    p, g = np.zeros(3, F32), np.ones(3, F32)
    opt = fastgd.SGD([p], lr=1.0, backend=backend)
    opt.step([g])
    for a in (p, g):
        with pytest.raises(ValueError, match="cannot resize"):
            a.resize(100_000, refcheck=False)
    opt.step([g])
    assert np.all(p == -2)


def test_a_shape_set_later_does_not_matter(backend):
    p = np.zeros((2, 3), F32)
    opt = fastgd.SGD([p], lr=1.0, backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # NumPy means to do away with it
        p.shape = (6,)
    for t in (1, 2):
        opt.step([np.ones((2, 3), F32)])
        assert p.tolist() == [-t] * 6


# ---- counters ----


def test_each_parameter_counts_its_own_steps(backend):
    """A parameter's path does not depend on the others: as if each had an optimizer of its own."""
    start = [random(s, i) for i, s in enumerate([4, (2, 3), 7])]
    together = [s.copy() for s in start]
    alone = [s.copy() for s in start]
    opt = fastgd.Adam(together, lr=0.1, backend=backend)
    own = [fastgd.Adam([p], lr=0.1, backend=backend) for p in alone]
    counts = [0, 0, 0]
    for t in range(9):
        grads = [random(s.shape, 10 * t + i) if t % (i + 1) == 0 else None for i, s in enumerate(start)]
        opt.step(grads)
        for i, g in enumerate(grads):
            if g is not None:
                own[i].step([g])
                counts[i] += 1
        assert [p.tobytes() for p in together] == [p.tobytes() for p in alone]
    state = opt.state_dict()["state"]
    assert [state[i]["step"] for i in range(3)] == counts == [9, 5, 3]


def test_all_gradients_none(backend):
    opt = fastgd.Adam([random(3, 0)], backend=backend)
    opt.step([random(3, 1)])
    with unchanged(opt):
        assert opt.step([None], clip_norm=1.0, skip_nonfinite=True) == (0.0, 1.0, False, None)


# ---- reports ----


def test_report(backend):
    opt = fastgd.SGD({"a": np.zeros(2, F32), "b": np.zeros((2, 2))}, lr=1.0, backend=backend)
    grads = [np.array([3, 0], F32), np.array([[0, 4.0], [0, 0]])]
    assert opt.step(grads) == (None, 1.0, False, None)
    assert opt.step(grads, clip_norm=10) == (5.0, 1.0, False, None)
    assert opt.step(grads, clip_norm=1) == (5.0, 1 / (5 + 1e-6), False, None)
    assert opt.step(grads, grad_scale=2, clip_norm=np.float32(10)) == (2.5, 1.0, False, None)
    assert opt.step(grads, skip_nonfinite=True) == (5.0, 1.0, False, None)
    grads[1].T[1, 1] = -np.inf
    report = opt.step([None, grads[1].T], clip_norm=1)
    assert report.nonfinite == (0, 1, "b", (1, 1), -np.inf)
    assert not report.skipped


def test_options_given_as_arrays_are_read_every_time(backend):
    p, g, limit = np.zeros(1), np.ones(1), np.array(0.5)
    opt = fastgd.SGD([p], lr=1.0, backend=backend)
    opt.step([g], clip_value=limit)
    limit[...] = 0.25
    opt.step([g], clip_value=limit)
    assert p[0] == -0.75
