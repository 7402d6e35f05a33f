"""Steps of fastgd.torch in which other parameters have gradients than in the step before, or other ones.

A plan is arranged for them; that must make the steps of a plan that is made anew, bit for bit, and be rare.
"""

import random

import pytest
from torch_optim import (
    RULES,
    SHARED,
    assert_agree,
    assert_same,
    copied,
    fgt,
    members,
    noise,
    ours,
    parameters,
    single,
    theirs,
    torch,
)

pytestmark = pytest.mark.peer

STEPS = 12


def counted(opt):
    """Has the optimizer note the plans that it makes; the list of their numbers of parameters."""
    made = []
    make = opt.planner._new_plan

    def noted(*arguments):
        plan = make(*arguments)
        made.append(len(plan.planned))
        return plan

    opt.planner._new_plan = noted
    return made


def patterns(count, seed):
    """Which of so many parameters have gradients, in each step."""
    draw = random.Random(seed)
    everything = [True] * count
    return [everything, *([draw.random() < 0.5 for _ in range(count)] for _ in range(STEPS - 1))]


def give(params, pattern, step):
    for i, (p, has) in enumerate(zip(params, pattern, strict=True)):
        p.grad = noise(p.shape, 1000 * step + i, p.dtype) if has else None


def both(name, many, **settings):
    """Two of ours with the same parameters, the second of which makes a new plan for every step."""
    start = [torch.nn.Parameter(p.detach().clone()) for _ in range(many) for p in parameters(name)]
    opts = [ours(name)(copied(start), **settings) for _ in range(2)]
    opts[1].register_step_pre_hook(lambda opt, args, kwargs: opt.planner.forget())
    return opts


def assert_bits(first, second):
    for p, q in zip(members(first), members(second), strict=True):
        assert_same(p, q)
        assert first.state.get(p, {}).keys() == second.state.get(q, {}).keys()
        for key, value in first.state.get(p, {}).items():
            assert_same(value, second.state[q][key], key)


@pytest.mark.parametrize("backend", ["native", "jit", "reference"])
@pytest.mark.parametrize("name", RULES)
def test_bits_of_a_new_plan(name, backend):
    if backend == "jit" and not (RULES[name].elementwise and RULES[name].factored is None):
        pytest.skip("the jit backend has rules of single elements")
    arranged, anew = both(name, 2, clip_norm=0.5, backend=backend)
    made = counted(arranged)
    for step, pattern in enumerate(patterns(len(members(arranged)), 1)):
        for opt in (arranged, anew):
            give(members(opt), pattern, step)
            opt.step()
    assert_bits(arranged, anew)
    assert len(made) == 1 or backend == "reference"


@pytest.mark.parametrize("name", SHARED)
def test_as_torch(name):
    start = parameters(name)
    opts = ours(name)(copied(start)), theirs(name)(copied(start), **single(theirs(name)))
    made = counted(opts[0])
    for step, pattern in enumerate(patterns(len(start), 2)):
        for opt in opts:
            give(members(opt), pattern, step)
            opt.step()
    assert_agree(*opts, name)
    assert made == [len(start)]


