"""What docs/precision.md says of training in stored precisions, in small, and that it is up to date."""

from __future__ import annotations

import functools
import json
import math
import re

import numpy as np
import precision_curves
import precision_page
import pytest
from precision_curves import FLOAT32, REGIMES, SETTINGS, TRIED_IN, Setting, train
from precision_formats import CHOSEN, TRIALS

import fastgd
from fastgd import storage
from fastgd.settings import CODED, ROUNDINGS

USUAL, SMALL = (regime.lr for regime in REGIMES[:2])
assert REGIMES[0].task == REGIMES[1].task == "digits"

SEEDS = range(3)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = fastgd.get_num_threads()
    fastgd.set_num_threads(1)
    yield
    fastgd.set_num_threads(before)


@functools.cache
def digits():
    return precision_curves.digits()


@functools.cache
def trained(setting, lr, seed=0):
    return train(digits(), setting, lr, 20, seed)


def loss(setting, lr, seed=0):
    """The last training loss, as a multiple of float32's."""
    return trained(setting, lr, seed).points[-1].loss / trained(FLOAT32, lr, seed).points[-1].loss


def steps(setting, lr, seed=0):
    """Lengths of the steps, as multiples of those with moments in float32."""
    return np.array([point.step for point in trained(setting, lr, seed).points])


# ---- Training ----------------------------------------------------------------------------------------


def test_most_steps_at_the_small_rate_are_less_than_half_a_spacing_of_bfloat16():
    points = trained(FLOAT32, SMALL).points
    assert all(point.lost > 0.8 for point in points)
    assert points[-1].loss < 0.3 * points[0].loss, "the small rate is to be one that trains"


@pytest.mark.parametrize("lr", [USUAL, SMALL])
def test_parameters_rounded_to_nearest_stall_and_no_others_do(lr):
    ratios = {rounding: loss(Setting("bfloat16", "float32", rounding), lr) for rounding in ROUNDINGS}
    assert ratios.pop("nearest") > 1.5
    # float32's own final loss differs by 1 to 3 % from seed to seed
    assert ratios and all(abs(ratio - 1) < 0.03 for ratio in ratios.values()), ratios


def test_split_and_master_differ_from_float32_in_what_the_model_sees_only():
    """With the same gradients, the float32 numbers behind them are float32's."""
    rng = np.random.default_rng(0)
    split = rng.standard_normal(300).astype(precision_curves.dtype_named("bfloat16"))
    master, whole = split.copy(), split.astype(np.float32)
    copy = split.copy()
    settings = {"lr": 1e-3, "state_dtype": "float32"}
    optimizers = (
        fastgd.AdamW([split], rounding="split", **settings),
        fastgd.AdamW([master], rounding="master", **settings),
        fastgd.AdamW([whole], copies=[copy], **settings),
    )
    for _ in range(20):
        grad = rng.standard_normal(300, np.float32)
        for opt in optimizers:
            opt.step([grad])
    residuals = [opt.state_dict()["state"][0]["residual"] for opt in optimizers[:2]]
    assert storage.split_join(split, residuals[0]).tobytes() == whole.tobytes()
    assert residuals[1].tobytes() == whole.tobytes()
    assert master.tobytes() == copy.tobytes()


@pytest.mark.parametrize("lr", [USUAL, SMALL])
@pytest.mark.parametrize("dtype, rounding", [("float32", "nearest"), ("bfloat16", "stochastic")])
def test_moments_in_8_bits_train_as_float32(dtype, rounding, lr):
    setting = Setting(dtype, CODED, rounding, "stochastic")
    ratios = np.array([loss(setting, lr, seed) for seed in SEEDS])
    # 1 % longer at most, and float32's own final loss differs by 1 to 3 % from seed to seed
    lengths = np.array([steps(setting, lr, seed).mean() for seed in SEEDS])
    assert np.abs(lengths - 1).max() < 0.015, lengths
    assert abs(ratios.mean() - 1) < 0.03, ratios
    accuracies = [[trained(s, lr, seed).accuracy for seed in SEEDS] for s in (setting, FLOAT32)]
    assert abs(np.mean(accuracies[0]) - np.mean(accuracies[1])) < 0.01


