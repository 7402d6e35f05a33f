"""Updates in the backward pass: the steps of an optimizer that waits, with gradients freed on the way."""

import pytest

torch = pytest.importorskip("torch", reason="compares with PyTorch: pip install 'fastgd[peers]'")

fgt = pytest.importorskip("fastgd.torch")

pytestmark = pytest.mark.peer


def model():
    torch.manual_seed(3)
    layers = [torch.nn.Linear(6, 9), torch.nn.Tanh(), torch.nn.Linear(9, 9), torch.nn.Linear(9, 2)]
    return torch.nn.Sequential(*layers)


def backward(net, step):
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(8, 6, generator=generator)
    loss = net(inputs).square().mean()
    loss.backward()
    return loss


def values(net):
    return [p.detach().clone() for p in net.parameters()]


def assert_equal(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["AdamW", "SGD", "NAdam", "Lion"])
def test_as_without(name):
    released, waiting = model(), model()
    opt = getattr(fgt, name)(released.parameters(), lr=0.01)
    other = getattr(fgt, name)(waiting.parameters(), lr=0.01)
    fgt.attach(released, opt)
    for step in range(4):
        backward(released, step)
        assert all(p.grad is None for p in released.parameters())
        opt.step()
        backward(waiting, step)
        other.step()
        other.zero_grad()
        assert_equal(values(released), values(waiting))
    for p, q in zip(released.parameters(), waiting.parameters(), strict=True):
        assert opt.state[p].keys() == other.state[q].keys()
        for key, found in opt.state[p].items():
            torch.testing.assert_close(found, other.state[q][key], rtol=0, atol=0)


def test_random_bits_are_those_of_the_parameter():
    released, waiting = model().bfloat16(), model().bfloat16()
    settings = {"lr": 0.01, "rounding": "stochastic", "state_dtype": "8bit", "seed": 5}
    opt, other = fgt.Adam(released.parameters(), **settings), fgt.Adam(waiting.parameters(), **settings)
    fgt.attach(released, opt)
    for step in range(3):
        for net in (released, waiting):
            generator = torch.Generator().manual_seed(step)
            net(torch.randn(8, 6, generator=generator).bfloat16()).square().mean().backward()
        opt.step()
        other.step()
        other.zero_grad()
    assert_equal(values(released), values(waiting))


def test_clipping_by_the_norm_before():
    net, other = model(), model()
    opt = fgt.SGD(net.parameters(), lr=0.1, clip_norm=0.01)
    fgt.attach(net, opt, clip="previous")
    previous = None
    for step in range(3):
        backward(other, step)
        grads = [p.grad for p in other.parameters()]
        norms = [float(g.double().norm()) for g in grads]
        for p, g, norm in zip(other.parameters(), grads, norms, strict=True):
            limit = norm if previous is None else previous
            p.data -= 0.1 * min(1.0, 0.01 / (limit + 1e-6)) * g
            p.grad = None
        previous = sum(norm**2 for norm in norms) ** 0.5
        backward(net, step)
        opt.step()
        assert opt.report.grad_norm == pytest.approx(previous, rel=1e-6)
        assert opt.report.clip_coef < 1
        # float32 roundings, which differ in their order
        torch.testing.assert_close(values(net), values(other), rtol=1e-6, atol=1e-7)


def test_a_scheduler_and_hooks_go_on():
    net = model()
    opt = fgt.AdamW(net.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(opt, 1, 0.5)
    called = []
    opt.register_step_post_hook(lambda *_: called.append(1))
    fgt.attach(net, opt)
    for step in range(3):
        backward(net, step)
        opt.step()
        scheduler.step()
    assert opt.param_groups[0]["lr"] == pytest.approx(0.0125) and len(called) == 3


def test_accumulation_is_refused():
    net = model()
    opt = fgt.AdamW(net.parameters())
    fgt.attach(net, opt)
    backward(net, 0)
    before = values(net)
    with pytest.raises(RuntimeError, match=r"parameter 5 of group 0.* got a second gradient before step\(\)"):
        backward(net, 1)
    assert_equal(values(net), before)


def test_after_remove_step_updates():
    net, other = model(), model()
    opt, waiting = fgt.AdamW(net.parameters()), fgt.AdamW(other.parameters())
    handle = fgt.attach(net, opt)
    for step in range(4):
        if step == 2:
            handle.remove()
        backward(net, step)
        backward(other, step)
        for o in (opt, waiting):
            o.step()
            o.zero_grad()
    assert_equal(values(net), values(other))
    fgt.attach(net, opt).remove()


def test_what_cannot_be():
    net = model()
    with pytest.raises(ValueError, match="clip='previous' clips by the norm of the step before"):
        fgt.attach(net, fgt.AdamW(net.parameters(), clip_norm=1.0))
    with pytest.raises(ValueError, match="clip must be None or 'previous', not 'now'"):
        fgt.attach(net, fgt.AdamW(net.parameters()), clip="now")
    with pytest.raises(ValueError, match="skip_nonfinite"):
        fgt.attach(net, fgt.AdamW(net.parameters(), skip_nonfinite=True))
    with pytest.raises(ValueError, match="differentiable"):
        fgt.attach(net, fgt.AdamW(net.parameters(), differentiable=True))
    with pytest.raises(TypeError, match=r"opt is AdamW, not an optimizer of fastgd\.torch"):
        fgt.attach(net, torch.optim.AdamW(net.parameters()))
    with pytest.raises(ValueError, match=r"parameter 0 of group 0 of the optimizer is not in the model"):
        fgt.attach(net, fgt.AdamW(model().parameters()))
    opt = fgt.AdamW(net.parameters())
    fgt.attach(net, opt)
    with pytest.raises(ValueError, match="attached to a model"):
        fgt.attach(net, opt)


def test_a_gradient_that_no_hook_has_taken():
    net = model()
    net[0].weight.requires_grad_(False)
    opt = fgt.AdamW(net.parameters())
    fgt.attach(net, opt)
    backward(net, 0)
    opt.step()
    net[0].weight.requires_grad_(True)
    backward(net, 1)
    with pytest.raises(RuntimeError, match="parameter 0 of group 0 has a gradient that was not used"):
        opt.step()
