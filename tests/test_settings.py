"""Settings of every optimizer: where they are given, what is refused, and which of them stay."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from snapshots import check_step, contents, fitted, random, unchanged

import fastgd
from fastgd.arrays import CODES, dtype_named
from fastgd.rules import RULES
from fastgd.settings import DEFAULTS, SETTINGS

F32 = np.float32
BF16 = dtype_named("bfloat16")


def test_settings_are_shared_and_differ_by_group(backend):
    groups = [{"params": [random(3, 0)]}, {"params": [random(3, 1)], "cautious": False, "ema_decay": None}]
    opt = fastgd.AdamW(groups, cautious=True, ema_decay=0.5, state_dtype="8bit", backend=backend)
    assert [g["cautious"] for g in opt.param_groups] == [True, False]
    assert [a is None for a in opt.averages()] == [False, True]
    assert [g["state_dtype"] for g in opt.param_groups] == ["8bit", "8bit"]
    assert "cautious=True" in repr(opt)
    assert "rounding" not in repr(opt)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_every_setting(rule, backend):
    param = random(fitted(rule, (3,)), 0)
    group = fastgd.optim.create(rule, [param], backend=backend).param_groups[0]
    assert {name: group[name] for name in SETTINGS} == DEFAULTS


def test_settings_are_keywords_alone():
    with pytest.raises(TypeError, match="SGD takes at most 6 hyperparameters"):
        fastgd.SGD([random(3, 0)], *RULES["sgd"].defaults.values(), None)


@pytest.mark.parametrize("given", [np.float32, "float32", np.dtype("f4"), np.dtype("<f4")])
def test_a_dtype_goes_by_any_of_its_names(given):
    assert fastgd.SGD([random(3, 0)], state_dtype=given).param_groups[0]["state_dtype"] == "float32"
    assert fastgd.SGD([random(3, 0)], state_dtype=BF16.type).param_groups[0]["state_dtype"] == "bfloat16"


def test_bfloat16_state_needs_no_import_by_the_caller():
    code = (
        "import sys, numpy as np, fastgd;"
        "opt = fastgd.SGD([np.ones(3)], momentum=0.5, state_dtype='bfloat16');"
        "assert 'ml_dtypes' not in sys.modules; opt.step([np.ones(3)]);"
        "print(opt.state_dict()['state'][0]['momentum_buffer'].dtype)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "bfloat16"


#: setting -> (value, reason)
REFUSED = [
    ("state_dtype", "int8", "must be one of float32, float64, bfloat16, float16, 8bit, not 'int8'"),
    ("state_dtype", np.int64, "must be one of .*, not 'int64'"),
    ("state_dtype", np.dtype(">f4"), "must be one of .*, not '>f4'"),
    ("state_dtype", 8, "must be one of .*, not int"),
    ("state_dtype", float, "must be one of .*, not type"),
    ("state_rounding", "kahan", "must be one of nearest, stochastic, not 'kahan'"),
    ("state_rounding", True, "must be one of nearest, stochastic, not True"),
    ("rounding", "up", "must be one of nearest, stochastic, kahan, master, split, not 'up'"),
    ("rounding", None, "must be one of .*, not NoneType"),
    ("cautious", 1, "must be True or False, not 1"),
    ("ema_decay", 1.0, r"must be in \[0, 1\), not 1.0"),
    ("ema_decay", -0.1, r"must be in \[0, 1\), not -0.1"),
    ("ema_decay", "0.9", "must be a number, not '0.9'"),
]


@pytest.mark.parametrize(("name", "value", "reason"), REFUSED)
def test_values_out_of_range(name, value, reason, backend):
    opt = fastgd.Adam([random(3, 0)], backend=backend)
    opt.step([random(3, 1)])
    with unchanged(opt), pytest.raises((TypeError, ValueError), match=f"^group 0: {name} {reason}"):
        opt.param_groups[0][name] = value
    with pytest.raises((TypeError, ValueError), match=f"^group 1: {name} {reason}"):
        fastgd.Adam([{"params": [random(3, 0)]}, {"params": [], name: value}], backend=backend)


@pytest.mark.parametrize(
    ("name", "old", "new"), [("state_dtype", "8bit", None), ("rounding", "kahan", "split")]
)
def test_what_state_is_stored_in_stays(name, old, new, backend):
    opt = fastgd.Adam([random(3, 0)], **{name: old}, backend=backend)
    for _ in range(2):
        with (
            unchanged(opt),
            pytest.raises(ValueError, match=f"group 0: {name} is '{old}' from the making of"),
        ):
            opt.param_groups[0][name] = new
        opt.param_groups[0][name] = old
        check_step(opt, [random(3, 1)])


@pytest.mark.parametrize("name", ["cautious", "lr"])
def test_settings_belong_to_groups(name, backend):
    opt = fastgd.SGD([random(3, 0)], backend=backend)
    with pytest.raises(AttributeError, match=rf"set in groups: opt\.param_groups\[0\]\['{name}'\] = "):
        setattr(opt, name, 1.0)
    with pytest.raises(AttributeError):
        opt.seed = 1


def test_split_is_of_bfloat16(backend):
    params = {"a": random(3, 0), "b": random(3, 1).astype(BF16)}
    fastgd.SGD(params, rounding="split", backend=backend).step([random(3, 2), random(3, 3)])
    params["c"] = random(3, 2).astype(np.float16)
    with pytest.raises(
        TypeError, match=r"^parameter 'c' \(parameter 2 of group 0\) is float16: rounding 'split'"
    ):
        fastgd.SGD(params, rounding="split", backend=backend)


def test_rules_that_have_no_cautious_updates_say_so(backend):
    whole = [rule for rule in RULES.values() if rule.whole]
    assert {"ASGD", "LARS", "SGDScheduleFree"} <= {rule.title for rule in whole}
    for rule in whole:
        with pytest.raises(ValueError, match=f"group 0: {rule.title} has no cautious updates"):
            fastgd.optim.create(rule.name, [random(3, 0)], cautious=True, backend=backend)
        opt = fastgd.optim.create(rule.name, [random(3, 0)], backend=backend)
        opt.step([random(3, 1)])
        opt.param_groups[0]["cautious"] = True
        for _ in range(2):
            with unchanged(opt), pytest.raises(ValueError, match=r"group 0: .* has no cautious updates"):
                opt.step([random(3, 1)])
        opt.param_groups[0]["cautious"] = False
        check_step(opt, [random(3, 1)])


def test_cautious_steps_do_not_hide_nan(backend):
    param, grad = np.full(3, 5.0, np.float32), np.array([1, np.nan, 1], np.float32)
    opt = fastgd.AdamW([param], cautious=True, backend=backend)
    opt.step([grad])
    np.testing.assert_array_equal(np.isnan(param), [False, True, False])


CHANGES = [
    ({"cautious": False}, {"cautious": True}),
    ({"state_dtype": "8bit"}, {"state_rounding": "nearest"}),
    ({"state_dtype": "bfloat16"}, {"state_rounding": "stochastic"}),
    ({}, {"ema_decay": 0.5}),
    ({"ema_decay": 0.5}, {"ema_decay": 0.75}),
    ({"ema_decay": 0.5}, {"ema_decay": None}),
]


@pytest.mark.parametrize(("first", "then"), CHANGES)
def test_a_change_holds_from_the_next_step_on(first, then):
    """The parameters are in Fortran's order, in which random bits are not counted."""
    opts = [
        fastgd.AdamW([np.asfortranarray(random((7, 8), 0)).astype(BF16)], lr=0.1, backend=b, **first)
        for b in ("native", "reference")
    ]
    for t in range(6):
        for opt in opts:
            if t in (2, 4):
                opt.param_groups[0].update(then if t == 2 else {k: {**DEFAULTS, **first}[k] for k in then})
            check_step(opt, [random((7, 8), t)])
        assert contents(opts[0]) == contents(opts[1])


