"""A training step in its steady state allocates no memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from compiling import required, run

COUNTER = Path(__file__).parent / "preload" / "count_allocations.c"

#: From the 520th step to the 720th no new block of 256 powers of the betas begins (fastgd.rules.powers).
PROGRAM = """
import ctypes, numpy, fastgd
from fastgd import gemm, nn
gemm.use({provider!r})
layers = nn.Linear(64, 128), nn.ReLU(), nn.LayerNorm(128), nn.Linear(128, 99), nn.GELU(), nn.Linear(99, 10)
model = nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0)
opt = fastgd.AdamW(model.named_parameters(), ema_decay=0.99)
x, y = numpy.ones((32, 64), numpy.float32), numpy.arange(32) % 10
large_allocations = ctypes.CDLL(None).large_allocations
for _ in range(520):
    model.train_step(x, y, opt, clip_norm=1.0)
before = large_allocations()
for _ in range(200):
    model.train_step(x, y, opt, clip_norm=1.0)
print(large_allocations() - before)
"""


@pytest.mark.parametrize(
    ("provider", "most"),
    [
        ("scipy", 0),
        # dnnl_sgemm itself takes memory at every call, and gives it back; a step has 8 products
        ("onednn", 200 * 8),
    ],
)
def test_training_steps_allocate_nothing(provider, most, tmp_path):
    if sys.platform != "linux":
        pytest.skip("counts by taking the place of the C library's malloc, which is done so on Linux")
    if provider not in __import__("fastgd").gemm.info()["float32"]["available"]:
        pytest.skip(f"{provider} is not installed")
    library = tmp_path / "count.so"
    run([required("gcc"), "-shared", "-fPIC", "-O2", "-o", library, COUNTER])
    env = {**os.environ, "LD_PRELOAD": str(library)}
    command = [sys.executable, "-c", PROGRAM.format(provider=provider)]
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    if "cannot be preloaded" in result.stderr or "undefined symbol: __libc_malloc" in result.stderr:
        pytest.skip("this C library is not glibc, whose allocator is counted")
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) <= most
