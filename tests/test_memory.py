"""Arrays on a device: what they are, whose they are, and how long what was lent is kept."""

from __future__ import annotations

import copy
import gc
import pickle
import sys
import types
import weakref

import numpy as np
import pytest
import standin
from snapshots import random
from standin import reach, upload

import fastgd
from fastgd import dlpack, lenders
from fastgd.arrays import (
    address,
    addresses,
    as_array,
    bounds,
    dtype_named,
    first_overlap,
    lent,
    listed,
    overlaps_itself,
)
from fastgd.lenders import LEGACY_STREAM
from fastgd.memory import DeviceArray, dense_strides, memory_of, memory_order, on_host, open_device

BF16 = dtype_named("bfloat16")
F32 = np.dtype(np.float32)


@pytest.fixture(autouse=True)
def on_the_stand_in(device):
    pass


# ---- Device arrays ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (0,), (5,), (1, 4), (3, 4), (2, 3, 4), (3, 0, 2), (1, 1)])
def test_a_device_array_describes_itself_as_numpys_do(shape):
    host = random(shape, 0)
    for order in {tuple(range(len(shape))), tuple(range(len(shape)))[::-1]}:
        own, other = host.transpose(order), upload(host).transpose(order)
        assert (other.ndim, other.size, other.itemsize) == (own.ndim, own.size, own.itemsize)
        assert (other.nbytes, other.shape, other.dtype) == (own.nbytes, own.shape, own.dtype)
        for name in ("c_contiguous", "f_contiguous", "writeable"):
            assert getattr(other.flags, name) == getattr(own.flags, name), name
        assert own.size == 0 or other.strides == own.strides
        assert other.host().tobytes() == own.tobytes()
        assert other.copy().flags.c_contiguous
        assert other.copy().host().tobytes() == own.tobytes()
        assert other.view().pointer == other.pointer


def test_another_shape():
    array = upload(np.arange(12, dtype=F32).reshape(3, 4))
    assert array.reshape(-1).shape == array.reshape((12,)).shape == (12,)
    assert array.reshape(2, -1).host().tolist() == np.arange(12).reshape(2, 6).tolist()
    assert array.reshape(-1).pointer == array.pointer
    for wrong in [(5, -1), (13,), (-1, -1), (-3, -4)]:
        with pytest.raises(ValueError, match="do not fit"):
            array.reshape(wrong)
    with pytest.raises(ValueError, match="only an array in C order"):
        array.transpose().reshape(-1)
    with pytest.raises(ValueError, match=r"axes .* are not those"):
        array.transpose(0, 0)


def test_its_text():
    array = DeviceArray(standin.memory(1), 4096, (2, 3), (4, 8), np.dtype(np.float16), None, False)
    text = "DeviceArray(float16 (2, 3) on cuda:1 at 0x1000, strides (4, 8), read-only)"
    assert repr(array) == text
    assert repr(DeviceArray(standin.memory(0), 16, (2,), None, BF16, None)).startswith("DeviceArray(bfloat16")


def test_numpy_cannot_read_it_and_nothing_changes_it():
    array = upload(random(3, 0))
    for read in (np.asarray, np.array, np.sum, lambda a: np.ones(3) + a):
        with pytest.raises(TypeError, match="call host"):
            read(array)
    assert not hasattr(array, "__array_interface__")
    with pytest.raises(AttributeError, match="'pointer' cannot be set"):
        array.pointer = 1
    with pytest.raises(TypeError, match="cannot be pickled: call host"):
        pickle.dumps(array)
    other = copy.deepcopy(array)
    assert other.pointer != array.pointer
    assert other.host().tobytes() == array.host().tobytes()


def test_others_read_it_through_their_interface():
    array = upload(random((3, 4), 0)).transpose()
    found = array.__cuda_array_interface__
    assert found["data"] == (array.pointer, False)
    assert (found["shape"], found["strides"]) == ((4, 3), (4, 16))
    assert (found["typestr"], found["version"], found["stream"]) == ("<f4", 3, 1)
    empty = upload(np.zeros((0, 3), F32)).__cuda_array_interface__
    assert empty["data"][0] == 0
    assert empty["strides"] is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_state_lies_as_its_parameter_does(order):
    host = random((2, 3, 4), 0).transpose(order)
    array = upload(host)
    assert array.strides == host.strides
    wide = np.zeros_like(host, np.float64)
    assert dense_strides(array.shape, memory_order(array), 8) == wide.strides


