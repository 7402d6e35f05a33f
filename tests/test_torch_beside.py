"""fastgd.torch in what torch builds around optimizers: autograd, checkpoints, compilers, profiles."""

import gc
import threading
import weakref

import pytest
from torch_optim import (
    SHARED,
    TYPICAL,
    assert_same,
    contents,
    fgt,
    given,
    members,
    ours,
    parameters,
    run,
    theirs,
    through_a_file,
    torch,
)

from fastgd.rules import RULES

pytestmark = pytest.mark.peer


def small_model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2, bias=False))


def trained(model, opt, steps=3, first=0):
    for step in range(first, first + steps):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        opt.zero_grad()
        model(x).square().mean().backward()
        opt.step()


def fitting(name, model):
    """The parameters of a model that the rule is for."""
    return [p for p in model.parameters() if RULES[name].ndim in (None, p.ndim)]


@pytest.mark.parametrize("name", RULES)
def test_autograd_is_told_that_parameters_have_changed(name):
    """So a backward pass through what they were is an error and not a wrong number."""
    opt = ours(name)(parameters(name))
    given(members(opt), 0)
    versions = [p._version for p in members(opt)]
    loss = sum((p * p).sum() for p in members(opt))
    opt.step()
    assert all(p._version > version for p, version in zip(members(opt), versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("name", TYPICAL)
def test_no_gradient_is_kept_alive(name):
    """Whoever lets go of gradients after the step gets their memory back."""
    opt = ours(name)(parameters(name), **TYPICAL[name])
    for step in range(3):
        given(members(opt), step)
        arrays = [p.grad.numpy().copy() for p in members(opt)]
        for p, array in zip(members(opt), arrays, strict=True):
            p.grad = torch.from_numpy(array)
        gone = [
            weakref.ref(held)
            for p, array in zip(members(opt), arrays, strict=True)
            for held in (p.grad, array)
        ]
        opt.step()
        del p, array, arrays
        opt.zero_grad()
        gc.collect()
        assert all(ref() is None for ref in gone), step


@pytest.mark.parametrize("name", TYPICAL)
def test_an_optimizer_can_be_collected(name):
    """Nothing of it holds on to it or to its parameters."""
    opt = ours(name)(parameters(name), **TYPICAL[name])
    run(opt, steps=2)
    gone = [weakref.ref(opt), *(weakref.ref(p) for p in members(opt))]
    del opt
    gc.collect()
    assert all(ref() is None for ref in gone)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_step_within_any_mode_of_autograd(around):
    opt, plain = (ours("adamw")(parameters("adamw")) for _ in range(2))
    given(members(opt), 0)
    with around():
        opt.step()
    run(plain, steps=1)
    assert contents(opt) == contents(plain)
    assert all(p.requires_grad and p.is_leaf for p in members(opt))


@pytest.mark.parametrize("name", SHARED)
def test_the_initial_step_of_distributed_checkpoints(name):
    """torch makes state by a step with rate 0 and gradients of zeros: parameters stay what they are."""
    from torch.distributed.checkpoint.state_dict import _init_optim_state

    opt = ours(name)(parameters(name))
    kinds = opt.param_groups[0]["lr"]
    before = [p.detach().clone() for p in members(opt)]
    _init_optim_state(opt)
    assert all(torch.equal(p, q) for p, q in zip(members(opt), before, strict=True))
    right = theirs(name)(parameters(name))
    _init_optim_state(right)
    for p, q in zip(members(opt), members(right), strict=True):
        assert opt.state[p].keys() == right.state[q].keys()
    assert opt.param_groups[0]["lr"] == kinds
    assert all(p.grad is None for p in members(opt))


@pytest.mark.parametrize(
    "settings",
    [{}, {"state_dtype": "8bit"}, {"state_dtype": "bfloat16"}, {"ema_decay": 0.9}],
    ids=["plain", "8bit", "bfloat16", "average"],
)
@pytest.mark.parametrize("name", RULES)
def test_a_distributed_checkpoint_goes_on(name, settings):
    """By names of parameters, as get_optimizer_state_dict gives it, without a process group."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

    model = small_model()
    opt = ours(name)(fitting(name, model), **settings)
    trained(model, opt)
    saved = get_optimizer_state_dict(model, opt)
    other_model = small_model()
    other_model.load_state_dict(model.state_dict())
    other = ours(name)(fitting(name, other_model), **settings)
    set_optimizer_state_dict(other_model, other, through_a_file(saved))
    for m, o in ((model, opt), (other_model, other)):
        trained(m, o, first=3)
    assert contents(opt) == contents(other)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("name", TYPICAL)
# torch's compiler looks at attributes that warn when they are looked at
@pytest.mark.filterwarnings("ignore")
def test_a_compiled_training_step(name, backend):
    """The optimizer's part is run as it is; the numbers are those of the step that is not compiled."""
    torch.compiler.reset()
    model, plain = small_model(), small_model()
    opt, right = (ours(name)(m.parameters(), **TYPICAL[name]) for m in (model, plain))

    @torch.compile(backend=backend)
    def step(x):
        opt.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        opt.step()
        return loss

    for number in range(3):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(number))
        step(x)
        trained(plain, right, 1, number)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=0, atol=1e-6)
    torch.compiler.reset()


