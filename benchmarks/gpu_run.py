"""Runs the correctness suite on an NVIDIA GPU, then times everything there, and writes down both.

`bash benchmarks/gpu.sh` does all of it and writes benchmarks/results/gpu-<card>.json and .md. It ends with
3 where something is missing that it needs, and with 1 when a check has failed; nothing is timed then.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gpu_page import write
from gpu_time import Machine, measure

ROOT = Path(__file__).parent.parent

#: exit codes: something is missing; a check has failed
MISSING, WRONG = 3, 1


class Check(NamedTuple):
    """A command that ends with 0 when all is right."""

    what: str
    #: arguments of Python
    arguments: tuple[str, ...]


#: kernels against the reference and the native backend, bit for bit; the same beside the float64 oracle, for
#: all rules; and what was compiled
CHECKS = (
    Check("kernels on the GPU have the reference's bits", ("-m", "pytest", "tests/cuda")),
    Check("all rules: bits of the CPU's kernels, and the float64 oracle", ("-m", "fastgd", "verify")),
    Check("machine code is what is promised", ("-m", "pytest", "tests/test_cuda_offline.py")),
)


def environment(simulated: bool) -> dict[str, str]:
    """That of the checks: on the real device, or in Numba's simulator."""
    own = {k: v for k, v in os.environ.items() if k != "NUMBA_ENABLE_CUDASIM"}
    return own | {"NUMBA_ENABLE_CUDASIM": "1"} if simulated else own


def checked(checks: Sequence[Check], env: Mapping[str, str]) -> list[dict[str, Any]]:
    """Runs them; {"what", "passed", "seconds"} of each."""
    found = []
    for check in checks:
        print(f"checking: {check.what}", flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, *check.arguments], cwd=ROOT, env=dict(env))
        seconds = time.perf_counter() - start
        found.append({"what": check.what, "passed": done.returncode == 0, "seconds": round(seconds, 1)})
    return found


def missing() -> str | None:
    """What this machine lacks, and what brings it; None when nothing."""
    try:
        from fastgd.cuda import missing as cuda
    except ImportError as error:
        return f"fastgd itself cannot be imported ({error}): pip install -e '.[cuda,test]'"
    return cuda.missing()


def machine() -> Machine:
    from gpu_machine import this_machine

    return this_machine()


def main(
    arguments: Sequence[str] | None = None,
    *,
    lacks: Callable[[], str | None] = missing,
    make: Callable[[], Machine] = machine,
    checks: Sequence[Check] = CHECKS,
    simulated: bool = False,
) -> int:
    """The command; what it looks at can be given in place of this machine's."""
    parser = argparse.ArgumentParser(prog="gpu.sh", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks/results", help="folder to write to"
    )
    parser.add_argument("--rounds", type=int, default=15, help="turns that every contender takes")
    parser.add_argument("--only", choices=("checks", "timings"), help="leave the other part out")
    options = parser.parse_args(arguments)
    lacking = lacks()
    if lacking:
        print(f"gpu.sh needs an NVIDIA GPU that fastgd can use. {lacking}", file=sys.stderr)
        return MISSING
    done = checked(checks, environment(simulated)) if options.only != "timings" else []
    if not all(check["passed"] for check in done):
        failed = "; ".join(check["what"] for check in done if not check["passed"])
        print(f"wrong, so nothing is timed: {failed}", file=sys.stderr)
        return WRONG
    if options.only == "checks":
        return 0
    here = make()
    for absent in here.absent:
        print(f"left out: {absent}", file=sys.stderr)
    results = {"machine": here.facts, "left_out": here.absent, "checks": done}
    results["timings"] = measure(here, options.rounds)
    for path in write(results, options.results):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
