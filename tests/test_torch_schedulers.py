"""Every scheduler of torch.optim.lr_scheduler, on our optimizers and on torch's."""

import pytest
from torch_optim import (
    FOLLOWING,
    TYPICAL,
    assert_agree,
    copied,
    given,
    members,
    ours,
    parameters,
    single,
    theirs,
    torch,
)

import fastgd.torch
from fastgd import schedules
from fastgd.rules import RULES

lr_scheduler, swa_utils = torch.optim.lr_scheduler, torch.optim.swa_utils

pytestmark = pytest.mark.peer

#: class -> a scheduler of a dozen steps
SCHEDULERS = {
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 0.9**step),
    "MultiplicativeLR": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda step: 0.9),
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, 3, 0.5),
    "MultiStepLR": lambda opt: lr_scheduler.MultiStepLR(opt, [2, 5], 0.3),
    "ConstantLR": lambda opt: lr_scheduler.ConstantLR(opt, 0.1, 4),
    "LinearLR": lambda opt: lr_scheduler.LinearLR(opt, 0.1, 1.0, 5),
    "ExponentialLR": lambda opt: lr_scheduler.ExponentialLR(opt, 0.8),
    "SequentialLR": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.LinearLR(opt, 0.1, 1.0, 3), lr_scheduler.ExponentialLR(opt, 0.8)], [3]
    ),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 6),
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(opt, 0.1, 2), lr_scheduler.ExponentialLR(opt, 0.9)]
    ),
    "ReduceLROnPlateau": lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=1),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, 0.001, 0.05, 3),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 3),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, 0.05, total_steps=20),
    "PolynomialLR": lambda opt: lr_scheduler.PolynomialLR(opt, 8, 2.0),
    "SWALR": lambda opt: swa_utils.SWALR(opt, 0.05, 4),
}
STEPS = 9


def scheduled(name, scheduler, **settings):
    """Ours and torch's after some steps, each with a scheduler of its own."""
    start = parameters(name)
    pair = (
        ours(name)(copied(start), **settings),
        theirs(name)(copied(start), **single(theirs(name)), **settings),
    )
    clocks = [scheduler(opt) for opt in pair]
    seen = set()
    for step in range(STEPS):
        for opt, clock in zip(pair, clocks, strict=True):
            given(members(opt), step)
            opt.step()
            clock.step(*([1.0] if isinstance(clock, lr_scheduler.ReduceLROnPlateau) else []))
        assert_agree(*pair, name, start)
        groups = [{k: v for k, v in opt.param_groups[0].items() if k != "params"} for opt in pair]
        assert {key: groups[0][key] for key in groups[1] if key != "foreach"} == {
            key: value for key, value in groups[1].items() if key != "foreach"
        }
        seen.add(str(groups[1]))
    assert len(seen) > 1, "the scheduler changed nothing"
    return pair


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("name", TYPICAL)
def test_every_scheduler(name, scheduler):
    """CyclicLR and OneCycleLR move the momentum too, or betas."""
    scheduled(name, SCHEDULERS[scheduler], lr=0.02, **TYPICAL[name])


@pytest.mark.parametrize("name", FOLLOWING)
def test_a_scheduler_on_every_rule(name):
    scheduled(name, SCHEDULERS["LambdaLR"], lr=0.02)


@pytest.mark.parametrize("name", TYPICAL)
def test_a_rate_in_a_tensor_is_scheduled_in_place(name):
    rates = []

    def scheduler(opt):
        opt.param_groups[0]["lr"] = opt.param_groups[0]["lr"].clone()
        opt.param_groups[0].pop("initial_lr", None)
        rates.append(opt.param_groups[0]["lr"])
        return lr_scheduler.ExponentialLR(opt, 0.7)

    mine, _ = scheduled(name, scheduler, lr=torch.tensor(0.02), **TYPICAL[name])
    assert mine.param_groups[0]["lr"] is rates[0]
    assert float(rates[0]) == pytest.approx(0.02 * 0.7**STEPS)


@pytest.mark.parametrize("name", RULES)
def test_one_cycle_on_every_rule_that_has_momentum_or_betas(name):
    """Rules that torch has not, too: a step is made, and with the group's settings of the day."""
    opt = ours(name)(parameters(name))
    group = opt.param_groups[0]
    # torch's schedulers ask for these names
    cycles = "momentum" in opt.defaults or ("betas" in opt.defaults and len(group["betas"]) == 2)
    clock = lr_scheduler.OneCycleLR(opt, 0.01, total_steps=6, cycle_momentum=cycles)
    seen = set()
    for step in range(4):
        given(members(opt), step)
        opt.step()
        clock.step()
        seen.add((group["lr"], str(group.get("betas", group.get("momentum")))))
    assert len(seen) == 4


def test_a_scheduler_that_goes_before_the_step_is_warned_of():
    """torch notices by the step that it wraps."""
    opt = ours("adamw")(parameters("adamw"))
    clock = lr_scheduler.ExponentialLR(opt, 0.9)
    with pytest.warns(UserWarning, match="before"):
        clock.step()


def test_no_scheduler_of_torchs_is_missing():
    assert SCHEDULERS.keys() == {*lr_scheduler.__all__, "SWALR"} - {"LRScheduler"}


def test_a_schedule_of_fastgd_is_a_function_for_lambda_lr():
    schedule = schedules.OneCycle(0.1, 12)
    param = torch.nn.Parameter(torch.ones(3))
    opt = fastgd.torch.SGD([param], lr=1.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(opt, schedule)
    for step in range(12):
        assert opt.param_groups[0]["lr"] == schedule(step)
        param.grad = torch.ones(3)
        opt.step()
        scheduler.step()
    other = torch.optim.lr_scheduler.LambdaLR(fastgd.torch.SGD([param], lr=1.0), schedule)
    other.load_state_dict(scheduler.state_dict())
    assert other.get_last_lr() == [schedule(12)]


def test_a_schedule_as_lr_says_what_to_do():
    with pytest.raises(TypeError, match=r"LambdaLR\(opt, function\)"):
        fastgd.torch.AdamW([torch.nn.Parameter(torch.ones(3))], lr=schedules.Constant(0.1))
