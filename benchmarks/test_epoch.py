"""An epoch on digits, as in `fastgd bench --workload epoch`, under pytest-benchmark."""

import pytest

from fastgd import bench_epoch
from fastgd.data import load


@pytest.mark.parametrize("side", bench_epoch.SIDES)
def test_epoch(benchmark, side):
    if reason := bench_epoch.missing():
        pytest.skip(reason)
    benchmark.group = f"{bench_epoch.EPOCHS} epochs on digits"
    benchmark.pedantic(bench_epoch.SIDES[side], (load("digits"),), rounds=3, warmup_rounds=1)
