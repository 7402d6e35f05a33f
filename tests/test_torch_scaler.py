"""fastgd.torch with torch.amp.GradScaler, and what fastgd does in a step beside it: clipping and skipping."""

import copy
import math

import pytest
from torch_optim import (
    SHARED,
    TYPICAL,
    assert_agree,
    contents,
    copied,
    given,
    members,
    noise,
    ours,
    parameters,
    run,
    single,
    theirs,
    torch,
)

from fastgd.rules import RULES

pytestmark = pytest.mark.peer


def scaler_of(**settings):
    return torch.amp.GradScaler("cpu", **{"init_scale": 2.0**10, "growth_interval": 3, **settings})


def scaled(scaler, opt, step, wrong=None, unscale=False, update=True):
    """A step on gradients that a scaled loss gave. wrong: what stands in one element of the last gradient."""
    opt.zero_grad()
    directions = [noise(p.shape, 1000 * (step + 1) + i, p.dtype) for i, p in enumerate(members(opt))]
    if wrong is not None:
        directions[-1].view(-1)[-1] = wrong
    loss = sum((p * d).sum() for p, d in zip(members(opt), directions, strict=True))
    scaler.scale(loss).backward()
    if unscale:
        scaler.unscale_(opt)
    scaler.step(opt)
    if update:
        scaler.update()


@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale_"])
@pytest.mark.parametrize("name", RULES)
def test_the_scale_leaves_no_trace(name, unscale):
    """It is a power of two: the bits are those of a step without it."""
    opt, plain = ours(name)(parameters(name)), ours(name)(parameters(name))
    scaler = scaler_of()
    for step in range(5):
        scaled(scaler, opt, step, unscale=unscale)
        run(plain, steps=1, first=step)
    assert contents(opt) == contents(plain)
    assert scaler.get_scale() == 2.0**11
    assert not hasattr(opt, "grad_scale") or opt.grad_scale is None


@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale_"])
@pytest.mark.parametrize("wrong", [math.inf, math.nan])
@pytest.mark.parametrize("name", RULES)
def test_gradients_that_are_not_finite_skip_the_step(name, wrong, unscale):
    """Nothing has changed, counters included; the scale is halved."""
    opt, scaler = ours(name)(parameters(name)), scaler_of()
    for step in range(4):
        before = contents(opt)
        bad = step in (0, 2)
        scaled(scaler, opt, step, wrong if bad else None, unscale)
        assert (contents(opt) == before) == bad
    assert scaler.get_scale() == 2.0**8


@pytest.mark.parametrize("unscale", [False, True], ids=["", "unscale_"])
@pytest.mark.parametrize("name", SHARED)
def test_beside_torch_with_a_scaler(name, unscale):
    start = parameters(name)
    pair = ours(name)(copied(start)), theirs(name)(copied(start), **single(theirs(name)))
    scalers = scaler_of(), scaler_of()
    for step in range(8):
        for scaler, opt in zip(scalers, pair, strict=True):
            scaled(scaler, opt, step, math.inf if step == 4 else None, unscale)
        assert scalers[0].get_scale() == scalers[1].get_scale()
        assert_agree(*pair, name, start)


@pytest.mark.parametrize("name", TYPICAL)
def test_scaled_gradients_are_clipped_by_their_true_norm(name):
    opt, plain = (ours(name)(parameters(name), clip_norm=0.7, **TYPICAL[name]) for _ in range(2))
    scaler = scaler_of()
    for step in range(4):
        scaled(scaler, opt, step, unscale=step % 2 == 1)
        run(plain, steps=1, first=step)
        assert opt.report.grad_norm == plain.report.grad_norm > 0.7
        assert opt.report.clip_coef == plain.report.clip_coef < 1
    assert contents(opt) == contents(plain)


