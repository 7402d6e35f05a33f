"""Rules as a user would write them, each with the built-in that it must equal to the bit."""

import math

import numpy as np

import fastgd


def largest(a, b):
    return a if a > b else b


@fastgd.jit(source="Chen et al. 2023, algorithm 2")
def lion(p, g, exp_avg, *, lr=1e-4, beta1=0.9, beta2=0.99, weight_decay=0.0):
    """Lion, in ten lines."""
    update = beta1 * exp_avg + (1 - beta1) * g
    exp_avg = beta2 * exp_avg + (1 - beta2) * g
    return (1 - lr * weight_decay) * p - lr * np.sign(update), exp_avg


@fastgd.jit
def sgd(p, g, *, lr=1e-3):
    return p - lr * g


@fastgd.jit
def momentum(p, g, momentum_buffer, *, lr=1e-3, mu=0.9, weight_decay=0.0, step):
    g = g + weight_decay * p
    momentum_buffer = mu * momentum_buffer + g
    return p - lr * momentum_buffer, momentum_buffer


@fastgd.jit(unsigned=("exp_avg_sq", "max_exp_avg_sq"))
def adam(
    p,
    g,
    exp_avg,
    exp_avg_sq,
    max_exp_avg_sq,
    *,
    lr=1e-3,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.0,
    step,
):
    beta1, beta2 = betas
    g = g + weight_decay * p
    exp_avg = exp_avg + (1 - beta1) * (g - exp_avg)
    exp_avg_sq = beta2 * exp_avg_sq + (1 - beta2) * (g * g)
    max_exp_avg_sq = largest(max_exp_avg_sq, exp_avg_sq)
    denominator = math.sqrt(max_exp_avg_sq) * (1 / math.sqrt(1 - beta2**step)) + eps
    return p - lr / (1 - beta1**step) * (exp_avg / denominator), exp_avg, exp_avg_sq, max_exp_avg_sq


@fastgd.jit(initial={"step_size": "lr"}, precise=["step_size"])
def rprop(p, g, prev, step_size, *, lr=1e-2, etas=(0.5, 1.2), step_sizes=(1e-6, 50.0)):
    agreement = g * prev
    if agreement > 0:
        step_size = step_size * etas[1]
    elif agreement < 0:
        step_size = step_size * etas[0]
        g = 0.0
    step_size = min(max(step_size, step_sizes[0]), step_sizes[1])
    sign = 1 if g > 0 else -1 if g < 0 else g
    return p - sign * step_size, g, step_size


#: a user's rule, its settings, the built-in, its settings
PAIRS = [
    (
        lion,
        {"lr": 3e-3, "beta1": 0.8, "weight_decay": 0.1},
        fastgd.Lion,
        {"lr": 3e-3, "betas": (0.8, 0.99), "weight_decay": 0.1},
    ),
    (sgd, {"lr": 0.1}, fastgd.SGD, {"lr": 0.1}),
    (
        momentum,
        {"lr": 0.1, "mu": 0.8, "weight_decay": 0.01},
        fastgd.SGD,
        {"lr": 0.1, "momentum": 0.8, "weight_decay": 0.01},
    ),
    (
        adam,
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1},
        fastgd.Adam,
        {"lr": 0.02, "betas": (0.8, 0.95), "weight_decay": 0.1, "amsgrad": True},
    ),
    (rprop, {"lr": 0.03}, fastgd.Rprop, {"lr": 0.03}),
]
IDS = [own.__name__ for own, _, _, _ in PAIRS]
