"""`mpiexec -n N fastgd train` as processes: the results of one, and what is left when a rank dies."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fastgd.training import load_checkpoint

pytest.importorskip("mpi4py", reason='mpi4py is not a dependency; pip install -e ".[mpi]"')
pytest.importorskip("click", reason="the command line needs the extra cli")

#: that of this environment before any other, for mpi4py looks for its library there, too
MPIEXEC = shutil.which("mpiexec", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
if MPIEXEC is None:
    pytest.skip('there is no mpiexec; pip install -e ".[mpi]"', allow_module_level=True)

pytestmark = pytest.mark.peer

TRAIN = ("-m", "fastgd", "train")
RUN = ("--epochs", "3", "--batch-size", "300", "--hidden", "16", "--lr", "0.01", "--json")

#: fastgd train, whose rank 1 does something before a step
BREAKS = """
import os, signal, sys
from fastgd import nn
from fastgd.cli import main

number, step_of_model = 0, nn.Sequential.loss_and_grad

def step(self, x, y):
    global number
    number += 1
    if os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1" and number == 8:
        {what}
    return step_of_model(self, x, y)

nn.Sequential.loss_and_grad = step
sys.argv[0] = "fastgd"
main()
"""


#: Open MPI is to start more ranks than there are cores, and as root in a container; MPICH does so unasked
OPEN_MPI = {
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
}


def mpiexec(ranks, *arguments, timeout=100, env=None):
    command = [MPIEXEC, "-n", str(ranks), sys.executable, *map(str, arguments)]
    environment = {**os.environ, **OPEN_MPI, **(env or {})}
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, check=False, env=environment
    )


@pytest.fixture(scope="module")
def alone():
    run = subprocess.run([sys.executable, *TRAIN, *RUN], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.mark.parametrize("ranks", [2, 4])
def test_history_of_one_process(ranks, alone, tmp_path):
    run = mpiexec(ranks, *TRAIN, *RUN, "--save", tmp_path / "run.safetensors")
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)  # the first rank alone prints
    # in float32: parts of sums are rounded in another order
    for name in ("train_loss", "test_accuracy", "largest_grad_norm"):
        np.testing.assert_allclose(found[name], alone[name], rtol=1e-4)
    for a, b in zip(found["history"], alone["history"], strict=True):
        np.testing.assert_allclose(a["train_loss"], b["train_loss"], rtol=1e-4)
    assert len(found["ranks"]["state_bytes"]) == ranks
    assert sum(found["ranks"]["state_bytes"]) == 8 * (64 * 16 + 16 + 16 * 10 + 10)
    assert all(threads >= 1 for threads in found["ranks"]["threads"])
    saved = load_checkpoint(tmp_path / "run.safetensors")
    assert saved.position.epoch == 3
    assert sorted(saved.optimizer["state"]) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", ""),
        ("raise MemoryError('no more of it')", "rank 1 of 2 failed, and all end: MemoryError: no more of it"),
    ],
    ids=["killed", "exception"],
)
def test_a_rank_that_dies_leaves_the_last_epoch(what, said, alone, tmp_path):
    """The data are 5 batches, so that the 8th step is in the second epoch."""
    script, path = tmp_path / "breaks.py", tmp_path / "run.safetensors"
    script.write_text(BREAKS.format(what=what))
    run = mpiexec(2, script, "train", *RUN, "--save", path)
    assert run.returncode != 0
    assert said in run.stderr
    assert load_checkpoint(path).position.epoch == 1
    # an interrupted run has its other epochs left, on whatever number of processes
    rest = subprocess.run(
        [sys.executable, *TRAIN, "--load", path, "--json"], capture_output=True, text=True, check=True
    )
    np.testing.assert_allclose(json.loads(rest.stdout)["train_loss"], alone["train_loss"], rtol=1e-4)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_interrupting_the_launcher(tmp_path):
    path = tmp_path / "run.safetensors"
    command = [MPIEXEC, "-n", "2", sys.executable, *TRAIN, "--epochs", "5000", "--save", str(path)]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env={**os.environ, **OPEN_MPI}, **piped) as process:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=60)
    assert "interrupted in epoch" in output, errors
    assert load_checkpoint(path).position.consumed < 1438


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--monitor",), "--monitor does not go with several ranks"),
        (("--data", "nowhere.csv"), "nowhere.csv"),
        (("--epochs", "-1"), "epochs must be at least 0"),
    ],
)
def test_what_is_refused_is_told_once(arguments, said):
    run = mpiexec(2, *TRAIN, *arguments)
    assert run.returncode == 2
    assert run.stderr.count("Error: ") == 1
    assert said in run.stderr


def test_without_mpi4py(tmp_path):
    package = tmp_path / "mpi4py"
    package.mkdir()
    (package / "__init__.py").write_text('raise ImportError("there is none")')
    run = mpiexec(2, *TRAIN, "--epochs", "1", env={"PYTHONPATH": str(tmp_path)})
    assert run.returncode != 0
    assert 'pip install "fastgd[mpi]"' in run.stderr


def test_a_launcher_of_another_library():
    environment = {**os.environ, "OMPI_COMM_WORLD_SIZE": "4"}
    command = [sys.executable, *TRAIN, "--epochs", "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 2
    assert "OMPI_COMM_WORLD_SIZE is 4, but mpi4py sees 1 rank" in run.stderr


def test_the_loop_of_the_page(tmp_path):
    page = (Path(__file__).parent.parent / "docs" / "distributed.md").read_text()
    (block,) = re.findall("```python\n(.*?)```", page, re.DOTALL)
    script = tmp_path / "loop.py"
    script.write_text(block)
    run = mpiexec(2, script)
    assert run.returncode == 0, run.stderr
    assert "loss 0." in run.stdout
    assert run.stdout.splitlines()[-1].startswith("4 parameters,")


def test_mpi_is_not_imported_without_a_launcher():
    code = "import sys; from fastgd.commands import fastgd; fastgd(['train', '--epochs', '0', '--quiet'], "
    code += "standalone_mode=False); assert 'mpi4py' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
