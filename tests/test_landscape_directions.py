"""Directions of a landscape: filters' norms, and the principal components of a training path."""

from __future__ import annotations

import math

import numpy as np
import pytest
from landscapes import DTYPES, bowl, normal

from fastgd import landscape


def test_every_filter_has_the_norm_of_the_weights_filter():
    params = [normal(4, 3), normal(4), normal(5, 3, 2, 2), normal(5), normal(7, 1)]
    params[0][2] = 0
    direction = landscape.random_direction(params)
    for p, d in zip(params, direction, strict=True):
        if p.ndim == 1:
            assert not d.any()
            continue
        own, norm = (np.linalg.norm(x.reshape(len(x), -1), axis=1) for x in (p, d))
        np.testing.assert_allclose(norm, own, rtol=1e-12)
    assert landscape.random_direction([*params, normal(0, 3)])[-1].shape == (0, 3)
    moved = landscape.random_direction(params, biases=True)
    assert np.linalg.norm(moved[1]) == pytest.approx(np.linalg.norm(params[1]))
    assert not np.allclose(np.abs(moved[1]), np.abs(params[1]))  # not one filter for each element
    np.testing.assert_array_equal(moved[0], direction[0])
    whole = landscape.random_direction(params, normalize="tensor")
    for p, d in zip(params[::2], whole[::2], strict=True):
        assert np.linalg.norm(d) == pytest.approx(np.linalg.norm(p))
    plain = landscape.random_direction(params, normalize="none")
    cosine = np.sum(plain[2] * whole[2]) / np.linalg.norm(plain[2]) / np.linalg.norm(whole[2])
    assert cosine == pytest.approx(1)
    scaled = landscape.filter_normalized(params, plain)
    np.testing.assert_allclose(scaled[0], direction[0], rtol=1e-12)


def test_directions_are_those_of_the_seed_and_none_is_drawn_twice():
    params = [normal(3, 3)]
    a, b = landscape.random_direction(params, 1), landscape.random_direction(params, 1)
    np.testing.assert_array_equal(a, b)
    rng = np.random.default_rng(1)
    first, second = landscape.random_direction(params, rng), landscape.random_direction(params, rng)
    np.testing.assert_array_equal(first, a)
    assert np.abs(np.subtract(first, second)).max() > 0.1


# ---- The path


def in_a_plane(count=9, seed=0):
    """A path of two parameters in a plane of known axes, and these."""
    u, v = np.linalg.qr(normal(12, 2, seed=seed))[0].T
    t = np.linspace(0, 1, count)
    along, across = 8 * (t - 1), np.sin(3 * t)
    vectors = normal(12, seed=seed + 1) + np.outer(along, u) + np.outer(across, v)
    return [[w[:8].reshape(4, 2), w[8:]] for w in vectors], u, v


def test_the_principal_directions_of_a_path_span_its_plane():
    records, u, v = in_a_plane()
    params = [np.empty((4, 2)), np.empty(4)]
    path = landscape.Path(params)
    for record in records:
        for p, w in zip(params, record, strict=True):
            p[...] = w
        path.record()
    assert len(path) == 9
    directions, shares = path.principal_directions()
    assert sum(shares) == pytest.approx(1) and shares[0] > shares[1] > 1e-3
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-12)
    basis = np.array([u, v])
    np.testing.assert_allclose(directions @ basis.T @ basis, directions, atol=1e-10)
    # as by singular values of the centred records
    stacked = np.array([np.concatenate([w.ravel() for w in record]) for record in records])
    values, axes = np.linalg.svd(stacked - stacked.mean(axis=0))[1:]
    np.testing.assert_allclose(np.abs(np.sum(directions * axes[:2], axis=1)), 1, rtol=1e-9)
    np.testing.assert_allclose(shares, values[:2] ** 2 / (values**2).sum(), rtol=1e-9)

    plane = landscape.plane(params, bowl(params), directions=path, points=4)
    # the whole path is on the plane, which goes through the weights as they are, and begins on the left
    np.testing.assert_allclose(stacked[-1] + plane.path @ directions, stacked, atol=1e-10)
    np.testing.assert_allclose(plane.path[-1], 0, atol=1e-12)
    assert (plane.path[0] <= 1e-12).all() and plane.shares == shares
    for positions, column in ((plane.a, plane.path[:, 0]), (plane.b, plane.path[:, 1])):
        assert positions[0] < column.min() and positions[-1] > column.max()
    assert "of the variance" in plane.labels[0] and "L2 distance" in plane.labels[0]


def test_a_path_on_a_line_gets_a_second_direction_at_right_angles():
    step = normal(30)
    path = landscape.Path([step])
    for t in (0.0, 1.0, 3.0):
        path.record([1 + t * step])
    directions, shares = path.principal_directions()
    assert shares == (pytest.approx(1), 0.0)
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-12)
    np.testing.assert_allclose(directions[0], step / np.linalg.norm(step), rtol=1e-9)
    plane = landscape.plane([step], bowl([step]), directions=path, points=3)
    assert plane.b[0] < 0 < plane.b[-1]


def test_a_path_of_three_points_has_a_plane_through_all():
    points = [normal(3, 4, seed=s) for s in range(3)]
    w = points[0].copy()
    path = landscape.Path([w])
    for point in points:
        path.record([point])
    plane = landscape.plane([w], bowl([w]), directions=path, points=3)
    assert sum(plane.shares) == pytest.approx(1)
    distances = np.linalg.norm(plane.path[:, None] - plane.path[None], axis=2)
    exact = [[np.linalg.norm(p - q) for q in points] for p in points]
    np.testing.assert_allclose(distances, exact, atol=1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_path_is_that_of_copies_in_any_dtype(dtype):
    w = normal(3, 4, dtype=dtype)
    path, records = landscape.Path([w]), []
    for _ in range(3):
        path.record()
        records.append(w.astype(np.float64).ravel())
        w += np.asarray(normal(3, 4, seed=len(records)), dtype)
    found = path.coordinates(records[0], np.eye(12)[:2])
    np.testing.assert_array_equal(found, [(r - records[0])[:2] for r in records])


def test_what_a_path_refuses():
    w = np.ones(2)
    path = landscape.Path([w])
    path.record()
    path.record([w])
    with pytest.raises(ValueError, match="all alike"):
        path.principal_directions()
    w[0] = math.nan
    with pytest.raises(ValueError, match="parameter 0 holds NaN"):
        path.record()
    with pytest.raises(ValueError, match="weights hold NaN"):
        path.record([w])
    assert len(path) == 2
