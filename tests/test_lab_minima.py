"""Small batches end in flatter minima than large ones, and averaged weights predict better than the last."""

import numpy as np
import pytest
from matplotlib.image import imread

from fastgd import nn
from fastgd.curvature import eigenvalues
from fastgd.lab import experiment, minima

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")


@pytest.fixture(scope="module")
def result():
    return minima.run(seeds=2, epochs=60, directions=1, points=5)


def means(result, value):
    return {
        name: np.mean([value(solution) for solution in found]) for name, found in result.solutions.items()
    }


def test_averaged_weights_have_a_lower_test_loss_than_the_last_ones(result):
    losses = means(result, lambda solution: solution.test.loss)
    assert losses[minima.SWA] < 0.9 * losses[minima.AVERAGED]


def test_small_batches_end_in_flatter_minima_than_large_ones(result):
    sharpness = means(result, lambda solution: solution.sharpness)
    for name in ("small batches", "SGDR", minima.SWA):
        assert sharpness[name] < 0.6 * sharpness["large batches"], name


def test_eigenvalues_are_those_of_float64():
    data = minima.noisy_digits()
    model = minima.train(minima.TRAININGS["SGDR"], data, 8, 0).model
    found = minima.look_around(model, data, 1, 1).sharpness
    twin = nn.Sequential(
        nn.Linear(64, minima.HIDDEN, dtype="float64"),
        type(model.layers[1])(),
        nn.Linear(minima.HIDDEN, 10, dtype="float64"),
        loss=nn.CrossEntropyLoss(),
    )
    for own, other in zip(twin.parameters(), model.parameters(), strict=True):
        own[...] = other
    x = data.x_train.astype(np.float64)
    (exact,), _ = eigenvalues(twin, lambda: twin.loss_and_grad(x, data.y_train)[1])
    assert found == pytest.approx(exact, rel=0.03)


def test_the_loss_rises_less_around_flat_minima_whatever_the_weights_scale(result):
    def rise(solution):
        on_train = solution.slices[0]
        return on_train[:, [1, 3]].mean() - on_train[:, 2].mean()

    rises = means(result, rise)
    assert rises[minima.SWA] < 0.8 * rises["large batches"]


def test_the_middle_of_slices_and_the_planes_points_are_the_weights(result):
    for found in result.solutions.values():
        for solution in found:
            at_weights = solution.slices[:, :, 2]
            np.testing.assert_allclose(at_weights[0], solution.train.loss, rtol=1e-5)
            np.testing.assert_allclose(at_weights[1], solution.test.loss, rtol=1e-5)
    average = result.solutions[minima.SWA][0]
    centers = [plane.center for plane in result.planes]
    np.testing.assert_allclose(centers, (average.train.loss, average.test.loss), rtol=1e-5)
    for plane in result.planes:
        np.testing.assert_allclose(sum(plane.shares), 1, rtol=1e-9)
        np.testing.assert_allclose(plane.path[2], 0, atol=1e-5)


def test_it_is_shown(tmp_path):
    outcome = experiment("minima").show(tmp_path, seeds=1, epochs=4, directions=1, points=3)
    assert [row[0] for row in outcome.table.rows] == list(minima.SOLUTIONS)
    assert "±" not in outcome.table.rows[0][1]
    assert imread(outcome.pictures[0]).shape[1] == 1000


def test_the_picture_has_names_and_units(result):
    figure = minima.draw(result)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(minima.SOLUTIONS)
    panels = [axes for axes in figure.axes if axes.get_xlabel()]
    assert len(panels) == 6
    assert all(axes.get_ylabel() for axes in figure.axes)


def test_the_verdict_says_what_was_found(result):
    assert "are flatter than" in minima.verdict(result) and "lowers the test loss" in minima.verdict(result)
    swapped = dict(result.solutions)
    swapped[minima.SWA], swapped[minima.AVERAGED] = swapped[minima.AVERAGED], swapped[minima.SWA]
    swapped["small batches"], swapped["large batches"] = swapped["large batches"], swapped["small batches"]
    other = minima.verdict(result._replace(solutions=swapped))
    assert "are not flatter than" in other and "does not lower" in other
