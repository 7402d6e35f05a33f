"""What `import fastgd` adds to `import numpy`, each in a process of its own."""

import subprocess
import sys

import pytest

TIMED = "import time; t = time.perf_counter(); import numpy; {}; print(time.perf_counter() - t)"


@pytest.mark.parametrize("also", ["pass", "import fastgd"], ids=["numpy", "numpy and fastgd"])
def test_import(benchmark, also):
    benchmark.group = "import"
    seconds = []

    def run():
        command = [sys.executable, "-c", TIMED.format(also)]
        seconds.append(float(subprocess.run(command, capture_output=True, check=True).stdout))

    benchmark.pedantic(run, rounds=15, warmup_rounds=2)
    benchmark.extra_info["milliseconds inside"] = sorted(seconds)[len(seconds) // 2] * 1e3
