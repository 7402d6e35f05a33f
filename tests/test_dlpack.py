"""Memory that is lent through DLPack, bfloat16 among it, which NumPy does not take."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from snapshots import random

import fastgd
from fastgd.arrays import as_array, dtype_named
from fastgd.dlpack import BFLOAT, data_type

BF16 = dtype_named("bfloat16")


class Lender:
    """Lends bfloat16 as others do: its capsules say so."""

    def __init__(self, array, bits=16):
        self.array, self.bits, self.versions = array, bits, []

    def __dlpack__(self, *, max_version=None, **how):
        self.versions.append(max_version)
        capsule = self.array.view(np.uint16).__dlpack__(max_version=max_version)
        found = data_type(capsule)
        found.code, found.bits = BFLOAT, self.bits
        return capsule

    def __dlpack_device__(self):
        return (1, 0)


class Old(Lender):
    """Of before versions were negotiated: NumPy takes what it lends as read-only."""

    def __dlpack__(self, **how):
        if how:
            raise TypeError("no keywords")
        return super().__dlpack__()


@pytest.mark.parametrize("lender", [Lender, Old])
def test_bfloat16_is_updated_where_it_lies(lender, backend):
    base = random((4, 6), 0).astype(BF16)
    params = [base[:, ::2].T]
    plain = [params[0].copy()]
    opts = [fastgd.AdamW([Lender(params[0])], lr=0.1, backend=backend)]
    opts.append(fastgd.AdamW(plain, lr=0.1, backend=backend))
    for t in range(2):
        grad = random((3, 4), t).astype(BF16)
        opts[0].step([lender(grad)])
        opts[1].step([grad])
    assert params[0].tobytes() == plain[0].tobytes()
    assert np.array_equal(base[:, 1::2], random((4, 6), 0).astype(BF16)[:, 1::2])


def test_what_was_lent_stays():
    array = as_array(Lender(np.arange(1000).astype(BF16)), "array")
    gc.collect()
    assert array.dtype == BF16
    assert array.flags.writeable
    assert np.array_equal(array, np.arange(1000).astype(BF16))


def test_other_dtypes_of_that_code_are_refused():
    with pytest.raises(TypeError, match="array does not lend its memory"):
        as_array(Lender(np.zeros(4, BF16), bits=32), "array")


@pytest.mark.peer
def test_tensors_of_torch(backend):
    torch = pytest.importorskip("torch", reason="torch is in the extra `peers`")
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        tensor = torch.zeros(3, 4, dtype=dtype)
        opt = fastgd.SGD([tensor.T], lr=0.5, backend=backend)
        for grad in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            opt.step([torch.ones(4, 3, dtype=grad)])
        assert torch.equal(tensor, torch.full((3, 4), -2, dtype=dtype))
    with pytest.raises(TypeError, match=r"does not lend its memory \(Can't export tensors that require grad"):
        fastgd.SGD([torch.zeros(3, dtype=torch.bfloat16, requires_grad=True)], backend=backend)
