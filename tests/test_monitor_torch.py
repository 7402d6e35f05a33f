"""watch_torch: the training stays what it is, hooks are there when they are needed, and go."""

from __future__ import annotations

import math

import pytest

from fastgd import monitor

torch = pytest.importorskip("torch", reason="torch is not a dependency")
pytestmark = pytest.mark.peer


def made(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv1d(2, 4, 3),
        torch.nn.BatchNorm1d(4),
        torch.nn.ReLU(inplace=True),
        torch.nn.Dropout(0.3),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 3),
    )


def batches(steps, seed=1):
    torch.manual_seed(seed)
    return [(torch.randn(8, 2, 6), torch.randint(0, 3, (8,))) for _ in range(steps)]


def loss_of(output, target):
    return torch.nn.functional.cross_entropy(output, target)


def trained(module, opt, watch=None, steps=12):
    torch.manual_seed(5)
    losses = []
    for x, y in batches(steps):
        loss = loss_of(module(x), y)
        if watch is not None:
            watch.loss(loss, y)
        opt.zero_grad()
        loss.backward()
        opt.step()
        losses.append(loss.item())
    return losses


def bits(module):
    return [value.clone() for value in module.state_dict().values()]


@pytest.mark.parametrize("every", [1, 3, "auto"])
def test_the_training_has_the_same_bits(every):
    plain, seen = made(), made()
    expected = trained(plain, torch.optim.Adam(plain.parameters()))
    opt = torch.optim.Adam(seen.parameters())
    with monitor.watch_torch(seen, opt, loss_of, every=every) as watch:
        assert trained(seen, opt, watch) == expected
        state = torch.get_rng_state()
        watch.findings()
        assert watch._curvature() is not None
        assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(bits(plain), bits(seen), strict=True):
        assert torch.equal(a, b)
    assert [step.loss for step in watch.history.steps] == expected


def hooks(module):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules())


def test_hooks_of_layers_are_there_while_looking_and_all_go_at_the_end():
    module = made()
    opt = torch.optim.SGD(module.parameters(), lr=0.1)
    watch = monitor.watch_torch(module, opt, every=4)
    assert hooks(module) == 7
    trained(module, opt, watch, steps=1)
    assert hooks(module) == 1
    trained(module, opt, watch, steps=3)
    assert hooks(module) == 7
    watch.close()
    watch.close()
    assert hooks(module) == 0
    assert not opt._optimizer_step_pre_hooks and not opt._optimizer_step_post_hooks
    trained(module, opt, steps=1)
    assert watch.history.count == 4


def test_a_look_has_the_numbers_of_torch():
    module = made()
    opt = torch.optim.SGD(module.parameters(), lr=0.5)
    watch = monitor.watch_torch(module, opt, every=1)
    before = bits(module[0])
    ((x, y),) = batches(1)
    loss = loss_of(module(x), y)
    watch.loss(loss, y)
    loss.backward()
    grads = torch.cat([p.grad.flatten() for p in module[0].parameters()])
    opt.step()
    (look,) = watch.history.looks
    assert [layer.label for layer in look.layers] == [
        "0 Conv1d",
        "1 BatchNorm1d",
        "2 ReLU",
        "3 Dropout",
        "4 Flatten",
        "5 Linear",
    ]
    conv, norm, relu, *_ = look.layers
    assert conv.grad_norm == pytest.approx(grads.norm().item(), rel=1e-6)
    old = torch.cat([p.flatten() for p in before])
    assert conv.param_norm == pytest.approx(old.norm().item(), rel=1e-6)
    assert conv.update_ratio == pytest.approx(0.5 * conv.grad_norm / conv.param_norm, rel=1e-4)
    assert conv.trained and not norm.trained and relu.two_sided is False
    assert 0.2 < relu.zeros < 0.8 and relu.zeros == relu.saturated
    assert look.lr == 0.5
    watch.close()


def test_evaluation_between_steps_is_not_looked_at():
    module = made()
    opt = torch.optim.SGD(module.parameters(), lr=0.1)
    watch = monitor.watch_torch(module, opt, every=1)
    module.eval()
    module(torch.full((4, 2, 6), float("nan")))
    module.train()
    with torch.no_grad():
        module[5](torch.full((4, 16), float("nan")))
    assert not watch._looking.outputs and watch._inputs is None
    watch.close()


@pytest.mark.parametrize("every", [1, 100])
def test_nan_in_a_batch_and_in_gradients_is_named(every):
    module = torch.nn.Linear(3, 2)
    opt = torch.optim.SGD(module.parameters(), lr=0.1)
    watch = monitor.watch_torch(module, opt, every=every)
    for step in range(3):
        x = torch.ones(4, 3)
        if step == 1:
            x[2, 1] = math.nan
        loss = module(x).square().mean()
        watch.loss(loss)
        opt.zero_grad()
        loss.backward()
        opt.step()
    spoiled = watch.history.spoiled[0]
    assert (spoiled.step, spoiled.what, *spoiled.place[:2]) == (2, "input", "x", (2, 1))
    assert [found.kind for found in watch.findings()] == ["data_nonfinite"]
    watch.close()


def test_a_loss_that_was_never_told_is_no_fault():
    module = made()
    opt = torch.optim.SGD(module.parameters(), lr=0.01)
    watch = monitor.watch_torch(module, opt, every=1)
    for x, y in batches(60):
        opt.zero_grad()
        loss_of(module(x), y).backward()
        opt.step()
    assert watch.findings() == []
    assert len(watch.history.looks) == 60
    watch.close()


def test_narrow_parameters_and_sparse_gradients_are_measured():
    class Bag(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(10, 4, sparse=True, dtype=torch.bfloat16)
            self.frozen = torch.nn.Linear(4, 4, dtype=torch.bfloat16).requires_grad_(False)

        def forward(self, x):
            return self.frozen(self.table(x)).float().sum()

    module = Bag()
    opt = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    with monitor.watch_torch(module, opt, every=1) as watch:
        loss = module(torch.tensor([1, 1, 3]))
        watch.loss(loss)
        loss.backward()
        opt.step()
    table, frozen = watch.history.looks[0].layers
    dense = module.table.weight.grad.to_dense().float()
    assert table.grad_norm == pytest.approx(dense.norm().item(), rel=1e-2)
    assert table.update_ratio > 0 and frozen.grad_norm is None


def test_what_fastgd_s_optimizer_clips_is_known():
    fastgd_torch = pytest.importorskip("fastgd.torch", reason="torch is not a dependency")
    module = made()
    opt = fastgd_torch.SGD(module.parameters(), lr=0.1, clip_norm=1e-3)
    with monitor.watch_torch(module, opt) as watch:
        trained(module, opt, watch)
    assert watch.history.clipped == 12
    assert all(step.grad_norm > 1e-3 and step.clip_coef < 1 for step in watch.history.steps)


def test_what_is_no_module_or_optimizer_is_refused():
    module = made()
    opt = torch.optim.SGD(module.parameters(), lr=0.1)
    with pytest.raises(TypeError, match="module must be a"):
        monitor.watch_torch([1], opt)
    with pytest.raises(TypeError, match="opt must be a"):
        monitor.watch_torch(module, object())
    with pytest.raises(TypeError, match="loss_function must be a function"):
        monitor.watch_torch(module, opt, 3)
    with pytest.raises(ValueError, match="opt holds no parameter of module"):
        monitor.watch_torch(made(), opt)
    assert hooks(module) == 0
