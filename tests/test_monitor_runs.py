"""The monitor names the cause of prepared failing runs first, and is silent in healthy ones."""

from __future__ import annotations

import importlib

import pytest
from monitor_runs import FAILING, HEALTHY, Run, watched

from fastgd import monitor


def kinds(findings) -> list[str]:
    return [finding.kind for finding in findings]


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("every", [1, "auto"])
def test_the_cause_of_a_failing_run_is_named_first(name, every):
    make, cause = FAILING[name]
    found = watched(make(), every).findings()
    assert kinds(found)[:1] == [cause], "\n".join(map(str, found))
    for finding in found:
        assert finding.reason in str(finding)
        assert all(remedy in str(finding) for remedy in finding.remedies)
        assert 1 <= finding.first_step <= finding.last_step


@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_run_is_not_accused_at_any_time(name):
    run = HEALTHY[name]()
    model, opt = run.made()
    watch = monitor.Monitor(model, opt, every=3)
    for i, (x, y) in enumerate(run.batches):
        watch.train_step(x, y, **run.options)
        if i in (0, 1, 5, 25, 60, 150, 300) or i == len(run.batches) - 1:
            found = watch.findings()
            assert not found, f"after {i + 1} steps: " + "\n".join(map(str, found))


def test_every_kind_is_the_first_finding_of_a_failing_run():
    assert {cause for _, cause in FAILING.values()} == set(monitor.KINDS)


# ---- the same through torch

#: runs whose layers torch has under the same names, without arguments of their own
THROUGH_TORCH = [
    "24 sigmoid layers",
    "weights too large for 12 layers",
    "SGD too fast",
    "SGD just too fast for a line",
    "Adam too fast",
    "Adam too slow",
    "ReLU with large negative biases",
    "tanh with large weights",
    "inputs of 0 to 4000",
    "NaN in one input",
    "one infinite target",
    "labels that are all the same",
    "weights of 0",
    "the saddle of a linear model of two layers",
    "a line for a parabola",
    "a weight that is NaN from the start",
    "a clip limit far too small",
]
HEALTHY_THROUGH_TORCH = [
    "MLP on digits by Adam",
    "a tanh network by SGD with momentum",
    "regression by SGD",
    "full-batch regression that has converged",
]


def torch_layer(layer):
    import torch

    name = type(layer).__name__
    if name == "Linear":
        return torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None)
    return getattr(torch.nn, name)()


def watched_by_torch(run: Run, optimizers, every=1) -> monitor.TorchMonitor:
    import torch

    model, _ = run.made()
    module = torch.nn.Sequential(*map(torch_layer, run.layers))
    module.load_state_dict(model.to_torch_state_dict())
    loss_function = getattr(torch.nn, type(run.loss).__name__)()
    opt = getattr(optimizers, run.rule.__name__)(module.parameters(), **run.settings)
    watch = monitor.watch_torch(module, opt, loss_function, every=every)
    for x, y in run.batches:
        target = torch.from_numpy(y)
        loss = loss_function(module(torch.from_numpy(x)), target)
        watch.loss(loss, target)
        opt.zero_grad()
        loss.backward()
        if "clip_norm" in run.options:
            limit = run.options["clip_norm"]
            watch.clip(torch.nn.utils.clip_grad_norm_(module.parameters(), limit), limit)
        opt.step()
    return watch


def optimizers_of(library):
    torch = pytest.importorskip("torch", reason="torch is not a dependency")
    return importlib.import_module("fastgd.torch") if library == "fastgd" else torch.optim


@pytest.mark.peer
@pytest.mark.parametrize("library", ["torch", "fastgd"])
@pytest.mark.parametrize("name", THROUGH_TORCH)
def test_the_cause_is_named_through_torch(name, library):
    make, cause = FAILING[name]
    with watched_by_torch(make(), optimizers_of(library)) as watch:
        found = watch.findings()
    assert kinds(found)[:1] == [cause], "\n".join(map(str, found))


@pytest.mark.peer
@pytest.mark.parametrize("name", HEALTHY_THROUGH_TORCH)
def test_a_healthy_run_is_not_accused_through_torch(name):
    with watched_by_torch(HEALTHY[name](), optimizers_of("torch"), every=3) as watch:
        found = watch.findings()
    assert not found, "\n".join(map(str, found))
