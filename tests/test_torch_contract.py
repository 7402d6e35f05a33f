"""What torch.optim.Optimizer promises of steps and groups, kept by fastgd.torch: from PyTorch's own tests."""

import collections
import copy

import pytest
from torch_optim import (
    FOLLOWING,
    SHARED,
    TYPICAL,
    assert_agree,
    assert_same,
    contents,
    copied,
    fgt,
    given,
    members,
    ours,
    parameters,
    refusal,
    run,
    single,
    takes,
    theirs,
    torch,
)

from fastgd.rules import RULES

pytestmark = pytest.mark.peer


def pair(name, **settings):
    """Ours and torch's from the same start."""
    start = parameters(name)
    right = {**single(theirs(name)), **copy.deepcopy(settings)}
    return ours(name)(copied(start), **settings), theirs(name)(copied(start), **right)


@pytest.mark.parametrize("name", RULES)
def test_a_closure_is_called_once_with_gradients_on(name):
    opt = ours(name)(parameters(name))
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        opt.zero_grad()
        loss = sum((p * p).sum() for p in members(opt))
        loss.backward()
        return loss

    before = [p.detach().clone() for p in members(opt)]
    with torch.no_grad():
        loss = opt.step(closure)
    assert calls == [True]
    assert float(loss.detach()) == pytest.approx(float(sum((p * p).sum() for p in before)))
    assert all(not torch.equal(p, q) for p, q in zip(members(opt), before, strict=True))
    assert opt.step() is None


@pytest.mark.parametrize("name", SHARED)
def test_a_gradient_of_none_and_one_of_zeros(name):
    """None makes no state and no step; zeros make both, as decay and momentum want it."""
    for settings in ({}, {"weight_decay": 0.1} if takes(theirs(name), "weight_decay") else {}):
        mine, right = pair(name, **settings)
        for step in range(4):
            for opt in (mine, right):
                given(members(opt), step)
                members(opt)[0].grad = None
                members(opt)[1].grad = torch.zeros_like(members(opt)[1]) if step else None
                opt.step()
            assert_agree(mine, right, name)
        untouched = right.state.get(members(right)[0])  # Adagrad's is made with the optimizer
        assert bool(mine.state.get(members(mine)[0])) == bool(untouched)


@pytest.mark.parametrize("name", RULES)
def test_state_is_made_at_the_first_step(name):
    opt = ours(name)(parameters(name))
    at_once = name in SHARED and len(theirs(name)(parameters(name)).state)
    assert len(opt.state) == at_once
    opt.step()
    assert len(opt.state) == at_once
    assert all(p.grad is None and not opt.state.get(p, {}).get("step", 0) for p in members(opt))
    run(opt, steps=1)
    kept = {key for p in members(opt) for key in opt.state.get(p, {})}
    assert kept >= {slot.name for slot in RULES[name].slots if slot.switch is None and slot.over is None}


@pytest.mark.parametrize("name", RULES)
def test_maximize_climbs(name):
    up, down = (ours(name)(parameters(name), maximize=maximize) for maximize in (True, False))
    for step in range(3):
        for opt, sign in ((up, 1.0), (down, -1.0)):
            given(members(opt), step, sign)
            opt.step()
    for p, q in zip(members(up), members(down), strict=True):
        assert_same(p, q)


@pytest.mark.parametrize("name", FOLLOWING)
def test_a_tensor_as_rate_is_read_anew_at_each_step(name):
    mine, right = pair(name, lr=torch.tensor(0.01))
    for step in range(4):
        for opt in (mine, right):
            given(members(opt), step)
            opt.step()
            opt.param_groups[0]["lr"].mul_(0.5)
    assert_agree(mine, right, name)
    assert isinstance(mine.param_groups[0]["lr"], torch.Tensor)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_tensors_as_betas(name):
    """torch takes both as tensors of no dimension."""
    betas = torch.tensor(0.8, dtype=torch.float64), torch.tensor(0.95, dtype=torch.float64)
    mine, right = pair(name, lr=torch.tensor(0.01), betas=betas)
    run(mine, right)
    assert_agree(mine, right, name)


