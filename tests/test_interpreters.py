"""Several interpreters in a process: the first that loads NumPy has fastgd, others get NumPy's refusal."""

from __future__ import annotations

import subprocess
import sys

#: inside() runs code in another interpreter, and gives the error in words, or nothing
OTHER = '''
try:
    import _interpreters as interpreters
    other = interpreters.create("legacy")
except ImportError:
    import _xxsubinterpreters as interpreters
    other = interpreters.create(isolated=False)

STEP = """
import numpy as np
import fastgd
p = np.ones(70_000, np.float32)
fastgd.AdamW([p], lr=0.1).step([p.copy()], clip_norm=1.0)
assert np.all(p == p[0]) and p[0] < 1
"""

def inside(code):
    # Python 3.13 gives the error back, those before raise it
    try:
        failed = interpreters.run_string(other, code)
    except Exception as error:
        failed = error
    return failed and str(failed)
'''


def printed(program: str) -> str:
    # NumPy warns wherever it is loaded into an interpreter that is not the main one
    command = [sys.executable, "-W", "ignore::UserWarning", "-c", OTHER + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_second_interpreter_is_refused_and_the_first_goes_on():
    words = printed("exec(STEP); print(inside(STEP)); exec(STEP); interpreters.destroy(other); exec(STEP)")
    assert "cannot load module more than once per process" in words


def test_an_interpreter_that_is_alone_with_it_can_be_any():
    assert printed("print(inside(STEP)); interpreters.destroy(other)") == "None\n"


def test_a_failure_inside_is_seen():
    assert "made to fail" in printed("print(inside('raise ValueError(\"made to fail\")'))")
