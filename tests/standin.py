"""A stand-in for a GPU: host memory behind device arrays, and a backend that runs the reference on it.

Modules of `fastgd.memory.DEVICES` and `fastgd.backends.MODULES` are to be replaced by this one; see `device`
in tests/conftest.py.
"""

from __future__ import annotations

import types

import numpy as np

from fastgd import backends
from fastgd.arrays import dtype_named
from fastgd.backends.base import UNMEASURED, Codes
from fastgd.memory import DeviceArray, dense_strides, memory_order

#: number of the device -> its memory
_MEMORIES = {}


class StandIn:
    """The memory of one device."""

    def __init__(self, number):
        self.name = f"cuda:{number}"

    def _new(self, shape, dtype, strides):
        buffer = np.zeros(max(int(np.prod(shape)), 1) * dtype.itemsize, np.uint8)
        return DeviceArray(self, buffer.ctypes.data, shape, strides, dtype, buffer)

    def zeros(self, shape, dtype):
        assert isinstance(shape, tuple)
        assert isinstance(dtype, np.dtype)
        return self._new(shape, dtype, None)

    def zeros_like(self, array, dtype):
        return self._new(array.shape, dtype, dense_strides(array.shape, memory_order(array), dtype.itemsize))

    def to_host(self, array):
        assert array.memory is self
        return reach(array).copy()

    def write(self, array, values):
        assert array.memory is self
        assert type(values) is np.ndarray
        assert (values.shape, values.dtype) == (array.shape, array.dtype)
        reach(array)[...] = values

    def copy(self, array):
        own = self.zeros(array.shape, array.dtype)
        reach(own)[...] = reach(array)
        return own


def memory(number):
    return _MEMORIES.setdefault(number, StandIn(number))


#: pointers that are asked for by `device_of` and the number of their device; all others are of device 0
ELSEWHERE = {}


def device_of(pointer):
    return ELSEWHERE.get(pointer, 0)


def upload(values, number=0):
    """The values on a device, in the order that they have in memory."""
    array = memory(number).zeros_like(values, values.dtype)
    reach(array)[...] = values
    return array


def reach(array, *, keep=True):
    """What NumPy is not supposed to get: the elements of an array on the device, to be read and written.

    keep: the memory, as long as they are there.
    """
    if not isinstance(array, DeviceArray):
        return array
    typestr = f"<u{array.itemsize}" if array.dtype.name == "bfloat16" else array.dtype.str
    interface = {"version": 3, "shape": array.shape, "strides": array.strides, "typestr": typestr}
    lender = types.SimpleNamespace(
        __array_interface__={**interface, "data": (array.pointer, not array.flags.writeable)},
        kept=array if keep else None,
    )
    reached = np.asarray(lender)
    return reached.view(dtype_named("bfloat16")) if array.dtype.name == "bfloat16" else reached


def _state(state):
    return Codes(*map(reach, state)) if isinstance(state, Codes) else reach(state)


class _Later:
    def __init__(self, measured):
        self.measured = measured

    def read(self):
        return self.measured


class _Plan:
    """The reference's, on the memory behind device arrays. What it measures is told later, as of a device:
    until then its host counters are as if no step were skipped."""

    def __init__(self, work, owner):
        self.owner, self.steps, self.owed = owner, work.steps, 0
        assert len({item.param.memory for item in work.items}) <= 1
        self.counters = [item.counter for item in work.items]
        self.grads = [reach(item.grad, keep=False) for item in work.items]
        items = [
            item._replace(
                param=reach(item.param),
                grad=grad,
                state=tuple(map(_state, item.state)),
                residual=reach(item.residual),
                average=reach(item.average),
                copy=reach(item.copy),
            )
            for item, grad in zip(work.items, self.grads, strict=True)
        ]
        self.run = backends.get("reference").plan(work._replace(items=items))

    def set_grads(self, items, grads, at):
        assert [grad.pointer for grad in grads] == at.tolist()
        self.owner.pointed += 1
        reached = [reach(grad, keep=False) for grad in grads]
        self.run.set_grads(items, reached, at)
        for i, grad in zip(items, reached, strict=True):
            self.grads[i] = grad

    def measure(self, options):
        return self.run.measure(options)

    def step(self, options, program=None):
        assert program is None
        if self.owner.fails:
            raise MemoryError("the device fails")
        owed = self._settled()
        measured = self.run.step(options)
        self.owed = owed + measured.skipped
        self.steps[self.counters] += self.owed
        return measured if measured is UNMEASURED else _Later(measured)

    def _settled(self):
        owed, self.owed = self.owed, 0
        self.steps[self.counters] -= owed
        return owed

    def settle(self):
        return self._settled()


class Backend:
    name = "cuda"
    memory = "cuda"
    rearranges = False

    def __init__(self):
        self.reset()

    def reset(self):
        #: how many plans were made, and how often one was pointed to other gradients
        self.planned = self.pointed = 0
        self.fails = False

    def supports(self, rule, dtype):
        return rule.name != "rprop"

    def plan(self, work):
        self.planned += 1
        return _Plan(work, self)

    def measure(self, arrays, options):
        return backends.get("reference").measure(list(map(reach, arrays)), options)

    def norms(self, arrays, options):
        return backends.get("reference").norms(list(map(reach, arrays)), options)

    def clip(self, arrays, options):
        return backends.get("reference").clip(list(map(reach, arrays)), options)


BACKEND = Backend()