@pytest.mark.parametrize("name", FOLLOWING)
def test_settings_are_read_from_the_group_at_every_step(name):
    mine, right = pair(name)
    for step in range(6):
        for opt in (mine, right):
            group = opt.param_groups[0]
            group["lr"] = 0.01 * (step + 1)
            if "weight_decay" in group:
                group["weight_decay"] = 0.1 * (step % 2)
            if "maximize" in group:
                group["maximize"] = step == 3
            given(members(opt), step)
            opt.step()
        assert_agree(mine, right, name)


@pytest.mark.parametrize("name", SHARED)
def test_parameters_freeze_and_thaw(name):
    """A frozen parameter gets no gradient; it goes on from its own count of steps."""
    mine, right = pair(name)
    for step in range(6):
        for opt in (mine, right):
            last = members(opt)[-1].requires_grad_(step not in (1, 2))
            given(members(opt), step)
            if not last.requires_grad:
                last.grad = None
            opt.step()
        assert_agree(mine, right, name)


@pytest.mark.parametrize("name", SHARED)
def test_groups_that_differ_and_one_that_comes_later(name):
    start = parameters(name)
    opts = []
    for cls, settings in ((ours(name), {}), (theirs(name), single(theirs(name)))):
        params = copied(start)
        opt = cls([{"params": params[:1], "lr": 0.1}, {"params": params[1:-1]}], lr=0.02, **settings)
        run(opt, steps=2)
        opt.add_param_group({"params": params[-1], "lr": 0.3})
        run(opt, steps=3, first=2)
        opts.append(opt)
    assert [group["lr"] for group in opts[0].param_groups] == [0.1, 0.02, 0.3]
    assert_agree(*opts, name, start)


@pytest.mark.parametrize("name", SHARED)
def test_groups_that_are_refused_at_a_later_time(name):
    def errors(cls):
        params = parameters(name)
        opt = cls(params[:1])
        wrong = [
            {"params": params[0]},
            {"params": {params[1]}},
            {"params": [1.0]},
            {"params": [params[1] * 2]},
            [params[1]],
            {"lr": 0.1},
        ]
        return [refusal(lambda: opt.add_param_group(group)) for group in wrong]  # noqa: B023

    assert errors(ours(name)) == errors(theirs(name))


@pytest.mark.parametrize("name", TYPICAL)
def test_parameters_by_name(name):
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    mine, right = (cls(model.named_parameters()) for cls in (ours(name), theirs(name)))
    assert mine.param_groups[0]["param_names"] == right.param_groups[0]["param_names"]
    mine, right = pair(name)
    named = [(f"p{i}", p) for i, p in enumerate(members(mine))]
    mine = ours(name)([{"params": named[:2], "lr": 0.1}, {"params": named[2:]}])
    assert [group["param_names"] for group in mine.param_groups] == [["p0", "p1"], ["p2", "p3"]]
    assert mine.state_dict()["param_groups"][0]["param_names"] == ["p0", "p1"]
    run(mine, steps=1)
    assert refusal(lambda: mine.add_param_group({"params": parameters(name)}))[0] is ValueError


@pytest.mark.parametrize("name", TYPICAL)
def test_hooks_of_one_and_of_all(name):
    """In torch's order, with the arguments of the step, and gone once they are removed."""
    from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

    opt = ours(name)(parameters(name))
    seen = []

    def hook(label):
        return lambda opt, args, kwargs: seen.append((label, type(opt), len(args), sorted(kwargs)))

    handles = [
        opt.register_step_pre_hook(hook("pre")),
        opt.register_step_post_hook(hook("post")),
        register_optimizer_step_pre_hook(hook("all pre")),
        register_optimizer_step_post_hook(hook("all post")),
    ]
    given(members(opt), 0)
    opt.step()
    opt.step(lambda: 1.0)
    labels = ["all pre", "pre", "post", "all post"]
    assert seen == [(label, type(opt), count, []) for count in (1, 2) for label in labels]
    for handle in handles:
        handle.remove()
    opt.step()
    assert len(seen) == 8