def test_questions_about_addresses_are_answered_without_a_look_at_memory():
    base = DeviceArray(standin.memory(0), 1 << 40, (4, 6), None, F32, None)
    left = DeviceArray(standin.memory(0), 1 << 40, (4, 3), (24, 4), F32, None)
    right = DeviceArray(standin.memory(0), (1 << 40) + 12, (4, 3), (24, 4), F32, None)
    below = DeviceArray(standin.memory(0), (1 << 40) + 20, (6,), (-4,), F32, None)
    twice = DeviceArray(standin.memory(0), 1 << 40, (4, 6), (0, 4), F32, None)
    host = random(3, 0)
    assert bounds(base) == (1 << 40, (1 << 40) + 96)
    assert bounds(below) == (1 << 40, (1 << 40) + 24)
    assert address(below) == (1 << 40) + 20
    assert addresses([host, right]).tolist() == [address(host), right.pointer]
    assert overlaps_itself(twice)
    assert not overlaps_itself(left)
    assert first_overlap([left, right, host]) is None
    assert first_overlap([host, left, base]) == (1, 2)
    assert first_overlap([right, below]) == (0, 1)


# ---- Whose they are ---------------------------------------------------------------------------------


class Cupy:
    """As a CuPy or Numba array: lends by its interface."""

    def __init__(self, array, **other):
        self.array, self.other = array, other

    @property
    def __cuda_array_interface__(self):
        return {**self.array.__cuda_array_interface__, **self.other}


@pytest.mark.parametrize("strided", [False, True])
def test_what_has_the_interface_is_taken_where_it_lies(strided):
    array = upload(random((3, 4), 0))
    array = array.transpose() if strided else array
    owner = Cupy(array)
    found = as_array(owner, "array", writable=True)
    assert type(found) is DeviceArray
    assert found.owner is owner
    assert memory_of(found) is standin.memory(0)
    assert (found.pointer, found.strides, found.dtype) == (array.pointer, array.strides, array.dtype)


def test_its_device_is_that_of_its_pointer(monkeypatch):
    array = upload(random(3, 0), number=1)
    monkeypatch.setitem(standin.ELSEWHERE, array.pointer, 1)
    assert lent(Cupy(array), "array").memory is standin.memory(1)
    # without elements there is no pointer
    assert lent(Cupy(upload(np.zeros(0, F32))), "array").memory is standin.memory(0)


@pytest.mark.parametrize(
    ("other", "error", "reason"),
    [
        ({"mask": 3}, TypeError, "is a masked array"),
        ({"typestr": ">f4"}, TypeError, "not in this machine's byte order"),
        ({"typestr": "<i4"}, TypeError, "array has dtype int32; fastgd works on"),
        ({"typestr": "<V2"}, TypeError, r"array has dtype \|V2; fastgd works on"),
        ({"data": (64, True)}, ValueError, "array is read-only"),
        ({"data": None}, TypeError, "array does not lend its memory .its interface: "),
        ({"typestr": "what"}, TypeError, "array does not lend its memory .its interface: "),
    ],
)
def test_what_cannot_be_used_of_an_interface_is_refused(other, error, reason):
    with pytest.raises(error, match=reason):
        as_array(Cupy(upload(random(3, 0)), **other), "array", writable=True)


def test_bfloat16_has_no_name_there_but_its_owner_has():
    owner = Cupy(upload(random(3, 0).astype(BF16)))
    assert owner.__cuda_array_interface__["typestr"] == "<V2"
    owner.dtype = BF16
    assert as_array(owner, "array").dtype == BF16


def test_one_array_is_not_a_list_of_them():
    with pytest.raises(TypeError, match="params is one array"):
        fastgd.SGD(Cupy(upload(random(3, 0))))
    with pytest.raises(TypeError, match="params is one array"):
        listed(upload(random(3, 0)), "params")