@pytest.mark.parametrize("name", TYPICAL)
def test_torchs_recipe_of_clipping_between_unscaling_and_step(name):
    """unscale_, clip_grad_norm_, step."""
    start = parameters(name)
    pair = [
        ours(name)(copied(start), **TYPICAL[name]),
        theirs(name)(copied(start), foreach=False, **TYPICAL[name]),
    ]
    for opt in pair:
        scaler = scaler_of()
        for step in range(3):
            given(members(opt), step)
            for p in members(opt):
                p.grad = scaler.scale(p.grad)
            scaler.unscale_(opt)
            torch.nn.utils.clip_grad_norm_(members(opt), 0.5)
            scaler.step(opt)
            scaler.update()
    assert_agree(*pair, name)


def test_of_two_optimizers_only_the_one_with_an_infinity_is_skipped():
    scaler = scaler_of()
    first, second = ours("adamw")(parameters("adamw")), ours("sgd")(parameters("sgd"), momentum=0.9)
    before = contents(first), contents(second)
    scaled(scaler, first, 0, math.inf, update=False)
    scaled(scaler, second, 0, update=False)
    scaler.update()
    assert contents(first) == before[0]
    assert contents(second) != before[1]


def test_a_scaler_that_is_off():
    opt, plain = ours("adamw")(parameters("adamw")), ours("adamw")(parameters("adamw"))
    scaled(scaler_of(enabled=False), opt, 0)
    run(plain, steps=1)
    assert contents(opt) == contents(plain)


def test_a_scaled_step_is_copied_afterwards():
    """What the scaler leaves at an optimizer is in no copy and no state."""
    opt, scaler = ours("adamw")(parameters("adamw")), scaler_of()
    scaled(scaler, opt, 0)
    other = copy.deepcopy(opt)
    scaled(scaler, opt, 1)
    scaled(scaler_of(), other, 1)
    assert contents(opt) == contents(other)


@pytest.mark.parametrize("name", SHARED)
def test_clipping_in_the_step_is_torchs_before_it(name):
    """And leaves the gradients as they are."""
    start = parameters(name)
    mine = ours(name)(copied(start), clip_norm=0.6)
    right = theirs(name)(copied(start), **single(theirs(name)))
    for step in range(4):
        for opt in (mine, right):
            given(members(opt), step)
        kept = [p.grad.clone() for p in members(mine)]
        norm = torch.nn.utils.clip_grad_norm_(members(right), 0.6)
        mine.step()
        right.step()
        assert all(torch.equal(p.grad, g) for p, g in zip(members(mine), kept, strict=True))
        assert mine.report.grad_norm == pytest.approx(float(norm), rel=1e-6)
    assert_agree(mine, right, name, start)


def test_clipping_by_value_in_the_step():
    start = parameters("adamw")
    mine = ours("adamw")(copied(start), clip_value=0.3)
    right = theirs("adamw")(copied(start), foreach=False)
    for step in range(4):
        for opt in (mine, right):
            given(members(opt), step)
        torch.nn.utils.clip_grad_value_(members(right), 0.3)
        mine.step()
        right.step()
    assert_agree(mine, right, "adamw", start)


def test_the_limit_may_be_changed_at_any_time():
    """As schedules of clipping do."""
    opt = ours("sgd")(parameters("sgd"))
    given(members(opt), 0)
    opt.step()
    assert opt.report.clip_coef == 1.0
    for limit in (0.5, 0.25):
        opt.clip_norm = limit
        opt.step()
        assert opt.report.clip_coef == pytest.approx(limit / (opt.report.grad_norm + 1e-6))
    opt.clip_norm = None
    opt.step()
    assert opt.report.clip_coef == 1.0


@pytest.mark.parametrize("name", RULES)
def test_a_gradient_that_is_not_finite_may_skip_the_step(name):
    """It is named by its parameter group, parameter and element."""
    opt = ours(name)(parameters(name), skip_nonfinite=True)
    run(opt, steps=2)
    assert not opt.report.skipped
    given(members(opt), 2)
    members(opt)[1].grad.view(-1)[-1] = math.nan
    before = contents(opt)
    opt.step()
    assert contents(opt) == before
    assert opt.report.skipped
    found = opt.report.nonfinite
    assert (found.group, found.parameter) == (0, 1)
    assert math.isnan(members(opt)[1].grad[found.element])
