"""Kernels for units, lines, products, strides and rows, compiled without a GPU: nothing is spilled."""

from importlib.util import find_spec

import machine_code
import numpy as np
import pytest

from fastgd.cuda import clipping, factored, orthogonal, sums, units
from fastgd.cuda.compiler import cubin_of
from fastgd.cuda.element import Variant
from fastgd.cuda.judge import Kind
from fastgd.cuda.simulation import SIMULATED
from fastgd.cuda.update import update_text


def missing():
    """Why nothing can be compiled here, or nothing."""
    if find_spec("numba_cuda") is None:
        return "numba-cuda is not installed: pip install 'fastgd[cuda]'"
    return "the simulator compiles nothing" if SIMULATED else machine_code.missing()


pytestmark = pytest.mark.skipif(bool(missing()), reason=str(missing()))

F32, F64 = "float32", "float64"

ADAM = Variant("adamw", (False, False), F32, F32, (F32, F32, None))
ADAM64 = Variant("adamw", (False, False), F64, F64, (F64, F64, None))
LINES = Variant("adafactor", (True, False), F32, F32, (F32, F32, None))
LINES8 = LINES._replace(state=("8bit", "8bit", None), state_rounding="stochastic")
MUON = Variant("muon", (True,), F32, F32, (F32,))

TEXTS = {
    "sums of units": lambda: units.unit_sums_text(ADAM),
    "coefficients of units": lambda: units.unit_coefs_text(np.dtype(F32)),
    "the least of them": lambda: units.least_coef_text(),
    "by units": lambda: update_text(ADAM._replace(units=True)),
    "strided": lambda: update_text(ADAM._replace(layout="strided")),
    "strided, float64": lambda: update_text(ADAM64._replace(layout="strided")),
    "rows": lambda: update_text(ADAM._replace(layout="rows")),
    "strided sums": lambda: sums.sums_text(F32, F32, clamped=False, layout="strided"),
    "lines": lambda: update_text(LINES),
    "trial of lines": lambda: sums.trial_text(LINES),
    "sums of rows": lambda: factored.row_sums_text(LINES),
    "sums of bands": lambda: factored.band_sums_text(LINES),
    "sums of columns": lambda: factored.column_sums_text(),
    "new rows": lambda: factored.line_text(LINES, "row_var"),
    "new columns": lambda: factored.line_text(LINES, "col_var"),
    "new rows of codes": lambda: factored.line_text(LINES8, "row_var"),
    "factors of rows": lambda: factored.row_factors_text(LINES),
    "momentum": lambda: orthogonal.momentum_text(MUON),
    "scale": lambda: orthogonal.scale_text(MUON),
    "scaled": lambda: orthogonal.scaled_text(np.dtype(F32)),
    "polynomial": lambda: orthogonal.polynomial_text(MUON),
    "orthogonal": lambda: update_text(MUON),
    "orthogonal, cautious": lambda: update_text(MUON._replace(cautious=True)),
    "clipped in place": lambda: clipping.clip_text(Kind(F32, F32), clamped=True),
}


@pytest.mark.parametrize(("name", "architecture"), machine_code.everywhere(TEXTS, always=lambda name: True))
def test_nothing_is_spilled(name, architecture, tmp_path):
    text = TEXTS[name]()
    code = machine_code.read(cubin_of(machine_code.ptx_of(text), architecture), tmp_path)
    assert code.frame == 0
    assert code.count("LDL|STL") == 0
    assert code.registers <= text.registers
