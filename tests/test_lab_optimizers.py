"""With a rate that is searched for, every rule but Rprop learns digits, and more than with its default."""

import math

import numpy as np
import pytest
from matplotlib.image import imread

import fastgd
from fastgd.lab import experiment, optimizers
from fastgd.rules import RULES

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")

STEPS = 200


@pytest.fixture(scope="module")
def result():
    return optimizers.run(problems=("digits",), steps=STEPS)


def test_every_rule_but_one_for_whole_batches_learns_digits(result):
    ends = {rule: result.best("digits", rule).losses[-1] for rule in RULES}
    assert ends.pop("rprop") > 1
    assert max(ends.values()) < 0.25
    scores = [result.best("digits", rule).score for rule in ends]
    assert min(scores) > 90


def test_rprop_learns_digits_with_whole_batches():
    problem = optimizers.digits()
    whole = problem._replace(batch_size=len(problem.data.x_train))
    same = optimizers.search(whole, RULES["rprop"], 100)
    assert min(same, key=optimizers.last).losses[-1] < 0.25


def test_rules_differ_less_with_their_best_rates_than_with_default_ones(result):
    def spread(ends):
        return np.std(np.log(ends))

    rules = [rule for rule in RULES if rule != "rprop"]
    best = [result.best("digits", rule).losses[-1] for rule in rules]
    default = [result.tried["digits"][rule][0].losses[-1] for rule in rules]
    assert np.mean(np.log(best)) < np.mean(np.log(default)) - 1
    assert spread(best) < 0.8 * spread(default)


def test_text_is_learned():
    found = optimizers.run(rules=("adam",), problems=("text",), steps=100)
    first, *_, end = found.best("text", "adam").losses
    assert first == pytest.approx(math.log(103), rel=0.05)
    assert end < 3.1


@pytest.mark.parametrize("lowest", [1e-3, 1e-2, 1e-1, 10.0])
def test_the_search_finds_the_rate_of_the_lowest_loss(monkeypatch, lowest):
    def follow(problem, rule, lr, steps):
        loss = math.inf if lr > 30 else abs(math.log(lr / lowest))
        return optimizers.Training(lr, np.array([9.0, loss]), 0.0)

    monkeypatch.setattr(optimizers, "follow", follow)
    tried = optimizers.search(None, RULES["rmsprop"], 10)
    assert tried[0].lr == RULES["rmsprop"].defaults["lr"]
    assert min(tried, key=optimizers.last).lr == pytest.approx(lowest)
    assert len({training.lr for training in tried}) == len(tried) <= optimizers.MOST + 3


def test_a_training_that_diverges_is_never_the_best():
    problem = optimizers.digits()
    diverged = optimizers.follow(problem, RULES["sgd"], 1e30, 30)
    assert math.isfinite(diverged.losses[0]) and np.isinf(diverged.losses[-1])


@pytest.mark.parametrize(("rule", "is_average"), [("sgd", False), ("sgd_schedule_free", True)])
def test_what_is_evaluated_is_what_a_rule_has_learned(rule, is_average):
    models = []
    problem = optimizers.digits()
    kept = problem._replace(model=lambda seed: models.append(problem.model(seed)) or models[-1])
    found = optimizers.follow(kept, RULES[rule], 1.0, 20)
    rows, data = problem.rows[0], problem.data
    loss = models[0].evaluate(data.x_train[:rows], data.y_train[:rows]).loss
    assert (found.losses[-1] != loss) == is_average


def test_parameters_are_divided_by_what_a_rule_takes():
    model = optimizers.digits().model(0)
    (muon, matrices), (adamw, vectors) = optimizers.divide(RULES["muon"], model, 0.5)
    assert (type(muon), type(adamw)) == (fastgd.Muon, fastgd.AdamW)
    assert (matrices, vectors) == ([0, 2], [1, 3])
    assert muon.param_groups[0]["lr"] == 0.5
    assert adamw.param_groups[0]["lr"] == RULES["adamw"].defaults["lr"]
    ((sgd, all_of_them),) = optimizers.divide(RULES["sgd"], model, 0.5)
    assert isinstance(sgd, fastgd.SGD) and all_of_them == [0, 1, 2, 3]


def test_every_rule_is_in_one_family():
    files = [file for family in optimizers.FAMILIES.values() for file in family]
    assert sorted(files) == sorted({optimizers.file_of(rule) for rule in RULES.values()})


def test_it_is_shown(tmp_path):
    rules = ("sgd", "rprop", "muon")
    outcome = experiment("optimizers").show(tmp_path, rules=rules, problems=("digits",), steps=10)
    assert [row[0] for row in outcome.table.rows] == ["SGD", "Rprop", "Muon"]
    assert len(outcome.table.columns) == len(outcome.table.rows[0]) == 5
    assert "0 of 3 rules reach a loss of 0.1 with their best rates, but not SGD, Rprop" in outcome.verdict
    assert imread(outcome.pictures[0]).shape[1] == 1000


def test_the_verdict_counts_rules_and_steps(result):
    verdict = optimizers.verdict(result)
    counts = [optimizers.steps_to(result.best("digits", rule), 0.1) for rule in RULES]
    assert counts[list(RULES).index("rprop")] is None
    reached = [count for count in counts if count is not None]
    assert f"{len(reached)} of {len(RULES)} rules reach a loss of 0.1" in verdict
    assert f"after {min(reached)} to {max(reached)} steps" in verdict and "Rprop" in verdict


def test_the_picture_has_names_units_and_legends(result):
    ends, *curves = optimizers.draw(result).axes
    assert "(nats)" in ends.get_xlabel() and ends.get_legend()
    assert curves[-1].get_xlabel() == "step"
    assert all("(nats)" in axes.get_ylabel() for axes in curves)
    named = [text.get_text() for axes in curves for text in axes.get_legend().get_texts()]
    assert sorted(named) == sorted(rule.title for rule in RULES.values())
