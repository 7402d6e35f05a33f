"""How torch.optim keeps a rule's state and takes its gradients, where the table of rules does not tell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fastgd.rules import Hyperparameters, Rule


class Convention(NamedTuple):
    """What differs from the usual: the slots and a "step"."""

    #: whether there is a "step" in the state
    counts: bool = True
    #: the slot whose presence tells, without a count, that a step has been made
    begun: str | None = None
    #: numbers in the state that follow from hyperparameters and the count of steps made
    numbers: Mapping[str, Callable[[Hyperparameters, int], float]] = {}
    #: why sparse gradients are refused under these hyperparameters; None: they are not
    sparse: Callable[[Rule, Hyperparameters], str | None] = lambda rule, h: (
        f"{rule.title} does not support sparse gradients"
    )
    #: whether an element without a gradient stays as it is under these hyperparameters
    by_rows: Callable[[Hyperparameters], bool] = lambda h: False


USUAL = Convention()


def _not_with_decay(rule: Rule, h: Hyperparameters) -> str | None:
    return "weight_decay option is not compatible with sparse gradients" if h["weight_decay"] else None


def _adam_sparse(rule: Rule, h: Hyperparameters) -> str:
    return "Adam does not support sparse gradients, please consider SparseAdam instead"


def _asgd_eta(h: Hyperparameters, step: int) -> float:
    rate: float = h["lr"] / (1.0 + h["lambd"] * h["lr"] * step) ** h["alpha"]
    return rate


def _asgd_mu(h: Hyperparameters, step: int) -> float:
    weight: float = 1.0 / max(1.0, step - h["t0"])
    return weight


#: rule name -> what is unusual of it in torch.optim
CONVENTIONS: dict[str, Convention] = {
    "sgd": Convention(
        counts=False, begun="momentum_buffer", sparse=_not_with_decay, by_rows=lambda h: not h["momentum"]
    ),
    "adagrad": Convention(sparse=_not_with_decay, by_rows=lambda h: True),
    "adam": Convention(sparse=_adam_sparse),
    "adamw": Convention(sparse=_adam_sparse),
    "asgd": Convention(numbers={"eta": _asgd_eta, "mu": _asgd_mu}),
    "muon": Convention(counts=False),
}


def convention(rule: Rule) -> Convention:
    return CONVENTIONS.get(rule.name, USUAL)
