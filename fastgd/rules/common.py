"""What several rules have in common: the kinds of weight decay, and the sign of a number."""

from __future__ import annotations

from typing import Any

from fastgd.rules.table import Hyperparameters

#: hyperparameters of fully decoupled weight decay, which go after a rule's others
FULLY_DECOUPLED = {"decouple_lr": False, "max_lr": None}


def never(h: Hyperparameters) -> bool:
    """A switch of the kernel that the rule leaves off."""
    return False


def adds_l2(h: Hyperparameters) -> bool:
    """Whether weight decay is a term of the gradient."""
    return bool(h["weight_decay"] != 0)


def adds_l2_unless_decoupled(h: Hyperparameters) -> bool:
    """`adds_l2` in rules that have decoupled weight decay on demand."""
    return bool(h["weight_decay"] != 0 and not (h["decoupled_weight_decay"] or h["decouple_lr"]))


def decay_rate(h: Hyperparameters) -> float:
    """What decoupled weight decay takes of a parameter at a step.

    Loshchilov and Hutter 2019, algorithm 2, has eta_t lambda, where the learning rate is eta_t alpha. torch
    has lr lambda in its place; with decouple_lr, eta_t is lr / max_lr, as the paper has it.
    """
    rate = h["lr"] / h["max_lr"] if h["decouple_lr"] else h["lr"]
    decayed: float = rate * h["weight_decay"]
    return decayed


def decay_if_decoupled(h: Hyperparameters) -> float:
    """The scalar `decay` of rules that have decoupled weight decay on demand."""
    if h["weight_decay"] and (h["decoupled_weight_decay"] or h["decouple_lr"]):
        return 1.0 - decay_rate(h)
    return 1.0


def check_decay(h: Hyperparameters) -> None:
    """For `check` of rules with fully decoupled weight decay."""
    if h["decouple_lr"] and not h["max_lr"] > 0:
        raise ValueError("decouple_lr needs max_lr above 0: give it when lr begins at 0")


def sign(xp: Any, value: Any) -> Any:
    """1, -1, or the value itself when it is 0 or NaN, which so stays visible."""
    return xp.where(value > 0, 1, xp.where(value < 0, -1, value))