def test_the_stream_of_an_owner(monkeypatch):
    array = upload(random(3, 0))
    assert lenders.owner_stream(array) is None
    assert lenders.owner_stream(random(3, 0)) is None
    assert lenders.owner_stream(Cupy(array, stream=7)) == 7
    assert lenders.owner_stream(lent(Cupy(array, stream=7), "array")) == 7
    module = types.SimpleNamespace(ndarray=Cupy)
    module.cuda = types.SimpleNamespace(
        get_current_stream=lambda device: types.SimpleNamespace(ptr=8 + device)
    )
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(Cupy, "device", types.SimpleNamespace(id=1), raising=False)
    assert lenders.owner_stream(Cupy(array, stream=7)) == 9


def test_misaligned_elements_are_refused():
    array = upload(random(4, 0))
    moved = DeviceArray(array.memory, array.pointer + 2, (3,), None, array.dtype, array)
    with pytest.raises(ValueError, match="parameter 0 of group 0 is misaligned"):
        fastgd.SGD([Cupy(moved)])


def test_the_reason_and_the_remedy_are_told_when_a_device_cannot_be_used(monkeypatch):
    array = Cupy(upload(random(3, 0)))
    monkeypatch.setitem(fastgd.memory.DEVICES, "cuda", "no_such_module")
    with pytest.raises(ImportError, match=r"No module named .*pip install 'fastgd\[cuda\]'"):
        open_device("cuda", 0)
    with pytest.raises(ImportError, match=r"parameter 0 of group 0.*: arrays on cuda cannot be used here"):
        fastgd.SGD([array])


# ---- torch ------------------------------------------------------------------------------------------


