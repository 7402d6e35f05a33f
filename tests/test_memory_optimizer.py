"""Optimizers of parameters on a device do what they do on the host, bit for bit, and so do those of both."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import numpy as np
import pytest
import standin
from devices import F32, SHAPES, bits, both, contents_of, saved, step, values, where
from snapshots import random
from standin import reach, upload

import fastgd
from fastgd import averaging
from fastgd.arrays import dtype_named
from fastgd.memory import memory_of
from fastgd.report import StepReport

BF16 = dtype_named("bfloat16")


@pytest.fixture(autouse=True)
def on_the_stand_in(device):
    pass


SETTINGS = [
    ("adamw", {}, F32),
    ("adamw", {"ema_decay": 0.9, "state_dtype": "8bit"}, F32),
    ("adamw", {"rounding": "kahan", "ema_decay": 0.5}, np.float16),
    ("adamw", {"rounding": "master", "state_dtype": np.float32}, BF16),
    ("adam", {"rounding": "split", "state_dtype": "8bit", "amsgrad": True}, BF16),
    ("lion", {"rounding": "stochastic", "state_dtype": "bfloat16", "seed": 5}, BF16),
    ("adagrad", {"initial_accumulator_value": 0.3}, F32),
    ("adagrad", {"initial_accumulator_value": 0.3, "state_dtype": "8bit"}, F32),
    ("adafactor", {}, F32),
    ("lamb", {"cautious": True}, np.float64),
    ("nadam", {}, F32),
    ("adamw_schedule_free", {}, F32),
]


@pytest.mark.parametrize("places", ["000", "0h1"])
@pytest.mark.parametrize(("rule", "settings", "dtype"), SETTINGS, ids=str)
def test_steps_on_a_device_have_the_bits_of_the_host(rule, settings, dtype, places):
    opts = both(rule, SHAPES, places, dtype, **settings)
    for t in range(1, 4):
        reports = step(opts, places, t, dtype)
        assert reports[0] == reports[1]
        if t == 2 and opts[0].rule.average:
            for opt in opts:
                opt.eval()
            assert bits(opts[0].parameters()) == bits(opts[1].parameters())
            for opt in opts:
                opt.train()
    assert bits(opts[0].parameters()) == bits(opts[1].parameters())
    assert saved(opts[0]) == saved(opts[1])
    assert opts[0].state_bytes() == opts[1].state_bytes()
    for kept, p in zip(opts[1]._planner.kept, opts[1].parameters(), strict=True):
        for part in [*kept.slots, kept.residual, kept.average]:
            for array in part if type(part).__name__ == "Codes" else [part]:
                assert array is None or memory_of(array) is memory_of(p)
                assert array is None or array.ndim != p.ndim or array.strides[-1] == array.itemsize


@pytest.mark.parametrize(("rule", "settings", "dtype"), SETTINGS, ids=str)
def test_state_goes_from_device_to_host_and_back(rule, settings, dtype):
    opts = both(rule, SHAPES, dtype=dtype, **settings)
    step(opts, "000", 1, dtype)
    state = opts[1].state_dict()
    step(opts, "000", 2, dtype)
    for opt in opts:
        opt.load_state_dict(state)
        assert contents_of(opt.state_dict()) == contents_of(state)
    step(opts, "000", 3, dtype)
    assert saved(opts[0]) == saved(opts[1])


def test_state_is_converted_and_read_from_a_device():
    opts = both("adam", SHAPES, state_dtype="8bit", ema_decay=0.5)
    step(opts, "000", 1)
    state = opts[1].state_dict()
    for entry in state["state"].values():
        entry.update({k: upload(v) for k, v in entry.items() if isinstance(v, np.ndarray)})
    others = both("adam", SHAPES, state_dtype="bfloat16", ema_decay=0.5)
    for opt in others:
        opt.load_state_dict(state, convert=True)
    assert saved(others[0]) == saved(others[1])
    with pytest.raises(ValueError, match="keeps it in float32"):
        both("adam", SHAPES, ema_decay=0.5)[1].load_state_dict(state)


def test_layouts_of_parameters_gradients_and_copies():
    base = random((4, 6), 0)
    host = [base.copy().T, np.ascontiguousarray(base)[::2, ::-1]]
    device = [upload(base).transpose(), upload(np.ascontiguousarray(base[::2, ::-1]))]
    copies = [np.zeros((6, 4), np.float16), None]
    opts = [
        fastgd.AdamW(host, copies=copies, ema_decay=0.5, backend="reference"),
        fastgd.AdamW(device, copies=[upload(copies[0]), None], ema_decay=0.5),
    ]
    for t in range(2):
        grads = [random((6, 4), t), random((2, 6), t)]
        opts[0].step(grads)
        opts[1].step([upload(grads[0].T).transpose(), upload(grads[1])])
    assert bits(host) == bits(device)
    assert bits([opts[0]._planner.parameters[0].copy]) == bits([opts[1]._planner.parameters[0].copy])
    assert opts[1]._planner.kept[0].slots[0].strides == (4, 24)


# ---- Averages ---------------------------------------------------------------------------------------


def test_averages_are_on_the_device_and_can_be_put_into_parameters():
    opts = both("sgd", SHAPES, "00h", dtype=BF16, ema_decay=0.5, rounding="kahan")
    for t in range(3):
        step(opts, "00h", t, BF16)
    averages = opts[1].averages()
    assert [memory_of(a).name for a in averages] == ["cuda:0", "cuda:0", "host"]
    assert bits(averages) == bits(opts[0].averages())
    before = bits(opts[1].parameters())
    with opts[0].averaged(), opts[1].averaged():
        assert bits(opts[1].parameters()) == bits(opts[0].parameters()) != before
        with pytest.raises(RuntimeError, match="leave it first"):
            step(opts[::-1], "hhh", 0, BF16)
    assert bits(opts[1].parameters()) == before
    assert saved(opts[0]) == saved(opts[1])


def test_a_device_that_fails_leaves_parameters_as_they_were(monkeypatch):
    opt = both("sgd", SHAPES, ema_decay=0.5)[1]
    opt.step(where(values(SHAPES, 1), "000"))
    before, memory = bits(opt.parameters()), standin.memory(0)
    plain = memory.write

    def write(array, numbers):
        if write.left == 0:
            write.left = math.inf
            raise MemoryError("the device fails")
        write.left -= 1
        plain(array, numbers)

    write.left = 2
    monkeypatch.setattr(memory, "write", write)
    with pytest.raises(MemoryError, match="the device fails"), opt.averaged():
        raise AssertionError
    assert bits(opt.parameters()) == before
    opt.step(where(values(SHAPES, 1), "000"))


def test_averages_beside_an_optimizer():
    opts = both("sgd", SHAPES, "0h1", lr=0.1)
    means = [averaging.StochasticWeightAverage(opt) for opt in opts]
    slow = [averaging.Lookahead(opt, k=2) for opt in opts]
    for t in range(5):
        grads = values(SHAPES, t)
        slow[0].step(grads)
        slow[1].step(where(grads, "0h1"))
        for mean in means:
            mean.update()
    assert bits(means[0].averages) == bits(means[1].averages)
    assert bits(slow[0].slow) == bits(slow[1].slow)
    with means[0].applied(), means[1].applied():
        assert bits(opts[0].parameters()) == bits(opts[1].parameters())
    for made in (means, slow):
        state = made[1].state_dict()
        made[1].load_state_dict(state)
        made[0].load_state_dict(state)
    assert [memory_of(a).name for a in means[1].averages] == ["cuda:0", "host", "cuda:1"]
    assert bits(means[0].averages) == bits(means[1].averages)
    array = upload(random(3, 0))
    averaging.lerp_([array], [upload(np.ones(3, F32))], 1.0)
    assert array.host().tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="counterpart 0 is on host, the array on cuda:0"):
        averaging.lerp_([array], [np.ones(3, F32)], 1.0)


def test_copies_of_an_optimizer_have_arrays_of_their_own():
    opts = both("adam", SHAPES, ema_decay=0.5)
    step(opts, "000", 1)
    other = copy.deepcopy(opts[1])
    before = bits(opts[1].parameters())
    assert saved(other) == saved(opts[1])
    step([opts[0], other], "000", 2)
    assert bits(opts[0].parameters()) == bits(other.parameters()) != before
    assert bits(opts[1].parameters()) == before


# ---- Gradients again and again ----------------------------------------------------------------------


class Lender:
    """Another object over the memory of a device array every time, as frameworks have them."""

    def __init__(self, array):
        self.array = array
        self.__cuda_array_interface__ = array.__cuda_array_interface__


def test_gradients_that_lie_where_they_lay_need_nothing_new():
    opts, made = both("sgd", SHAPES, lr=0.5), standin.BACKEND
    grads = values(SHAPES, 1)
    device = where(grads, "000")
    for t, given in enumerate([device, device, *[list(map(Lender, device))] * 2, list(map(Lender, device))]):
        opts[0].step(grads)
        opts[1].step(given)
        # from device arrays to what lends them is a change
        assert (made.planned, made.pointed) == (1, int(t > 1))
    elsewhere = where(grads, "000")
    for given in (elsewhere, list(map(Lender, elsewhere))):
        opts[0].step(grads)
        opts[1].step(list(map(Lender, given)))
        assert (made.planned, made.pointed) == (1, 2)
    assert bits(opts[0].parameters()) == bits(opts[1].parameters())
    opts[1].step([None, *device[1:]])
    assert made.planned == 2


def test_a_gradient_that_comes_back_in_another_guise_is_not_taken_for_the_last():
    opts = both("sgd", [(4,)], "0", lr=0.5)
    first, second = upload(np.ones(4, F32)), upload(np.full(4, 10, F32))
    for given in (Lender(first), second, Lender(first), second, Lender(second), first, Lender(second)):
        number = given.array if isinstance(given, Lender) else given
        opts[0].step([number.host()])
        opts[1].step([given])
        assert bits(opts[0].parameters()) == bits(opts[1].parameters())


def test_gradients_are_not_kept():
    opt = both("sgd", SHAPES)[1]
    for options in ({}, {"clip_norm": 1.0}):
        grads = list(map(Lender, where(values(SHAPES, 1), "000")))
        watched = [weakref.ref(g) for g in grads]
        report = opt.step(grads, **options)
        del grads
        gc.collect()
        assert [w() for w in watched] == [None] * 3
        assert report.skipped is False


# ---- Reports that are read later --------------------------------------------------------------------


def test_a_report_is_that_of_the_host_in_all_it_says():
    opts = both("sgd", SHAPES)
    for options in ({}, {"clip_norm": 0.5}, {"skip_nonfinite": True}, {"clip_adaptive": 0.01}):
        host, device = step(opts, "000", 1, **options)
        assert isinstance(device, StepReport)
        assert device == host
        assert host == device
        assert (device != host) is False
        assert (tuple(device), device[0], repr(device)) == (tuple(host), host[0], repr(host))
        norm, coef, skipped, nonfinite = device
        assert (norm, coef, skipped, nonfinite) == host
        assert (device.grad_norm, device.clip_coef, device.skipped, device.nonfinite) == host
        assert device._asdict() == host._asdict()
        assert type(copy.copy(device)) is StepReport
        assert device._replace(skipped=True).skipped
        assert len({device, host}) == 1
        assert False in device
        assert (device.index(False), device.count(False)) == (2, 1)


def test_a_skipped_step_changes_nothing_however_late_it_is_known():
    opts = both("adam", SHAPES, ema_decay=0.5)
    bad = values(SHAPES, 1)
    bad[1][7] = np.inf
    for t, skipped in enumerate([True, True, False, True]):
        grads = bad if skipped else values(SHAPES, t)
        host = opts[0].step(grads, skip_nonfinite=True)
        device = opts[1].step(where(grads, "000"), skip_nonfinite=True)
        if t == 0:
            assert host.nonfinite == (0, 1, None, (7,), np.inf)
            held = where(grads, "000")
            device = opts[1].step(held, skip_nonfinite=True)
            host = opts[0].step(grads, skip_nonfinite=True)
            assert device == host
    assert opts[1].skipped_steps == opts[0].skipped_steps == 4
    assert saved(opts[0]) == saved(opts[1])
    assert bits(opts[0].averages()) == bits(opts[1].averages())
    opts[1].step(where(bad, "000"), skip_nonfinite=True)
    opts[1].load_state_dict(opts[0].state_dict())
    assert opts[1].skipped_steps == 0
    step(opts, "000", 9)
    assert saved(opts[0]) == saved(opts[1])


@pytest.mark.parametrize("ask", ["step", "averages", "state_dict", "eval", "load", "skipped_steps"])
def test_a_skipped_step_is_known_of_before_steps_are_counted(ask):
    """Whatever is the first to ask; here of parameters that have made no step at all."""
    opts = both("adamw_schedule_free", SHAPES, ema_decay=0.5)
    bad = [np.full_like(g, np.nan) for g in values(SHAPES, 1)]
    state = opts[0].state_dict()
    for opt, at in zip(opts, ["hhh", "000"], strict=True):
        opt.step(where(bad, at), skip_nonfinite=True)
    for opt, at in zip(opts, ["hhh", "000"], strict=True):
        if ask == "step":
            opt.step([*where(values(SHAPES, 2), at)[:2], None])
        elif ask == "eval":
            opt.eval()
        elif ask == "load":
            opt.load_state_dict(state)
            reach(opt.parameters()[0])[...] = 0.5
            opt.step(where(values(SHAPES, 2), at))
        elif ask == "averages":
            reach(opt.parameters()[0])[...] = 0.5
            opt.averages()
        elif ask == "skipped_steps":
            assert opt.skipped_steps == 1
        else:
            assert opt.state_dict()["state"] == {}
    if ask != "eval":
        assert bits(opts[0].averages()) == bits(opts[1].averages())
    assert bits(opts[0].parameters()) == bits(opts[1].parameters())
    assert saved(opts[0]) == saved(opts[1])


def test_what_was_not_finite_is_named_though_the_gradient_is_gone():
    opt = both("sgd", SHAPES)[1]
    bad = values(SHAPES, 1)
    bad[2][1, 2] = np.nan
    report = opt.step(where(bad, "000"), skip_nonfinite=True)
    gc.collect()
    assert report.skipped
    assert report.nonfinite[:4] == (0, 2, None, None)
    assert math.isnan(report.nonfinite.value)
    grads = where(bad, "000")
    report = opt.step(grads, skip_nonfinite=True)
    reach(grads[2])[...] = 0
    assert report.nonfinite[:4] == (0, 2, None, None)


def test_a_scaler_skips_and_backs_off():
    opt, scaler = both("sgd", SHAPES)[1], fastgd.LossScaler(init_scale=8.0)
    bad = values(SHAPES, 1)
    bad[0][0, 0] = np.inf
    assert scaler.step(opt, where(bad, "000")).skipped
    assert scaler.scale == 4.0
    assert not scaler.step(opt, where(values(SHAPES, 1), "000")).skipped
