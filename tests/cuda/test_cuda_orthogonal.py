"""Muon on the device: kernels of ours around matrix products of whoever owns the arrays."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import ClassVar

import ml_dtypes
import numpy as np
import pytest
from alike import Pair, same

from fastgd.cuda import driver, matrices, products
from fastgd.cuda.memory import memory
from fastgd.cuda.simulation import SIMULATED
from fastgd.memory import on_host

BF16 = ml_dtypes.bfloat16

SHAPES = [(5, 7), (6, 2), (4, 4), (1, 1), (0, 3)]

#: dtype of the parameter, settings, options of the steps
CASES = {
    "float32": (np.float32, {}, {"clip_norm": 0.5}),
    "float64": (np.float64, {"nesterov": False}, {}),
    "bfloat16": (BF16, {"rounding": "stochastic", "state_rounding": "stochastic"}, {}),
    "8-bit state": (np.float32, {"state_dtype": "8bit"}, {}),
    "cautious": (np.float32, {"cautious": True}, {}),
    "by units": (np.float32, {"maximize": True}, {"clip_adaptive": 0.02}),
    "no iterations": (np.float32, {"ns_steps": 0}, {}),
    "one iteration": (np.float32, {"ns_steps": 1, "ema_decay": 0.5, "adjust_lr_fn": "match_rms_adamw"}, {}),
}

#: products are added up in another order: a few roundings of the size of the step
CLOSE = {"float32": 1e-5, "float64": 1e-13, "bfloat16": 2e-2}


@pytest.mark.parametrize("case", CASES)
def test_as_the_reference(case):
    dtype, settings, asked = CASES[case]
    pair = Pair("muon", SHAPES, dtype=dtype, lr=0.1, **settings)
    for _ in range(2):
        pair.step(**asked)
    close = CLOSE[np.dtype(dtype).name]
    for wanted, array in zip(pair.host, pair.device, strict=True):
        got = on_host(array).astype(np.float64)
        assert np.allclose(got, wanted.astype(np.float64), rtol=close, atol=close)
    # momentum has no product in it
    wanted, got = pair.reference.state_dict()["state"], pair.opt.state_dict()["state"]
    for number, entry in wanted.items():
        for name, value in entry.items():
            if name.startswith("momentum"):
                same(np.asarray(got[number][name]), np.asarray(value))


def test_a_gradient_of_zeros():
    pair = Pair("muon", [(3, 4)], lr=0.1)
    pair.step([np.zeros((3, 4), np.float32)])
    pair.assert_same()


def test_a_skipped_step_changes_nothing():
    pair = Pair("muon", [(3, 4)])
    pair.step([np.full((3, 4), np.inf, np.float32)], skip_nonfinite=True)
    pair.assert_same()


# ---- Calls of libraries, which are tried with stand-ins that reach the simulated memory ---------------


class Stream:
    """Notes which stream products were made on."""

    used: ClassVar[list] = []

    def __init__(self, handle, device=None):
        self.handle = handle

    def __enter__(self):
        self.used.append(self.handle)

    def __exit__(self, *error):
        pass


def reach(lent, device=None):
    interface = dict(lent.__cuda_array_interface__)
    # whoever reads it would wait for any stream that it names
    assert interface.pop("stream") is None
    return np.asarray(SimpleNamespace(__array_interface__=interface))


def torch():
    cuda = SimpleNamespace(
        default_stream=lambda device: Stream("default"),
        ExternalStream=Stream,
        stream=lambda own: own,
        device=lambda device: nullcontext(),
        is_available=lambda: True,
    )
    return SimpleNamespace(
        cuda=cuda,
        device=lambda kind, number: (kind, number),
        as_tensor=reach,
        no_grad=nullcontext,
        matmul=np.matmul,
    )


def cupy():
    class External(Stream):
        null = Stream("default")

    cuda = SimpleNamespace(
        ExternalStream=External,
        Stream=External,
        Device=lambda number: nullcontext(),
        is_available=lambda: True,
    )
    return SimpleNamespace(cuda=cuda, asarray=reach, matmul=np.matmul)


@pytest.fixture
def libraries(monkeypatch):
    """What can be imported where nothing is simulated, by name; to be filled."""
    present = {}

    def imported(name):
        if name not in present:
            raise ImportError(f"No module named {name!r}")
        return present[name]

    monkeypatch.setattr(products, "SIMULATED", False)
    monkeypatch.setattr(products, "import_module", imported)
    products._library.cache_clear()
    yield present
    products._library.cache_clear()


class Owner:
    __module__ = "cupy"


def test_whose_products(libraries):
    libraries |= {"torch": torch(), "cupy": cupy()}
    assert products.library(Owner()) is products._by_cupy
    libraries["cupy"].cuda.is_available = lambda: False
    products._library.cache_clear()
    assert products.library(Owner()) is products._by_torch
    del libraries["torch"]
    products._library.cache_clear()
    with pytest.raises(ImportError, match=r"torch's or CuPy's.*cupy sees no GPU.*pip install"):
        products.library(Owner())


@pytest.mark.skipif(not SIMULATED, reason="stand-ins reach simulated memory alone")
@pytest.mark.parametrize(
    ("name", "made", "multiply"),
    (("torch", torch(), products._by_torch), ("cupy", cupy(), products._by_cupy)),
    ids=("torch", "cupy"),
)
def test_products(name, made, multiply, libraries):
    libraries[name] = made
    pool = matrices.Workspace(memory(0), np.dtype(np.float64), multiply)
    a, b = pool.matrix(2, 3), pool.matrix(4, 3)
    values = [np.arange(6.0).reshape(2, 3), np.arange(12.0).reshape(4, 3)]
    for matrix, value in zip((a, b), values, strict=True):
        memory(0).write(matrix.array, value)
    result = a @ b.T
    assert result.shape == (2, 4)
    (product,) = pool.planned
    Stream.used.clear()
    for stream in (driver.DEFAULT_STREAM, 77):
        product(stream)
        assert np.array_equal(result.array.host(), values[0] @ values[1].T)
    assert Stream.used == ["default", 77]


def test_memory_of_matrices_is_used_again():
    pool = matrices.Workspace(memory(0), np.dtype(np.float32), None)
    first = pool.matrix(2, 3)
    turned, where = first.T, first.pointer
    del first
    assert pool.matrix(3, 2).pointer != where, "its transpose is still there"
    del turned
    assert pool.matrix(1, 6).pointer == where