class Tensor:
    """As a tensor of torch on CUDA; one that requires gradients refuses the interface."""

    device = types.SimpleNamespace(type="cuda", index=0)

    def __init__(self, array, requires_grad=False, negative=False):
        self.array, self.requires_grad, self.negative, self.is_cuda = array, requires_grad, negative, True

    @property
    def __cuda_array_interface__(self):
        raise RuntimeError("Can't get __cuda_array_interface__ on Variable that requires grad")

    shape = property(lambda self: self.array.shape)
    dtype = property(lambda self: f"torch.{self.array.dtype.name}")

    def is_neg(self):
        return self.negative

    def is_conj(self):
        return False

    def stride(self):
        return tuple(s // self.array.itemsize for s in self.array.strides)

    def data_ptr(self):
        return self.array.pointer

    def detach(self):
        return Tensor(self.array)


@pytest.fixture
def torch(monkeypatch):
    stream = types.SimpleNamespace(cuda_stream=5)
    cuda = types.SimpleNamespace(current_stream=lambda device: stream)
    module = types.SimpleNamespace(Tensor=Tensor, cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", module)
    return module


@pytest.mark.parametrize("dtype", [np.float64, F32, np.float16, BF16])
def test_tensors_are_taken_though_they_require_gradients(torch, dtype):
    array = upload(random((3, 4), 0).astype(dtype)).transpose()
    found = as_array(Tensor(array, requires_grad=True), "array", writable=True)
    assert (found.pointer, found.shape, found.strides) == (array.pointer, array.shape, array.strides)
    assert found.dtype == dtype
    assert lenders.owner_stream(found) == 5
    assert found.__cuda_array_interface__["stream"] == 5


def test_what_a_tensor_is_given_later_is_not_what_was_taken(torch):
    tensor = Tensor(upload(random(3, 0)))
    found = as_array(tensor, "array")
    kept = weakref.ref(tensor.array)
    tensor.array = upload(random(3, 1))
    gc.collect()
    assert kept() is not None
    assert found.host().tobytes() == random(3, 0).tobytes()


def test_tensors_that_do_not_lend_their_memory(torch):
    array = upload(random(3, 0))
    with pytest.raises(TypeError, match="array is a lazily negated view: call resolve_neg"):
        as_array(Tensor(array, negative=True), "array")
    sparse = Tensor(array)
    sparse.stride = lambda: (_ for _ in ()).throw(RuntimeError("sparse tensors do not have strides"))
    with pytest.raises(TypeError, match=r"array does not lend its memory \(sparse tensors"):
        as_array(sparse, "array")
    strange = Tensor(types.SimpleNamespace(dtype=types.SimpleNamespace(name="quint4x2")))
    with pytest.raises(TypeError, match=r"array has dtype torch.quint4x2, which NumPy does not have"):
        as_array(strange, "array")


# ---- DLPack -----------------------------------------------------------------------------------------


class Lender:
    """Lends host memory as if it were a GPU's, by DLPack alone."""

    def __init__(self, array, kind=2, versioned=True, code=None):
        self.array, self.kind, self.versioned, self.code, self.asked = array, kind, versioned, code, []

    def __dlpack_device__(self):
        return self.kind, 0

    def __dlpack__(self, *, stream=None, **how):
        if how and not self.versioned:
            raise TypeError("no such keyword")
        self.asked.append((stream, how))
        capsule = self.array.__dlpack__(max_version=how.get("max_version"))
        if self.code is not None:
            dlpack.data_type(capsule).code = self.code
        return capsule


@pytest.mark.parametrize("kind", [2, 13])
@pytest.mark.parametrize("versioned", [True, False])
def test_what_dlpack_lends_is_given_back_when_the_last_view_of_it_is_gone(kind, versioned):
    host = random((3, 4), 0)
    before = sys.getrefcount(host)
    lender = Lender(host.T, kind, versioned)
    alone = sys.getrefcount(host)
    found = as_array(lender, "array", writable=True)
    assert lender.asked == [(LEGACY_STREAM, {"max_version": (1, 1), "copy": False} if versioned else {})]
    assert type(found) is DeviceArray
    assert found.memory is standin.memory(0)
    assert (found.pointer, found.shape, found.strides) == (host.ctypes.data, (4, 3), host.T.strides)
    gc.collect()
    del lender
    assert sys.getrefcount(host) == alone
    view = found.transpose()
    del found
    assert view.host().tobytes() == host.tobytes()
    assert sys.getrefcount(host) == alone
    del view
    assert sys.getrefcount(host) == before


def test_what_dlpack_lends_is_finished_before_our_work_begins(torch):
    host = random(3, 0)
    lender = Lender(host)
    opt = fastgd.SGD([Tensor(upload(host), requires_grad=True)], lr=1.0)
    opt.step([lender])
    assert [stream for stream, _ in lender.asked] == [5]
    assert opt.parameters()[0].array.host().tolist() == [0, 0, 0]


def test_a_capsule_that_is_refused_is_given_back_by_itself():
    host = random(3, 0)
    before = sys.getrefcount(host)
    for code, reason in [(9, "its dtype has code 9"), (dlpack.BFLOAT, "has dtype bfloat32, which NumPy")]:
        with pytest.raises(TypeError, match=reason):
            as_array(Lender(host, code=code), "array")
        gc.collect()
        assert sys.getrefcount(host) == before


def test_what_dlpack_says_of_elements():
    bits = random(3, 0).astype(BF16).view(np.uint16)
    assert as_array(Lender(bits, code=dlpack.BFLOAT), "array").dtype == BF16
    part = random((4, 6), 0)[1::2, ::-2]
    assert lent(Lender(part), "array").host().tobytes() == part.tobytes()
    for dtype in (np.bool_, np.int64, np.uint8, np.float16, np.complex64):
        assert lent(Lender(np.zeros(3, dtype)), "array").dtype == dtype
    fixed = random(3, 0)
    fixed.flags.writeable = False
    with pytest.raises(ValueError, match="array is read-only"):
        as_array(Lender(fixed), "array", writable=True)


def test_what_is_on_the_host_stays_numpys():
    host = random(3, 0)
    assert on_host(host) is host
    assert type(lent(types.SimpleNamespace(__array_interface__=host.__array_interface__), "a")) is np.ndarray
    assert type(lent(Lender(host, kind=1), "array")) is np.ndarray
    assert reach(host) is host
