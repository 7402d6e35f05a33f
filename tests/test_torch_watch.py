"""State that somebody may have changed is looked at in every step; what nobody has in hands is not."""

import collections
import copy
import gc
import io
import pickle
import weakref

import pytest
from torch_optim import copied, fgt, members, noise, torch

from fastgd.backends import native
from fastgd.torch import watch

pytestmark = pytest.mark.peer


def made(count=3, cls=None, **settings):
    start = [torch.nn.Parameter(noise((30,), i)) for i in range(count)]
    return (cls or fgt.AdamW)(start, lr=0.01, **settings)


def step(opt, number):
    for i, p in enumerate(members(opt)):
        p.grad = noise(p.shape, 100 * number + i, torch.float32).to(p.dtype)
    opt.step()


def rested(opt, first=0):
    """Makes steps until nobody is found to hold any state; the number of the next step."""
    for number in range(first, first + 2 * watch.STEPS + 2):
        step(opt, number)
    return first + 2 * watch.STEPS + 2


@pytest.fixture
def opt():
    found = made()
    rested(found)
    assert not found.planner.watch.is_on
    return found


def test_rests_with_every_way_of_storing():
    for settings in (
        {"state_dtype": "8bit"},
        {"state_dtype": "bfloat16", "ema_decay": 0.9},
        {"backend": "jit"},
    ):
        opt = made(**settings)
        rested(opt)
        assert not opt.planner.watch.is_on, settings
    half = [torch.nn.Parameter(noise((30,), i).bfloat16()) for i in range(3)]
    for settings in ({"rounding": "split"}, {"rounding": "kahan"}, {"rounding": "master"}):
        opt = fgt.AdamW(copied(half), **settings)
        rested(opt)
        assert not opt.planner.watch.is_on, settings
    for cls in (fgt.SGD, fgt.NAdam, fgt.ASGD, fgt.Adafactor, fgt.Lion):
        opt = made(cls=cls)
        rested(opt)
        assert not opt.planner.watch.is_on, cls


def test_is_alarmed_by_whoever_asks_and_rests_again(opt):
    assert float(opt.state[members(opt)[0]]["step"]) == 2 * watch.STEPS + 2
    assert opt.planner.watch.is_on
    rested(opt, 1000)
    assert not opt.planner.watch.is_on


