"""Kernels for NVIDIA GPUs, compiled without one: what is in their PTX and in their machine code.

Calls. A division or a root that is rounded to nearest is one instruction of PTX. ptxas makes of it an
approximation (MUFU), fused steps towards the result (5 of a division, 2 of a root), and a subroutine of its
own for operands that these steps cannot do, which are those near the ends of the range, zeros among them. The
subroutine needs no stack. The calls stay: the same bits without them take scaling of both operands, and a
second rounding where the result is subnormal, some 35 instructions for each element in place of 10.
"""

import re

import pytest

from fastgd.rules import INTERNAL, RULES

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: pip install 'fastgd[cuda]'")

import machine_code

from fastgd.cuda.simulation import SIMULATED

if SIMULATED:
    pytest.skip("the simulator compiles nothing", allow_module_level=True)
if machine_code.missing():
    pytest.skip(machine_code.missing(), allow_module_level=True)

from fastgd.cuda.compiler import cubin_of
from fastgd.cuda.element import Variant
from fastgd.cuda.finish import Judging, finish_rescaled_text, finish_text
from fastgd.cuda.passes import operands_of
from fastgd.cuda.ratios import ratios_text
from fastgd.cuda.sums import sums_text, trial_text
from fastgd.cuda.update import update_text

F32, BF16, F16, F64, CODED = "float32", "bfloat16", "float16", "float64", "8bit"

#: rules by name, with those that no user sees
ALL = RULES | INTERNAL


def variant(rule, on=True, *, param=F32, grad=None, state=F32, **rest):
    """Of a rule with all of its switches on or off, and all of its state stored alike."""
    switches = dict.fromkeys(ALL[rule].switches, on)
    slots = (state if s.switch is None or on else None for s in ALL[rule].slots)
    return Variant(rule, tuple(switches.values()), param, grad or param, tuple(slots), **rest)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """(text, architecture) -> (PTX, machine code), of which nothing is spilled or calls by a stack."""
    folder = tmp_path_factory.mktemp("cubins")

    def compile(text, architecture):
        ptx = machine_code.ptx_of(text)
        code = machine_code.read(cubin_of(ptx, architecture), folder)
        assert text.name in code.functions, "it is launched by this name"
        assert code.frame == 0, "local memory"
        assert code.count("LDL|STL") == 0
        assert code.registers <= text.registers
        assert not instructions(ptx, "call")
        assert not instructions(ptx, r"(fma|mad)\S*\.f(32|64)")
        assert ".ftz" not in ptx and ".approx" not in ptx
        return ptx, code

    return compile


def instructions(ptx, pattern):
    """How many match, from their first letter to their last modifier or before."""
    return len(re.findall(rf"^\s+(?:@!?%p\d+ )?(?:{pattern})\b", ptx, re.M))


