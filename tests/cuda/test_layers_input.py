"""What functions of nn.functional refuse of arrays on a device, and that nothing has changed then."""

import numpy as np
import pytest
from layers import put, same

from fastgd.memory import DeviceArray
from fastgd.nn import functional

X = np.arange(12, dtype=np.float32).reshape(3, 4)
LINEAR = np.ones((2, 4), np.float32)


def refused(error, match, function, *arguments, **named):
    with pytest.raises(error, match=match):
        function(*arguments, **named)


MIXED = [
    ("weight is on host, x on cuda:0", lambda: functional.linear(put(X), LINEAR)),
    ("weight is on cuda:0, x on host", lambda: functional.linear(X, put(LINEAR))),
    ("bias is on host, x on cuda:0", lambda: functional.linear(put(X), put(LINEAR), np.ones(2, np.float32))),
    ("weight is on host, x on cuda:0", lambda: functional.layer_norm(put(X), 4, X[0])),
    ("running_mean is on host", lambda: functional.batch_norm(put(X), X[0], X[0])),
    ("weight is on cuda:0, x on host", lambda: functional.embedding(np.array([0]), put(X))),
    ("out is on host", lambda: functional.relu(put(X), out=np.empty_like(X))),
    ("y is on host, prediction on cuda:0", lambda: functional.mse_loss(put(X), X)),
    ("y is on host", lambda: functional.cross_entropy(put(X), np.array([0, 1, 2]))),
    ("weight_hh is on host", lambda: functional.rnn(put(X[None]), put(LINEAR), np.ones((2, 2), np.float32))),
    ("dy is on host, y on cuda:0", lambda: functional.relu_backward(X, functional.relu(put(X))[1])),
    ("dy is on cuda:0, y on host", lambda: functional.relu_backward(put(X), functional.relu(X)[1])),
]


@pytest.mark.parametrize(
    ("message", "call"), MIXED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_two_memories_in_one_call_are_refused_by_name(message, call):
    refused(ValueError, message, call)


@pytest.mark.parametrize("backend", ["native", "reference"])
def test_a_backend_for_other_memory_is_refused(backend):
    refused(ValueError, "are on cuda:0: take auto or cuda", functional.relu, put(X), backend=backend)
    refused(ValueError, "are on host: take auto or native or reference", functional.relu, X, backend="cuda")


def test_a_model_says_that_its_arrays_are_on_the_host():
    from fastgd import nn

    refused(ValueError, "arrays on cuda, and these are on host", nn.Sequential, nn.ReLU(), backend="cuda")
    model = nn.Sequential(nn.Linear(4, 3), loss=nn.CrossEntropyLoss())
    for call in (model.forward, model.predict):
        refused(TypeError, "x is on a device.*OnDevice", call, put(X))
    labels = np.array([0, 1, 2])
    for call in (model.loss, model.loss_and_grad, model.evaluate):
        refused(TypeError, "x is on a device.*OnDevice", call, put(X), labels)
        refused(TypeError, "y is on a device.*OnDevice", call, X, put(labels))


def test_what_is_not_there_says_so():
    weight = put(np.ones((1, 1, 2), np.float32))
    refused(
        NotImplementedError, r"conv_\w+ has no kernel.*host\(\)", functional.conv1d, put(X[:, None]), weight
    )


@pytest.mark.parametrize(
    ("error", "message", "arguments", "named"),
    [
        (TypeError, "x must be float32 or float64, not int64", (put(np.arange(3)),), {}),
        (TypeError, "out must be float32, not float64", (put(X),), {"out": put(X.astype(np.float64))}),
        (ValueError, "out must have shape", (put(X),), {"out": put(X[0])}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_dtypes_and_shapes(error, message, arguments, named):
    refused(error, message, functional.relu, *arguments, **named)


def test_an_output_in_the_input_is_refused():
    x = put(X)
    refused(ValueError, "out shares memory", functional.relu, x, out=x)
    same(x, X, "x")


def test_an_array_in_another_order_of_axes_is_copied():
    x = put(X).transpose()
    y, _ = functional.relu(x)
    assert isinstance(y, DeviceArray) and y.flags.c_contiguous
    same(y, X.T.copy(), "y")


def test_what_is_freed_is_used_again():
    first, _ = functional.relu(put(X))
    pointer = first.pointer
    del first, _
    again, _ = functional.relu(put(X))
    assert again.pointer == pointer
    other, _ = functional.relu(put(X))
    assert other.pointer != again.pointer