@pytest.mark.parametrize("name", TYPICAL)
def test_a_hook_before_the_step_may_change_gradients_and_arguments(name):
    """Gradients are looked at after it."""
    opts = [ours(name)(parameters(name), **TYPICAL[name]) for _ in range(2)]
    opts[0].register_step_pre_hook(lambda opt, args, kwargs: given(members(opt), 7))
    opts[0].register_step_pre_hook(lambda opt, args, kwargs: ((opt, lambda: 5.0), {}))
    assert opts[0].step() == 5.0
    given(members(opts[1]), 7)
    opts[1].step()
    assert contents(opts[0]) == contents(opts[1])


@pytest.mark.parametrize("name", RULES)
def test_zero_grad(name):
    opt = ours(name)(parameters(name))
    given(members(opt), 0)
    opt.zero_grad(set_to_none=False)
    assert all(not p.grad.any() for p in members(opt))
    opt.zero_grad()
    assert all(p.grad is None for p in members(opt))


@pytest.mark.parametrize("name", SHARED)
def test_the_text_of_an_optimizer_names_its_groups(name):
    text = repr(ours(name)([{"params": parameters(name)}, {"params": parameters(name), "lr": 0.5}]))
    assert text.startswith(f"{RULES[name].title} (\nParameter Group 0\n")
    assert "Parameter Group 1" in text and "    lr: 0.5\n" in text


@pytest.mark.parametrize("name", TYPICAL)
def test_state_may_be_taken_away_and_replaced(name):
    """As users do who start momentum anew, or exchange a parameter: the state is what opt.state says."""
    mine, right = pair(name, **TYPICAL[name])
    run(mine, right, steps=2)
    for opt in (mine, right):
        opt.state.clear()
    run(mine, right, steps=2, first=2)
    assert_agree(mine, right, name)
    for opt in (mine, right):
        for entry in opt.state.values():
            for key, value in entry.items():
                entry[key] = value.clone() * (2 if key != "step" else 1)
    run(mine, right, steps=2, first=4)
    assert_agree(mine, right, name)
    for opt in (mine, right):
        old = members(opt)[0]
        new = torch.nn.Parameter(old.detach() * 0.5)
        opt.param_groups[0]["params"][0] = new
        opt.state[new] = opt.state.pop(old)
    run(mine, right, steps=2, first=6)
    assert_agree(mine, right, name)


@pytest.mark.parametrize("name", TYPICAL)
def test_storage_of_parameters_may_be_exchanged(name):
    """As by model.to() and p.data = ...: pointers are looked at in every step."""
    mine, right = pair(name, **TYPICAL[name])
    run(mine, right, steps=2)
    for opt in (mine, right):
        kept = [p.data for p in members(opt)]
        for p in members(opt):
            p.data = p.data.clone()
        run(opt, steps=2, first=2)
        assert all(not torch.equal(p, q) for p, q in zip(members(opt), kept, strict=True))
    assert_agree(mine, right, name)


def test_a_model_learns_with_every_rule():
    """With the rate it has by default the loss of a small model falls."""
    x, y = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 3
    losses = collections.defaultdict(list)
    for name, rule in RULES.items():
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.Tanh(), torch.nn.Linear(16, 3))
        params = [p for p in model.parameters() if rule.ndim in (None, p.ndim)]
        opt = getattr(fgt, rule.title)(params)
        for _ in range(40):
            loss = torch.nn.functional.cross_entropy(model(x), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
            losses[name].append(float(loss.detach()))
    assert all(curve[-1] < curve[0] for curve in losses.values()), dict(losses)
