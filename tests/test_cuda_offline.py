"""Kernels for NVIDIA GPUs compiled without one, and what is in their machine code.

What ptxas makes of a division or a root that is rounded to nearest is part of what is asserted: a reciprocal,
a few fused steps towards the quotient, and a subroutine that is called for operands near the ends of the range
only. PTX has none of that: there it is one instruction.
"""

import re

import pytest

from fastgd.rules import INTERNAL, RULES

numba_cuda = pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: pip install 'fastgd[cuda]'")

import machine_code
from fastgd.cuda.simulation import SIMULATED

if SIMULATED:
    pytest.skip("the simulator compiles nothing", allow_module_level=True)
if machine_code.missing():
    pytest.skip(machine_code.missing(), allow_module_level=True)

from fastgd.cuda.compiler import cubin_of, ptx_of
from fastgd.cuda.element import Variant
from fastgd.cuda.finish import Judging, finish_rescaled_text, finish_text, ratios_text
from fastgd.cuda.passes import operands_of
from fastgd.cuda.sums import sums_text, trial_text
from fastgd.cuda.update import update_text

ARCHITECTURES = [(8, 0), (9, 0), (10, 0)]

F32, BF16, F16, F64 = "float32", "bfloat16", "float16", "float64"

#: subroutine of ptxas's -> what it is the rare case of
SUBROUTINES = {"div": r"__cuda_sm\w*_div_rn_\w*f32_slowpath", "sqrt": r"__cuda_sm\w*_sqrt_rn_\w*f32_slowpath"}

#: in float64 there is one more, for the reciprocal
SUBROUTINES_F64 = r"__cuda_sm\w*_(div|dsqrt|rcp)_\w*|\$\w*|__internal_\w*"


def variant(rule, on=None, *, param=F32, grad=None, state=F32, **rest):
    """Of a rule, with all of its switches on or off."""
    table = (RULES | INTERNAL)[rule]
    switches = dict.fromkeys(table.switches, bool(on))
    slots = tuple(state if s.switch is None or switches[s.switch] else None for s in table.slots)
    return Variant(rule, tuple(switches.values()), param, grad or param, slots, **rest)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """(text, architecture) -> (PTX, machine code)."""
    folder = tmp_path_factory.mktemp("cubin")

    def make(text, architecture=(9, 0)):
        ptx = ptx_of(text, architecture)
        return ptx, machine_code.read(cubin_of(ptx, architecture), folder)

    return make


def no_spills(code, text):
    assert code.frame == 0
    assert code.count("LDL|STL") == 0
    assert code.registers <= text.registers


def wide(variant, ptx, code):
    """The vector path reads and writes each operand with 128 bits, or all of a thread's elements at once."""
    operands = operands_of(variant)
    loads, stores = (len(re.findall(rf"\b{what}\.global\.v4\.\w+", ptx)) for what in ("ld", "st"))
    reads, writes = sum(o.reads for o in operands), sum(o.writes for o in operands)
    assert loads >= reads and loads % reads == 0, "unrolled or not, all operands are read alike"
    assert stores >= writes and stores % writes == 0
    # one more is the tile's own row
    assert code.count(r"LDG\.E\.128") >= reads + 1
    assert code.count(r"STG\.E\.128") >= writes


# ---- Updates of float32 ---------------------------------------------------------------------------


def check_float32(variant, compiled, architecture):
    text = update_text(variant)
    ptx, code = compiled(text, architecture)
    no_spills(code, text)
    assert code.registers <= 64
    wide(variant, ptx, code)
    # PTX: nothing is fused, called or in float64
    assert not re.search(r"^\s+(@\S+ )?(fma|mad)\.\S*f32", ptx, re.M)
    assert not re.search(r"^\s+(@\S+ )?call", ptx, re.M)
    assert not re.search(r"^\s+(@\S+ )?[a-z]\S*\.f64", ptx, re.M)
    divides = {"div": len(re.findall(r"\bdiv\.rn\.f32", ptx)), "sqrt": len(re.findall(r"\bsqrt\.rn\.f32", ptx))}
    assert divides["div"] == len(re.findall(r"\bdiv\.", ptx)) - len(re.findall(r"\bdiv\.[su]\d", ptx))
    assert divides["sqrt"] == len(re.findall(r"\bsqrt\.", ptx))
    # machine code: no float64, and of calls and fused steps what divisions and roots are made of
    assert code.count(r"D(ADD|MUL|FMA|SETP|MNMX)|F2F\.F64|F2F\.F32\.F64|I2F\.F64|MUFU\.\w+64H") == 0
    (kernel,) = [name for name in code.functions if name == text.name]
    others = set(code.functions) - {kernel}
    expected = {what for what, count in divides.items() if count}
    assert len(others) <= len(expected)
    assert all(any(re.fullmatch(SUBROUTINES[what], name) for what in expected) for name in others)
    assert code.count("FFMA") == 0 or expected
    # each is called from one place at most for each time that ptxas repeats the instruction
    assert bool(code.count("CALL")) == bool(others)
    return divides, code


#: rules that neither divide nor take a root, with all switches on and off: they come of no table
def _plain(divides):
    return not any(divides.values())


@pytest.mark.parametrize("rule", [*RULES, *INTERNAL])
def test_updates_of_float32(rule, compiled):
    """For sm_90 with all switches on; the others are slow."""
    divides, code = check_float32(variant(rule, True), compiled, (9, 0))
    if _plain(divides):
        assert code.count("CALL|FFMA|MUFU") == 0
