"""The same optimizer by the reference on the host and on the device, step by step, and what must be equal."""

import numpy as np

from fastgd import optim
from fastgd.cuda.memory import memory
from fastgd.memory import DeviceArray, on_host, placed

#: how arrays may lie in memory
LAYOUTS = ("C", "F", "gaps", "backwards", "turned")


def on_device(values):
    return placed(memory(0), np.asarray(values))


def laid_out(values, layout):
    """A host array and one on the device with these values, which lie in memory alike."""
    values = np.asarray(values)
    if layout == "F":
        base = np.ascontiguousarray(values.T)
        host = base.T
    elif layout == "gaps":
        base = np.zeros((*values.shape[:-1], 2 * values.shape[-1] + 1), values.dtype)
        host = base[..., 1::2]
    elif layout == "backwards":
        base = np.zeros(values.shape, values.dtype)
        host = base[::-1]
    elif layout == "turned":
        base = np.zeros(values.shape[::-1], values.dtype)
        host = base.swapaxes(0, -1) if values.ndim > 2 else base.T
        if host.shape != values.shape:
            host = base.T
    else:
        host = base = values.copy()
    host[...] = values
    below = on_device(base)
    offset = host.__array_interface__["data"][0] - base.__array_interface__["data"][0]
    pointer = below.pointer + offset
    return host, DeviceArray(below.memory, pointer, host.shape, host.strides, host.dtype, below)


def same(a, b):
    """Bit for bit; which NaN comes of an operation is the machine's own affair."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    if a.dtype.kind == "f" or a.dtype.name == "bfloat16":
        wide = a.astype(np.float64), b.astype(np.float64)
        assert np.array_equal(np.isnan(wide[0]), np.isnan(wide[1]))
        whole = ~np.isnan(wide[0])
        a, b = a[whole], b[whole]
    assert a.dtype == b.dtype
    assert a.tobytes() == b.tobytes()


class Pair:
    """Two optimizers of the same parameters."""

    def __init__(self, rule, shapes, *, dtype=np.float32, layouts=None, seed=0, **settings):
        self.rng = np.random.default_rng(seed)
        self.shapes, self.dtype = shapes, dtype
        layouts = layouts or ["C"] * len(shapes)
        made = [laid_out(self.draw(s), how) for s, how in zip(shapes, layouts, strict=True)]
        self.host, self.device = (list(arrays) for arrays in zip(*made, strict=True))
        self.reference = optim.create(rule, self.host, backend="reference", **settings)
        self.opt = optim.create(rule, self.device, **settings)

    def draw(self, shape, scale=1.0):
        return (self.rng.standard_normal(shape) * scale).astype(self.dtype)

    def step(self, grads=None, layouts=None, **asked):
        """Both reports, as tuples, which are equal."""
        grads = grads or [self.draw(s, 10.0 ** self.rng.uniform(-2, 1)) for s in self.shapes]
        layouts = layouts or ["C"] * len(grads)
        pairs = [laid_out(g, how) for g, how in zip(grads, layouts, strict=True)]
        wanted = self.reference.step([host for host, _ in pairs], **asked)
        got = self.opt.step([device for _, device in pairs], **asked)
        assert repr(tuple(got)) == repr(tuple(wanted))
        return got

    def assert_same(self):
        for wanted, array in zip(self.host, self.device, strict=True):
            same(on_host(array), wanted)
        wanted, got = self.reference.state_dict(), self.opt.state_dict()
        for number, entry in wanted["state"].items():
            for name, value in entry.items():
                same(np.asarray(got["state"][number][name]), np.asarray(value))
