"""Agreement with optax, wherever it has the rule: in float64, step by step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from fastgd import optim
from fastgd.rules import RULES

jax = pytest.importorskip("jax", reason="jax is not a dependency; pip install optax")
optax = pytest.importorskip("optax", reason="optax is not a dependency; pip install optax")
pytestmark = pytest.mark.peer

STEPS = 8

#: a few roundings a step: the order of operations is another
TOLERANCE = 1e-14


class Peer(NamedTuple):
    """What optax has in place of a rule, and settings in which the two mean the same."""

    #: hyperparameters -> the transformation of a gradient, without weight decay as an L2 term
    make: Callable[[dict[str, Any]], Any]
    settings: list[dict[str, Any]]


def then_decay(scale, h):
    """A direction, decoupled weight decay and the learning rate, as optax.adamw puts them together."""
    return optax.chain(
        scale, optax.add_decayed_weights(h["weight_decay"]), optax.scale_by_learning_rate(h["lr"])
    )


def adam(h):
    b1, b2 = h["betas"]
    if h["amsgrad"]:
        return optax.amsgrad(h["lr"], b1, b2, h["eps"])
    return optax.adam(h["lr"], b1, b2, h["eps"])


def ademamix(h):
    b1, b2, b3 = h["betas"]
    counts = np.arange(1, STEPS + 1)  # optax counts from 0
    alpha = h["alpha"] * np.minimum(counts / max(h["alpha_warmup"], 1), 1)
    half_lives = np.log(0.5) / np.log(np.array([b1, b3]) + 1e-8) - 1
    done = np.minimum(counts / max(h["beta3_warmup"], 1), 1)
    slow = np.where(done < 1, 0.5 ** (1 / (half_lives[0] + done * np.ptp(half_lives) + 1)), b3)
    b3_at, alpha_at = (jax.numpy.asarray(values).__getitem__ for values in (slow, alpha))
    return optax.contrib.ademamix(
        h["lr"], b1, b2, b3_at, alpha_at, eps=h["eps"], weight_decay=h["weight_decay"]
    )


PEERS: dict[str, Peer] = {
    # optax has no dampening
    "sgd": Peer(
        lambda h: optax.sgd(h["lr"], h["momentum"] or None, h["nesterov"]),
        [
            {"lr": 0.03, "weight_decay": 0.07, "maximize": True},
            {"lr": 0.02, "momentum": 0.8, "weight_decay": 0.07},
            {"lr": 0.02, "momentum": 0.7, "nesterov": True},
        ],
    ),
    # without warmup, which optax lets begin at 0 for z and at 1 for the weights; it has no r
    "sgd_schedule_free": Peer(
        lambda h: optax.contrib.schedule_free_sgd(h["lr"], b1=h["momentum"], weight_decay=h["weight_decay"]),
        [{"lr": 0.05, "momentum": 0.7}, {"lr": 0.05, "momentum": 0.8, "weight_decay": 0.07}],
    ),
    "adamw_schedule_free": Peer(
        lambda h: optax.contrib.schedule_free_adamw(
            h["lr"], b1=h["betas"][0], b2=h["betas"][1], eps=h["eps"], weight_decay=h["weight_decay"]
        ),
        [{"lr": 0.03, "betas": (0.7, 0.95), "eps": 1e-3, "weight_decay": 0.2}],
    ),
    # optax has eps inside the root
    "adagrad": Peer(
        lambda h: optax.adagrad(h["lr"], h["initial_accumulator_value"], h["eps"]),
        [{"lr": 0.05, "initial_accumulator_value": 0.3, "eps": 0.0, "weight_decay": 0.07}],
    ),
    "adadelta": Peer(
        lambda h: optax.adadelta(h["lr"], h["rho"], h["eps"]),
        [{"lr": 0.5, "rho": 0.7, "eps": 1e-2, "weight_decay": 0.07}],
    ),
    "rmsprop": Peer(
        lambda h: optax.rmsprop(
            h["lr"],
            h["alpha"],
            h["eps"],
            eps_in_sqrt=False,
            centered=h["centered"],
            momentum=h["momentum"] or None,
        ),
        [
            {"lr": 0.02, "alpha": 0.8, "eps": 1e-2, "weight_decay": 0.07},
            {"lr": 0.02, "alpha": 0.8, "eps": 1e-1, "momentum": 0.7, "centered": True},
        ],
    ),
    # optax has the maximum of corrected averages, torch corrects the maximum; at beta2 0 both are the same
    "adam": Peer(
        adam,
        [
            {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.07, "maximize": True},
            {"lr": 0.02, "betas": (0.8, 0.0), "eps": 1e-3, "amsgrad": True},
        ],
    ),
    "adamw": Peer(
        lambda h: optax.adamw(h["lr"], *h["betas"], h["eps"], weight_decay=h["weight_decay"]),
        [{"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}],
    ),
    "adamax": Peer(
        lambda h: optax.adamax(h["lr"], *h["betas"], h["eps"]),
        [{"lr": 0.03, "betas": (0.8, 0.7), "eps": 1e-2, "weight_decay": 0.07}],
    ),
    # optax has no schedule of momentum: so large a decay ends it at once
    "nadam": Peer(
        lambda h: optax.nadam(h["lr"], *h["betas"], h["eps"]),
        [{"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "momentum_decay": 1e6, "weight_decay": 0.07}],
    ),
    # torch adds eps before the bias is corrected, optax after
    "radam": Peer(
        lambda h: optax.radam(h["lr"], *h["betas"], h["eps"]),
        [{"lr": 0.02, "betas": (0.8, 0.95), "eps": 0.0, "weight_decay": 0.07}],
    ),
    "adabelief": Peer(
        lambda h: then_decay(optax.scale_by_belief(*h["betas"], h["eps"], h["eps"]), h),
        [{"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3}],
    ),
    # in optax the average of gradients begins at that value too
    "yogi": Peer(
        lambda h: optax.chain(
            optax.scale_by_yogi(*h["betas"], h["eps"], initial_accumulator_value=0.0),
            optax.scale_by_learning_rate(h["lr"]),
        ),
        [{"lr": 0.02, "betas": (0.8, 0.7), "eps": 1e-2, "initial_accumulator_value": 0.0}],
    ),
    # where the authors have the second beta as a factor, optax has 1 minus it; its decay is not proximal
    "adan": Peer(
        lambda h: optax.adan(h["lr"], *h["betas"], h["eps"], 0.0, h["weight_decay"]),
        [{"lr": 0.02, "betas": (0.8, 0.5, 0.95), "eps": 1e-3, "weight_decay": 0.3, "no_prox": True}],
    ),
    # in place of warmups, optax takes schedules
    "ademamix": Peer(
        ademamix,
        [
            {"lr": 0.02, "betas": (0.8, 0.95, 0.98), "alpha": 3.0, "eps": 1e-3, "weight_decay": 0.3},
            {
                "lr": 0.02,
                "betas": (0.8, 0.95, 0.98),
                "alpha": 3.0,
                "eps": 1e-3,
                "alpha_warmup": 5,
                "beta3_warmup": 6,
            },
        ],
    ),
    "lion": Peer(
        lambda h: optax.lion(h["lr"], *h["betas"], weight_decay=h["weight_decay"]),
        [{"lr": 0.02, "betas": (0.8, 0.7), "weight_decay": 0.3, "maximize": True}],
    ),
    "signum": Peer(
        lambda h: optax.signum(h["lr"], h["momentum"]) if h["momentum"] else optax.sign_sgd(h["lr"]),
        [{"lr": 0.02, "momentum": 0.7}, {"lr": 0.02, "momentum": 0.0}],
    ),
    "lamb": Peer(
        lambda h: optax.lamb(h["lr"], *h["betas"], h["eps"], weight_decay=h["weight_decay"]),
        [
            {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.0},
            {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-3, "weight_decay": 0.3, "maximize": True},
        ],
    ),
    # optax measures gradient and decay together, the paper each by itself
    "lars": Peer(
        lambda h: optax.lars(
            h["lr"],
            trust_coefficient=h["trust_coefficient"],
            eps=h["eps"],
            momentum=h["momentum"],
            nesterov=h["nesterov"],
        ),
        [
            {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.1, "eps": 0.3},
            {"lr": 0.5, "momentum": 0.8, "trust_coefficient": 0.1, "nesterov": True, "maximize": True},
        ],
    ),
}

#: rule -> why it is not compared
LEFT_OUT = {
    "asgd": "optax has no such rule",
    "rprop": "optax gives each update one step late, and not when the sign has turned by then",
}


def test_every_rule_is_compared_or_left_out_for_a_reason():
    assert not PEERS.keys() & LEFT_OUT.keys()
    assert PEERS.keys() | LEFT_OUT.keys() == RULES.keys()


@pytest.mark.parametrize(("rule", "settings"), [(r, s) for r, peer in PEERS.items() for s in peer.settings])
def test_steps(rule, settings):
    h = {**RULES[rule].defaults, **settings}
    with jax.enable_x64(True):
        transformation = PEERS[rule].make(h)
        if RULES[rule].active(h).get("weight_decay") and not (RULES[rule].average or RULES[rule].trust):
            transformation = optax.chain(optax.add_decayed_weights(h["weight_decay"]), transformation)
        if h["maximize"]:
            transformation = optax.chain(optax.scale(-1.0), transformation)
        rng = np.random.default_rng(0)
        mine = rng.standard_normal(1000)
        theirs = jax.numpy.asarray(mine.copy())
        opt, state = optim.create(rule, [mine], **settings), transformation.init(theirs)
        for _ in range(STEPS):
            grad = rng.standard_normal(1000)
            opt.step([grad])
            updates, state = transformation.update(jax.numpy.asarray(grad), state, theirs)
            theirs = optax.apply_updates(theirs, updates)
            np.testing.assert_allclose(mine, theirs, rtol=0, atol=TOLERANCE)
        if RULES[rule].average:
            opt.eval()
            average = optax.contrib.schedule_free_eval_params(state, theirs)
            np.testing.assert_allclose(mine, average, rtol=0, atol=TOLERANCE)


def test_rprop_of_optax_is_one_step_late():
    """Which is why it is left out; while no sign turns, they agree but for that."""
    with jax.enable_x64(True):
        transformation = optax.rprop(0.02, 0.4, 1.3, 1e-3, 0.03)
        mine = np.random.default_rng(0).standard_normal(100)
        opt = optim.create("rprop", [mine], lr=0.02, etas=(0.4, 1.3), step_sizes=(1e-3, 0.03))
        theirs, gradient = jax.numpy.asarray(mine.copy()), mine.copy()
        state = transformation.init(theirs)
        for _ in range(STEPS):
            before = mine.copy()
            opt.step([gradient])
            updates, state = transformation.update(jax.numpy.asarray(gradient), state, theirs)
            theirs = optax.apply_updates(theirs, updates)
            np.testing.assert_allclose(before, theirs, rtol=0, atol=TOLERANCE)
