"""Gradients of some rows of a parameter on the device."""

import ml_dtypes
import numpy as np
import pytest
from alike import laid_out, on_device, same

import fastgd
from fastgd import Rows, optim
from fastgd.memory import on_host

BF16 = ml_dtypes.bfloat16

#: dtype of the parameter, of the gradient, settings, options
CASES = {
    "plain": (np.float32, np.float32, {}, {}),
    "clipped": (np.float32, np.float32, {}, {"clip_norm": 0.5}),
    "float64": (np.float64, np.float64, {"amsgrad": True}, {"clip_value": 0.5, "skip_nonfinite": True}),
    "random bits": (BF16, BF16, {"rounding": "stochastic", "state_rounding": "stochastic"}, {}),
    "average": (BF16, np.float32, {"rounding": "master", "ema_decay": 0.9}, {}),
}


class Embedding:
    """A table and a vector, by the reference and on the device."""

    def __init__(self, dtype, **settings):
        self.rng = np.random.default_rng(0)
        self.host = [self.rng.standard_normal(s).astype(dtype) for s in ((9, 5), (7,))]
        self.device = [on_device(a) for a in self.host]
        self.opts = [
            optim.create("adamw", self.host, backend="reference", **settings),
            optim.create("adamw", self.device, **settings),
        ]

    def step(self, indices, dtype, how=np.asarray, **asked):
        values, other = self.draw((len(indices), 5), dtype), self.draw((7,), dtype)
        wanted = self.opts[0].step([Rows(indices, values), other], **asked)
        given = Rows(how(indices), on_device(values))
        got = self.opts[1].step([given, on_device(other)], **asked)
        assert repr(tuple(got)) == repr(tuple(wanted))

    def draw(self, shape, dtype):
        return self.rng.standard_normal(shape).astype(dtype)

    def assert_same(self):
        for wanted, array in zip(self.host, self.device, strict=True):
            same(on_host(array), wanted)
        wanted, got = (opt.state_dict()["state"] for opt in self.opts)
        for number, entry in wanted.items():
            for name, value in entry.items():
                same(np.asarray(got[number][name]), np.asarray(value))


@pytest.mark.parametrize("how", (np.asarray, on_device), ids=("host", "device"))
@pytest.mark.parametrize("case", CASES)
def test_bits(case, how):
    dtype, grad, settings, asked = CASES[case]
    table = Embedding(dtype, **settings)
    for indices in ([3, 0, 8], [1], [0, 1, 2, 3, 4, 5, 6, 7, 8], []):
        table.step(np.array(indices, np.int64), grad, how, **asked)
    table.assert_same()


@pytest.mark.parametrize("dtype", (np.float32, BF16), ids=str)
def test_rows_that_come_more_than_once(dtype):
    table = Embedding(dtype)
    for indices in ([3, 3, 8, 3], [1, 2]):
        table.step(np.array(indices), dtype)
    table.assert_same()


def test_values_with_gaps():
    table = Embedding(np.float32)
    values, device = laid_out(table.draw((2, 5), np.float32), "gaps")
    for opt, given in zip(table.opts, (values, device), strict=True):
        opt.step([Rows(np.array([4, 1]), given), None])
    table.assert_same()


def test_a_norm_that_is_not_finite_names_the_row():
    table = Embedding(np.float32)
    values = np.ones((2, 5), np.float32)
    values[1, 2] = np.nan
    rows = Rows(np.array([4, 7]), on_device(values))
    report = table.opts[1].step([rows, None], skip_nonfinite=True)
    assert report.skipped and report.nonfinite.element == (7, 2)


def test_refusals():
    opt = fastgd.AdamW([on_device(np.ones((3, 2), np.float32))])
    good = on_device(np.ones((1, 2), np.float32))
    with pytest.raises(ValueError, match="there is no row 3"):
        opt.step([Rows(np.array([3]), good)])
    with pytest.raises(ValueError, match="values is on host"):
        opt.step([Rows(np.array([1]), np.ones((1, 2), np.float32))])
    with pytest.raises(ValueError, match="norms of the whole parameter"):
        fastgd.LAMB([on_device(np.ones((3, 2), np.float32))]).step([Rows(np.array([0]), good)])
    with pytest.raises(ValueError, match="stored in blocks that cross rows"):
        fastgd.AdamW([on_device(np.ones((3, 2), np.float32))], state_dtype="8bit").step(
            [Rows(np.array([0]), good)]
        )
    assert (on_host(opt.parameters()[0]) == 1).all()