def check_accesses(variant, text, ptx, code):
    """The vector path reads and writes by 128 bits all of which a thread has as many."""
    width = int(re.search(r"i = first \+ thread\(\) \* (\d+)", text.source)[1])
    counts = {
        access: sum(width * o.size // 16 for o in operands_of(variant) if getattr(o, access))
        for access in ("reads", "writes")
    }
    assert min(counts.values()) > 0
    for instruction, access in (("ld", "reads"), ("st", "writes")):
        assert instructions(ptx, rf"{instruction}\.global\.(v4\.\w32|v2\.\w64)") >= counts[access]
    # and the row of its tile
    assert code.count(r"LDG\.E\.128") >= counts["reads"] + 1
    assert code.count(r"STG\.E\.128") >= counts["writes"]


@pytest.mark.parametrize(
    ("rule", "on", "architecture"),
    machine_code.everywhere(ALL, [False, True], always=lambda rule, on: on),
)
def test_float32(rule, on, architecture, compiled):
    """All that is promised of updates in float32."""
    tried = variant(rule, on)
    text = update_text(tried)
    ptx, code = compiled(text, architecture)
    assert text.registers == 64
    check_accesses(tried, text, ptx, code)
    assert not instructions(ptx, r"[a-z]\S*\.f64")
    assert code.count(machine_code.DOUBLE) == 0
    divisions, roots = instructions(ptx, r"div\.rn\.f32"), instructions(ptx, r"sqrt\.rn\.f32")
    assert instructions(ptx, r"(div|sqrt|rcp|rsqrt)\.\S*f32") == divisions + roots
    # what the traced operations ask for, and nothing else
    assert bool(divisions) == ("div_f32(" in text.source)
    assert bool(roots) == ("sqrt_f32(" in text.source)
    kernel = code.functions[text.name]
    others = sorted(name for name in code.functions if name != text.name)
    expected = [r"__cuda_sm\w+_sqrt_rn_\w*slowpath"] * bool(roots)
    expected = [*expected, r"__cuda_sm\w+_div_rn_\w*slowpath"] * bool(divisions) or expected
    assert len(others) == len(expected)
    assert all(re.fullmatch(pattern, name) for pattern, name in zip(expected, others, strict=True))
    assert machine_code.counted(kernel, r"CALL\.ABS") == divisions + roots
    assert machine_code.counted(kernel, "FFMA") == 5 * divisions + 2 * roots


#: name -> (variant, the most registers that it may take)
STORED = {
    "clamped": (variant("adamw", bounded=True, maximize=True), 64),
    "average": (variant("adamw", False, average=True), 64),
    "cautious": (variant("adamw", cautious=True), 64),
    "units": (variant("adamw", units=True), 128),
    "copy": (variant("adamw", copy=BF16, average=True), 128),
    "bfloat16": (variant("adamw", param=BF16, state=BF16), 128),
    "stochastic": (
        variant("adamw", param=BF16, state=BF16, rounding="stochastic", state_rounding="stochastic"),
        128,
    ),
    "kahan": (variant("adamw", param=BF16, state=BF16, rounding="kahan"), 128),
    "split": (variant("adamw", param=BF16, grad=F32, rounding="split"), 128),
    "master": (variant("adamw", param=BF16, grad=F32, rounding="master"), 128),
    "float16": (
        variant("adamw", param=F16, state=BF16, rounding="master", state_rounding="stochastic"),
        128,
    ),
    "8bit": (variant("adamw", False, state=CODED), 128),
    "8bit and stochastic": (
        variant("adamw", False, param=BF16, state=CODED, rounding="master", state_rounding="stochastic"),
        128,
    ),
    "8bit of everything": (
        variant("adan", param=BF16, state=CODED, rounding="kahan", state_rounding="stochastic", average=True),
        255,
    ),
    "float64": (variant("adamw", param=F64, state=F64), 128),
    "float64 of everything": (
        variant("adan", param=F64, state=F64, average=True, copy=BF16, bounded=True),
        255,
    ),
}


@pytest.mark.parametrize(
    ("name", "architecture"),
    machine_code.everywhere(STORED, always=lambda name: name in ("stochastic", "float64")),
)
def test_stored(name, architecture, compiled):
    variant, registers = STORED[name]
    text = update_text(variant)
    ptx, code = compiled(text, architecture)
    assert code.registers <= registers
    if CODED in variant.state:
        # a lane has 8 elements, and so 8 bytes of codes
        assert code.count(r"LDG\.E\.(128|64)\b") >= len(operands_of(variant))
    else:
        check_accesses(variant, text, ptx, code)
    if variant.param != F64:
        assert not instructions(ptx, r"[a-z]\S*\.f64")
        assert code.count(machine_code.DOUBLE) == 0


_JUDGING = Judging(measured=True, clips=True, scoped=True, skip_nonfinite=True, clamped=True)

#: the kernels beside updates
OTHERS = {
    "sums": lambda: sums_text(F32, F32, clamped=False),
    "sums of bfloat16": lambda: sums_text(BF16, F32, clamped=True),
    "sums of float64": lambda: sums_text(F64, F64, clamped=True),
    "sums of scaled float64": lambda: sums_text(F64, F64, clamped=True, scaled=True),
    "finish": lambda: finish_text(_JUDGING),
    "finish once": lambda: finish_text(_JUDGING._replace(rescales=True)),
    "finish again": lambda: finish_rescaled_text(_JUDGING._replace(rescales=True)),
    "finish unmeasured": lambda: finish_text(Judging()),
    "trial": lambda: trial_text(variant("lamb")),
    "trial of codes": lambda: trial_text(variant("adamw", state=CODED, cautious=True)),
    "ratios": lambda: ratios_text(variant("lamb", cautious=True)),
}


@pytest.mark.parametrize(
    ("name", "architecture"),
    machine_code.everywhere(
        OTHERS, always=lambda name: name in ("sums of bfloat16", "finish", "trial", "ratios")
    ),
)
def test_others(name, architecture, compiled):
    text = OTHERS[name]()
    assert text.registers == (128 if name == "trial of codes" else 64)
    compiled(text, architecture)


def test_what_would_be_fused_is_not():
    """The instructions that are looked for are there when nothing keeps the compiler from them."""
    from numba import cuda

    def fused(address, a, b):
        values = cuda.local.array(1, cuda.types.float32)
        values[0] = a * b + a
        address[0] = values[0]

    kind = cuda.types.float32
    ptx, _ = cuda.compile(
        fused, (kind[:], kind, kind), device=False, abi="numba", cc=machine_code.HOPPER, output="ptx"
    )
    assert instructions(ptx, r"(fma|mad)\S*\.f32")
