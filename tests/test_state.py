"""State dicts and files of state in every precision: training goes on from them bit for bit, older ones are
read, and what does not fit is converted when asked for and refused otherwise.
"""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from safetensors import safe_open
from snapshots import check_step, contents, random, unchanged

import fastgd
from fastgd.arrays import CODES, dtype_named
from fastgd.settings import DEFAULTS, ROUNDINGS, SETTINGS
from fastgd.storage import decode

STATES = (None, *CODES, "8bit")
W = r"state of parameter 'w' \(parameter 0 of group 0\)"


def make(backend, dtype="bfloat16", seed=0, **settings):
    """AdamW over a matrix "w" of that dtype and a float64 vector."""
    groups = [
        {"params": {"w": random((40, 9), 1).astype(dtype_named(dtype)).T}},
        {"params": [("b", random(300, 2, np.float64))], "lr": 0.1},
    ]
    return fastgd.AdamW(groups, lr=0.01, amsgrad=True, seed=seed, backend=backend, **settings)


def train(opt, steps=2, first=0):
    for t in range(first, first + steps):
        opt.step([random((9, 40), t), random(300, t)], clip_norm=2.0)
    return opt


def state_of(opt, number=0):
    return opt.state_dict()["state"][number]


COPIES = {
    "dict": lambda opt, path: into(opt, opt.state_dict()),
    "file": lambda opt, path: (opt.save(path), into(opt, None, path))[1],
    "deepcopy": lambda opt, path: copy.deepcopy(opt),
    "pickle": lambda opt, path: pickle.loads(pickle.dumps(opt)),
}


def into(opt, state, path=None):
    """Another optimizer with this one's parameters and that state."""
    groups = [
        {**g, "params": [(p.name, p.array.copy(order="K")) for p in g.members]} for g in opt.param_groups
    ]
    other = type(opt)(groups, backend=opt.backend.name)
    other.load(path) if path else other.load_state_dict(state)
    return other


