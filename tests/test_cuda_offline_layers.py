"""Kernels of layers for NVIDIA GPUs compiled without one, and what is in their machine code."""

import re

import machine_code
import pytest
from cuda_layer_texts import ELEMENTS, F32, F64, NORMALISED, OTHERS

from fastgd.cuda.compiler import cubin_of
from fastgd.cuda.simulation import SIMULATED

pytest.importorskip("numba_cuda", reason="numba-cuda is not installed: pip install 'fastgd[cuda]'")
if SIMULATED:
    pytest.skip("the simulator compiles nothing", allow_module_level=True)
if machine_code.missing():
    pytest.skip(machine_code.missing(), allow_module_level=True)

#: some of each kind, which every run compiles
ELEMENTS_IN_ALL_RUNS = ["gelu forward", "mish backward", "relu backward", "linear", "dropout"]
OTHERS_IN_ALL_RUNS = ["softmax forward", "layer norm dx", "smooth cross entropy", "scatter", "lstm gates"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """(text, architecture) -> (PTX, machine code)."""
    folder = tmp_path_factory.mktemp("cubin")

    def make(text, architecture):
        ptx = machine_code.ptx_of(text)
        return ptx, machine_code.read(cubin_of(ptx, architecture), folder)

    return make


def without_spills(text, code):
    assert code.frame == 0
    assert code.count("LDL|STL") == 0
    assert code.registers <= text.registers


def elementwise(ready, real, compiled, architecture):
    """Arrays are read and written by 128 bits, and what is in float32 has nothing in float64."""
    ptx, code = compiled(ready.text, architecture)
    without_spills(ready.text, code)
    arrays = re.findall(r"(\w+)_at\b", ready.text.source.split(")", 1)[0])
    # those that are read by rows are not read by 128 bits
    rows = {"bias", "weight", "stats", "means"}
    together = [name for name in arrays if name not in rows]
    written = [name for name in together if re.search(rf"store_f\d\d\({name}_at", ready.text.source)]
    assert code.count(r"STG\.E\.128") == len(written)
    assert code.count(r"LDG\.E\.128") == len(together) - len(written)
    assert not re.search(r"^\s+(@\S+ )?(fma|mad)\.\S*f(32|64)", ptx, re.M)
    return code


@pytest.mark.parametrize(
    ("name", "real", "architecture"),
    machine_code.everywhere(
        ELEMENTS, [F32, F64], always=lambda name, real: real == F32 and name in ELEMENTS_IN_ALL_RUNS
    ),
)
def test_elements(name, real, architecture, compiled):
    code = elementwise(ELEMENTS[name](real), real, compiled, architecture)
    if real == F32:
        assert code.count(machine_code.DOUBLE) == 0


@pytest.mark.parametrize(
    ("name", "real", "architecture"),
    machine_code.everywhere(NORMALISED, [F32, F64], always=lambda name, real: False),
)
def test_channels(name, real, architecture, compiled):
    elementwise(NORMALISED[name](real), real, compiled, architecture)


@pytest.mark.parametrize(
    ("name", "real", "architecture"),
    machine_code.everywhere(
        OTHERS, [F32, F64], always=lambda name, real: real == F32 and name in OTHERS_IN_ALL_RUNS
    ),
)
def test_rows_and_columns(name, real, architecture, compiled):
    text = OTHERS[name](real)
    ptx, code = compiled(text, architecture)
    without_spills(text, code)
    assert not re.search(r"^\s+(@\S+ )?(fma|mad)\.\S*f(32|64)", ptx, re.M)
    # sums have an order that no hardware decides
    assert code.count("ATOM|RED") == 0
