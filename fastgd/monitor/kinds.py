"""The table of what a monitor can find: what it looks at, why that happens, and what usually helps.

docs/monitor.md shows it, beside the numbers of `thresholds`.
"""

from __future__ import annotations

from typing import NamedTuple

from fastgd.monitor.thresholds import THRESHOLDS


class Kind(NamedTuple):
    """One thing that can be wrong.

    sees: what the monitor looks at; thresholds are named in braces. reason: why it happens. remedies: what
    usually helps, the first first. hidden_by: the kinds that explain it, so that it need not be told.
    """

    title: str
    sees: str
    reason: str
    remedies: tuple[str, ...]
    hidden_by: tuple[str, ...] = ()


#: in the order in which findings are told: causes before what follows of them
KINDS: dict[str, Kind] = {
    "data_nonfinite": Kind(
        "NaN or infinity in the data",
        "an input or target of a step whose loss or gradients were not finite is not finite itself",
        "one such value spoils the loss, then all gradients, and with them all parameters for good",
        (
            "find where it comes from: missing values, a division by 0, a logarithm of 0",
            "drop or fill such rows before training: numpy.isfinite(x).all()",
            "step with skip_nonfinite=True, so that one bad batch cannot spoil the parameters",
        ),
    ),
    "constant": Kind(
        "inputs or targets that do not vary",
        "all values of the batches looked at, 64 examples or more, are the same",
        "where every example is alike there is nothing to learn, and the loss goes to a constant or to 0",
        ("look at a batch as the model gets it: loading, slicing, shuffling and labels",),
    ),
    "target_range": Kind(
        "targets outside the range of the loss",
        "targets of a binary cross-entropy are below 0 or above 1",
        "the loss then has no lower bound, and logits grow for ever",
        ("give probabilities or labels from 0 to 1; labels of -1 and 1 become (y + 1) / 2",),
    ),
    "unnormalised": Kind(
        "data that is not normalised",
        "the root mean square of inputs or targets is above {data_rms} or below {data_small}, or one "
        "feature's standard deviation is {feature_spread} times the median",
        "gradients of the first weights are in proportion to the inputs, so that no one learning rate "
        "fits all; large inputs also saturate what comes behind, and large targets make large gradients",
        (
            "subtract the mean and divide by the standard deviation of each feature, taken on the "
            "training part",
            "divide pixels by 255; take the logarithm of what spans orders of magnitude",
            "scale regression targets alike, and scale predictions back",
        ),
    ),
    "symmetric": Kind(
        "units that are all alike",
        "all rows of a weight are the same, after updates, too",
        "units that begin alike get the same gradient and stay alike: the layer is as good as one unit; "
        "where all weights are 0, hidden ones get no gradient at all, and the model sits on a saddle",
        ("draw weights at random: nn.Sequential(..., seed=0), or nn.init; only biases may begin at 0",),
    ),
    "exploding_signal": Kind(
        "outputs that grow from layer to layer",
        "before any update a layer's outputs are {signal_growth} times as large as the inputs, or overflow",
        "each layer multiplies what it gets by more than 1, and its backward pass does the same to "
        "gradients: the weights begin too large for their number of inputs",
        (
            "draw weights with variance 2 / inputs behind ReLU: nn.init.kaiming_normal_, and 1 / inputs else",
            "put LayerNorm or BatchNorm behind the layers, or make them Residual",
        ),
    ),
    "lr_too_high": Kind(
        "a learning rate that is too high",
        "updates are more than {update_large} of the parameters, and the loss does not fall by "
        "{loss_fall} of itself, rises by {loss_rise} of what it had fallen, or ends in NaN; or it goes "
        "up and down at {loss_turns} of the steps",
        "steps are longer than the distance to which the gradient is right, so that they jump over the "
        "valley and land higher; beyond 2 / curvature each jump is longer than the one before",
        (
            "divide the learning rate by 3 to 10, until updates are about 1e-3 of the parameters",
            "warm it up over the first hundreds of steps: fastgd.schedules",
            "clip gradients: clip_norm=1.0",
        ),
        (
            "data_nonfinite",
            "exploding_signal",
            "unnormalised",
            "target_range",
            "symmetric",
        ),
    ),
    "exploding": Kind(
        "exploding gradients",
        "a gradient norm is {gradient_growth} times the median of the first steps, or the first weights' "
        "is as many times the last's, or from the first step on it is {gradient_steep} times the loss "
        "over the parameters' norm; and the loss does not fall, rises or ends in NaN",
        "products of many Jacobians, over layers or steps of time, grow like a power: near a cliff one "
        "step is enough to leave (Pascanu et al. 2013)",
        (
            "clip gradients: clip_norm=1.0, or the median of the norms seen",
            "LSTM or GRU in place of RNN, orthogonal weight_hh, shorter sequences; residual layers and norms",
            "a smaller learning rate",
        ),
        (
            "data_nonfinite",
            "exploding_signal",
            "lr_too_high",
            "unnormalised",
            "target_range",
        ),
    ),
    "saturated": Kind(
        "saturated units",
        "{saturated_outputs} of the outputs of a layer are at the ends of sigmoid, tanh or their kin",
        "there the derivative is next to 0, so that next to no gradient passes: the inputs of the "
        "activation are too large, because weights or data are",
        (
            "normalise inputs; draw weights with nn.init.xavier_uniform_",
            "BatchNorm or LayerNorm before the activation, or ReLU in its place",
            "a smaller learning rate if it came with training",
        ),
    ),
    "vanishing": Kind(
        "vanishing gradients",
        "the gradient norm of the first weights is below {gradient_fall} of the last's in the median of the "
        "looks, and no layer is dead as a whole",
        "each layer multiplies the gradient by its weights and its activation's derivative, which is at "
        "most 1/4 for a sigmoid: first layers hardly learn (Hochreiter 1991; Glorot and Bengio 2010)",
        (
            "ReLU, GELU or SiLU in place of sigmoid and tanh",
            "careful initialisation: nn.init.kaiming_normal_ behind ReLU, xavier_uniform_ behind tanh",
            "Residual around the layers, BatchNorm or LayerNorm; LSTM or GRU in place of RNN",
        ),
        ("saturated", "symmetric", "unnormalised"),
    ),
    "dead": Kind(
        "dead units",
        "{dead_units} of the units of a ReLU layer, or of one with a flat end at one side, are there for "
        "every example",
        "their inputs are negative for all examples, where the derivative is 0: no gradient reaches "
        "their weights, so that they cannot come back. A step that was too long or a very negative bias "
        "does it",
        (
            "begin biases at 0, and lower the learning rate if units died during training",
            "LeakyReLU, GELU or SiLU, which let a gradient through",
            "BatchNorm or LayerNorm before the activation",
        ),
        ("symmetric",),
    ),
    "clipped": Kind(
        "a clip limit that is far too small",
        "{clipped_steps} of the steps were clipped, to less than {clip_coef} of their norm in the median",
        "each step is then as long as the limit says whatever the gradient is, which shrinks the "
        "learning rate by as much",
        (
            "clip at about the median of the gradient norms seen",
            "or clip no more, if norms do not jump",
        ),
        (
            "exploding_signal",
            "exploding",
            "lr_too_high",
            "unnormalised",
            "target_range",
        ),
    ),
    "lr_too_low": Kind(
        "a learning rate that is too low",
        "updates are below {update_small} of the parameters though gradients are not small, and after "
        "{steps_slow} steps the loss has fallen by less than {loss_fall}",
        "the loss falls along a straight line, by the same little amount at each step",
        (
            "multiply the learning rate by 10 until the loss falls quickly, then go back by 3",
            "see that a schedule has not brought it to 0",
        ),
        (
            "clipped",
            "vanishing",
            "dead",
            "saturated",
            "constant",
            "symmetric",
        ),
    ),
    "saddle": Kind(
        "a saddle",
        "the loss is flat and gradients are small, and the Hessian has an eigenvalue below "
        "{negative_curvature} of its largest magnitude",
        "the gradient vanishes though the loss can fall: along the direction of negative curvature it "
        "takes many steps until it does (Dauphin et al. 2014)",
        (
            "momentum or Adam, which do not slow down with the gradient",
            "smaller batches or noise, which find the way down",
            "begin at random weights that are not too small",
        ),
        (
            "vanishing",
            "dead",
            "saturated",
            "symmetric",
            "constant",
        ),
    ),
    "plateau": Kind(
        "a plateau",
        "the loss is flat above {loss_high} of its first level and gradients are small, with no "
        "direction of negative curvature",
        "all slopes are next to 0 here: a flat part of the loss, or a minimum that is not good",
        (
            "Adam, or a higher learning rate for a while",
            "another initialisation, or a wider model",
            "a loss that does not flatten: CrossEntropyLoss of logits in place of MSELoss of a sigmoid",
        ),
        (
            "vanishing",
            "dead",
            "saturated",
            "symmetric",
            "constant",
            "lr_too_low",
            "clipped",
        ),
    ),
    "stalled": Kind(
        "a loss that does not fall",
        "after {steps_stalled} steps the loss has fallen by less than {loss_stalled}, and none of the "
        "other causes is seen",
        "gradients of batches are there but cancel: inputs say nothing of the targets, or the model cannot",
        (
            "see that inputs and targets belong together after shuffling",
            "have it learn one batch by heart: a model that cannot has a fault of its own",
            "try learning rates a factor of 10 up and down",
        ),
    ),
    "nonfinite": Kind(
        "NaN or infinity in the training",
        "the loss, a gradient, a layer's output or a parameter is not finite, and the data is",
        "numbers grew past what their dtype holds, or a function was taken outside its domain",
        (
            "see what is told above it, which came first",
            "a smaller learning rate or clip_norm; skip_nonfinite=True keeps the parameters",
            "losses of logits in place of a logarithm of probabilities; eps below roots and divisions",
        ),
        ("data_nonfinite",),
    ),
}


def sees(kind: str) -> str:
    """What the monitor looks at, with the thresholds' values in place."""
    return KINDS[kind].sees.format_map({name: f"{t.value:g}" for name, t in THRESHOLDS.items()})
