"""Restarts in parallel processes: the same results on any number of them, whatever becomes of a start."""

import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from starts import counting, descend, diverse, environment

from fastgd import chance

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "chance.md"


def test_results_are_sorted_and_do_not_depend_on_the_number_of_processes():
    runs = [chance.restarts(descend, range(3), processes=n) for n in (1, 3)]
    for results in runs:
        assert sorted(r.seed for r in results) == [0, 1, 2]
        assert [r.loss for r in results] == sorted(r.loss for r in results)
        _, threads, pids = zip(*(r.value for r in results), strict=True)
        assert threads == (1, 1, 1) and len({*pids, os.getpid()}) == 4
    for a, b in zip(*runs, strict=True):
        assert a.seed == b.seed and a.loss == b.loss == descend(a.seed)[0]
        assert a.value[0].tobytes() == b.value[0].tobytes()


def test_libraries_of_a_process_have_one_thread(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    (result,) = chance.restarts(environment, [3])
    assert result == (3, -3.0, {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}, None)
    assert os.environ["OMP_NUM_THREADS"] == "7" and "OPENBLAS_NUM_THREADS" not in os.environ


def test_no_start_sees_another():
    results = chance.restarts(counting, [5, 2], processes=1)
    assert [(r.seed, r.loss) for r in results] == [(5, 1), (2, 1)]


def test_what_fails_is_named_and_loses_no_other():
    with pytest.warns(RuntimeWarning) as warned:
        results = chance.restarts(diverse, [9, *range(9)], processes=3)
    assert [r.seed for r in results] == [0, 9, 7, 1, 2, 3, 4, 5, 6, 8]
    assert [r.error is None for r in results] == [True] * 3 + [False] * 7
    assert results[0].value == bytes(300_000) and type(results[1].loss) is float
    assert all(math.isnan(r.loss) for r in results[2:])
    errors = {r.seed: r.error for r in results}
    assert "TwoPartedError: this start" in errors[1] and "in diverse" in errors[1]
    assert errors[2] == "its process ended with exit code 3"
    assert "train must return (loss, anything), not float" in errors[3]
    assert "the loss must be a number, not 'low'" in errors[4]
    assert "lambda" in errors[5]
    assert "cannot be unpickled: 1" in errors[6] and "SystemExit: 1" in errors[8]
    texts = [str(w.message) for w in warned]
    assert len(texts) == 7 and warned[0].filename == __file__
    assert texts[0] == "the start with seed 1 failed: starts.TwoPartedError: this start"


def test_when_all_fail():
    with pytest.raises(RuntimeError, match=r"(?s)all 2 starts failed, that with seed 3:.*train must return"):
        chance.restarts(diverse, [3, 4])


def test_no_seeds():
    assert chance.restarts(descend, []) == []


def inner():
    def train(seed):
        return 0.0, None

    return train


REFUSED = {
    "lambda": ((lambda seed: (0.0, None), [1]), TypeError, "train must be a function at the top of a module"),
    "inner": ((inner(), [1]), TypeError, "train must be a function at the top of a module"),
    "number": ((3, [1]), TypeError, "train must be a function, not int"),
    "seeds": ((descend, [1, 1]), ValueError, "seeds must differ"),
    "negative": ((descend, [-1]), ValueError, "a seed must be at least 0"),
    "text": ((descend, "12"), TypeError, "a seed must be a whole number"),
    "processes": ((descend, [1], 0), ValueError, "processes must be at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    arguments, error, reason = REFUSED[case]
    with pytest.raises(error, match=reason):
        chance.restarts(*arguments)


def script(tmp_path, text):
    path = tmp_path / "start.py"
    path.write_text(text)
    return path


def run(*command):
    return subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True, timeout=120, cwd=ROOT
    )


TRAIN = "from fastgd import chance\ndef train(seed):\n    return 1.0 / (1 + seed), seed\n"
CALL = "print([r.value for r in chance.restarts(train, range(2))])\n"


def test_the_script_of_the_docs(tmp_path):
    (text,) = re.findall(r"^``` python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    ended = run(script(tmp_path, text.replace("seeds=range(4)", "seeds=range(2)")))
    found = re.fullmatch(r"seed [01] has a loss of (\S+), the worst one of (\S+)\n", ended.stdout)
    assert found, ended.stderr
    assert 0 < float(found[1]) < float(found[2])


def test_a_script_that_would_start_itself_says_so(tmp_path):
    ended = run(script(tmp_path, TRAIN + CALL))
    assert ended.returncode == 1
    last = ended.stderr.rstrip().splitlines()[-1]
    assert 'exit code 1; does the script call restarts under if __name__ == "__main__"?' in last


def test_a_session_s_function_is_refused():
    ended = run("-c", TRAIN + CALL)
    assert "TypeError: train was defined in an interactive session" in ended.stderr


SLEEPS = """
import multiprocessing, os, time
from fastgd import chance

def train(seed):
    os.write(1, b"%d\\n" % os.getpid())  # in one piece: there are two who write
    time.sleep(100)
    return 0.0, None

if __name__ == "__main__":
    try:
        chance.restarts(train, range(4), processes=2)
    except KeyboardInterrupt:
        print(multiprocessing.active_children(), flush=True)
"""


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="there are no process groups to interrupt")
def test_ctrl_c_ends_the_processes(tmp_path):
    """Sent to all of them, as a terminal does."""
    path = script(tmp_path, SLEEPS)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, str(path)]
    with subprocess.Popen(command, **pipes, start_new_session=True, cwd=ROOT) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        assert all(map(is_alive, pids))
        os.killpg(parent.pid, signal.SIGINT)
        assert parent.communicate(timeout=60) == ("[]\n", "")
        assert not any(map(is_alive, pids))
