"""What users move, exchange and write between the steps of fastgd.torch is seen at the next one."""

import gc
import weakref

import numpy as np
import pytest
from torch_optim import fgt, torch

from fastgd.backends import native
from fastgd.torch.watch import STEPS

pytestmark = pytest.mark.peer


def parameters(count=3, size=40):
    generator = torch.Generator().manual_seed(7)
    return [torch.nn.Parameter(torch.randn(size, generator=generator)) for _ in range(count)]


def step(opt, params, number):
    generator = torch.Generator().manual_seed(number)
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    opt.step()


def pair(name, **settings):
    """Ours and torch's with the same parameters."""
    sides = []
    for library, more in ((fgt, {}), (torch.optim, {"foreach": False})):
        params = parameters()
        sides.append((getattr(library, name)(params, **settings, **more), params))
    return sides


def assert_alike(sides):
    (mine, own), (right, others) = sides
    for p, q in zip(own, others, strict=True):
        torch.testing.assert_close(p, q)
        assert mine.state[p].keys() == right.state[q].keys()
        for key, value in right.state[q].items():
            torch.testing.assert_close(mine.state[p][key], value, check_dtype=False)


def shared(opt, p):
    for value in opt.state[p].values():
        value.share_memory_()


def given_data(opt, p):
    for key in ("exp_avg", "exp_avg_sq"):
        opt.state[p][key].data = opt.state[p][key].detach().clone() * 0.5


def set_anew(opt, p):
    opt.state[p]["exp_avg"].set_(torch.ones(p.shape))


@pytest.mark.parametrize("move", [shared, given_data, set_anew], ids=lambda move: move.__name__)
def test_state_with_other_memory(move):
    sides = pair("AdamW", lr=0.01)
    for opt, params in sides:
        for number in range(3):
            step(opt, params, number)
        move(opt, params[1])
        for number in range(3, 6):
            step(opt, params, number)
    assert_alike(sides)


@pytest.mark.parametrize("order", [[2, 1, 0], [1, 2, 0]])
@pytest.mark.parametrize("name", ["AdamW", "NAdam"])
def test_parameters_that_change_places(name, order):
    sides = pair(name, lr=0.01)
    for opt, params in sides:
        for number in range(3):
            step(opt, params[: number + 1], number)
            for p in params:
                p.grad = None
        opt.param_groups[0]["params"][:] = [params[k] for k in order]
        step(opt, params, 3)
    assert_alike(sides)


@pytest.mark.parametrize("noted", [False, True], ids=["", "with another key"])
def test_a_list_of_parameters_that_is_exchanged(noted):
    sides = pair("AdamW", lr=0.01)
    for opt, params in sides:
        for number in range(3):
            step(opt, params, number)
        if noted:
            opt.param_groups[0]["note"] = 1
        opt.param_groups[0]["params"] = params[1:]
        step(opt, params, 3)
        step(opt, params, 4)
    assert_alike(sides)


def test_numbers_written_into_the_state():
    sides = pair("NAdam", lr=0.01)
    for opt, params in sides:
        for number in range(2):
            step(opt, params, number)
        opt.state[params[0]]["mu_product"].fill_(1.0)
        opt.state[params[1]]["step"].zero_()
        step(opt, params[:1] + params[2:], 2)
        step(opt, params, 3)
    assert_alike(sides)


def test_the_step_of_a_parameter_without_a_gradient_stays_as_it_was_written():
    opt = fgt.AdamW(params := parameters())
    step(opt, params, 0)
    params[1].grad = None
    opt.state[params[1]]["step"].zero_()
    opt.step()
    assert [float(opt.state[p]["step"]) for p in params] == [2, 0, 2]


def test_a_rate_that_becomes_a_tensor():
    sides = pair("SGD", lr=0.1)
    for opt, params in sides:
        step(opt, params, 0)
        opt.param_groups[0]["lr"] = torch.tensor(0.2)
        step(opt, params, 1)
        opt.param_groups[0]["lr"].fill_(0.0)
        before = [p.detach().clone() for p in params]
        step(opt, params, 2)
        torch.testing.assert_close([p.detach() for p in params], before, rtol=0, atol=0)


