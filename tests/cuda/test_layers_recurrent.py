"""Recurrent layers on a device."""

import numpy as np
import pytest
from layers import near, put, same

from fastgd.nn import functional

CELLS = [("lstm", 4, {}), ("gru", 3, {}), ("rnn", 1, {}), ("rnn", 1, {"nonlinearity": "relu"})]
BATCHES = [
    {"carried": False, "biased": True},
    {"lengths": [2, 3, 1], "carried": True, "biased": True},
    {"lengths": [2, 3, 1], "output": "last", "carried": False, "biased": False},
    {"output": "last", "carried": True, "biased": True},
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("batch", BATCHES, ids=str)
@pytest.mark.parametrize(("name", "gates", "options"), CELLS, ids=lambda value: str(value))
def test_recurrent_layers(name, gates, options, batch, dtype):
    rng = np.random.default_rng(9)
    batch = dict(batch)
    carried, biased = batch.pop("carried"), batch.pop("biased")
    forward, backward = getattr(functional, name), getattr(functional, f"{name}_backward")
    inside, hidden = 2, 5
    x = rng.standard_normal((3, 3, inside)).astype(dtype)
    shapes = [(gates * hidden, inside), (gates * hidden, hidden), (gates * hidden,), (gates * hidden,)]
    weights = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
    if not biased:
        weights[2:] = None, None
    names = {"lstm": "hc"}.get(name, "h") if carried else ""
    states = {state: rng.standard_normal((3, hidden)).astype(dtype) for state in names}
    on_device = {state: put(value) for state, value in states.items()}
    made, of_device = forward(put(x), *map(put, weights), **batch, **options, **on_device)
    y, saved = forward(x, *weights, **batch, **options, **states, backend="reference")
    same(made, y, "y", close=near(dtype))
    for state, value in states.items():
        same(on_device[state], value, state, close=near(dtype))
    dy = rng.standard_normal(y.shape).astype(dtype)
    wanted, found = backward(dy, saved), backward(put(dy), of_device)
    for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
        same(a, b, f"gradient {k}", close=near(dtype))
    # what the forward pass has left is there for another way back
    for a, b in zip(backward(put(dy), of_device), wanted, strict=True):
        same(a, b, "again", close=near(dtype))


def test_lengths_stay_on_the_host():
    x, weight = put(np.zeros((2, 3, 1), np.float32)), put(np.zeros((1, 1), np.float32))
    with pytest.raises(ValueError, match="lengths must be on the host"):
        functional.rnn(x, weight, weight, lengths=put(np.array([1, 2])))
