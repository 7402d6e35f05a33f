"""As much of CuPy as docs/cuda.md and the tests of owners need, with arrays of the simulated device."""

import types

import numpy as np

from fastgd.cuda.memory import memory
from fastgd.memory import placed


class ndarray:
    """An array of the device by its interface alone, as CuPy's."""

    def __init__(self, values):
        self._own = placed(memory(0), np.ascontiguousarray(values))
        self.dtype, self.shape, self.strides = self._own.dtype, self._own.shape, self._own.strides
        self.device = types.SimpleNamespace(id=0)
        self.data = types.SimpleNamespace(ptr=self._own.pointer)

    @property
    def __cuda_array_interface__(self):
        interface = dict(self._own.__cuda_array_interface__)
        return {**interface, "stream": 1}

    def get(self):
        return self._own.host()


class _Stream:
    ptr = 0


random = types.SimpleNamespace(
    standard_normal=lambda shape, dtype: ndarray(
        np.random.default_rng(0).standard_normal(shape).astype(dtype)
    )
)
cuda = types.SimpleNamespace(get_current_stream=lambda device: _Stream)


def zeros(shape, dtype):
    return ndarray(np.zeros(shape, dtype))


def ones_like(array):
    return ndarray(np.ones(array.shape, array.dtype))