def test_a_rate_in_an_array_that_is_written():
    opt = fgt.SGD(parameters(), lr=0.1)
    own = opt.param_groups[0]["params"]
    opt.param_groups[0]["lr"] = np.array(0.1)
    step(opt, own, 0)
    opt.param_groups[0]["lr"][...] = 0
    before = [p.detach().clone() for p in own]
    step(opt, own, 1)
    torch.testing.assert_close([p.detach() for p in own], before, rtol=0, atol=0)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_parameter_in_less_memory(clip_norm):
    """Nothing holds it to what it was, neither for the backward pass nor for torch.utils.swap_tensors."""
    opt = fgt.SGD(parameters(2), lr=0.1, clip_norm=clip_norm)
    own = opt.param_groups[0]["params"]
    for size in (40, 30, 30):
        own[0].data = own[0].data[:size].clone()
        opt.zero_grad()
        sum((p * p).sum() for p in own).backward()
        opt.step()
    torch.utils.swap_tensors(own[1], torch.nn.Parameter(torch.ones(5)))
    opt.zero_grad()
    sum((p * p).sum() for p in own).backward()
    opt.step()
    assert [p.shape for p in own] == [(30,), (5,)] and (own[1] < 1).all()


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_backend_that_does_not_fetch(clip_norm, monkeypatch):
    """Gradients are looked at all the same."""
    opts = [fgt.Adam(parameters(), clip_norm=clip_norm) for _ in range(2)]
    for number in range(4 * STEPS):
        step(opts[0], opts[0].param_groups[0]["params"], number)
    monkeypatch.setattr(native.Step, "fetching", lambda self, options, fetch: None)
    for number in range(4 * STEPS):
        step(opts[1], opts[1].param_groups[0]["params"], number)
    for p, q in zip(*(opt.param_groups[0]["params"] for opt in opts), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=0)


def test_betas_in_a_list_that_is_written():
    sides = pair("Adam", lr=0.01)
    for opt, params in sides:
        opt.param_groups[0]["betas"] = [0.9, 0.99]
        step(opt, params, 0)
        opt.param_groups[0]["betas"][0] = 0.1
        step(opt, params, 1)
    assert_alike(sides)


def test_what_others_keep_in_groups_is_no_matter():
    import numpy as np

    opt = fgt.AdamW(params := parameters())
    for number in range(3):
        opt.param_groups[0]["note"] = np.arange(3) + number
        step(opt, params, number)
    assert float(opt.state[params[0]]["step"]) == 3


def test_a_value_that_is_taken_out_of_a_group_is_missed():
    """As by torch; also where another key comes with the same value in its place."""
    opt = fgt.AdamW(params := parameters())
    step(opt, params, 0)
    name = list(opt.param_groups[0])[-1]
    opt.param_groups[0]["note"] = opt.param_groups[0].pop(name)
    with pytest.raises(KeyError, match=name):
        step(opt, params, 1)


def test_groups_may_have_any_mapping_of_states():
    from collections import UserDict

    class States(UserDict):
        def __missing__(self, key):
            return self.setdefault(key, {})

    opt = fgt.AdamW(params := parameters())
    step(opt, params, 0)
    opt.state = States(opt.state)
    step(opt, params, 1)
    step(opt, params, 2)
    assert float(opt.state[params[0]]["step"]) == 3


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_sparse_gradient_and_then_none(momentum):
    sides = []
    for library in (fgt, torch.optim):
        table, weight = torch.nn.Parameter(torch.ones(4, 2)), torch.nn.Parameter(torch.ones(3))
        opt = library.SGD([table, weight], lr=0.1, momentum=momentum)
        for number in range(4):
            rows = torch.sparse_coo_tensor([[1]], torch.ones(1, 2), (4, 2), check_invariants=True)
            table.grad = rows if number % 2 == 0 else None
            weight.grad = torch.full((3,), float(number))
            opt.step()
        sides.append([table.detach(), weight.detach()])
    torch.testing.assert_close(*sides)


def test_a_dtype_of_torchs_is_taken_and_kept_by_name():
    opt = fgt.AdamW(parameters(), state_dtype=torch.bfloat16)
    assert opt.param_groups[0]["state_dtype"] == "bfloat16"


def test_attached_models_are_let_go():
    model = torch.nn.Linear(3, 2)
    opt = fgt.AdamW(model.parameters())
    fgt.attach(model, opt)
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    alive = weakref.ref(model.weight), weakref.ref(opt)
    del model, opt
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_after_a_refusal_attach_goes_on():
    model = torch.nn.Linear(3, 2)
    opt = fgt.AdamW(model.parameters())
    fgt.attach(model, opt)
    model(torch.ones(1, 3)).sum().backward()
    with pytest.raises(RuntimeError, match="got a second gradient"):
        model(torch.ones(1, 3)).sum().backward()
    opt.step()
    model(torch.ones(1, 3)).sum().backward()
    opt.step()
    assert float(opt.state[model.weight]["step"]) == 2


def test_a_limit_set_after_attach_is_refused():
    model = torch.nn.Linear(3, 2)
    opt = fgt.AdamW(model.parameters())
    fgt.attach(model, opt)
    opt.clip_norm = 1.0
    with pytest.raises(RuntimeError, match="clip_norm was set after attach"):
        model(torch.ones(1, 3)).sum().backward()
