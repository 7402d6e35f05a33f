"""benchmarks/gpu.sh: what it says without a GPU, and its logic on a machine that is made up."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gpu_run
import gpu_time
import pytest
from gpu_page import named
from gpu_time import COPY, OWN, Machine, Step, Work, measure

from fastgd.cuda.missing import missing

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks/gpu.sh"

#: seconds of a call by contender, and of a replay
CALLED = {OWN: 2e-3, "slow": 6e-3, "even": 2e-3, COPY: 1.9e-3}
REPLAYED = {OWN: 1e-3, "slow": 5e-3}


class MadeUpClock:
    """Says how long a step takes by whose it is; the machine becomes slower all the time."""

    def __init__(self):
        self.drift, self.order = 1.0, []

    def events(self, step, repeats):
        if step.before_replay is not None and step.before_replay(repeats) == "replayed":
            seconds = REPLAYED[step.run()]
        else:
            seconds = CALLED[step.run()]
        self.order.append(step.run())
        self.drift *= 1.0001
        return seconds * self.drift

    def capture(self, step):
        name = step.run()
        return Step(step.run, lambda n: "replayed") if name in REPLAYED else None


def made_up(clock, *, lacking=()):
    def maker(name):
        def make():
            if name in lacking:
                raise NotImplementedError("it has none")
            # a call is no replay
            return Step(lambda: name, before_replay=pytest.fail)

        return make

    work = Work("AdamW", 28000, {n: maker(n) for n in CALLED}, {OWN: 0.9, "slow": 2.0, "even": 1.5})
    facts = {"card": "NVIDIA Made-Up 100 (80GB)", "driver": "580.1"}
    return Machine(facts, [], clock, [lambda: work])


def test_without_a_gpu_it_says_what_is_missing():
    if missing() is None:
        pytest.skip("this machine has a GPU, or simulates one")
    env = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(["bash", SCRIPT], capture_output=True, text=True, env=env, timeout=120)
    assert done.returncode == gpu_run.MISSING == 3
    assert missing() in done.stderr
    assert done.stdout == ""


def test_contenders_take_turns_and_ratios_are_of_one_round():
    clock = MadeUpClock()
    rows = {(r["how"], r["contender"]): r for r in measure(made_up(clock), rounds=5)}
    assert rows["called", "slow"]["ratio"] == pytest.approx(3.0, rel=1e-2)
    assert rows["called", "even"]["ratio"] == pytest.approx(1.0, rel=1e-2)
    assert rows["called", OWN]["of_bandwidth"] == pytest.approx(0.95, rel=1e-2)
    assert rows["replayed", "slow"]["ratio"] == pytest.approx(5.0, rel=1e-2)
    assert rows["replayed", OWN]["of_bandwidth"] == pytest.approx(1.9, rel=1e-2)
    assert ("replayed", "even") not in rows
    names = list(CALLED)
    assert clock.order[2 * len(names) : 4 * len(names)] == names * 2


def test_no_more_replays_than_can_be_readied():
    repeats = gpu_time.repeats_for(MadeUpClock(), Step(lambda: OWN), 10.0)
    assert repeats == gpu_time.MOST_REPLAYS


def test_it_writes_json_and_a_table(tmp_path, capsys):
    arguments = ["--results", str(tmp_path), "--rounds", "3"]
    passes = gpu_run.Check("true", ("-c", "pass"))
    machine = made_up(MadeUpClock(), lacking=("even",))
    done = gpu_run.main(arguments, lacks=lambda: None, make=lambda: machine, checks=[passes])
    assert done == 0
    base = tmp_path / "gpu-nvidia-made-up-100-80gb"
    results = json.loads(base.with_suffix(".json").read_text())
    assert results["machine"]["driver"] == "580.1"
    assert results["checks"][0]["passed"] is True
    assert results["left_out"] == ["even at AdamW: it has none"]
    page = base.with_suffix(".md").read_text()
    assert "| AdamW | called | slow | 6." in page
    assert "2.0: reached" in page
    assert "Left out: even at AdamW: it has none." in page
    assert "even" not in {row["contender"] for row in results["timings"]}
    assert str(base.with_suffix(".md")) in capsys.readouterr().out


def test_what_is_not_reached_is_said(tmp_path):
    arguments = ["--results", str(tmp_path), "--rounds", "3", "--only", "timings"]
    machine = made_up(MadeUpClock())
    assert gpu_run.main(arguments, lacks=lambda: None, make=lambda: machine) == 0
    page = (tmp_path / f"{named(machine.facts['card'])}.md").read_text()
    assert "| AdamW | called | even | 2." in page
    assert "1.5: MISSED" in page


def test_nothing_is_timed_when_a_check_fails(tmp_path, capsys):
    fails = gpu_run.Check("bits", ("-c", "raise SystemExit(2)"))
    arguments = ["--results", str(tmp_path)]
    assert gpu_run.main(arguments, lacks=lambda: None, make=pytest.fail, checks=[fails]) == gpu_run.WRONG
    assert list(tmp_path.iterdir()) == []
    assert "bits" in capsys.readouterr().err


def test_the_correctness_part_runs_in_the_simulator(tmp_path):
    pytest.importorskip("numba", reason="the simulator is Numba's")
    one = "tests/cuda/test_cuda_own.py::test_a_rule_with_the_name_of_another_is_itself"
    check = gpu_run.Check("kernels", ("-m", "pytest", "-q", one))
    done = gpu_run.main(
        ["--only", "checks", "--results", str(tmp_path)], lacks=lambda: None, checks=[check], simulated=True
    )
    assert done == 0


def test_checks_run_on_the_device_even_where_the_simulator_is_asked_for(monkeypatch):
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert "NUMBA_ENABLE_CUDASIM" not in gpu_run.environment(simulated=False)
    assert gpu_run.environment(simulated=True)["NUMBA_ENABLE_CUDASIM"] == "1"
