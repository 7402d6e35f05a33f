"""Judges of what layers look like: signals, gradients, and units without a gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

from fastgd.monitor.records import Layer, Look
from fastgd.monitor.seen import Seen
from fastgd.monitor.thresholds import limit
from fastgd.monitor.trend import Trend, median, trained

#: looks over which a state must last, for one may be by chance
LASTING = 3


def _labels(layers: list[Layer]) -> str:
    """Their labels, in words."""
    shown = [layer.label for layer in layers[:3]]
    return ", ".join(shown) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")


def _lasting(trend: Trend, holds: Callable[[Layer], bool]) -> list[Layer]:
    """The layers, as last seen, for which it holds at each of the last looks."""
    recent = trend.looks[-LASTING:]
    if not recent:
        return []
    every = [{layer.name for layer in look.layers if holds(layer)} for look in recent]
    names = set.intersection(*every)
    return [layer for layer in recent[-1].layers if layer.name in names]


def _since(trend: Trend, names: set[str], holds: Callable[[Layer], bool]) -> tuple[int, int]:
    """From which look on it has held without a break for one of these layers, to the last one."""
    first = trend.looks[-1].step
    for look in reversed(trend.looks):
        if not any(holds(layer) for layer in look.layers if layer.name in names):
            break
        first = look.step
    return first, trend.looks[-1].step


def _state(trend: Trend, holds: Callable[[Layer], bool], text: Callable[[Layer], str]) -> Seen | None:
    """A state of single layers that lasts."""
    found = _lasting(trend, holds)
    if not found:
        return None
    steps = _since(trend, {layer.name for layer in found}, holds)
    return Seen(_labels(found), *steps, "; ".join(f"{layer.label}: {text(layer)}" for layer in found[:3]))


def dead(trend: Trend) -> Seen | None:
    return _state(
        trend,
        lambda layer: layer.two_sided is False and (layer.dead or 0.0) >= limit("dead_units"),
        lambda layer: f"{layer.dead:.0%} of the units give the flat end for every example",
    )


def saturated(trend: Trend) -> Seen | None:
    outputs = trend.looks[-1].layers[-1].name if trend.looks else ""

    def holds(layer: Layer) -> bool:
        # where the model's own outputs are probabilities, ends are what it is to learn
        judged = layer.name != outputs or trend.fails
        return bool(layer.two_sided) and judged and (layer.saturated or 0.0) >= limit("saturated_outputs")

    return _state(trend, holds, lambda layer: f"{layer.saturated:.0%} of the outputs are at an end")


def symmetric(trend: Trend) -> Seen | None:
    """At the third look, two updates have had the chance to make units different."""
    if len(trend.looks) < LASTING:
        return None
    return _state(trend, lambda layer: layer.symmetric, lambda layer: "all rows of the weight are the same")


def exploding_signal(trend: Trend) -> Seen | None:
    if not trend.looks or trend.looks[0].step > 1:
        return None
    if trend.spoiled and trend.spoiled.what in ("input", "parameter"):
        return None  # outputs are then what these are
    look, inputs = trend.looks[0], trend.history.inputs
    sizes = [(layer, layer.output_rms) for layer in look.layers if layer.output_rms is not None]
    begin = inputs.rms if inputs.rms > 0 and not inputs.integers else sizes[0][1] if sizes else 0.0
    for layer, size in sizes:
        grown = not math.isfinite(size) or (begin > 0 and size >= limit("signal_growth") * begin)
        if grown and math.isfinite(begin):
            worst = sizes[-1][1]
            text = f"inputs have a root mean square of {begin:.2g}, outputs of {layer.label} {size:.2g}"
            return Seen(layer.label, look.step, look.step, f"{text}, the model's {worst:.2g}")
    return None


def _first_over_last(look: Look) -> float | None:
    layers = trained(look)
    if len(layers) < 2 or not layers[-1].grad_norm:
        return None
    assert layers[0].grad_norm is not None
    return layers[0].grad_norm / layers[-1].grad_norm


def vanishing(trend: Trend) -> Seen | None:
    ratios = [r for look in trend.looks if (r := _first_over_last(look)) is not None]
    ratio = median(ratios)
    blocked = _lasting(trend, lambda layer: (layer.dead or 0.0) >= limit("dead_layer"))
    if len(ratios) < LASTING or blocked or not ratio <= limit("gradient_fall"):
        return None
    layers = trained(trend.looks[-1])
    text = f"the gradient norm of {layers[0].label} is {ratio:.1e} of that of {layers[-1].label}"
    return Seen(layers[0].label, trend.looks[0].step, trend.looks[-1].step, text)


def exploding(trend: Trend) -> Seen | None:
    if not trend.fails or not trend.looks:
        return None
    last = trend.looks[-1].step
    norms = trend.grad_norms
    usual = median(norm for _, norm in norms[:10])
    step, peak = max(norms, key=lambda one: one[1], default=(last, math.nan))
    if peak >= limit("gradient_growth") * usual > 0:
        text = f"the gradient norm is {usual:.2g} in the median of the first steps, {peak:.2g} at step {step}"
        return Seen("all gradients", step, last, text)
    ratio = median(_first_over_last(look) for look in trend.looks)
    if ratio >= limit("gradient_growth"):
        layers = trained(trend.looks[-1])
        text = f"the gradient norm of {layers[0].label} is {ratio:.1e} times that of {layers[-1].label}"
        return Seen(layers[0].label, trend.looks[0].step, last, text)
    if trend.steep:
        text = f"the gradient norm is {usual:.2g} from the first steps on, at a loss of {trend.start:.3g}"
        return Seen("all gradients", trend.looks[0].step, last, text)
    return None


#: kind -> its judge
LAYERS: dict[str, Callable[[Trend], Seen | None]] = {
    "symmetric": symmetric,
    "exploding_signal": exploding_signal,
    "exploding": exploding,
    "saturated": saturated,
    "vanishing": vanishing,
    "dead": dead,
}