@pytest.mark.filterwarnings("ignore")
def test_a_compiled_step_of_the_optimizer_alone():
    """As torch's tutorial has it: torch.compile(opt.step)."""
    torch.compiler.reset()
    opt, plain = (ours("adamw")(parameters("adamw")) for _ in range(2))
    step = torch.compile(lambda: opt.step(), backend="eager")
    for number in range(3):
        given(members(opt), number)
        step()
    run(plain, steps=3)
    assert contents(opt) == contents(plain)
    torch.compiler.reset()


@pytest.mark.parametrize("name", RULES)
def test_profiles_name_the_step(name):
    opt = ours(name)(parameters(name))
    given(members(opt), 0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        opt.step()
        opt.zero_grad()
    title = RULES[name].title
    names = {event.key for event in profile.key_averages()}
    assert {f"Optimizer.step#{title}.step", f"Optimizer.zero_grad#{title}.zero_grad"} <= names


@pytest.mark.parametrize("name", TYPICAL)
@pytest.mark.parametrize("average", [None, 0.9], ids=["equal", "exponential"])
def test_averaged_models(name, average):
    """torch.optim.swa_utils: the average of what the parameters were after each step."""
    from torch.optim import swa_utils

    settings = {} if average is None else {"multi_avg_fn": swa_utils.get_ema_multi_avg_fn(average)}
    model = small_model()
    opt = ours(name)(model.parameters(), **TYPICAL[name])
    averaged = swa_utils.AveragedModel(model, **settings)
    seen = []
    for step in range(4):
        trained(model, opt, 1, step)
        averaged.update_parameters(model)
        seen.append([p.detach().clone() for p in model.parameters()])
    right = seen[0]
    for i, params in enumerate(seen[1:]):
        weight = 1 / (i + 2) if average is None else 1 - average
        right = [r.lerp(p, weight) for r, p in zip(right, params, strict=True)]
    for p, r in zip(averaged.module.parameters(), right, strict=True):
        torch.testing.assert_close(p.detach(), r, rtol=0, atol=1e-6)


def test_our_running_average_is_that_of_an_averaged_model():
    """ema_decay against AveragedModel, which begins with what its first update sees."""
    from torch.optim import swa_utils

    model = small_model()
    opt = ours("adamw")(model.parameters(), ema_decay=0.9)
    averaged = swa_utils.AveragedModel(model, multi_avg_fn=swa_utils.get_ema_multi_avg_fn(0.9))
    averaged.update_parameters(model)
    for step in range(4):
        trained(model, opt, 1, step)
        averaged.update_parameters(model)
    for p, q in zip(model.parameters(), averaged.module.parameters(), strict=True):
        torch.testing.assert_close(opt.state[p]["average"], q.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", TYPICAL)
def test_steps_in_two_threads(name):
    """Two optimizers at once; each goes the way that it goes alone."""
    opts = [ours(name)(parameters(name), **TYPICAL[name]) for _ in range(2)]
    errors = []

    def work(opt):
        try:
            run(opt, steps=50)
        except Exception as error:  # shown by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(opt,)) for opt in opts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    alone = ours(name)(parameters(name), **TYPICAL[name])
    run(alone, steps=50)
    assert contents(opts[0]) == contents(opts[1]) == contents(alone)


def test_a_gradient_hook_may_step_one_parameter():
    """As torch's tutorial frees gradients: an optimizer for each parameter, stepped in the backward pass."""
    model, plain = small_model(), small_model()
    opts = {p: fgt.AdamW([p]) for p in model.parameters()}

    def hook(p):
        opts[p].step()
        opts[p].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)
    right = fgt.AdamW(plain.parameters())
    for step in range(3):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        trained(plain, right, 1, step)
    for p, q in zip(model.parameters(), plain.parameters(), strict=True):
        assert_same(p, q)
        assert p.grad is None


def test_parameters_of_many_groups_and_keys_of_users_own():
    """A group for each parameter with keys that only the user knows, as timm and fairseq make them."""
    params, plain = parameters("adamw") * 1, parameters("adamw")
    opt = fgt.AdamW([{"params": p, "lr_scale": 0.5, "name": f"layer {i}"} for i, p in enumerate(params)])
    run(opt, steps=3)
    assert [group["lr_scale"] for group in opt.param_groups] == [0.5] * len(params)
    assert opt.state_dict()["param_groups"][1]["name"] == "layer 1"
    right = fgt.AdamW(plain)
    run(right, steps=3)
    for p, q in zip(params, plain, strict=True):
        assert_same(p, q)
