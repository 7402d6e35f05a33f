"""What tests of layers on a device share: the same call on the device and in the reference, bit for bit."""

import numpy as np

from fastgd.cuda.memory import memory
from fastgd.cuda.simulation import SIMULATED
from fastgd.memory import placed
from fastgd.nn import functional


def put(value):
    """On the device if it is an array."""
    return placed(memory(0), np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value


def same(found, wanted, what, *, close=None):
    """Of an array on the device, and one of the reference; None is None.

    close: how far they may be from each other on a GPU, whose products are another library's than NumPy's.
    """
    if wanted is None:
        assert found is None, what
        return
    host = found.host()
    assert (host.dtype, host.shape) == (wanted.dtype, wanted.shape), what
    if not SIMULATED:
        # a NaN that comes of an operation has other bits on a GPU
        assert (np.isnan(host) == np.isnan(wanted)).all(), what
        host, wanted = (np.where(np.isnan(a), a.dtype.type(0), a) for a in (host, wanted))
        if close is not None:
            np.testing.assert_allclose(host, wanted, rtol=close, atol=close, err_msg=what)
            return
    assert host.tobytes() == wanted.tobytes(), (what, host, wanted)


def near(dtype):
    """How far results of products may be from each other on a GPU."""
    return float(2000 * np.finfo(dtype).eps)


def passes(name, *arguments, rng, products=False, **named):
    """Forward and backward of a function on the device, with the reference's bits.

    products: whether there are matrix products among its operations.
    """
    forward, backward = getattr(functional, name), getattr(functional, f"{name}_backward")
    y, saved = forward(*arguments, backend="reference", **named)
    on_device = {key: put(value) for key, value in named.items()}
    made, of_device = forward(*map(put, arguments), **on_device)
    close = near(y.dtype) if products else None
    same(made, y, name, close=close)
    dy = rng.standard_normal(y.shape).astype(y.dtype)
    wanted, found = backward(dy, saved), backward(put(dy), of_device)
    if not isinstance(wanted, tuple):
        wanted, found = (wanted,), (found,)
    for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
        same(a, b, f"gradient {k} of {name}", close=close)


def loss(name, prediction, y, **named):
    """A loss and its gradient on the device, with the reference's bits."""
    function = getattr(functional, name)
    value, grad = function(prediction, y, backend="reference", **named)
    found, made = function(put(prediction), put(y), **named)
    same(made, grad, name)
    number = found.host()
    assert number.shape == () and number.dtype == np.float64
    assert number == value or (np.isnan(number) and np.isnan(value)), (name, number, value)
