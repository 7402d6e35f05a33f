"""Paths along ravines: what theory says of gradient descent and momentum, and what turning a bowl does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastgd.lab import paths, ravine
from fastgd.lab.paths import RULES, Surface, best_path, follow, settling, turned

pytest.importorskip("matplotlib", reason="the gallery draws with matplotlib (extra `cli`)")

KAPPAS = (10, 100, 1000)


@pytest.fixture(scope="module")
def result():
    return ravine.run(steps=300, kappas=KAPPAS)


@pytest.mark.parametrize("surface", [*ravine.SURFACES, turned(ravine.bowl(7), 30)], ids=lambda s: s.name)
def test_a_surface_is_lowest_at_its_minima_and_its_gradient_is_its_slope(surface):
    rng, h = np.random.default_rng(0), 1e-6
    x, y = rng.uniform(-1.5, 1.5, (2, 50))
    dx, dy = surface.gradient(x, y)
    np.testing.assert_allclose((surface.value(x + h, y) - surface.value(x - h, y)) / (2 * h), dx, atol=1e-5)
    np.testing.assert_allclose((surface.value(x, y + h) - surface.value(x, y - h)) / (2 * h), dy, atol=1e-5)
    for minimum in surface.minima:
        assert np.allclose(surface.gradient(*np.array(minimum, float)), 0, atol=1e-12)
        assert np.all(surface.loss(np.stack((x, y), -1)) > surface.loss(np.array(minimum)))


def test_sgd_takes_the_steps_that_theory_says_and_momentum_the_root_of_them(result):
    for kappa, sgd, momentum in zip(KAPPAS, result.needed["SGD"], result.needed["momentum"], strict=True):
        # both coordinates shrink by (kappa - 1) / (kappa + 1) in each step
        assert sgd == math.floor(ravine.in_theory(kappa)) + 1
        # a double root: the bound is multiplied by a term that grows with the step
        assert 1 <= momentum / ravine.in_theory(math.sqrt(kappa)) < 2
    assert ravine.slope(KAPPAS, result.needed["SGD"]) == pytest.approx(1, abs=0.01)
    assert ravine.slope(KAPPAS, result.needed["momentum"]) == pytest.approx(0.5, abs=0.06)


def test_rules_that_scale_coordinates_feel_kappa_only_where_the_bowl_is_turned(result):
    for rule in ("Adagrad", "Adam"):
        assert len(set(result.needed[rule])) == 1
        assert result.needed[f"{rule}, turned"][-1] > 8 * result.needed[rule][-1]


def test_the_path_of_a_rule_that_scales_coordinates_does_not_depend_on_kappa():
    for rule in ("Adagrad", "RMSprop", "Adam"):
        gentle, steep = (follow(RULES[rule], ravine.bowl(kappa), [0.05], 100) for kappa in (1, 1e4))
        np.testing.assert_allclose(gentle, steep, atol=1e-5)
    gentle, steep = (follow(RULES["SGD"], ravine.bowl(kappa), [1e-4], 100) for kappa in (1, 1e4))
    assert np.abs(gentle - steep).max() > 0.3


def test_momentum_is_sooner_than_sgd_on_every_surface(result):
    for _, found in result.surfaces:
        sgd, momentum = (next(path for path in found if path.rule == rule) for rule in ("SGD", "momentum"))
        assert momentum.settled is not None
        assert sgd.settled is None or momentum.settled < 0.6 * sgd.settled


def test_paths_that_are_followed_together_are_those_that_are_followed_alone():
    rates = [0.001, 0.01, 0.3]
    for make in RULES.values():
        together = follow(make, ravine.bowl(10), rates, 20)
        alone = [follow(make, ravine.bowl(10), [lr], 20)[:, 0] for lr in rates]
        np.testing.assert_array_equal(together, np.stack(alone, axis=1))


def test_settling():
    nan = math.nan
    errors = np.array([[1, 0, 1, nan, 1], [0, 0, 1, 0, 1], [1, 0, 0, 0, 0], [0, 0, 0, 0, nan]])
    assert settling(errors, 0.5).tolist() == [3, 0, 2, 1, 4]


def test_paths_that_leave_the_picture_do_not_count():
    bowl = ravine.bowl(100)
    path = best_path("Adagrad", bowl, 50, 1e-3)
    assert path.settled is not None and path.losses[path.settled] < 1e-3 <= path.losses[path.settled - 1]
    assert np.abs(path.points).max() <= 1.2
    narrow: Surface = bowl._replace(window=(-1.01, 1, -0.4, 0.4))
    assert best_path("Adagrad", narrow, 50, 1e-3).lr < path.lr
    with pytest.raises(ValueError, match="Adagrad leaves the window of bowl, kappa = 100 at every rate"):
        best_path("Adagrad", narrow, 50, 1e-3, rates=[5.0, 10.0])


def test_what_is_shown(result, tmp_path):
    shown = ravine.table(result)
    assert len(shown.rows) == 18 and all(len(row) == len(shown.columns) for row in shown.rows)
    assert "over 300" in {row[2] for row in shown.rows}
    assert "to the power 1.00 with SGD (theory: 1) and 0.5" in ravine.verdict(result)
    figure = ravine.draw(result)
    assert figure.get_size_inches()[0] * figure.dpi == 1000
    assert all(axes.get_xlabel() and axes.get_ylabel() and axes.get_title() for axes in figure.axes)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*RULES, "start", "minimum"]
    assert figure.axes[-1].get_legend()


def test_the_animation_ends_where_the_paths_do(result, tmp_path, monkeypatch):
    from matplotlib.animation import PillowWriter
    from PIL import Image

    monkeypatch.setattr(paths, "GROWING", 4)
    monkeypatch.setattr(paths, "STANDING", 1)
    animation = ravine.animate(result)
    animation.save(tmp_path / "ravine.gif", writer=PillowWriter(fps=12))
    with Image.open(tmp_path / "ravine.gif") as image:
        assert image.size[0] == 1000 and image.n_frames == 5
        first = np.asarray(image.convert("RGB"))
        image.seek(4)
        assert np.any(first != np.asarray(image.convert("RGB")))
    figure = animation._fig
    for axes, (_, found) in zip(figure.axes, result.surfaces, strict=True):
        lines = axes.get_lines()[::2]
        for line, path in zip(lines, found, strict=True):
            np.testing.assert_array_equal(line.get_xydata(), path.points)