@pytest.mark.parametrize(
    "dtype, lr, least", [("bfloat16", USUAL, 0.2), ("float16", USUAL, 0.2), (CODED, SMALL, 0.1)]
)
def test_moments_to_nearest_give_steps_of_another_length(dtype, lr, least):
    lengths = steps(Setting("float32", dtype, state_rounding="nearest"), lr)
    assert np.ptp(lengths) > least


def test_moments_in_bfloat16_rounded_stochastically_give_steps_of_the_same_length():
    lengths = steps(Setting("float32", "bfloat16", state_rounding="stochastic"), USUAL)
    assert np.abs(lengths - 1).max() < 0.01


# ---- Theory ------------------------------------------------------------------------------------------


def exp_avg_sq(gradients, **settings):
    """As it is after these gradients, as a multiple of what it is in float32."""
    kept = []
    for state in (settings, {"state_dtype": "float32"}):
        parameter = np.zeros(gradients.shape[1], np.float32)
        opt = fastgd.AdamW([parameter], **{**settings, **state})
        for grad in gradients:
            opt.step([grad])
        wide = fastgd.AdamW([parameter], state_dtype="float32")
        wide.load_state_dict(opt.state_dict(), convert=True)
        kept.append(wide.state_dict()["state"][0]["exp_avg_sq"].astype(np.float64))
    return kept[0] / kept[1]


def normal(steps, scale=1.0):
    return np.random.default_rng(0).standard_normal((steps, 1024)).astype(np.float32) * np.float32(scale)


def test_a_slow_average_rounded_to_nearest_does_not_fall():
    """A step takes 0.1 % of it with beta2 0.999, where half a spacing of bfloat16 is 0.2 to 0.4 %.

    Nothing stalls where a step takes more: 1 % in bfloat16, 10 % in 8 bits, whose half spacing is 3 to 6 %.
    """
    falling = np.concatenate([normal(2000), normal(2000, 0.1)])
    nearest = {"state_dtype": "bfloat16", "state_rounding": "nearest"}
    assert exp_avg_sq(falling, **nearest).min() > 5
    assert abs(exp_avg_sq(falling, **nearest, betas=(0.9, 0.99)) - 1).max() < 0.2
    coarser = {"state_dtype": CODED, "state_rounding": "nearest", "betas": (0.9, 0.9)}
    assert abs(exp_avg_sq(falling, **coarser).mean() - 1) < 0.05
    for dtype in ("bfloat16", CODED):
        stochastic = exp_avg_sq(falling, state_dtype=dtype, state_rounding="stochastic")
        assert abs(stochastic.mean() - 1) < 0.05


def test_a_slow_average_rounded_stochastically_has_the_variance_of_the_theory():
    """E |g^2 - v w^2 / u| s / 2, where u is the block's largest, w its gradient: the mean is 4 / pi v.

    The spacing s is from v / 32 to v / 16 near the largest.
    """
    relative = exp_avg_sq(normal(5000), state_dtype=CODED, state_rounding="stochastic")
    variance = 4 / math.pi * (1 / 16 / 2 / math.log(2)) / 2
    assert 0.8 < relative.var() / variance < 1.2
    assert abs(relative.mean() - 1) < 0.02
    # Jensen: what is divided by its root is longer by 3/8 of its variance, and terms of higher order
    lengths = (relative / relative.mean()) ** -0.5
    assert 0.7 < (lengths.mean() - 1) / (3 / 8 * variance) < 1.1


