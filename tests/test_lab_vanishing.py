"""The gallery's deep networks: what arrives of the gradient at the first layer, and who learns with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastgd.lab import experiment, vanishing

pytest.importorskip("sklearn")

DEPTH = 50


@pytest.fixture(scope="module")
def result() -> vanishing.Result:
    return vanishing.run(depth=DEPTH, width=32, steps=100, lr=1e-3)


def by_label(result: vanishing.Result) -> dict[str, vanishing.Finding]:
    return {found.case.label: found for found in result.findings}


def test_the_first_layers_gradient_by_activation_and_initialisation(result: vanishing.Result) -> None:
    found = by_label(result)
    assert all(len(one.norms) == DEPTH for one in result.findings)
    for label in ("sigmoid, default", "sigmoid, Glorot", "ReLU, default"):
        assert 0 < found[label].ratio < 1e-6
    for label in ("ReLU, He", "residual, default", "residual, scaled He"):
        norms = found[label].norms
        assert norms.max() / norms.min() < 100
    # a shortcut alone keeps the layers alike, not the sum small
    assert found["residual, He"].norms.min() > 1e3


def test_the_gradient_shrinks_by_more_than_half_at_each_sigmoid(result: vanishing.Result) -> None:
    norms = by_label(result)["sigmoid, Glorot"].norms
    assert np.all(norms[5:-1] < norms[6:] / 2)


def test_networks_with_shortcuts_learn_and_those_whose_gradient_vanishes_do_not(
    result: vanishing.Result,
) -> None:
    found = by_label(result)
    for label in ("residual, default", "residual, scaled He"):
        assert found[label].learned
    for label in ("sigmoid, default", "sigmoid, Glorot", "ReLU, default"):
        assert found[label].accuracies.max() < 0.25


@pytest.mark.parametrize("seed", [1, 2])
def test_the_gradients_are_so_whatever_the_seed(seed: int) -> None:
    found = by_label(vanishing.run(depth=DEPTH, width=32, steps=0, seed=seed))
    assert found["sigmoid, Glorot"].ratio < 1e-6
    for label in ("ReLU, He", "residual, scaled He"):
        assert found[label].norms.max() / found[label].norms.min() < 100


def test_what_is_said_and_drawn(result: vanishing.Result, tmp_path: Path) -> None:
    table = vanishing.table(result)
    assert len(table.rows) == len(vanishing.CASES)
    assert {len(row) for row in table.rows} == {len(table.columns)}
    verdict = vanishing.verdict(result)
    assert "with sigmoid, default; with residual, He" in verdict
    assert ": residual, default; residual, scaled He. " in verdict
    figure = vanishing.draw(result)
    assert all(axes.get_xlabel() and axes.get_ylabel() and axes.get_legend() for axes in figure.axes)
    figure.savefig(tmp_path / "vanishing.png")
    with Image.open(tmp_path / "vanishing.png") as picture:
        assert picture.width == 1000


def test_a_run_of_which_nothing_learns() -> None:
    result = vanishing.run(depth=4, width=8, steps=0, cases=vanishing.CASES[:1])
    assert vanishing.verdict(result).endswith("0 of 1 networks tell 75 % or more of the test digits.")
    assert vanishing.draw(result).axes


def test_it_is_in_the_gallery() -> None:
    assert experiment("vanishing").title.startswith("Fifty layers")
