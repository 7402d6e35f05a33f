"""What happens to gradients on the device before their rule: clipped or skipped, as by the reference."""

import numpy as np
import pytest

import fastgd
from fastgd.memory import on_host

ASKED = {
    "norm": {"clip_norm": 0.7},
    "norm not reached": {"clip_norm": 1e6},
    "value": {"clip_value": 0.3},
    "both": {"clip_norm": 0.7, "clip_value": 0.3, "grad_scale": 4.0},
    "scale": {"grad_scale": 3.0, "skip_nonfinite": True},
    "normalize": {"clip_norm": 50.0, "normalize": True},
    "groups": {"clip_norm": 0.7, "clip_scope": "group"},
    "tensors": {"clip_norm": 0.7, "clip_scope": "tensor", "skip_nonfinite": True},
    "told": {"clip_norm": 0.7, "total_norm": 3.5},
}

#: what the gradients hold: (dtype of parameters, of gradients, where and what)
HELD = {
    "float32": (np.float32, np.float32, None),
    "float64": (np.float64, np.float64, None),
    "zeros": (np.float32, np.float32, 0.0),
    "zeros in float64": (np.float64, np.float64, 0.0),
    "squares overflow": (np.float64, np.float64, 1e200),
    "squares vanish": (np.float64, np.float64, 1e-200),
    "subnormal": (np.float64, np.float64, 5e-324),
    "beyond float32": (np.float32, np.float64, 1e60),
    "NaN": (np.float32, np.float32, np.nan),
    "infinite": (np.float64, np.float64, np.inf),
}


def run(holds, backend, held, asked):
    dtype, grad_dtype, value = HELD[held]
    rng = np.random.default_rng(1)
    shapes = [(3,), (2, 9), (17,)]
    params = [holds(rng.standard_normal(s).astype(dtype)) for s in shapes]
    groups = [{"params": params[:1]}, {"params": params[1:], "maximize": True}]
    opt = fastgd.AdamW(groups, lr=0.1, backend=backend)
    reports = []
    for step in range(3):
        grads = [rng.standard_normal(s).astype(grad_dtype) for s in shapes]
        if value is not None and step == 1:
            if np.isfinite(value):
                grads = [np.sign(g) * value for g in grads]
            else:
                grads[1][1, 4] = value
        given = [holds(g) for g in grads]
        reports.append(tuple(opt.step(given, **asked)))
    state = opt.state_dict()
    kept = [v for entry in state["state"].values() for v in entry.values()]
    arrays = [*map(on_host, params), *map(np.asarray, kept)]
    # which NaN comes of an operation is the machine's own affair
    bits = [(a if a.dtype.kind != "f" else np.where(np.isnan(a), np.nan, a)).tobytes() for a in arrays]
    return bits, reports, opt.skipped_steps


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("asked", ASKED)
def test_as_the_reference(held, asked, on_device):
    wanted = run(lambda a: a, "reference", held, ASKED[asked])
    got = run(on_device, "auto", held, ASKED[asked])
    assert repr(got) == repr(wanted)
