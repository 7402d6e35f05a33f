"""Arrays in several memories at once: one norm of them all, nothing half done, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import standin
from devices import F32, SHAPES, bits, both, saved, step, values, where
from snapshots import random
from standin import reach, upload

import fastgd
from fastgd.backends import several
from fastgd.backends.base import Options


@pytest.fixture(autouse=True)
def on_the_stand_ins(device):
    pass


# ---- Steps ------------------------------------------------------------------------------------------

CLIPS = [
    {"clip_norm": 0.5},
    {"clip_norm": 0.5, "skip_nonfinite": True},
    {"clip_norm": 0.5, "clip_value": 0.3, "grad_scale": 4.0},
    {"clip_norm": 0.5, "clip_scope": "tensor", "skip_nonfinite": True},
    {"clip_norm": 50.0, "normalize": True},
    {"clip_norm": 0.5, "total_norm": 3.0},
    {"clip_norm": 0.5, "total_norm": 3.0, "skip_nonfinite": True},
    {"skip_nonfinite": True},
    {"clip_adaptive": 0.01},
    {"clip_adaptive": 0.01, "skip_nonfinite": True},
]


@pytest.mark.parametrize("options", CLIPS, ids=str)
@pytest.mark.parametrize("rule", ["adam", "adamw_schedule_free"])
def test_all_are_clipped_as_one(rule, options):
    opts = both(rule, SHAPES, "0h1")
    for t in range(3):
        grads = values(SHAPES, t)
        found = opts[1].step(where(grads, "0h1"), **options)
        right = opts[0]
        report = right.step(grads, **told(options, found))
        assert (found.skipped, found.nonfinite) == (False, None)
        assert found.clip_coef == report.clip_coef
        if found.grad_norm is not None and "total_norm" not in options:
            clipped = {k: v for k, v in options.items() if k in ("clip_value", "grad_scale")}
            assert found.grad_norm == pytest.approx(math.sqrt(right.sumsq(grads, **clipped)), rel=1e-15)
    assert bits(opts[0].parameters()) == bits(opts[1].parameters())
    assert saved(opts[0]) == saved(opts[1])


def told(options, found):
    """The options with the norm that several parts had together, whose last bit may be another."""
    if options.get("clip_scope", "all") == "all" and "clip_norm" in options:
        return {**options, "total_norm": found.grad_norm}
    return options


@pytest.mark.parametrize("bad", range(3))
@pytest.mark.parametrize("options", [{"skip_nonfinite": True}, {"skip_nonfinite": True, "clip_norm": 1.0}])
def test_nothing_is_updated_when_any_part_is_not_finite(bad, options):
    opts = both("adam", SHAPES, "0h1")
    step(opts, "0h1", 1)
    before = saved(opts[1]), bits(opts[1].parameters())
    grads = values(SHAPES, 2)
    grads[bad].reshape(-1)[4] = np.nan
    grads[2][1, 2] = np.inf
    host, device = (
        opt.step(where(grads, at), **options) for opt, at in zip(opts, ["hhh", "0h1"], strict=True)
    )
    assert device.skipped
    assert device[2:3] == host[2:3]
    assert device.nonfinite[:4] == host.nonfinite[:4]
    assert (saved(opts[1]), bits(opts[1].parameters())) == before
    assert opts[1].skipped_steps == 1
    total = opts[1].step(where(values(SHAPES, 3), "0h1"), skip_nonfinite=True, total_norm=math.inf)
    assert total.skipped
    assert (saved(opts[1]), bits(opts[1].parameters())) == before


def test_float64_gradients_beyond_float32_are_not_finite_for_narrower_parameters():
    params = values(SHAPES, 0)
    params[1] = params[1].astype(np.float64)
    for large, options, skipped in [(1, {}, False), (2, {}, True), (2, {"total_norm": 1.0}, True)]:
        opt = fastgd.SGD(where(params, "0h1"))
        before = bits(opt.parameters())
        grads = values(SHAPES, 1, np.float64)
        grads[large].reshape(-1)[0] = 1e39
        report = opt.step(where(grads, "0h1"), skip_nonfinite=True, **options)
        assert report.skipped == skipped
        assert (bits(opt.parameters()) == before) == skipped


def test_a_group_is_clipped_where_it_is_in_one_memory():
    groups = [
        [{"params": p[:1]}, {"params": p[1:]}]
        for p in (where(values(SHAPES, 0), at) for at in ("hhh", "0hh"))
    ]
    opts = [fastgd.Adam(g, backend=b) for g, b in zip(groups, ["reference", "auto"], strict=True)]
    for t in range(2):
        reports = step(opts, "0hh", t, clip_norm=0.5, clip_scope="group")
        assert reports[0].clip_coef == reports[1].clip_coef
        assert reports[0].grad_norm == pytest.approx(reports[1].grad_norm, rel=1e-15)
    assert bits(opts[0].parameters()) == bits(opts[1].parameters())
    opt = both("adam", SHAPES, "0h1")[1]
    with pytest.raises(ValueError, match="group 0 is on cuda:0 and on cuda:1: make a group for each"):
        opt.step(where(values(SHAPES, 0), "0h1"), clip_norm=0.5, clip_scope="group")
    assert saved(opt)["state"] == {}
    opt.step([None, *where(values(SHAPES, 0), "0h1")[1:2], None], clip_norm=0.5, clip_scope="group")
    assert list(saved(opt)["state"]) == [1]


def test_one_call_for_each_memory_and_gradients_come_and_go():
    opts, made = both("adam", [*SHAPES, (4,)], "0h10"), standin.BACKEND
    places = "0h10"
    for t, missing in enumerate([(), (), (0,), (0, 2, 3), (0, 1, 2, 3), (1,)]):
        grads = values([*SHAPES, (4,)], t)
        given = [None if i in missing else g for i, g in enumerate(grads)]
        device = [None if g is None else where([g], at)[0] for g, at in zip(given, places, strict=True)]
        made.reset()
        opts[0].step(given)
        opts[1].step(device)
        # the second time only the pointers are others
        assert (made.planned, made.pointed) == [(2, 0), (0, 2), (2, 0), (0, 0), (0, 0), (2, 0)][t]
    assert saved(opts[0]) == saved(opts[1])
    assert bits(opts[0].parameters()) == bits(opts[1].parameters())


def test_rows_are_for_parameters_on_the_host():
    opts = both("adam", SHAPES, "h00")
    for t in range(3):
        rows, rest = fastgd.Rows(np.array([2, t % 2]), random((2, 4), t)), values(SHAPES, t)[1:]
        opts[0].step([rows, *rest])
        opts[1].step([rows, *where(rest, "00")])
    assert bits(opts[0].parameters()) == bits(opts[1].parameters())
    assert saved(opts[0]) == saved(opts[1])


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}])
def test_a_device_that_fails_comes_before_the_host(options):
    opt = both("adam", SHAPES, "h00")[1]
    opt.step(where(values(SHAPES, 1), "h00"))
    before = saved(opt), bits(opt.parameters())
    standin.BACKEND.fails = True
    with pytest.raises(MemoryError, match="the device fails"):
        opt.step(where(values(SHAPES, 2), "h00"), **options)
    assert (saved(opt), bits(opt.parameters())) == before


def test_norms_together():
    two = Options(measure=True)
    assert several._whole([], two) == 0
    for norms in ([3.0, 4.0], [3e200, 4e200], [3e-300, 4e-300], [0.0, 0.1], [math.inf, 1.0]):
        assert several._whole(norms, two) == pytest.approx(math.hypot(*norms), rel=1e-15)
    assert several._whole([0.0, 0.1], two) == 0.1
    assert several._whole([1.7e308, 1.7e308], two) == math.inf
    assert math.isnan(several._whole([math.inf, math.nan], two))
    assert several._whole([3.0, 4.0], two._replace(norm=math.inf)) == 4


# ---- Clipping functions -----------------------------------------------------------------------------


@pytest.mark.parametrize("places", ["000", "0h1"])
def test_norms_and_clipping(places):
    grads, params = values(SHAPES, 1), values(SHAPES, 2)
    assert fastgd.tensor_norms(where(grads, places)) == fastgd.tensor_norms(grads)
    for norm in (2.0, math.inf):
        found = fastgd.global_norm(where(grads, places), norm)
        assert found == pytest.approx(fastgd.global_norm(grads, norm), rel=1e-15)
    calls = [
        lambda arrays, at: fastgd.clip_grad_norm_(arrays, 0.5),
        lambda arrays, at: fastgd.clip_grad_value_(arrays, 0.3),
        lambda arrays, at: fastgd.normalize_grads_(arrays, 3.0),
        lambda arrays, at: fastgd.clip_grad_adaptive_(where(params, at), arrays, 0.1),
    ]
    for call in calls:
        host, device = where(grads, "hhh"), where(grads, places)
        found = call(device, places)
        assert call(host, "hhh") == (found and pytest.approx(found, rel=1e-15))
        for a, b in zip(host, device, strict=True):
            # norms may differ in the last bit of float64, a float32 product then by one rounding: 2**-23
            np.testing.assert_allclose(reach(b), a, rtol=2**-23)
        assert bits(device) != bits(grads)
    bad = values(SHAPES, 1)
    bad[1][0] = np.nan
    device = where(bad, places)
    with pytest.raises(ValueError, match="gradient 1 is not finite"):
        fastgd.clip_grad_norm_(device, 1.0, error_if_nonfinite=True)
    assert bits(device) == bits(bad)
    with pytest.raises(ValueError, match="gradient 0 is on cuda:0, the parameter on host"):
        fastgd.clip_grad_adaptive_(params[:1], where(grads[:1], "0"))
    with pytest.raises(ValueError, match="array 0 is on cuda:0: the reference backend works on"):
        fastgd.global_norm(where(grads, "000"), backend="reference")


# ---- What is refused --------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_by_name():
    params = values(SHAPES, 0)
    opt = fastgd.SGD(where(params, "0h1"))
    before = bits(opt.parameters())
    for places, reason in [
        ("hh1", "gradient of parameter 0 of group 0 is on host, the parameter on cuda:0"),
        ("001", "gradient of parameter 1 of group 0 is on cuda:0, the parameter on host"),
        ("0h0", "gradient of parameter 2 of group 0 is on cuda:0, the parameter on cuda:1"),
    ]:
        for _ in range(2):
            with pytest.raises(ValueError, match=reason):
                opt.step(where(params, places))
    rows = fastgd.Rows(np.array([0]), np.zeros((1, 4), F32))
    with pytest.raises(ValueError, match="values is on host, the parameter on cuda:0"):
        opt.step([rows, None, None])
    rows = fastgd.Rows(np.array([0]), upload(np.zeros(1, F32)))
    with pytest.raises(ValueError, match="values is on cuda:0, the parameter on host"):
        opt.step([None, rows, None])
    with pytest.raises(ValueError, match="shares memory with parameter 0"):
        opt.step([opt.parameters()[0], None, None])
    assert bits(opt.parameters()) == before
    array = upload(params[0])
    for given, reason in [
        ({"params": [array], "backend": "native"}, "parameter 0 of group 0 is on cuda:0: the native backend"),
        ({"params": params, "backend": "cuda"}, "parameter 0 of group 0 is on host: the cuda backend works"),
        ({"params": [array], "copies": params[:1]}, "copy of parameter 0 .* is on host, the parameter on"),
        ({"params": [array, array.transpose()]}, "share memory"),
    ]:
        with pytest.raises(ValueError, match=reason):
            fastgd.SGD(**given)
    with pytest.raises(TypeError, match="the cuda backend has no Rprop in float32"):
        fastgd.Rprop([params[1], array])
    assert fastgd.SGD([array], backend="cuda").backend.name == "cuda"
    assert fastgd.SGD([array]).backend.name == "cuda"
    assert fastgd.SGD([params[0]]).backend.name == "native"
