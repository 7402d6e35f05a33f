"""Schedules as text: fitted to a run, and refused in a sentence."""

import pytest

from fastgd import schedules
from fastgd.schedules.recipes import RECIPES, Run, from_text

RUN = Run(steps=120, steps_per_epoch=12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("constant", schedules.Constant(0.1)),
        ("cosine", schedules.Cosine(0.1, 120)),
        ("cosine(end=0.01)", schedules.Cosine(0.1, 120, 0.01)),
        (" warm-restarts ", schedules.WarmRestarts(0.1, 120)),
        ("warm-restarts(epochs=2.5, multiplier=2)", schedules.WarmRestarts(0.1, 30, 2)),
        ("step(every=5, factor=0.5)", schedules.Step(0.1, 5, 0.5).per_epoch(12)),
        ("multi_step(milestones=[3, 7])", schedules.MultiStep(0.1, [3, 7]).per_epoch(12)),
        ("exponential", schedules.Exponential(0.1, 0.95).per_epoch(12)),
        ("inverse_time(decay=0.5)", schedules.InverseTime(0.1, 0.5, 12)),
        ("inverse_square_root", schedules.InverseSquareRoot(0.1, 12)),
        ("polynomial(power=2)", schedules.Polynomial(0.1, 120, 2.0)),
        ("triangular(low=0.01, epochs=2)", schedules.Triangular(0.01, 0.1, 12)),
        ("one_cycle(anneal='linear')", schedules.OneCycle(0.1, 120, anneal="linear")),
        ("warmup_stable_decay", schedules.WarmupStableDecay(0.1, 120, 0, 24)),
        ("cosine(warmup=1)", schedules.Cosine(0.1, 108).warmup(12)),
        ("constant(warmup=0.5)", schedules.Constant(0.1).warmup(6)),
    ],
)
def test_text(text, expected):
    assert from_text(text, 0.1, RUN) == expected


def test_every_kind_of_schedule_has_a_recipe():
    made = {
        type(from_text(name + ("(milestones=[1])" if name == "multi_step" else ""), 0.1, RUN))
        for name in RECIPES
    }
    inside = {schedules.PerEpoch: {schedules.Step, schedules.MultiStep, schedules.Exponential}}
    assert {kind for cls in made for kind in inside.get(cls, {cls})} == {
        *schedules.KINDS,
        schedules.ReduceOnPlateau,
    }


def test_a_plateau_with_a_warm_up():
    plateau = from_text("plateau(factor=0.5, patience=0, floor=0.01, warmup=1)", 0.1, RUN)
    assert (plateau(0), plateau(6), plateau(12)) == (0, 0.05, 0.1)
    plateau.update(1.0)
    assert plateau.update(1.0)
    assert plateau(12) == 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no schedule such as"),
        ("cosine(", "is no schedule such as"),
        ("cosine(0.1)", "is no schedule such as"),
        ("__import__('os').system('ls')", "is no schedule such as"),
        ("sine", "the schedule is one of constant, inverse_time, .*, not sine"),
        ("cosine(last=1)", "schedule cosine takes end, warmup, not last"),
        ("cosine(**{})", "schedule cosine takes end, warmup, not None"),
        ("cosine(end=lr)", "schedule cosine: end must be a number, text or list"),
        ("cosine(end=1)", "schedule cosine: end, 1.0, must not be above lr, 0.1"),
        ("cosine(warmup=-1)", "warmup must be at least 0"),
        ("multi_step", "schedule multi_step: .*milestones"),
        ("step(every=1.5)", "schedule step: every must be a whole number"),
        ("warm_restarts(epochs=-1)", "schedule warm_restarts: epochs must be at least 0"),
    ],
)
def test_what_is_no_schedule(text, message):
    with pytest.raises(ValueError, match=message):
        from_text(text, 0.1, RUN)
