"""The gallery of schedules: none is missing, and what is drawn are their rates."""

from __future__ import annotations

import numpy as np
import pytest

from fastgd.lab import schedules
from fastgd.schedules import Cosine, PerEpoch, Step
from fastgd.schedules.recipes import RECIPES, Run, from_text

pytest.importorskip("matplotlib", reason="the gallery draws with matplotlib (extra `cli`)")


@pytest.fixture(scope="module")
def result():
    return schedules.run()


def test_every_schedule_that_has_a_name_is_shown(result):
    shown = [curve.text.partition("(")[0] for curve in result.curves]
    assert list(dict.fromkeys(shown)) == list(RECIPES)
    assert set(schedules.EXAMPLES) <= set(RECIPES)


def test_rates_are_the_schedules_own_and_reach_lr(result):
    for text, rates, _ in result.curves:
        assert len(rates) == 1000 and rates.max() == pytest.approx(0.1, rel=1e-12) and rates.min() >= 0
        if not text.startswith("plateau"):
            expected = from_text(text, 0.1, Run(1000, 10)).values(1000)
            assert rates.tobytes() == expected.tobytes()


def test_a_plateau_is_told_of_every_epochs_loss(result):
    rates = next(curve.rates for curve in result.curves if curve.text == "plateau")
    drops = np.flatnonzero(np.diff(rates)) + 1
    assert len(drops) >= 2 and np.all(drops % 10 == 0)
    np.testing.assert_allclose(rates[drops] / rates[drops - 1], 0.1)


def test_sources_come_from_the_schedules_documentation(result):
    sources = {curve.text: curve.source for curve in result.curves}
    assert sources["cosine(warmup=10)"] == "Loshchilov and Hutter 2017, equation 5"
    assert sources["triangular(epochs=20)"] == "Smith 2017, section 3.2"
    assert sources["one_cycle"] == "Smith and Topin 2019"
    assert sources["plateau"] == "ReduceLROnPlateau of torch"
    assert [text for text, found in sources.items() if not found] == ["constant"]
    assert schedules.source(PerEpoch(Step(0.1, 2), 10).warmup(3)) == "StepLR of torch"
    assert schedules.source(Cosine(0.1, 10) * 0.5) == ""


def test_what_is_shown(result):
    shown = schedules.table(result)
    assert len(shown.rows) == len(result.curves) and all(len(row) == len(shown.columns) for row in shown.rows)
    assert shown.rows[0] == ("constant", "0.1", "0.1", "0.1", "")
    assert "constant the highest, 1.00" in schedules.verdict(result)
    figure = schedules.draw(result)
    assert figure.get_size_inches()[0] * figure.dpi == 1000
    titles = [axes.get_title().replace("\n", "") for axes in figure.axes]
    assert titles == [curve.text for curve in result.curves]
    assert figure.axes[0].get_ylabel() == "learning rate" and figure.axes[-1].get_xlabel() == "epoch"


def test_other_runs():
    result = schedules.run(lr=2.0, epochs=1, steps_per_epoch=1)
    assert all(len(curve.rates) == 1 for curve in result.curves)
    schedules.draw(result)
