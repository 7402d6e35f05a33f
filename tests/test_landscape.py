"""Losses along lines and over planes: where they are asked for, and that weights come back bit for bit."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest
from landscapes import DTYPES, bowl, normal

import fastgd
from fastgd import landscape, nn

RNG = np.random.default_rng


def model(dtype=np.float32):
    layers = nn.Linear(6, 5, dtype=dtype), nn.Tanh(), nn.Linear(5, 3, dtype=dtype)
    return nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0)


# ---- Where the loss is asked for


def test_a_plane_of_a_quadratic_has_its_values():
    params = [normal(2, 3), normal(4, seed=1)]
    u, v = ([normal(2, 3, seed=s), normal(4, seed=s + 1)] for s in (2, 4))
    found = landscape.plane(params, bowl(params), directions=(u, v), points=(5, 3), span=((-2, 1), (0, 3)))
    np.testing.assert_allclose(found.a, [-2, -1.25, -0.5, 0.25, 1])
    np.testing.assert_allclose(found.b, [0, 1.5, 3])
    assert found.losses.shape == (3, 5) and found.center == bowl(params)()
    for i, b in enumerate(found.b):
        for j, a in enumerate(found.a):
            at = [p + a * x + b * y for p, x, y in zip(params, u, v, strict=True)]
            assert found.losses[i, j] == pytest.approx(bowl(at)(), rel=1e-12)
    assert found.path is None and found.shares is None
    assert found.labels == ("direction 1 (multiples of it)", "direction 2 (multiples of it)")


def test_a_line_between_two_sets_of_weights():
    params, other = [normal(2, 3), normal(4)], [normal(2, 3, seed=1), normal(4, seed=2)]
    found = landscape.line(params, bowl(params), to=other, points=5)
    np.testing.assert_allclose(found.a, [-0.5, 0, 0.5, 1, 1.5])
    assert found.losses[1] == found.center == bowl(params)()
    assert found.losses[3] == pytest.approx(bowl(other)(), rel=1e-12)

    class Other:
        def parameters(self):
            return iter(other)

    assert (
        landscape.line(params, bowl(params), to=Other(), points=5).losses.tobytes() == found.losses.tobytes()
    )
    half = [(p + q) / 2 for p, q in zip(params, other, strict=True)]
    assert found.losses[2] == pytest.approx(bowl(half)(), rel=1e-12)
    assert "1: the others" in found.label


def test_a_line_along_a_direction_and_a_random_one():
    params = [normal(2, 3)]
    direction = landscape.random_direction(params, seed=5)
    along = landscape.line(params, bowl(params), direction=direction, points=7, span=2)
    drawn = landscape.line(params, bowl(params), points=7, span=(-2, 2), seed=5)
    assert along.losses.tobytes() == drawn.losses.tobytes()
    assert along.label != drawn.label and "norm of each filter" in drawn.label
    assert landscape.line(params, bowl(params), points=7, span=2).losses[0] != drawn.losses[0]


def test_the_weights_are_rounded_once_to_their_dtype():
    for dtype in DTYPES:
        p = np.asarray([1.0, 2.0], dtype)
        seen = []
        loss = lambda: seen.append(p.copy()) or 0.0  # noqa: B023, E731
        landscape.line([p], loss, direction=[np.array([1.0, -1.0])], points=3, span=1 / 3)
        for at, share in zip(seen[1:], (-1 / 3, 0, 1 / 3), strict=True):
            right = (np.array([1.0, 2.0]) + share * np.array([1.0, -1.0])).astype(dtype)
            assert at.dtype == dtype and at.tobytes() == right.tobytes()


def test_a_model_s_plane_is_made_of_its_own_losses():
    net = model()
    x, y = normal(20, 6, dtype=np.float32), RNG(0).integers(0, 3, 20)
    loss = lambda: net.evaluate(x, y).loss  # noqa: E731
    found = landscape.plane(net, loss, points=5, seed=3)
    rng = RNG(3)
    u, v = landscape.random_direction(net, rng), landscape.random_direction(net, rng)
    other = model()
    for p, q, a, b in zip(other.parameters(), net.parameters(), u, v, strict=True):
        p[...] = q + found.a[1] * a + found.b[4] * b
    assert found.losses[4, 1] == pytest.approx(other.evaluate(x, y).loss, rel=1e-6)
    assert found.center == loss() == found.losses[2, 2]
    again = landscape.plane(net.parameters(), loss, points=5, seed=3)
    assert again.losses.tobytes() == found.losses.tobytes()


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("shape", [lambda n: (n,), lambda n: (1, n), lambda n: () if n == 1 else (n, 1)])
def test_one_and_two_elements_are_enough(size, shape, tmp_path):
    p = normal(*shape(size)).reshape(shape(size))
    before = p.tobytes()
    plane = landscape.plane([p], bowl([p]), points=3)
    assert np.ptp(plane.losses) > 0 and plane.losses[1, 1] == plane.center
    path = landscape.Path([p])
    for offset in (2.0, 1.0, 0.0):
        path.record([np.asarray(p + offset)])
    plane = landscape.plane([p], bowl([p]), directions=path, points=3)
    assert plane.shares == pytest.approx((1, 0)) and np.isfinite(plane.losses).all()
    plane.plot(tmp_path / "plane.png")
    plane.surface(tmp_path / "surface.png")
    assert landscape.line([p], bowl([p]), points=1).losses.shape == (1,)
    assert p.tobytes() == before


# ---- Weights come back


ODD = [0.1, -0.0, 5e-8, 3.14159]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outcome", [None, ZeroDivisionError, KeyboardInterrupt])
def test_weights_are_put_back_bit_for_bit(dtype, outcome):
    params = [np.asarray(ODD, dtype).reshape(2, 2), np.asarray(ODD * 4, dtype).reshape(4, 4)[::2, ::-1]]
    before, asked = [p.tobytes() for p in params], []

    def loss():
        asked.append([p.tobytes() for p in params])
        if outcome and len(asked) == 4:
            raise outcome
        return 1.0

    scan = lambda: landscape.plane(params, loss, points=3)  # noqa: E731
    if outcome:
        with pytest.raises(outcome):
            scan()
    else:
        scan()
    assert asked[0] == before and asked[-1] != before
    assert [p.tobytes() for p in params] == before


def test_ctrl_c_ends_the_scan_and_weights_are_put_back():
    p = normal(3, 3)
    before, asked = p.tobytes(), []

    def loss():
        asked.append(p.tobytes())
        if len(asked) == 3:
            signal.raise_signal(signal.SIGINT)
        return 1.0

    with pytest.raises(KeyboardInterrupt):
        landscape.plane([p], loss)
    assert p.tobytes() == before and len(asked) == 3 and asked[-1] != before


def test_buffers_are_the_same_for_every_point_and_put_back():
    layers = nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.Linear(3, 2)
    net = nn.Sequential(*layers, loss=nn.CrossEntropyLoss(), seed=0)
    x, y = normal(16, 4, dtype=np.float32), RNG(0).integers(0, 2, 16)
    before = {name: array.tobytes() for name, array in net.state_dict().items()}

    def loss():
        net.loss_and_grad(x, y)  # moves running statistics and draws masks
        return net.evaluate(x, y).loss + net.loss_and_grad(x, y)[0]

    found = landscape.plane(net, loss, points=3)
    assert {name: array.tobytes() for name, array in net.state_dict().items()} == before
    assert found.losses[1, 1] == found.center
    assert landscape.plane(net, loss, points=3).losses.tobytes() == found.losses.tobytes()
    # of a list, nothing is known of buffers
    loss()
    assert {name: array.tobytes() for name, array in net.state_dict().items()} != before


# ---- What is refused

ONE = np.ones((2, 2))

#: (arguments, error, reason)
REFUSED = {
    "no loss": ({"loss": 1.0}, TypeError, "loss must be a function of no arguments, not float"),
    "text": ({"loss": lambda: "1"}, TypeError, "what loss returns must be a number"),
    "vector": ({"loss": lambda: np.ones(2)}, TypeError, "what loss returns must be a number"),
    "params": ({"params": ONE}, TypeError, "params is one array"),
    "integers": ({"params": [np.ones(2, int)]}, TypeError, "parameter 0 has dtype int64"),
    "nothing": ({"params": []}, ValueError, "params hold no elements"),
    "twice": ({"params": [ONE, ONE]}, ValueError, "parameter 0 and parameter 1 share memory"),
    "nan": ({"params": [ONE, ONE * math.nan]}, ValueError, "parameter 1 holds NaN"),
    "zeros": ({"params": [ONE * 0]}, ValueError, "every weight that may move is 0"),
    "points": ({"points": 0}, ValueError, "points must be at least 1"),
    "half": ({"points": 2.5}, TypeError, "points must be a whole number"),
    "span": ({"span": (1, -1)}, ValueError, "span must go upwards"),
    "spans": ({"span": (1, 2, 3)}, ValueError, "span must be a number"),
    "no span": ({"span": math.inf}, ValueError, "span must be a number"),
    "seed": ({"seed": -1}, ValueError, "seed must be at least 0"),
    "normalize": ({"normalize": "rows"}, ValueError, "normalize must be one of filter, tensor, none"),
    "biases": ({"biases": 1}, TypeError, "biases must be True or False"),
    "progress": ({"progress": 1}, TypeError, "progress must be True or False"),
}
FOR_PLANES = {
    "name": ({"directions": "pca"}, ValueError, "directions must be one of random, not 'pca'"),
    "one": ({"directions": ([ONE],)}, ValueError, "directions must be two for a plane, not 1"),
    "shape": ({"directions": ([ONE], [np.ones(3)])}, ValueError, r"direction 0 has shape \(3,\)"),
    "count": ({"directions": ([ONE], [])}, ValueError, "got 0 directions for 1"),
    "infinite": ({"directions": ([ONE], [ONE * math.inf])}, ValueError, "a direction holds NaN or inf"),
    "short path": ({"directions": landscape.Path([ONE])}, ValueError, "at least 2 records, and this one 0"),
    "another's": ({"directions": landscape.Path([np.ones(3)])}, ValueError, "of other shapes"),
}
FOR_LINES = {
    "to": ({"to": [np.ones(3)]}, ValueError, r"weight 0 has shape \(3,\)"),
    "path": ({"direction": "path"}, ValueError, "direction must be one of random, not 'path'"),
    "both": ({"to": [ONE], "direction": [ONE]}, ValueError, "either to or direction"),
}


@pytest.mark.parametrize(
    ("scan", "case"),
    [(landscape.plane, case) for case in (REFUSED | FOR_PLANES).items()]
    + [(landscape.line, case) for case in (REFUSED | FOR_LINES).items()],
    ids=lambda value: value[0] if isinstance(value, tuple) else value.__name__,
)
def test_refused_before_anything_is_moved(scan, case):
    given, error, reason = case[1]
    own = ONE.copy()
    arguments = {"params": [own], "loss": bowl([own]), **given}
    with pytest.raises(error, match=reason):
        scan(arguments.pop("params"), arguments.pop("loss"), **arguments)
    assert own.tobytes() == ONE.tobytes()


# ---- Torch


@pytest.mark.peer
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_a_torch_module_is_scanned_in_place(dtype):
    torch = pytest.importorskip("torch", reason="scans a torch module, which is not a dependency")
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 1))
    module.to(getattr(torch, dtype)).eval()
    x = torch.ones(5, 4, dtype=getattr(torch, dtype))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    loss = lambda: module(x).square().mean()  # noqa: E731  (a tensor that records gradients)
    found = landscape.plane(module, loss, points=3, seed=1)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert found.center == found.losses[1, 1] == float(loss().detach())
    direction = landscape.random_direction(module, seed=RNG(1))
    norms = [np.linalg.norm(d, axis=1) for d in direction if d.ndim == 2]
    own = [p.detach().double().norm(dim=1) for p in module.parameters() if p.ndim == 2]
    for norm, right in zip(norms, own, strict=True):
        np.testing.assert_allclose(norm, right, rtol=1e-12)
    with torch.no_grad():
        for p, d in zip(module.parameters(), direction, strict=True):
            p.copy_(p.double() - torch.from_numpy(d))
    assert landscape.plane(module, loss, points=1).center == found.losses[1, 0]
    listed = landscape.line(module.parameters(), loss, points=3)
    assert listed.losses[1] == listed.center


def test_lazily_from_the_package():
    assert fastgd.landscape is landscape and fastgd.curvature.eigenvalues


# ---- Devices


def test_weights_on_a_device_are_scanned_there(device):
    host = [normal(3, 2, dtype=np.float32), normal(4, dtype=np.float32)]
    params = [device.upload(value) for value in host]
    found = landscape.plane(params, lambda: bowl([device.reach(p) for p in params])(), points=3)
    assert [device.reach(p).tobytes() for p in params] == [value.tobytes() for value in host]
    assert found.losses.tobytes() == landscape.plane(host, bowl(host), points=3).losses.tobytes()
