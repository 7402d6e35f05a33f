"""The layers and models of `fastgd bench` under pytest-benchmark: pytest benchmarks."""

from importlib.util import find_spec

import pytest

import fastgd
from fastgd import bench_layers, bench_models, nn

LAYERS = {"fastgd": lambda case, threads: bench_layers.native(case), "torch": bench_layers.torchs}


def skip_without(*packages):
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


@pytest.mark.parametrize("side", LAYERS)
@pytest.mark.parametrize("case", bench_layers.CASES, ids=lambda case: str(case.make(nn)))
def test_layer(benchmark, case, side):
    skip_without(*([] if side == "fastgd" else [side]))
    benchmark.group = f"{case.make(nn)} of {list(case.shape)}"
    step = LAYERS[side](case, fastgd.get_num_threads())
    step()
    benchmark(step)


@pytest.mark.parametrize("side", bench_models.SIDES)
@pytest.mark.parametrize("case", bench_models.CASES, ids=lambda case: case.name)
def test_model(benchmark, case, side):
    packages, make = bench_models.SIDES[side]
    skip_without(*packages)
    benchmark.group = f"{case.name}, batch {case.shape[0]}"
    step = make(case, fastgd.get_num_threads())
    step()
    benchmark(step)