# ---- Formats -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("stochastic", [False, True])
def test_the_chosen_format_is_that_of_storage(unsigned, stochastic):
    rng = np.random.default_rng(0)
    values = rng.standard_normal(3000, np.float32) * np.exp(rng.standard_normal(3000)).astype(np.float32)
    values = np.abs(values) if unsigned else values
    bits = rng.integers(0, 1 << 16, values.size, np.uint32)
    rounded = CHOSEN._replace(stochastic=stochastic).rounded(
        values, unsigned, (bits / 65536).astype(np.float32)
    )
    codes = storage.encode(values, unsigned=unsigned, random=bits if stochastic else None)
    assert rounded.tobytes() == storage.decode(*codes, np.float32, unsigned=unsigned).tobytes()


FORMATS = {trial.name: form for trial in TRIALS for form in trial.formats.values()}


@pytest.mark.parametrize("unsigned", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_formats_round_to_the_levels_around(name, unsigned):
    form = FORMATS[name]
    rng = np.random.default_rng(0)
    values = rng.uniform(0.1, 1, (32, 1)).astype(np.float32)  # one block of every format
    rounded = np.hstack([form.rounded(values, unsigned, rng.random((32, 1), np.float32)) for _ in range(400)])
    levels = form.levels(unsigned)
    assert len(levels) in ((256,) if unsigned else (128, 129))  # 0 may have two signs
    levels = levels * form.scale(values.max(keepdims=True), np.float32(levels[-1]))[0, 0]
    k = np.searchsorted(levels, values, side="right") - 1
    low, high = levels[k], levels[np.minimum(k + 1, len(levels) - 1)]
    # rounded once more, to float32
    assert (np.isclose(rounded, low, rtol=1e-6) | np.isclose(rounded, high, rtol=1e-6)).all()
    error = rounded - values
    if form.stochastic:
        # of the mean of 400, within 5 deviations, each at most half of what lies between the levels
        error, limit = error.mean(axis=1, keepdims=True), (high - low) / 2 * 5 / 20
    else:
        limit = (high - low) / 2
    assert (np.abs(error) <= limit + 1e-6).all()


@pytest.mark.parametrize("name", FORMATS)
def test_formats_keep_signs_and_zeros_and_do_not_divide_by_nothing(name):
    form, random = FORMATS[name], np.zeros(2, np.float32)
    tiny = np.array([1, 1e-20], np.float32)
    assert form.rounded(np.zeros(2, np.float32), True, random).tolist() == [0, 0]
    assert form.rounded(-tiny, False, random).tolist()[1] == 0
    assert form.rounded(-tiny, False, random)[0] < 0 < form.rounded(tiny, True, random)[1]


# ---- The page ----------------------------------------------------------------------------------------


def test_the_page_has_the_tables_of_the_results():
    assert not precision_page.is_stale(), "run python benchmarks/precision_page.py"


def test_the_results_are_those_of_all_settings_and_formats():
    found = json.loads(precision_page.RESULTS.read_text())
    made = [(run["task"], run["lr"], Setting(**run["setting"])) for run in found["runs"]]
    assert made == [(regime.task, regime.lr, setting) for regime in REGIMES for setting in SETTINGS]
    tried = [(run["task"], run["lr"], run["trial"]) for run in found["trials"]]
    assert tried == [(regime.task, regime.lr, trial.name) for regime in TRIED_IN for trial in TRIALS]
    assert all(len(run["accuracy"]) == found["seeds"] for run in found["runs"] + found["trials"])


def test_the_pictures_are_drawn(tmp_path):
    precision_page.draw_all(json.loads(precision_page.RESULTS.read_text()), tmp_path)
    text = precision_page.PAGE.read_text()
    pictures = re.findall(r"\]\(images/(.*?)\)", text)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(pictures)
    assert all((precision_page.IMAGES / name).exists() for name in pictures)


def test_a_page_without_markers_is_refused():
    found = json.loads(precision_page.RESULTS.read_text())
    with pytest.raises(ValueError, match="lost its markers"):
        precision_page.page(found, "text")


@pytest.mark.parametrize(
    "block", re.findall(r"^```python\n(.*?)^```", precision_page.PAGE.read_text(), re.M | re.S)
)
def test_the_blocks_of_the_page_run(block):
    exec(block, {})
