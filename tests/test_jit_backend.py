"""The backend "jit": the loops that Numba compiles from the Python bodies have the bits of those in C."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from snapshots import contents, random
from user_rules import lion

import fastgd
from fastgd import backends, machine, optim
from fastgd.arrays import dtype_named
from fastgd.backends import jit_loops
from fastgd.backends.base import Options
from fastgd.backends.jit_loops import compiled, loop_of
from fastgd.oracle import ORACLE
from fastgd.rules import INTERNAL, RULES
from fastgd.tracing import TraceError
from fastgd.verification import Runner, cases, compute

pytest.importorskip("numba", reason="the loops are compiled by numba, extra jit")

HERE = [name for name, rule in RULES.items() if backends.get("jit").supports(rule, "float32")]
REALS = (np.float32, np.float64)
BFLOAT16 = dtype_named("bfloat16")
SHAPES = [(3, 257), (), (0, 4), (17,)]


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", HERE)
def test_every_rule_with_every_switch(name, real):
    for case in cases(name, np.dtype(real), sizes=(1, 17, 300)):
        ways = [compute(case, Runner(backend)) for backend in ("jit", "native")]
        assert ways[0].same_bits(ways[1]), case.settings


STORED = [
    {"state_dtype": "8bit"},
    {"state_dtype": "bfloat16", "state_rounding": "stochastic", "cautious": True},
    {"state_dtype": "float32", "rounding": "kahan", "ema_decay": 0.5},
]


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("beside", STORED, ids=str)
def test_every_rule_in_fewer_bits(name, beside):
    if RULES[name].whole:
        beside = {**beside, "cautious": False}

    def run(backend):
        params = [random(shape, i, BFLOAT16) for i, shape in enumerate(SHAPES)]
        settings = {**ORACLE[name].settings[-1], **beside}
        opt = optim.create(name, params, backend=backend, seed=3, **settings)
        for t in range(3):
            grads = [random(shape, 10 * t + i, BFLOAT16) for i, shape in enumerate(SHAPES)]
            opt.step(grads, clip_norm=1.0, grad_scale=3.0)
        return contents(opt)

    assert run("jit") == run("native")


@pytest.mark.parametrize("name", sorted(RULES.keys() - set(HERE)))
def test_rules_of_whole_tensors_are_refused(name):
    title = RULES[name].title
    with pytest.raises(TypeError, match=f"the jit backend has no {title} in float32"):
        optim.create(name, [np.ones((2, 2), np.float32)], backend="jit")


def test_a_body_that_is_no_formula_of_one_element():
    def body(xp, p, g, x, s, on):
        return p - xp.cumsum(g)

    rule = RULES["sgd"]._replace(body=body)
    with pytest.raises(TraceError, match=r"np\.cumsum has no operation of one element"):
        loop_of(rule, dict.fromkeys(rule.switches, False), np.float32)


def test_clipping_is_the_native_backend_s():
    arrays = [random((100,), 1), random((3, 5), 2, np.float64)]
    of_jit, native = backends.get("jit"), backends.get("native")
    options = Options(clip_norm=0.5, measure=True)
    assert of_jit.norms(arrays, options) == native.norms(arrays, options)
    assert of_jit.measure(arrays, options) == native.measure(arrays, options)


# ---- What is compiled -------------------------------------------------------------------------------


def assembly(name, real):
    rule = (RULES | INTERNAL)[name]
    loop = loop_of(rule, dict.fromkeys(rule.switches, True), real)
    compiled(loop)
    made = next(f for key, f in jit_loops._COMPILED.items() if key.startswith(loop.text))
    return made._library.get_asm_str()


@pytest.mark.skipif(
    machine.platform.machine() not in ("x86_64", "AMD64"), reason="the names are of x86-64's instructions"
)
@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("name", [name for name in HERE if RULES[name].elementwise])
def test_loops_work_on_packed_numbers_and_fuse_nothing(name, real):
    text = assembly(name, real)
    packed = "p" + ("s" if real is np.float32 else "d")
    assert re.search(rf"\bv?mul{packed}\b", text)
    assert not re.search(r"\bv?fn?m(add|sub)", text)
    assert not re.search(r"\bcallq?\s+\S*sqrt", text)


# ---- Without numba ----------------------------------------------------------------------------------


def in_process(code):
    """What the code prints, as JSON, in a process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_without_numba_the_error_says_what_to_install():
    found = in_process("""
        import json, sys
        sys.modules["numba"] = sys.modules["llvmlite"] = None
        import numpy as np
        import fastgd
        from user_rules import sgd
        p = np.ones(3, np.float32)
        errors = []
        for make in (lambda: sgd([p]), lambda: fastgd.AdamW([p], backend="jit")):
            try:
                make()
            except ImportError as error:
                errors.append(str(error))
        fastgd.AdamW([p]).step([p.copy()])
        sgd([p], lr=0.5, backend="reference").step([np.ones(3, np.float32)])
        print(json.dumps([errors, fastgd.info()["backends"]["jit"], float(p[0]) < 0.6]))
    """)
    reason = "it needs numba, which is not installed: pip install 'fastgd[jit]'"
    assert found == [[f"backend 'jit' cannot be used here: {reason}"] * 2, reason, True]


def test_numba_is_imported_with_the_first_step():
    code = """
        import json, sys
        import numpy as np
        import fastgd
        from user_rules import sgd
        p = np.ones(3, np.float32)
        opt = sgd([p])
        before = "numba" in sys.modules
        opt.step([p.copy()])
        print(json.dumps([before, "numba" in sys.modules]))
    """
    assert in_process(code) == [False, True]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_in_a_forked_child():
    """In a process of its own: Python warns of a fork where there are threads."""
    code = """
        import os
        import numpy as np
        from user_rules import lion, sgd

        lion([np.ones(5)]).step([np.ones(5)])
        pid = os.fork()
        q, r = np.ones(5), np.ones(5)
        lion([q], lr=0.5).step([np.ones(5)])
        sgd([r], lr=0.5).step([np.ones(5)])
        right = q[0] == 0.5 and r[0] == 0.5
        if pid == 0:
            os._exit(not right)
        print(int(right and os.waitpid(pid, 0)[1] == 0))
    """
    assert in_process(code) == 1


def test_auto_takes_the_first_backend_that_has_the_rule():
    assert fastgd.Lion([np.ones(2)]).backend.name == "native"
    assert lion([np.ones(2)]).backend.name == "jit"
