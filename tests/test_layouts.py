"""The right elements, and only those, are written: any strides, order and alignment give contiguous bits."""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from snapshots import BACKENDS, random

import fastgd

GUARD = 0xA5

#: rules with one slot, and with three, whose body uses every operand
RULES = [
    ("sgd", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "dampening": 0.2}),
    ("adamw", {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1}),
]


@dataclass
class Layout:
    """Where the elements of an array lie: each axis has a place in memory order, a direction and gaps."""

    shape: tuple[int, ...]
    #: axes from the outermost in memory to the innermost
    order: tuple[int, ...]
    #: distance of neighbours along an axis, in units of what the axes inside it take; negative: backwards
    steps: tuple[int, ...]
    #: bytes by which the first element misses its alignment
    offset: int

    def place(self, values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(an array of the values with this layout, the bytes it lies in, guards around and between)."""
        strides, reach = [0] * len(self.shape), values.itemsize
        for axis in reversed(self.order):
            strides[axis] = reach * self.steps[axis]
            reach *= max(self.shape[axis], 1) * abs(self.steps[axis])
        memory = np.full(reach + 128, GUARD, np.uint8)
        misaligned = -memory.ctypes.data % values.itemsize
        start = 64 - 64 % values.itemsize + misaligned + self.offset
        start -= sum(s * (n - 1) for s, n in zip(strides, self.shape, strict=True) if s < 0 and n)
        array = np.ndarray(self.shape, values.dtype, memory.data, start, strides)
        array[...] = values
        return array, memory


@st.composite
def layouts(draw, shape):
    axes = range(len(shape))
    step = st.sampled_from([1, 1, 1, 2, 3, -1, -1, -2])
    return Layout(
        shape,
        tuple(draw(st.permutations(axes))),
        tuple(draw(step) for _ in axes),
        draw(st.sampled_from([0, 0, 0, 1, 2, 4, 7])),
    )


SHAPES = st.one_of(
    st.lists(st.integers(0, 5), max_size=4).map(tuple),
    st.lists(st.sampled_from([1, 2, 9, 17, 33]), min_size=1, max_size=3).map(tuple),
    st.sampled_from([(513,), (2, 511), (1025, 1)]),
)


@settings(max_examples=150, deadline=None, database=None)
@given(
    data=st.data(),
    backend=st.sampled_from(BACKENDS),
    dtype=st.sampled_from(["f4", "f8"]),
    rule=st.sampled_from(RULES),
)
def test_any_layout_is_as_good_as_contiguous(data, backend, dtype, rule):
    shapes = data.draw(st.lists(SHAPES, min_size=1, max_size=3))
    values = [random(s, i, dtype) for i, s in enumerate(shapes)]
    placed = [data.draw(layouts(s)).place(v) for s, v in zip(shapes, values, strict=True)]
    guards = [memory.copy() for _, memory in placed]
    outside = [untouched(array, memory) for array, memory in placed]
    opt = fastgd.optim.create(rule[0], [a for a, _ in placed], backend=backend, **rule[1])
    plain = fastgd.optim.create(rule[0], values, backend=backend, **rule[1])
    for t in range(3):
        grads = [random(s, 7 * t + i, dtype) for i, s in enumerate(shapes)]
        lain = [data.draw(layouts(s)).place(g) for s, g in zip(shapes, grads, strict=True)]
        before = [memory.copy() for _, memory in lain]
        opt.step([a for a, _ in lain], clip_value=1.0)
        plain.step(grads, clip_value=1.0)
        assert all(np.array_equal(m, b) for (_, m), b in zip(lain, before, strict=True))
        for (array, memory), guard, free, value in zip(placed, guards, outside, values, strict=True):
            assert array.tobytes() == value.tobytes()
            assert np.array_equal(memory[free], guard[free])
    for entry, other in zip(states(opt), states(plain), strict=True):
        assert entry == other


def states(opt):
    entries = opt.state_dict()["state"]
    return [{k: v if k == "step" else v.tobytes() for k, v in entries[i].items()} for i in sorted(entries)]


def untouched(array, memory):
    """Which bytes of the memory belong to no element of the array."""
    mine = np.zeros(memory.size, np.uint8)
    start = array.__array_interface__["data"][0] - memory.ctypes.data
    elements = np.ndarray(array.shape, f"V{array.itemsize}", mine.data, start, array.strides)
    elements[...] = np.frombuffer(b"\1" * array.itemsize, elements.dtype)[0]
    return mine == 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 511, 512, 513, 16383, 16384, 16385, 33000])
@pytest.mark.parametrize("way", ["every other", "backwards", "misaligned", "column", "folded"])
def test_around_the_sizes_of_blocks(backend, size, way):
    """Contiguous runs end and chunks begin in the middle of a strided array."""
    value = random(size, 0)
    memory = np.full((size + 1) * 5 * 4, GUARD, np.uint8)
    wide = memory[: (size + 1) * 20].view(np.float32)
    array = {
        "every other": lambda: wide[1 : 2 * size + 1 : 2],
        "backwards": lambda: wide[size:0:-1],
        "misaligned": lambda: memory[5 : 5 + 4 * size].view(np.float32),
        "column": lambda: wide.reshape(-1, 5)[:size, 3],
        "folded": lambda: wide[: 3 * (size // 3) * 2].reshape(3, -1)[:, ::2],
    }[way]()
    value = value[: array.size].reshape(array.shape)
    array[...] = value
    guard, free = memory.copy(), untouched(array, memory)
    opt = fastgd.AdamW([array], lr=0.1, backend=backend)
    plain = fastgd.AdamW([value], lr=0.1, backend=backend)
    for t in range(2):
        grad = random(array.shape, t)
        wanted = plain.step([grad], clip_norm=1.0)
        strided = np.repeat(grad, 2, axis=-1)[..., ::2]
        assert opt.step([strided if t else grad], clip_norm=1.0) == wanted
        assert array.tobytes() == value.tobytes()
    assert np.array_equal(memory[free], guard[free])


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_that_repeat_elements(backend):
    """A broadcast gradient is read again and again; windows over one buffer overlap."""
    params = [np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32), np.zeros((3, 4), np.float32)]
    row = np.arange(4, dtype=np.float32)
    grads = [
        np.broadcast_to(row, (3, 4)),
        np.broadcast_to(np.float32(2), (3, 4)),
        np.lib.stride_tricks.sliding_window_view(np.arange(6, dtype=np.float32), 4),
    ]
    opt = fastgd.SGD(params, lr=1.0, backend=backend)
    for _ in range(2):
        opt.step(grads)
    for p, g in zip(params, grads, strict=True):
        assert np.array_equal(p, -2 * g)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parameters_between_each_other(backend):
    """Columns, record fields and halves of complex numbers share no byte, though their spans overlap."""
    table = np.zeros((50, 4), np.float32)
    record = np.zeros(30, [("a", "f4"), ("tag", "S3"), ("b", "f8")])
    pairs = np.zeros(20, np.complex64)
    params = [table[:, ::2], table[:, 1], table[::-1, 3], record["a"], record["b"], pairs.real, pairs.imag]
    record["tag"] = b"tag"
    opt = fastgd.SGD(params, lr=1.0, backend=backend)
    for t in range(2):
        opt.step([np.full(p.shape, i + 1 + t, p.dtype) for i, p in enumerate(params)])
    assert np.array_equal(table, np.tile(np.float32([-3, -5, -3, -7]), (50, 1)))
    assert np.array_equal(record, np.array([(-9, b"tag", -11)] * 30, record.dtype))
    assert np.array_equal(pairs, np.full(20, -13 - 15j, np.complex64))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_beside_parameters(backend):
    """Gradient and parameter may lie in one buffer, interleaved, as long as they share no byte."""
    table = np.zeros((40, 2), np.float32)
    table[:, 1] = 3
    opt = fastgd.SGD([table[:, 0]], lr=1.0, backend=backend)
    opt.step([table[:, 1]])
    assert np.array_equal(table, np.tile(np.float32([-3, 3]), (40, 1)))
    with pytest.raises(ValueError, match="shares memory"):
        opt.step([table.reshape(-1)[:40]])
    assert np.array_equal(table, np.tile(np.float32([-3, 3]), (40, 1)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_not_a_byte_beyond_the_end(backend):
    """Parameter and gradient end with the last page that may be touched."""
    page, count = mmap.PAGESIZE, 37
    arrays = []
    for _ in range(2):
        memory = mmap.mmap(-1, 2 * page)
        whole = np.frombuffer(memory, np.float32)
        assert protect(whole[page // 4 :]) == 0
        arrays.append(whole[page // 4 - count : page // 4])
    param, grad = arrays
    grad[:] = 1
    for p, g in ((param, grad), (param[::-2], grad[::-2]), (param[-1:], grad[-1:])):
        fastgd.SGD([p], lr=1.0, backend=backend).step([g], clip_norm=100.0, skip_nonfinite=True)
    assert param[-1] == -3
    assert param[-2] == -1


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_not_written_even_with_their_own_bytes(backend):
    """Gradients of every layout in pages that may only be read."""
    whole = np.frombuffer(mmap.mmap(-1, mmap.PAGESIZE), np.float32)
    whole[:600] = 1
    assert protect(whole, may_read=True) == 0
    grads = [whole[:40], whole[:80:2], whole[40:0:-1], whole[:600].view(np.uint8)[1:-3].view(np.float32)]
    grads.append(whole[:40].reshape(8, 5).T)
    params = [np.zeros(g.shape, np.float32) for g in grads]
    opt = fastgd.SGD(params, lr=1.0, backend=backend)
    opt.step(grads, clip_norm=1e9, clip_value=1e9, grad_scale=0.5, skip_nonfinite=True)
    assert [p.flat[-1] for i, p in enumerate(params) if i != 3] == [-2] * 4


def protect(array, may_read=False):
    """Makes the pages of the array read-only or unreadable; 0 when that worked."""
    call = ctypes.CDLL(None).mprotect
    return call(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(array.nbytes), int(may_read))
