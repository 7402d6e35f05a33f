"""A saddle point: which rules leave it first, how long it holds the others, and what turning it does."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd.lab import saddle
from fastgd.lab.paths import RULES, follow

pytest.importorskip("matplotlib", reason="the gallery draws with matplotlib (extra `cli`)")

ADAPTIVE = ("Adagrad", "RMSprop", "Adam")
DISTANCES = (1e-4, 1e-8, 1e-12)


@pytest.fixture(scope="module")
def result():
    return saddle.run(steps=500, distances=DISTANCES)


def leaving(result, which):
    surface, paths, _ = result.plateaus[which]
    return {path.rule: saddle.left(surface, path.losses) for path in paths}


def test_the_gradient_is_the_slope_and_the_saddle_a_saddle():
    (x, y), h = np.random.default_rng(0).uniform(-1.5, 1.5, (2, 50)), 1e-6
    dx, dy = saddle.slopes(x, y)
    height = saddle.height
    np.testing.assert_allclose((height(x + h, y) - height(x - h, y)) / (2 * h), dx, atol=1e-6)
    np.testing.assert_allclose((height(x, y + h) - height(x, y - h)) / (2 * h), dy, atol=1e-6)
    assert not np.any(saddle.slopes(np.zeros(1), np.zeros(1)))
    assert saddle.height(0.1, 0) > saddle.height(0, 0) == 0 > saddle.height(0, 0.1)
    assert saddle.height(0, 1) == saddle.height(0, -1) == -0.25


def test_rules_that_scale_coordinates_leave_first_and_sgd_last(result):
    counts = leaving(result, 0)
    assert max(counts[rule] for rule in ADAPTIVE) < min(counts[rule] for rule in ("momentum", "Nesterov"))
    assert counts["SGD"] == max(counts.values()) > 2 * counts["Nesterov"]


def test_turned_by_45_degrees_it_holds_adagrad_as_long_as_sgd_and_momentum_leaves_first(result):
    straight, turned_by_45 = leaving(result, 0), leaving(result, 1)
    for rule in ("SGD", "momentum", "Nesterov"):
        assert turned_by_45[rule] == pytest.approx(straight[rule], rel=0.02)
    assert turned_by_45["Adagrad"] > 0.9 * turned_by_45["SGD"]
    assert turned_by_45["momentum"] == np.nanmin(list(turned_by_45.values()))


def test_the_plateau_grows_with_the_logarithm_of_the_distance(result):
    _, paths, counts = result.plateaus[0]
    lr = next(path.lr for path in paths if path.rule == "SGD")
    assert counts["SGD"][0] == saddle.steps_to_leave(paths[0], saddle.saddle(DISTANCES[0]), result.steps)
    near, nearer, nearest = counts["SGD"]
    expected = np.log(1e4) / np.log1p(lr)
    assert nearer - near == pytest.approx(expected, abs=1) and nearest - nearer == pytest.approx(
        expected, abs=1
    )
    for rule in ADAPTIVE:
        assert counts[rule][-1] <= counts[rule][0] + 1


def test_on_the_ridge_itself_no_rule_ever_leaves():
    for make in RULES.values():
        points = follow(make, saddle.saddle(0), [0.01], 300)
        assert np.all(points[..., 1] == 0) and np.abs(points[-1, 0, 0]) < 0.6


def test_what_was_not_left_is_said_to_be_so():
    path = saddle.best_path("SGD", saddle.saddle(1e-6), 20, 1e-3)
    assert path.settled is None
    assert np.isnan(saddle.left(saddle.saddle(1e-6), path.losses))
    assert saddle.counted(None, 20) == saddle.counted(np.nan, 20) == "over 20"


def test_what_is_shown(result):
    shown = saddle.table(result)
    assert len(shown.rows) == 12 and all(len(row) == len(shown.columns) for row in shown.rows)
    first, second = saddle.verdict(result).removesuffix(".").split(". ")
    assert first.startswith("Steps to leave the saddle: Adagrad") and ", SGD " in first[-9:]
    assert second.startswith("Steps to leave the saddle turned by 45°: momentum")
    figure = saddle.draw(result)
    assert figure.get_size_inches()[0] * figure.dpi == 1000
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in figure.axes)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [*RULES, "start", "minimum"]


def test_the_animation_shows_both(result):
    animation = saddle.animate(result)
    animation._func(10**6)
    titles = [figure_text.get_text() for figure_text in animation._fig.texts]
    assert titles == ["step 500"]
    for axes, plateau in zip(animation._fig.axes, result.plateaus, strict=True):
        ends = [line.get_xydata()[-1] for line in axes.get_lines()[::2]]
        np.testing.assert_array_equal(ends, [path.points[-1] for path in plateau.paths])
    animation._draw_was_started = True  # it is not saved here
