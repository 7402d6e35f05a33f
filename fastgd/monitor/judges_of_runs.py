"""Judges of the data, and of the run as a whole: the learning rate, clipping, and what is not finite."""

from __future__ import annotations

from collections.abc import Callable

from fastgd.monitor.batches import Facts
from fastgd.monitor.seen import Seen
from fastgd.monitor.thresholds import limit
from fastgd.monitor.trend import Trend, median
from fastgd.monitor.units import EXAMPLES

#: steps over which clipping is judged
RECENT = 100


def data_nonfinite(trend: Trend) -> Seen | None:
    for spoiled in trend.history.spoiled:
        if spoiled.what in ("input", "target"):
            text = f"{spoiled} in the batch of step {spoiled.step}"
            return Seen(spoiled.what, spoiled.step, spoiled.step, text)
    return None


#: what is not finite -> in words, before the place
_WORDS = {
    "parameter": "a parameter was not finite before the step",
    "output": "data and parameters were finite, and the forward pass overflowed",
    "loss": "data, parameters and outputs were finite, and the loss is not",
    "gradient": "the loss was finite, and a gradient is not",
}


def nonfinite(trend: Trend) -> Seen | None:
    spoiled = trend.spoiled
    if spoiled is None or not trend.diverged:
        return None
    words = _WORDS[spoiled.what] if spoiled.known else "the parameters were not looked at before this step"
    text = f"at step {spoiled.step} {words}: {spoiled}; {trend.history.nonfinite} such steps in all"
    return Seen(spoiled.where, spoiled.step, trend.count, text)


def constant(trend: Trend) -> Seen | None:
    for name, facts in (("target", trend.history.targets), ("input", trend.history.inputs)):
        if facts.examples >= EXAMPLES and facts.constant:
            value = f"each is {facts.least:.6g}" if facts.least == facts.most else "all rows are the same"
            return Seen(f"{name}s", 1, trend.count, f"of {facts.examples} {name}s looked at {value}")
    return None


def target_range(trend: Trend) -> Seen | None:
    targets = trend.history.targets
    if not trend.history.probabilities or (targets.least >= 0 and targets.most <= 1) or not targets.examples:
        return None
    return Seen("targets", 1, trend.count, f"targets go from {targets.least:.4g} to {targets.most:.4g}")


def _scale(facts: Facts) -> str | None:
    """What is wrong with the sizes of the data, if anything is."""
    if facts.integers or not facts.rms > 0:
        return None
    if not limit("data_small") <= facts.rms <= limit("data_rms"):
        return f"their root mean square is {facts.rms:.3g}, about 1 is wanted"
    spread = facts.deviations
    usual = median(spread.tolist())
    if len(spread) and spread.max() >= limit("feature_spread") * usual:
        return f"features have standard deviations of {spread.min():.2g} to {spread.max():.2g}"
    return None


def unnormalised(trend: Trend) -> Seen | None:
    history = trend.history
    sides = {} if history.normalises else {"inputs": history.inputs}
    for name, facts in {**sides, "targets": history.targets}.items():
        text = _scale(facts)
        if text:
            return Seen(name, 1, trend.count, text)
    return None


def lr_too_high(trend: Trend) -> Seen | None:
    if trend.steep or not trend.looks:
        return None
    ratio = trend.largest_ratio
    if not (trend.turns or (trend.fails and ratio > limit("update_large"))):
        return None
    way = f"the loss went from {trend.start:.4g} to {trend.end:.4g}"
    if trend.spoiled:
        way += f" and was not finite at step {trend.spoiled.step}"
    elif trend.turns:
        way += ", up and down at each step"
    return Seen(
        "updates", trend.looks[0].step, trend.count, f"{way}; updates are {ratio:.2g} of the parameters"
    )


def lr_too_low(trend: Trend) -> Seen | None:
    recent = trend.looks[-3:]
    ratio = trend.update_ratio(recent)
    if trend.count < limit("steps_slow") or not ratio <= limit("update_small"):
        return None
    if trend.fallen >= limit("loss_fall") or trend.elasticity(recent) <= limit("gradient_small"):
        return None
    way = f"after {trend.count} steps the loss went from {trend.start:.6g} to {trend.end:.6g}"
    return Seen("updates", recent[0].step, trend.count, f"{way}; updates are {ratio:.1e} of the parameters")


def clipped(trend: Trend) -> Seen | None:
    recent = trend.history.steps.last(RECENT)
    coefs = [step.clip_coef for step in recent if step.clip_coef < 1]
    usual = median(coefs)
    enough = len(recent) >= limit("steps_few") and len(coefs) >= limit("clipped_steps") * len(recent)
    if not enough or not usual <= limit("clip_coef"):
        return None
    norm = median(step.grad_norm for step in recent)
    text = f"{len(coefs)} of the last {len(recent)} steps were clipped, to {usual:.1e} of their norm"
    return Seen("clipping", recent[0].step, trend.count, f"{text}; the median norm is {norm:.3g}")


#: kind -> its judge
DATA: dict[str, Callable[[Trend], Seen | None]] = {
    "data_nonfinite": data_nonfinite,
    "constant": constant,
    "target_range": target_range,
    "unnormalised": unnormalised,
}
RUNS: dict[str, Callable[[Trend], Seen | None]] = {
    "lr_too_high": lr_too_high,
    "clipped": clipped,
    "lr_too_low": lr_too_low,
    "nonfinite": nonfinite,
}