@pytest.mark.parametrize(
    "settings",
    [
        {"state_dtype": "8bit"},
        {"state_dtype": "bfloat16", "rounding": "stochastic", "state_rounding": "stochastic"},
        {"rounding": "split", "ema_decay": 0.9},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_bits_of_a_new_plan_in_other_precision(settings):
    start = [torch.nn.Parameter(noise((300,), i).bfloat16()) for i in range(6)]
    arranged, anew = (fgt.Adam(copied(start), seed=3, skip_nonfinite=True, **settings) for _ in range(2))
    anew.register_step_pre_hook(lambda opt, args, kwargs: opt.planner.forget())
    made = counted(arranged)
    for step, pattern in enumerate(patterns(6, 3)):
        for opt in (arranged, anew):
            give(members(opt), pattern, step)
            if step % 5 == 4 and any(pattern):
                members(opt)[pattern.index(True)].grad[7] = float("nan")
            opt.step()
        assert arranged.report == anew.report or step % 5 == 4
        assert arranged.report.skipped == anew.report.skipped == (step % 5 == 4 and any(pattern))
        if arranged.report.skipped:
            assert arranged.report.nonfinite[:4] == anew.report.nonfinite[:4]
            assert arranged.report.nonfinite.parameter == pattern.index(True)
    assert_bits(arranged, anew)
    assert made == [6]


def test_parameters_that_come_one_by_one():
    """Each makes a plan, in which those stay that have no gradient then."""
    arranged, anew = both("adamw", 3)
    made = counted(arranged)
    for step in range(2 * len(members(arranged))):
        pattern = [i == step % len(members(arranged)) for i in range(len(members(arranged)))]
        for opt in (arranged, anew):
            give(members(opt), pattern, step)
            opt.step()
    assert_bits(arranged, anew)
    assert made == [1 + i for i in range(len(members(arranged)))]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_gradients_in_another_layout(name):
    """Transposed, contiguous, of half the width, over a part of something else, and the parameter itself."""
    shape = (6, 8)

    def transposed(i):
        return noise(shape[::-1], i).t()

    def part(i):
        return noise((6, 20), i)[:, 3:19:2]

    kinds = [lambda i: noise(shape, i), transposed, part]
    start = [torch.nn.Parameter(noise(shape, 90 + i)) for i in range(4)]
    arranged, anew = (ours(name)(copied(start), clip_norm=1.0) for _ in range(2))
    anew.register_step_pre_hook(lambda opt, args, kwargs: opt.planner.forget())
    made = counted(arranged)
    for step in range(STEPS):
        for opt in (arranged, anew):
            for i, p in enumerate(members(opt)):
                p.grad = kinds[(step + i * step) % 3](100 * step + i)
            if step % 4 == 3:
                members(opt)[2].grad = members(opt)[2].detach()
            opt.step()
    assert_bits(arranged, anew)
    assert made == [4]


def test_a_gradient_that_comes_to_touch_a_parameter():
    """It is read as it was before the step, which writes over it."""
    opts, bases = [], []
    for _ in range(2):
        bases.append(noise((70,), 5))
        params = [torch.nn.Parameter(bases[-1][:60]), torch.nn.Parameter(noise((60,), 6))]
        opts.append(fgt.AdamW(params, lr=0.1, clip_norm=1.0))
    for step in range(6):
        for opt, base, copies in zip(opts, bases, (False, True), strict=True):
            give(members(opt), [True, True], step)
            if step > 1:
                shifted = base[step : step + 60]
                members(opt)[step % 2].grad = shifted.clone() if copies else shifted
            opt.step()
    assert_bits(*opts)


def test_a_gradient_that_touches_state():
    opts = []
    for copies in (False, True):
        opt = fgt.SGD(
            [torch.nn.Parameter(noise((60,), 5)), torch.nn.Parameter(noise((60,), 6))], momentum=0.9
        )
        give(members(opt), [True, True], 0)
        opt.step()
        entry = opt.state[members(opt)[0]]
        memory = torch.cat([noise((6,), 7), entry["momentum_buffer"]])
        entry["momentum_buffer"] = memory[6:]
        for step in range(1, 4):
            give(members(opt), [True, True], step)
            members(opt)[1].grad = memory[:60].clone() if copies else memory[:60]
            opt.step()
        opts.append(opt)
    assert_bits(*opts)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("kind", ["transposed", "expanded", "gaps"])
def test_a_gradient_that_lies_like_one_that_had_to_be_copied(kind, clip_norm):
    lying = {
        "transposed": lambda flat: flat[:12].view(4, 3).t(),
        "expanded": lambda flat: flat[:3].view(3, 1).expand(3, 4),
        "gaps": lambda flat: flat[:24].view(3, 8)[:, ::2],
    }[kind]
    opts = []
    for copies in (False, True):
        memory = noise((24,), 5)
        opt = fgt.SGD([torch.nn.Parameter(memory[:12].view(4, 3).t())], clip_norm=clip_norm)
        for grad in (lying(memory), lying(noise((24,), 6)), lying(memory), lying(noise((24,), 7))):
            members(opt)[0].grad = grad.clone() if copies else grad
            opt.step()
        opts.append(opt)
    assert_bits(*opts)


@pytest.mark.parametrize(("name", "settings"), [("sgd", {}), ("sgd", {"momentum": 0.9}), ("adagrad", {})])
def test_sparse_gradients_beside_dense_ones(name, settings):
    """By rows where that is the same step; other rows in every step, at times none, at times all."""
    with torch.sparse.check_sparse_tensor_invariants():
        check_sparse_gradients_beside_dense_ones(name, settings)


def check_sparse_gradients_beside_dense_ones(name, settings):
    opts = []  # torch's SGD can't take a dense gradient into the momentum of a sparse one
    beside = [] if settings else [(theirs(name), single(theirs(name)))]
    for cls, more in ((ours(name), {}), (ours(name), {}), *beside):
        table, weight = torch.nn.Parameter(noise((9, 4), 1)), torch.nn.Parameter(noise((5, 5), 2))
        opts.append(cls([table, weight], lr=0.1, **settings, **more))
    opts[1].register_step_pre_hook(lambda opt, args, kwargs: opt.planner.forget())
    made = counted(opts[0])
    for step in range(STEPS):
        for opt in opts:
            table, weight = members(opt)
            rows = torch.arange(step % 3, 9, 1 + step % 4)
            values = noise((len(rows), 4), 10 * step)
            table.grad = torch.sparse_coo_tensor(rows[None], values, (9, 4))
            if step % 4 == 2:
                table.grad = table.grad.to_dense()
            if step % 5 == 3:
                table.grad = None
            weight.grad = noise((5, 5), 500 + step) if step % 3 else None
            opt.step()
    assert_bits(opts[0], opts[1])
    for p, q in zip(members(opts[0]), members(opts[-1]), strict=True):
        torch.testing.assert_close(p, q)
    assert len(made) == 2  # the first plan has the table alone


def test_groups_that_become_alike_and_differ_again():
    start = [torch.nn.Parameter(noise((17,), i)) for i in range(6)]
    groups = [{"params": [p], "lr": 0.01} for p in copied(start)], [{"params": [p]} for p in copied(start)]
    arranged, anew = fgt.AdamW(groups[0]), fgt.AdamW(groups[1], lr=0.01)
    anew.register_step_pre_hook(lambda opt, args, kwargs: opt.planner.forget())
    made = counted(arranged)
    for step in range(STEPS):
        for opt in (arranged, anew):
            for i, group in enumerate(opt.param_groups):
                group["lr"] = 0.01 * (1 + (i * step) % 3)
                group["weight_decay"] = 0.1 if i == step % 2 else 0.0
            give(members(opt), [True] * 6, step)
            opt.step()
    assert_bits(arranged, anew)
    assert made == [6]


def test_what_is_wrong_with_a_parameter_without_a_gradient_is_no_matter():
    """It was in a plan, so it would be in the next one."""
    opt = fgt.AdamW([torch.nn.Parameter(noise((5,), i)) for i in range(4)])
    first, second, third, fourth = members(opt)
    give(members(opt), [True] * 4, 0)
    opt.step()
    second.data = torch.zeros(1).expand(5)
    third.data = first.data
    opt.state.pop(fourth)
    before = first.detach().clone()
    give(members(opt), [True, False, False, False], 1)
    opt.step()
    assert not torch.equal(before, first)
    assert fourth not in opt.state or not opt.state[fourth]
    give(members(opt), [True, False, True, False], 2)
    with pytest.raises(ValueError, match="share memory"):
        opt.step()


def test_an_error_in_a_gradient_leaves_all_as_it_was_and_the_next_step_right():
    arranged, anew = both("adamw", 2)
    for step in range(3):
        for opt in (arranged, anew):
            give(members(opt), [True] * 8, step)
            opt.step()
    before = [p.detach().clone() for p in members(arranged)]
    give(members(arranged), [True, False] * 4, 3)
    members(arranged)[4].grad = torch.sparse_coo_tensor(
        [[0]], torch.ones(1, 3), (4, 3), check_invariants=True
    )
    with pytest.raises(RuntimeError, match="does not support sparse gradients"):
        arranged.step()
    for p, q in zip(members(arranged), before, strict=True):
        assert_same(p, q)
    for step in (4, 5):
        for opt in (arranged, anew):
            give(members(opt), [False, True] * 4, step)
            opt.step()
    assert_bits(arranged, anew)
