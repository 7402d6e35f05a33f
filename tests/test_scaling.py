"""Loss scaling: when the scale moves, what a step through it does, and what is refused."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from snapshots import contents, random, unchanged

import fastgd
from fastgd.checkpoint import load_file, pack_state, save_file, unpack_state

F32 = np.float32
GOOD, BAD = [np.ones(2, F32)], [np.array([1, np.inf], F32)]


def trained(backend="auto"):
    return fastgd.SGD([np.zeros(2, F32)], lr=0.5, momentum=0.5, backend=backend)


def run(scaler, opt, story):
    """The scale before each step and after the last: "+" is a step with finite gradients, "-" without."""
    scales = [scaler.scale]
    for sign in story:
        scaler.step(opt, GOOD if sign == "+" else BAD)
        scales.append(scaler.scale)
    return scales


def counters(scaler):
    return scaler.steps, scaler.skipped_steps, scaler.skipped_in_a_row


def test_the_scale_backs_off_at_once_and_grows_after_an_interval():
    scaler = fastgd.LossScaler(16, growth_factor=4, backoff_factor=0.25, growth_interval=3)
    assert run(scaler, trained(), "++-+++++-++-") == [16, 16, 16, 4, 4, 4, 16, 16, 16, 4, 4, 4, 1]
    assert counters(scaler) == (12, 3, 1)


def test_the_scale_stays_within_its_limits():
    scaler = fastgd.LossScaler(8, 8.0, 0.125, growth_interval=1, min_scale=0.5, max_scale=16)
    assert run(scaler, trained(), "++-+---+") == [8, 16, 16, 2, 16, 2, 0.5, 0.5, 4]
    assert counters(scaler) == (8, 4, 0)


def test_defaults_are_torchs_with_limits():
    scaler = fastgd.LossScaler()
    assert run(scaler, trained(), "-" + "+" * 2000) == [65536.0] + [32768.0] * 2000 + [65536.0]
    state = scaler.state_dict()
    assert (state["min_scale"], state["max_scale"], state["patience"]) == (1.0, 2.0**127, 10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("clip_norm", [None, 0.5])
def test_a_scaled_step_has_the_bits_of_a_plain_one(backend, dtype, clip_norm):
    grads = [[random(n, 10 * t + n, dtype) for n in (3, 700)] for t in range(4)]
    scaler = fastgd.LossScaler(2.0**20, growth_interval=2)
    opts = [fastgd.AdamW([random(n, n, dtype) for n in (3, 700)], backend=backend) for _ in range(2)]
    for unscaled in grads:
        scaled = [scaler.scale_loss(g) for g in unscaled]
        report = scaler.step(opts[0], scaled, clip_norm=clip_norm)
        assert report == opts[1].step(unscaled, clip_norm=clip_norm, skip_nonfinite=True)
    assert scaler.scale == 2.0**22
    assert contents(opts[0]) == contents(opts[1])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_skipped_step_changes_nothing_but_the_scale(backend, value):
    opt = trained(backend)
    scaler = fastgd.LossScaler()
    scaler.step(opt, GOOD)
    with unchanged(opt):
        report = scaler.step(opt, [np.array([1, value], F32)], clip_norm=1.0)
    assert report.skipped
    assert report.nonfinite.element == (1,)
    assert (scaler.scale, opt.skipped_steps) == (32768.0, 1)
    assert counters(scaler) == (2, 1, 1)


def test_several_optimizers_share_one_update():
    scaler = fastgd.LossScaler(64, growth_interval=2)
    first, second = trained(), trained()

    def iteration(one, other):
        scaler.step(first, one, update=False)
        before = scaler.scale
        report = scaler.step(second, other, update=False)
        assert scaler.scale == before
        scaler.update()
        return report.skipped

    assert not iteration(BAD, GOOD)
    assert scaler.scale == 32
    assert iteration(GOOD, BAD)
    assert iteration(BAD, BAD)
    assert scaler.scale == 8
    assert not iteration(GOOD, GOOD)
    assert scaler.scale == 8
    assert not iteration(GOOD, GOOD)
    assert scaler.scale == 16
    assert counters(scaler) == (5, 3, 0)
    assert (first.skipped_steps, second.skipped_steps) == (2, 2)


def test_the_last_optimizers_step_can_be_the_update():
    scaler = fastgd.LossScaler(64)
    scaler.step(trained(), BAD, update=False)
    scaler.step(trained(), GOOD)
    assert scaler.scale == 32
    assert counters(scaler) == (1, 1, 1)


def test_one_update_for_each_iteration():
    scaler, opt = fastgd.LossScaler(), trained()
    with pytest.raises(RuntimeError, match=r"update\(\) without a step"):
        scaler.update()
    scaler.step(opt, GOOD, update=False)
    with unchanged(opt), pytest.raises(RuntimeError, match=r"has made a step since the last update\(\)"):
        scaler.step(opt, GOOD)
    scaler.update()
    with pytest.raises(RuntimeError, match=r"update\(\) without a step"):
        scaler.update()
    scaler.step(opt, GOOD)
    assert scaler.steps == 2


# ---- training that diverges ----


def test_divergence_is_an_error_once_the_smallest_scale_does_not_help():
    scaler = fastgd.LossScaler(4, patience=3)
    opt = fastgd.SGD([("w", np.zeros((2, 2), F32))])
    bad = [np.array([[1, 1], [np.nan, 1]], F32)]
    for scale in (4, 2, 1, 1):
        assert scaler.scale == scale
        scaler.step(opt, bad)
    wrong = (
        r"3 steps in a row were skipped at the smallest scale, 1\.0: .* "
        r"\(that of parameter 'w' \(parameter 0 of group 0\) is nan at \(1, 0\)\); the training has diverged"
    )
    for times in (5, 6):
        with pytest.raises(FloatingPointError, match=wrong.replace("3 steps", f"{times - 2} steps")):
            scaler.step(opt, bad)
        assert counters(scaler) == (times, times, times)
    scaler.step(opt, [np.ones((2, 2), F32)])
    assert counters(scaler) == (7, 6, 0)
    assert not scaler.step(opt, [np.ones((2, 2), F32)]).skipped


def test_one_good_step_shows_that_training_goes_on():
    scaler = fastgd.LossScaler(1, patience=2)
    assert run(scaler, trained(), "-+-+-+-+") == [1] * 9
    with pytest.raises(FloatingPointError):
        run(scaler, trained(), "--")


def test_with_no_patience_set_training_is_never_given_up():
    scaler = fastgd.LossScaler(1, patience=None)
    assert run(scaler, trained(), "-" * 50) == [1] * 51
    assert counters(scaler) == (50, 50, 50)


def test_a_norm_beyond_float64_is_told_apart():
    scaler = fastgd.LossScaler(1, patience=1)
    opt = fastgd.SGD([np.zeros(2)])
    with pytest.raises(FloatingPointError, match="their norm is beyond float64"):
        scaler.step(opt, [np.full(2, 1.5e308)])
    assert opt.skipped_steps == 1


# ---- losses ----


@pytest.mark.parametrize("loss", [3, 3.0, F32(3), np.float64(3), np.array(3, F32)])
def test_losses_are_multiplied_by_the_scale(loss):
    scaled = fastgd.LossScaler(1024).scale_loss(loss)
    assert scaled == 3072
    assert getattr(scaled, "dtype", None) == getattr(loss, "dtype", None)


def test_a_loss_in_float16_is_refused():
    with pytest.raises(TypeError, match="loss is float16, which holds nothing above 65504"):
        fastgd.LossScaler().scale_loss(np.float16(3))


# ---- disabled ----


def test_a_disabled_scaler_steps_aside():
    scaler, opt, plain = fastgd.LossScaler(enabled=False), trained(), trained()
    loss = np.float16(3)
    assert scaler.scale_loss(loss) is loss
    for _ in range(2):
        assert scaler.step(opt, BAD, clip_value=2.0) == plain.step(BAD, clip_value=2.0)
        scaler.update()
    assert contents(opt) == contents(plain)
    assert (scaler.scale, scaler.enabled, *counters(scaler)) == (1.0, False, 0, 0, 0)
    assert repr(scaler) == "LossScaler(enabled=False)"
    with pytest.raises(TypeError, match="grad_scale is set by the scaler"):
        scaler.step(opt, GOOD, grad_scale=2.0)


# ---- refusals ----


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"init_scale": 3}, ValueError, "init_scale must be a power of two, .* not 3"),
        ({"init_scale": 0}, ValueError, "init_scale must be a power of two"),
        ({"init_scale": -2}, ValueError, "init_scale must be a power of two"),
        ({"init_scale": math.inf}, ValueError, "init_scale must be a power of two"),
        ({"init_scale": math.nan}, ValueError, "init_scale must be a power of two"),
        ({"init_scale": "2"}, TypeError, "init_scale must be a number, not '2'"),
        ({"init_scale": 0.5}, ValueError, "init_scale must be from min_scale 1.0 to max_scale"),
        ({"init_scale": 8, "max_scale": 4}, ValueError, "from min_scale 1.0 to max_scale 4.0, not 8"),
        ({"growth_factor": 1}, ValueError, "growth_factor must be above 1"),
        ({"growth_factor": 1.5}, ValueError, "growth_factor must be a power of two"),
        ({"backoff_factor": 1}, ValueError, "backoff_factor must be below 1"),
        ({"backoff_factor": 0}, ValueError, "backoff_factor must be a power of two"),
        ({"growth_interval": 0}, ValueError, "growth_interval must be at least 1, not 0"),
        ({"growth_interval": 2.0}, TypeError, "growth_interval must be a whole number, not float"),
        ({"growth_interval": True}, TypeError, "growth_interval must be a whole number, not True"),
        ({"min_scale": 0}, ValueError, "min_scale must be a power of two"),
        ({"max_scale": 3}, ValueError, "max_scale must be a power of two"),
        ({"min_scale": 4, "max_scale": 2}, ValueError, "min_scale 4.0 is above max_scale 2.0"),
        ({"patience": 0}, ValueError, "patience must be at least 1"),
        ({"enabled": 1}, TypeError, "enabled must be True or False"),
    ],
)
def test_bad_settings_are_refused_by_name(setting, error, message):
    with pytest.raises(error, match=message):
        fastgd.LossScaler(**setting)


def test_what_the_optimizer_refuses_leaves_the_scaler_as_it_was():
    scaler, opt = fastgd.LossScaler(growth_interval=2), trained()
    scaler.step(opt, GOOD)
    before = scaler.state_dict()
    for options, error in (({"skip_nonfinite": False}, TypeError), ({"clip_norm": -1.0}, ValueError)):
        with unchanged(opt), pytest.raises(error, match=next(iter(options))):
            scaler.step(opt, GOOD, **options)
    with unchanged(opt), pytest.raises(ValueError, match="has shape"):
        scaler.step(opt, [np.ones(3, F32)])
    assert scaler.state_dict() == before
    assert run(scaler, opt, "+") == [65536, 131072]


# ---- state ----


def test_a_loaded_scaler_goes_on_where_the_saved_one_was(tmp_path):
    saved = fastgd.LossScaler(2**10, 4, 0.25, 3, min_scale=2**-4, max_scale=2**12, patience=None)
    run(saved, trained(), "-++-+--++")
    save_file(tmp_path / "f", *pack_state(saved.state_dict()))
    loaded = fastgd.LossScaler(enabled=True)
    loaded.load_state_dict(unpack_state(*load_file(tmp_path / "f")))
    assert loaded.state_dict() == saved.state_dict()
    assert repr(loaded) == repr(saved)
    assert run(loaded, trained(), "+--+++++++----") == run(saved, trained(), "+--+++++++----")


def test_patience_goes_on_in_a_loaded_scaler():
    saved = fastgd.LossScaler(1, patience=3)
    run(saved, trained(), "--")
    for copied in (fastgd.LossScaler(), copy.deepcopy(saved), pickle.loads(pickle.dumps(saved))):
        copied.load_state_dict(saved.state_dict())
        with pytest.raises(FloatingPointError):
            run(copied, trained(), "-")


def test_a_load_forgets_steps_that_wait_for_their_update():
    scaler, opt = fastgd.LossScaler(), trained()
    state = scaler.state_dict()
    scaler.step(opt, BAD, update=False)
    scaler.load_state_dict(state)
    scaler.step(opt, GOOD)
    assert scaler.scale == 65536


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "the state has version 2; this fastgd reads version 1"),
        ({"scale": 3.0}, "scale must be a power of two"),
        ({"scale": 0.5}, "scale must be from min_scale"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"steps": 1.0}, "steps must be a whole number"),
        ({"skipped_steps": 5}, "skipped_steps is 5, more than steps, which is 4"),
        ({"skipped_in_a_row": 4}, "skipped_in_a_row is 4, more than skipped_steps, which is 3"),
        ({"skipped_at_minimum": 3}, "skipped_at_minimum is 3, more than skipped_in_a_row, which is 2"),
        ({"good_steps": 9}, "good_steps must be less than growth_interval, not 9"),
        ({"growth_factor": 0.5}, "growth_factor must be above 1"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"lr": 0.1}, "the state has an unknown 'lr'"),
    ],
)
def test_bad_states_are_refused_whole(change, message):
    scaler = fastgd.LossScaler(growth_interval=9)
    run(scaler, trained(), "-+--")
    before = scaler.state_dict()
    with pytest.raises((TypeError, ValueError), match=message):
        scaler.load_state_dict({**before, "max_scale": 2.0**20, **change})
    assert scaler.state_dict() == before


@pytest.mark.parametrize("name", fastgd.LossScaler().state_dict())
def test_a_state_without_one_of_its_entries_is_refused(name):
    state = fastgd.LossScaler().state_dict()
    del state[name]
    with pytest.raises(ValueError, match="has version None" if name == "version" else f"has no '{name}'"):
        fastgd.LossScaler().load_state_dict(state)
    with pytest.raises(TypeError, match="the state is list, not a dict"):
        fastgd.LossScaler().load_state_dict([name])


def test_repr_says_how_it_goes():
    scaler = fastgd.LossScaler(8, growth_interval=5, max_scale=16)
    run(scaler, trained(), "+-+")
    assert repr(scaler) == (
        "LossScaler(scale=4.0, growth_factor=2.0, backoff_factor=0.5, growth_interval=5, min_scale=1.0, "
        "max_scale=16.0, patience=10; 1 of 3 steps skipped)"
    )


# ---- what the optimizer counts itself ----


def test_an_optimizer_counts_the_steps_it_skips(backend):
    opt = trained(backend)
    for grads in (GOOD, BAD, BAD, GOOD):
        opt.step(grads, skip_nonfinite=True)
    assert opt.skipped_steps == 2
    opt.step(BAD)  # not skipped
    opt.step([None], skip_nonfinite=True)
    assert opt.skipped_steps == 2
    state = opt.state_dict()
    assert copy.deepcopy(opt).skipped_steps == 0
    opt.load_state_dict(state)
    assert opt.skipped_steps == 0
    with pytest.raises(AttributeError):
        opt.skipped_steps = 3