HOLDERS = {
    "the state": lambda opt: opt.state,
    "an entry": lambda opt: opt.state[members(opt)[1]],
    "a tensor": lambda opt: opt.state[members(opt)[1]]["exp_avg"],
    "a step": lambda opt: opt.state[members(opt)[1]]["step"],
    "a storage": lambda opt: opt.state[members(opt)[1]]["exp_avg"].untyped_storage(),
    "a view": lambda opt: opt.state[members(opt)[1]]["exp_avg"].view(-1),
    "another tensor of its memory": lambda opt: opt.state[members(opt)[1]]["exp_avg_sq"].detach(),
    "an array": lambda opt: opt.state[members(opt)[1]]["exp_avg_sq"].numpy(),
    "a view of a step": lambda opt: opt.state[members(opt)[1]]["step"].view(1),
    "a state dict": lambda opt: opt.state_dict(),
    "an iterator": lambda opt: iter(opt.state.values()),
    "a copy of the optimizer": copy.copy,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_does_not_rest_while_somebody_holds(holder, opt):
    held = HOLDERS[holder](opt)
    number = rested(opt, 1000)
    assert opt.planner.watch.is_on
    del held
    rested(opt, number)
    assert not opt.planner.watch.is_on


@pytest.mark.parametrize(
    "ask",
    [
        lambda opt: opt.state_dict(),
        lambda opt: pickle.dumps(opt),
        lambda opt: copy.deepcopy(opt),
        lambda opt: torch.save(opt.state_dict(), io.BytesIO()),
        lambda opt: [float(e["step"]) for e in opt.state.values()],
        lambda opt: repr(opt),
    ],
    ids=["state_dict", "pickle", "deepcopy", "save", "read", "repr"],
)
def test_what_states_show_is_up_to_date_whenever_somebody_looks(ask, opt):
    for number in range(3):
        step(opt, 500 + number)
    ask(opt)
    steps = 2 * watch.STEPS + 5
    assert {float(entry["step"]) for entry in opt.state_dict()["state"].values()} == {steps}
    assert {float(e["step"]) for e in copy.deepcopy(opt).state.values()} == {steps}
    assert {float(e["step"]) for e in pickle.loads(pickle.dumps(opt)).state.values()} == {steps}


def written(opt):
    opt.state[members(opt)[1]]["step"].zero_()


def exchanged(opt):
    entry = opt.state[members(opt)[1]]
    entry["exp_avg"] = entry["exp_avg"] * 2


def moved(opt):
    opt.state[members(opt)[1]]["exp_avg"].share_memory_()
    opt.state[members(opt)[1]]["exp_avg"].mul_(2)


def taken(opt):
    opt.state.pop(members(opt)[1])


def cleared(opt):
    opt.state.clear()


def new(opt):
    opt.state = type(opt.state)(dict, {p: dict(e) for p, e in opt.state.items()})
    opt.state[members(opt)[2]]["exp_avg"] = torch.zeros(30)


def reset(opt):
    opt.state = collections.defaultdict(dict)


def rekeyed(opt):
    """The same entries in the same order, of other parameters."""
    a, b, c = members(opt)
    entries = [opt.state.pop(p) for p in (a, b, c)]
    opt.state.update(zip((b, c, a), entries, strict=True))


def exchanged_param(opt):
    """No state; but the next step makes a new plan."""
    members(opt)[1].data = members(opt)[1].data * 2


def in_other_memory(opt):
    p = members(opt)[0]
    p.data = p.data.clone()


@pytest.mark.parametrize(
    "change",
    [written, exchanged, moved, taken, cleared, new, reset, rekeyed, exchanged_param, in_other_memory],
)
@pytest.mark.parametrize("later", [False, True], ids=["at once", "held"])
def test_changes_are_noticed_after_a_rest(change, later):
    """As by torch. later: the state is asked for long before it is changed."""
    right = torch.optim.AdamW(members(made()), lr=0.01, foreach=False)
    opt = made()
    for each in (opt, right):
        number = rested(each)
        held = each.state if later else None
        if later:
            number = rested(each, number)
        change(each)
        del held
        for more in range(3):
            step(each, number + more)
    for p, q in zip(members(opt), members(right), strict=True):
        torch.testing.assert_close(p, q)
        assert float(opt.state[p]["step"]) == float(right.state[q]["step"])


@pytest.mark.parametrize("cls", [fgt.AdamW, fgt.Lion])
def test_a_dict_that_was_set_and_is_written_later(cls):
    opt = made(1, cls)
    step(opt, 0)
    p = members(opt)[0]
    entries = {p: {name: value.clone() for name, value in opt.state[p].items()}}
    number = rested(opt, 1)
    assert not opt.planner.watch.is_on
    opt.__setstate__({"state": entries, "param_groups": opt.param_groups, "defaults": opt.defaults})
    step(opt, number)
    entries[p]["exp_avg"] = written = torch.full((30,), 100.0)
    step(opt, number + 1)
    assert opt.state[p]["exp_avg"] is written and 80 < written.max() < 100


def test_an_entry_that_is_no_parameters():
    opt = made()
    opt.state["note"] = 5
    rested(opt)
    assert not opt.planner.watch.is_on and opt.state["note"] == 5


@pytest.mark.parametrize("cls", [fgt.AdamW, fgt.NAdam])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("rests", [False, True], ids=["watched", "at rest"])
def test_a_step_that_is_interrupted_after_it_was_made_counts(cls, clip_norm, rests, monkeypatch):
    opt, other = made(cls=cls, clip_norm=clip_norm), made(cls=cls, clip_norm=clip_norm)
    for each in (opt, other):
        number = rested(each) if rests else 1
        step(each, number)

    def interrupting(call):
        def interrupted(*arguments):
            assert call(*arguments) is not None
            raise KeyboardInterrupt

        return interrupted

    again = opt.planner.again
    assert (again is not None) == (rests and clip_norm is not None)
    monkeypatch.setattr(native.Step, "step", interrupting(native.Step.step))
    opt.planner.again = again and again._replace(make=interrupting(again.make))
    with pytest.raises(KeyboardInterrupt):
        step(opt, number + 1)
    monkeypatch.undo()
    opt.planner.again = again
    step(other, number + 1)
    for each in (opt, other):
        step(each, number + 2)
    for p, q in zip(members(opt), members(other), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
        assert all(torch.equal(opt.state[p][name], value) for name, value in other.state[q].items())
        assert float(opt.state[p]["step"]) == number + 2 + rests


def test_a_number_beside_the_step_is_noticed_too():
    sides = [
        made(cls=cls, **more) for cls, more in ((fgt.NAdam, {}), (torch.optim.NAdam, {"foreach": False}))
    ]
    for opt in sides:
        number = rested(opt)
        opt.state[members(opt)[0]]["mu_product"].fill_(1.0)
        step(opt, number)
        step(opt, number + 1)
    for p, q in zip(*map(members, sides), strict=True):
        torch.testing.assert_close(p, q)
        torch.testing.assert_close(
            sides[0].state[p]["mu_product"], sides[1].state[q]["mu_product"], check_dtype=False
        )


def test_a_tensor_held_from_before_and_moved_after_a_long_time(opt):
    held = opt.state[members(opt)[0]]["exp_avg"]
    number = rested(opt, 1000)
    held.share_memory_()
    held.fill_(3.0)
    step(opt, number)
    gradient = members(opt)[0].grad
    torch.testing.assert_close(held, 3.0 + 0.1 * (gradient - 3.0))
    del held
    rested(opt, number + 1)
    assert not opt.planner.watch.is_on


def test_parameters_without_a_gradient_have_their_state_watched_too():
    opt = made()
    number = rested(opt)
    opt.state[members(opt)[0]]["step"].fill_(5.0)
    members(opt)[0].grad = None
    for p in members(opt)[1:]:
        p.grad = torch.ones(30)
    opt.step()
    assert float(opt.state[members(opt)[0]]["step"]) == 5
    step(opt, number)
    assert float(opt.state[members(opt)[0]]["step"]) == 6


def test_a_torch_that_does_not_tell_who_uses_memory(monkeypatch):
    monkeypatch.setattr(watch, "_uses", None)
    opt = made()
    rested(opt)
    assert opt.planner.watch.is_on


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_nothing_of_an_optimizer_that_is_let_go_of_stays(clip_norm):
    """Its state is freed at once, not when the garbage collector finds it."""
    opt = made(clip_norm=clip_norm)
    number = rested(opt)
    step(opt, number)
    state = [weakref.ref(value) for entry in opt.state.values() for value in entry.values()]
    step(opt, number + 1)
    for again in range(rested(opt), rested(opt) + 3):
        step(opt, again)
    assert (opt.planner.again is not None) == (clip_norm is not None)
    gc.disable()
    try:
        del opt
        assert state and not any(find() is not None for find in state)
    finally:
        gc.enable()


def test_settings_and_scales_that_change_between_steps_that_are_made_again():
    opt, plain, repeated = made(clip_norm=1.0), made(clip_norm=1.0), 0
    for turn in range(3):
        number = rested(opt, 1000 * turn)
        rested(plain, 1000 * turn)
        for k in range(24):
            for each in (opt, plain):
                each.clip_norm = 0.01 if k % 4 == turn else 1.0
                each.param_groups[0]["lr"] = 0.02 if k % 5 == turn else 0.01
                for i, p in enumerate(members(each)):
                    p.grad = noise(p.shape, 100 * (number + k) + i)
            plain.step()
            if k % 3 == turn:
                for p in members(opt):
                    p.grad *= 8
                opt.grad_scale = torch.tensor(8.0)
            opt.step()
            opt.__dict__.pop("grad_scale", None)
            repeated += opt.planner.again is not None
    assert repeated
    for p, q in zip(members(opt), members(plain), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)