@pytest.mark.parametrize("rounding", ["kahan", "master", "split"])
def test_what_rounding_loses_is_kept_for_16_bits_alone(rounding, backend):
    for dtype in CODES:
        if (dtype, rounding) == ("float16", "split"):
            continue
        opt = fastgd.SGD([random(3, 0).astype(dtype_named(dtype))], rounding=rounding, backend=backend)
        opt.step([random(3, 1)])
        kinds = {"kahan": dtype, "master": "float32", "split": "int16"}
        residual = opt.state_dict()["state"][0].get("residual")
        assert (None if residual is None else residual.dtype.name) == (
            kinds[rounding] if dtype_named(dtype).itemsize == 2 else None
        )


def test_steps_that_nearest_rounding_loses_are_kept(backend):
    """500 steps of a hundredth of what bfloat16 can add to 1."""
    moved = {}
    for rounding in ("nearest", "kahan", "master", "split", "stochastic"):
        p = np.ones(64, BF16)
        opt = fastgd.SGD([p], lr=2.0**-14, rounding=rounding, backend=backend)
        grad = -np.ones(64, F32)
        for _ in range(500):
            opt.step([grad])
        moved[rounding] = float(p.astype(np.float64).mean()) - 1
    assert moved.pop("nearest") == 0
    assert all(m == pytest.approx(500 * 2.0**-14, rel=0.1) for m in moved.values()), moved


def test_random_bits_depend_on_seed_step_and_parameter(backend):
    def run(seed, count=2):
        params = [np.ones(4096, BF16) for _ in range(count)]
        opt = fastgd.SGD(params, lr=2.0**-9, rounding="stochastic", seed=seed, backend=backend)
        seen = []
        for _ in range(2):
            for p in params:
                p[:] = 1
            opt.step([np.ones(4096, F32)] * count)
            seen += [p.tobytes() for p in params]
        return seen

    assert len(set(run(0))) == 4
    assert run(0) == run(0)
    assert not set(run(0)) & set(run(1))
    assert run(2**64 - 1, 1)[0] == run(2**64 - 1)[0]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "kahan", "master", "split"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_skipped_step_changes_no_byte_of_what_is_kept(bad, rounding, backend):
    """One bad element in one of 300 tensors; 8-bit state, residuals, averages, copies, counters."""
    params = [random((3, 4), i).astype(BF16) for i in range(300)]
    copies = [np.zeros((3, 4), np.float16) for _ in params]
    settings = {"state_dtype": "8bit", "rounding": rounding, "ema_decay": 0.9}
    opt = fastgd.AdamW(params, copies=copies, backend=backend, **settings)
    grads = [random((3, 4), 1000 + i).astype(BF16) for i in range(300)]
    opt.step(grads)
    before = contents(opt), [copy.tobytes() for copy in copies]
    grads[137][2, 1] = bad
    report = opt.step(grads, skip_nonfinite=True, clip_norm=1.0)
    assert report.skipped and report.nonfinite[:4] == (0, 137, None, (2, 1))
    assert (contents(opt), [copy.tobytes() for copy in copies]) == before
    grads[137][2, 1] = 0
    assert not opt.step(grads, skip_nonfinite=True).skipped
    assert contents(opt) != before[0]
