"""The numbers that findings are judged by, each with what it bounds and where it comes from."""

from __future__ import annotations

from typing import NamedTuple


class Threshold(NamedTuple):
    value: float
    #: what it bounds, and where the number comes from
    reason: str


THRESHOLDS: dict[str, Threshold] = {
    "data_rms": Threshold(
        30.0,
        "root mean square of inputs or targets: first layers expect about 1 (LeCun et al. 1998, section "
        "4.3); pixels of 0 to 16 pass, those of 0 to 255 do not",
    ),
    "data_small": Threshold(
        0.001,
        "root mean square of inputs or targets, from below; one-hot rows are above",
    ),
    "feature_spread": Threshold(
        100.0,
        "largest standard deviation of a feature over the median of all: the curvatures differ by its square",
    ),
    "signal_growth": Threshold(
        1000.0,
        "root mean square of a layer's outputs over the inputs', before the first update: a careful "
        "initialisation keeps it within about 10 (He et al. 2015, section 2.2)",
    ),
    "gradient_growth": Threshold(
        1000.0,
        "gradient norm over the median of the first steps: norms of a healthy run stay within two orders "
        "of magnitude",
    ),
    "gradient_fall": Threshold(
        0.001,
        "gradient norm of the first weights over that of the last ones: three orders of magnitude",
    ),
    "dead_units": Threshold(
        0.5,
        "share of a layer's units that gave 0 for each of the last 64 examples looked at",
    ),
    "dead_layer": Threshold(0.95, "share of dead units from which on a layer lets no gradient through"),
    "saturated_outputs": Threshold(
        0.5,
        "share of a layer's outputs where the activation's derivative is below 2 % of its largest; "
        "training that goes well seldom has half",
    ),
    "update_large": Threshold(
        0.1,
        "update over parameter, as norms, in the median layer: about 1e-3 is usual, and at 0.1 ten steps "
        "replace what was learned",
    ),
    "update_small": Threshold(
        1e-05,
        "update over parameter, as norms, in the median layer: 1e5 steps to change the weights",
    ),
    "loss_rise": Threshold(
        0.25,
        "by how much the loss has risen from its lowest level, as a part of the first level's height "
        "above it",
    ),
    "loss_fall": Threshold(
        0.1,
        "part of its first level by which the loss has fallen: less is not falling",
    ),
    "loss_flat": Threshold(
        0.002,
        "part of itself by which the loss changes from the third quarter of the steps to the last",
    ),
    "loss_high": Threshold(
        0.5,
        "end of the loss over its beginning above which a flat loss is a plateau",
    ),
    "loss_solved": Threshold(
        0.05,
        "end of the loss over its beginning below which a flat loss is no fault",
    ),
    "gradient_small": Threshold(
        0.01,
        "gradient norm times parameter norm over the loss: a step as long as the weights would change "
        "the loss by 1 %",
    ),
    "negative_curvature": Threshold(
        -0.05,
        "smallest eigenvalue of the Hessian over the largest magnitude: below lies a saddle",
    ),
    "gradient_steep": Threshold(
        1000.0,
        "gradient norm times parameter norm over the loss, at the first looks: a step of a thousandth of "
        "the weights would change the loss by all of itself",
    ),
    "loss_turns": Threshold(
        0.9,
        "share of steps at which the loss turns from falling to rising or back; noise alone gives 2/3",
    ),
    "loss_swing": Threshold(
        0.05,
        "median change of the loss from step to step over its level, where it turns so",
    ),
    "clipped_steps": Threshold(
        0.95,
        "share of steps that were clipped",
    ),
    "clip_coef": Threshold(
        0.1,
        "median factor of clipped steps: clipping now and then is its purpose, to a tenth of the norm "
        "throughout it is a second learning rate",
    ),
    "steps_few": Threshold(
        20,
        "steps before anything is made of a loss that does not fall, or of clipping",
    ),
    "steps_slow": Threshold(
        50,
        "steps before a loss that falls slowly is called slow, or one that does not flat",
    ),
    "loss_stalled": Threshold(
        0.02,
        "part of its first level by which the loss must have fallen not to be stalled",
    ),
    "steps_stalled": Threshold(
        200,
        "steps before a loss that has not fallen at all, for no reason seen, is told",
    ),
}


def limit(name: str) -> float:
    """The value of a threshold."""
    return THRESHOLDS[name].value
