"""The step's workloads of `fastgd bench` under pytest-benchmark: pytest benchmarks."""

import pytest

import fastgd
from fastgd.bench import OPERATIONS, WORKLOADS, contenders, shapes_for
from fastgd.rules import RULES


@pytest.mark.parametrize("contender", contenders(), ids=lambda c: c.name)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("rule", RULES)
def test_step(benchmark, rule, workload, operation, contender):
    benchmark.group = f"{rule}, {workload}: {operation}"
    threads = fastgd.get_num_threads()
    step = contender.make(RULES[rule], shapes_for(RULES[rule], workload), OPERATIONS[operation], threads)
    if step is None:
        pytest.skip(f"{contender.name} has no {rule}")
    step()
    benchmark(step)