@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("dtype", CODES)
def test_training_goes_on_as_it_would_have(dtype, how, backend, tmp_path):
    roundings = [r for r in ROUNDINGS if (dtype, r) != ("float16", "split")]
    for k, state_dtype in enumerate(STATES):
        settings = {
            "state_dtype": state_dtype,
            "rounding": roundings[k % len(roundings)],
            "state_rounding": [None, "stochastic"][k % 2],
            "ema_decay": [0.75, None][k // 2 % 2],
            "cautious": k % 3 == 0,
        }
        opt = train(make(backend, dtype, seed=k, **settings))
        other = COPIES[how](opt, tmp_path / f"{k}.safetensors")
        assert contents(other) == contents(opt)
        assert other.seed == k
        with unchanged(opt):
            train(other, first=2)
        train(opt, first=2)
        assert contents(other) == contents(opt)


def test_copies_are_copied_with_the_model(backend):
    model = {"w": random((2, 3), 0)}
    half = {"w": model["w"].astype(np.float16)}
    opt = fastgd.SGD(model, lr=0.5, copies=half, seed=3, backend=backend)
    for model2, half2, opt2 in (
        copy.deepcopy((model, half, opt)),
        pickle.loads(pickle.dumps((model, half, opt))),
    ):
        opt2.step([np.ones((2, 3))])
        assert np.array_equal(half2["w"], model2["w"].astype(np.float16))
        assert opt2.seed == 3
        assert not np.array_equal(half2["w"], half["w"])


def test_state_is_kept_in_what_was_asked_for(backend):
    for dtype in CODES:
        for given in (
            None,
            *CODES,
            *(np.dtype(dtype_named(c)) for c in CODES),
            np.float32,
            np.half,
            float,
            "8bit",
        ):
            if given is float:
                continue
            opt = train(make(backend, dtype, state_dtype=given), 1)
            name = given if given in (None, "8bit", *CODES) else np.dtype(given).name
            assert opt.param_groups[0]["state_dtype"] == name
            entry = state_of(opt)
            if name == "8bit":
                assert entry["exp_avg_sq"].dtype == np.uint8
                assert entry["exp_avg_sq"].shape == (9, 40)
                assert entry["exp_avg_sq_scales"].shape == (2,)
            else:
                assert entry["exp_avg_sq"].dtype.name == (name or dtype)


def test_codes_say_what_the_numbers_are_nearly(backend):
    exact, coded = (train(make(backend, "float32", state_dtype=d), 1) for d in (None, "8bit"))
    entry = state_of(coded)
    for name, unsigned in (("exp_avg", False), ("exp_avg_sq", True)):
        numbers = decode(entry[name], entry[f"{name}_scales"], np.float32, unsigned=unsigned)
        right = state_of(exact)[name]
        np.testing.assert_allclose(numbers, right, rtol=0.125, atol=1e-4 * np.abs(right).max())


def test_a_first_value_that_is_not_zero_is_stored_as_well(backend):
    for name in ("8bit", "bfloat16", "float64"):
        p = np.zeros(3, np.float32)
        opt = fastgd.Adagrad(
            [p], lr=1.0, eps=0, initial_accumulator_value=3.0, state_dtype=name, backend=backend
        )
        opt.step([np.ones(3)])
        assert p.tolist() == [-0.5] * 3


def test_what_a_file_says_to_any_tool(backend, tmp_path):
    opt = train(make(backend, rounding="kahan", state_dtype="8bit", ema_decay=0.5), 3)
    opt.step([None, random(300, 9)])
    opt.save(tmp_path / "opt.safetensors")
    with safe_open(tmp_path / "opt.safetensors", framework="np") as file:
        metadata, names = file.metadata(), set(file.keys())
    assert metadata["rule"] == "adamw"
    assert metadata["step"] == "4"
    groups = json.loads(metadata["hyperparameters"])
    assert [g["lr"] for g in groups] == [0.01, 0.1]
    assert groups[0]["betas"] == [0.9, 0.999]
    assert groups[0]["rounding"] == "kahan"
    assert {"state.0.exp_avg", "state.0.exp_avg_scales", "state.0.residual", "state.0.average"} <= names


# ---- version 1 ----


def version_1(opt):
    """What this optimizer's state was in version 1: no settings, no seed."""
    state = opt.state_dict()
    assert state["version"] == 2
    groups = [{k: v for k, v in g.items() if k not in SETTINGS} for g in state["param_groups"]]
    return {"rule": state["rule"], "version": 1, "state": state["state"], "param_groups": groups}


def test_version_1_is_read(backend):
    opt = train(make(backend, "float32"))
    other = make(backend, "float32", seed=5)
    for p, q in zip(other.parameters(), opt.parameters(), strict=True):
        p[...] = q
    other.load_state_dict(version_1(opt))
    assert other.seed == 5
    assert {k: other.param_groups[0][k] for k in DEFAULTS} == DEFAULTS
    train(opt, first=5)
    train(other, first=5)
    assert contents(other)[:2] == contents(opt)[:2]


def test_version_1_written_by_hand(backend):
    zeros = np.zeros(3, np.float32)
    group = {"lr": 0.5, "momentum": 0.5, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False}
    state = {
        "rule": "sgd",
        "version": 1,
        "state": {0: {"step": 7, "momentum_buffer": zeros + 4}},
        "param_groups": [{**group, "maximize": False, "params": [0]}],
    }
    opt = fastgd.SGD([zeros], backend=backend)
    opt.load_state_dict(state)
    opt.step([np.ones(3, np.float32)])
    assert zeros.tolist() == [-1.5] * 3
    assert opt.state_dict()["state"][0]["step"] == 8


# ---- other dtypes ----


@pytest.mark.parametrize("to", STATES)
@pytest.mark.parametrize("source", STATES)
def test_state_in_another_dtype_is_refused_or_converted(source, to, backend):
    saved = train(make(backend, "float32", state_dtype=source)).state_dict()
    del saved["state"][1]
    opt = make(backend, "float32", state_dtype=to)
    has, wanted = source or "float32", to or "float32"
    if has == wanted:
        opt.load_state_dict(saved)
    else:
        with (
            unchanged(opt),
            pytest.raises(ValueError, match=rf"{W}: 'exp_avg' is in {has}, .* in {wanted}: "),
        ):
            opt.load_state_dict(saved)
    opt.load_state_dict(saved, convert=True)
    assert opt.param_groups[0]["state_dtype"] == to
    for name, unsigned in (("exp_avg", False), ("exp_avg_sq", True)):
        before, after = (numbers_of(entry, name, unsigned) for entry in (saved["state"][0], state_of(opt)))
        # float16's smallest number stands for what is less and not 0; signed codes reach less far down
        least = 2.0**-24 if unsigned else 1e-5
        np.testing.assert_allclose(after, before, rtol=0.07, atol=least)
    if None not in (source, to) and "8bit" not in (source, to):
        expected = saved["state"][0]["exp_avg"].astype(np.float32).astype(dtype_named(to))
        assert state_of(opt)["exp_avg"].tobytes() == expected.tobytes()
    check_step(opt, [random((9, 40), 7), random(300, 8)])


def numbers_of(entry, name, unsigned):
    if f"{name}_scales" in entry:
        return decode(entry[name], entry[f"{name}_scales"], np.float32, unsigned=unsigned)
    return entry[name].astype(np.float32)


def test_a_state_of_another_parameters_dtype(backend):
    """Float32 training goes on in bfloat16 with float32 state, or with converted state."""
    saved = train(make(backend, "float32", ema_decay=0.5)).state_dict()
    make(backend, "bfloat16", state_dtype="float32").load_state_dict(
        {**saved, "state": {0: saved["state"][0]}}
    )
    opt = make(backend, "bfloat16", ema_decay=0.5)
    remedy = r"load_state_dict\(state, convert=True\) converts it"
    with unchanged(opt), pytest.raises(ValueError, match=rf"in float32, .* keeps it in bfloat16: {remedy}"):
        opt.load_state_dict(saved)
    opt.load_state_dict(saved, convert=True)
    assert state_of(opt)["average"].dtype == np.float32
    double = make(backend, "float64", ema_decay=0.5, state_dtype="float32")
    with unchanged(double), pytest.raises(ValueError, match=rf"{W}: 'average' is in float32, .* in float64"):
        double.load_state_dict({**saved, "state": {0: saved["state"][0]}})


@pytest.mark.parametrize("to", ROUNDINGS)
@pytest.mark.parametrize("source", ROUNDINGS)
def test_a_residual_of_another_rounding(source, to, backend):
    saved = train(make(backend, rounding=source)).state_dict()
    opt = make(backend, rounding=to)
    plain = ("nearest", "stochastic")
    if source == to or (source in plain and to in plain):
        opt.load_state_dict(saved)
    else:
        with unchanged(opt), pytest.raises(ValueError, match=rf"{W}: 'residual' is .* rounding '{to}' keeps"):
            opt.load_state_dict(saved)
        opt.load_state_dict(saved, convert=True)
    assert opt.param_groups[0]["rounding"] == to
    check_step(opt, [random((9, 40), 7), random(300, 8)])


# ---- what is refused ----


def put(name, value):
    def change(entry):
        entry.pop(name, None)
        if value is not None:
            entry[name] = value

    return change


BYTES = np.zeros((9, 40), np.uint8)

#: change of an entry in 8 bits with a residual and an average -> (error, reason)
CHANGES = {
    "no scales": (put("exp_avg_scales", None), ValueError, "'exp_avg' is uint8 and .* no 'exp_avg_sca"),
    "no codes": (put("exp_avg", None), ValueError, "has no 'exp_avg'"),
    "count": (
        put("exp_avg_scales", np.ones(3, np.float32)),
        ValueError,
        r"must be float32 \(2,\), not float32 \(3,\)",
    ),
    "scales": (
        put("exp_avg_scales", np.zeros(2, int)),
        ValueError,
        r"must be float32 .* not int64 \(2,\)",
    ),
    "negative scale": (
        put("exp_avg_scales", np.array([1, -1], np.float32)),
        ValueError,
        "'exp_avg_scales' must not be negative",
    ),
    "shape": (put("exp_avg", BYTES.T), ValueError, r"'exp_avg' has shape \(40, 9\), the parameter \(9, 40\)"),
    "dtype": (put("exp_avg", BYTES.astype(np.int8)), TypeError, "'exp_avg' has dtype int8"),
    "both": (put("exp_avg", np.zeros((9, 40), np.float32)), ValueError, "is float32 and .* for 8 bits alone"),
    "residual": (put("residual", BYTES), ValueError, "'residual' is in uint8, and rounding 'split' .* int16"),
    "no residual": (
        put("residual", None),
        ValueError,
        "'residual' is not there, and rounding 'split' .* int16",
    ),
    "residual shape": (put("residual", np.zeros(9, np.int16)), ValueError, r"'residual' has shape \(9,\)"),
    "average shape": (put("average", np.zeros(9, np.float32)), ValueError, r"'average' has shape \(9,\)"),
    "average": (put("average", BYTES), TypeError, "'average' has dtype uint8"),
    "strange": (put("lost", BYTES), ValueError, "AdamW has no 'lost'"),
    "strange scales": (put("residual_scales", BYTES), ValueError, "AdamW has no 'residual_scales'"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_stored_state_that_does_not_fit(case, backend):
    change, error, reason = CHANGES[case]
    opts = [train(make(backend, rounding="split", state_dtype="8bit", ema_decay=0.5), n) for n in (1, 3)]
    saved = opts[1].state_dict()
    change(saved["state"][0])
    with unchanged(opts[0]), pytest.raises(error, match=f"^{W}:? {reason}|^{W}: .*{reason}"):
        opts[0].load_state_dict(saved)


@pytest.mark.parametrize(
    ("value", "error", "reason"),
    [
        (-1, ValueError, r"the state's 'seed' must be in \[0, 18446744073709551616\), not -1"),
        (2**64, ValueError, "the state's 'seed' must be in"),
        (1.0, TypeError, "the state's 'seed' must be a whole number, not float"),
        (True, TypeError, "the state's 'seed' must be a whole number, not True"),
    ],
)
def test_a_seed_that_is_none(value, error, reason, backend):
    opt = make(backend)
    with unchanged(opt), pytest.raises(error, match=reason):
        opt.load_state_dict({**opt.state_dict(), "seed": value})
    with pytest.raises(error, match=reason.removeprefix("the state's 'seed' ")):
        make(backend, seed=value)


def test_settings_of_a_state_are_checked_and_fixed_ones_stay(backend):
    opt = make(backend, state_dtype="float32", rounding="kahan")
    saved = opt.state_dict()
    saved["param_groups"][0].update(state_dtype="8bit", rounding="split", cautious=True, ema_decay=0.5)
    opt.load_state_dict(saved)
    group = opt.param_groups[0]
    assert [group[k] for k in SETTINGS] == ["float32", None, "kahan", True, 0.5]
    for name, value in [("rounding", "up"), ("ema_decay", 1.0), ("state_dtype", "int8")]:
        wrong = copy.deepcopy(saved)
        wrong["param_groups"][0][name] = value
        with unchanged(opt), pytest.raises(ValueError, match=f"group 0 of the state: {name} must be"):
            opt.load_state_dict(wrong)
        del wrong["param_groups"][0][name]
        with unchanged(opt), pytest.raises(ValueError, match=f"group 0 of the state has no '{name}'"):
            opt.load_state_dict(wrong)
    with pytest.raises(TypeError, match="convert must be True or False"):
        opt.load_state_dict(saved, convert="yes")
