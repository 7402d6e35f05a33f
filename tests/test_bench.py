"""The benchmark is honest: every contender does the same work, and the figures are what they say."""

import json

import numpy as np
import pytest

from fastgd import bench, bench_layers, bench_models, bench_products, gemm, nn
from fastgd.rules import RULES

click_testing = pytest.importorskip("click.testing", reason="click belongs to the extra cli")

SHAPES = bench.WORKLOADS["tiny"][1]

#: a batch of the last model
SMALL = (4, *bench_models.CASES[-1].shape[1:])


@pytest.mark.parametrize("operation", bench.OPERATIONS)
@pytest.mark.parametrize("rule", RULES)
def test_contenders_end_with_the_same_parameters(rule, operation, monkeypatch):
    ends, shapes = {}, bench.shapes_for(RULES[rule], "tiny")
    for contender in bench.contenders():
        kept = []

        def arrays(shapes, make=bench._arrays, kept=kept):
            params, grads = make(shapes)
            kept.extend(params)
            return params, grads

        with monkeypatch.context() as patch:
            patch.setattr(bench, "_arrays", arrays)
            step = contender.make(RULES[rule], shapes, bench.OPERATIONS[operation], 2)
        if step is not None:
            for _ in range(3):
                step()
            ends[contender.name] = np.concatenate([p.reshape(-1) for p in kept])
    start = np.concatenate([p.reshape(-1) for p in bench._arrays(shapes)[0]])
    # NumPy's side has no matrices, and torch need not be there
    assert len(ends) >= 2 or RULES[rule].factored is not None or RULES[rule].orthogonal is not None
    for name, end in ends.items():
        assert np.abs(end - start).max() > 1e-4, name
        np.testing.assert_allclose(end, ends["fastgd"], atol=2e-6, err_msg=name)


def test_no_workload_is_not_every_workload():
    assert bench.run(workloads=[])["timings"] == []


def test_bytes_moved():
    assert bench.bytes_moved(RULES["adamw"], [(10, 10)]) == 28 * 100
    assert bench.bytes_moved(RULES["sgd"], [(10,), (5,)]) == 12 * 15
    assert bench.bytes_moved(RULES["sgd"], [(10,), (5,)], clip_norm=1.0) == 16 * 15


def test_bandwidth_is_positive_and_plausible():
    rate = next(bench.bandwidth(2, megabytes=8))
    assert 1e8 < rate < 1e13


def test_the_command_prints_a_table_and_json():
    from fastgd.commands import fastgd

    run = click_testing.CliRunner().invoke
    arguments = ["bench", "--workload", "tiny", "--rounds", "1"]
    table = run(fastgd, arguments)
    assert table.exit_code == 0, table.output
    assert "ratio to" in table.output
    result = json.loads(run(fastgd, [*arguments, "--json"]).stdout)
    assert {t["operation"] for t in result["timings"]} == set(bench.OPERATIONS)
    assert all(t["ratio"] == 1 for t in result["timings"] if t["contender"] == "fastgd")


def test_verify_command(monkeypatch):
    """Over two rules: test_grid.py compares them all."""
    from fastgd.commands import fastgd

    monkeypatch.setattr("fastgd.rules.RULES", {name: RULES[name] for name in ("sgd", "nadam")})
    result = click_testing.CliRunner().invoke(fastgd, ["verify"])
    assert result.exit_code == 0, result.output
    assert result.output.count(" ok ") == 2 * 2


def test_layers_are_timed_beside_torch_with_the_same_result():
    """Each side's outcome is right by other tests; here it is that both are given the same."""
    cases = tuple(case._replace(shape=(8, *case.shape[1:])) for case in bench_layers.CASES)
    result = bench_layers.run(cases=cases, threads=1, rounds=2)
    assert [case["name"] for case in result["cases"]] == [str(case.make(nn)) for case in cases]
    assert all(case["seconds"] > 0 for case in result["cases"])
    assert (result["missing"] is None) == all("ratio" in case for case in result["cases"])


def test_models_are_timed_beside_torch_and_jax():
    first, last = bench_models.CASES[0], bench_models.CASES[-1]
    cases = (first._replace(repeats=1), last._replace(repeats=1, shape=SMALL))
    result = bench_models.run(cases=cases, threads=1, rounds=2)
    assert [case["name"] for case in result["cases"]] == [case.name for case in cases]
    for case in result["cases"]:
        assert case["sides"]["fastgd"]["ratio"] == 1
        assert all(side["seconds"] > 0 for side in case["sides"].values())
        assert case["bytes"]["fastgd"] > 0
    assert (result["missing"] is None) == (len(result["cases"][0]["sides"]) == len(bench_models.SIDES))


@pytest.mark.peer
@pytest.mark.parametrize("case", bench_models.CASES, ids=lambda case: case.name)
def test_the_models_of_all_sides_have_the_same_loss(case):
    """fastgd's first step from the weights that each other side begins with, and its loss after two more."""
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    pytest.importorskip("jax", reason="jax is in the extra `peers`")
    case = case._replace(shape=(4, *case.shape[1:]))
    model, (x, y) = bench_models.model_of(case), bench_models.example(case)
    theirs = torch.nn.Sequential(*case.layers(torch.nn))
    theirs.load_state_dict(model.to_torch_state_dict())
    loss = torch.nn.functional.cross_entropy(theirs(torch.from_numpy(x)), torch.from_numpy(y))
    jaxs = bench_models.jaxs(case, 1)
    losses = [float(jaxs()) for _ in range(3)]
    mine = bench_models.fastgds(case, 1)
    np.testing.assert_allclose([mine().loss for _ in range(3)], losses, rtol=2e-4)
    np.testing.assert_allclose(loss.item(), losses[0], rtol=1e-5)


def test_products_of_every_provider_are_timed():
    shapes = bench_products.SHAPES[:3]
    result = bench_products.run(shapes=shapes, threads=1, rounds=1)
    for row in result["products"]:
        assert [*row["rates"]] == gemm.info()[row["dtype"]]["available"]
        assert all(rate > 0 for rate in row["rates"].values())
