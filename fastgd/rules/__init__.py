"""The table of update rules: names, state slots, hyperparameters, step scalars and the body of each.

Everything else follows from this table: optimizer classes, bindings, tests, benchmarks and the tables in the
documentation. Each family of rules has a file of its own. A body is the formula for one element, written for
anything that has `+ - * /` and comparisons; `xp` supplies `sqrt` and `where`. The order of operations is
part of it, because it fixes the bits; `csrc/rules.h` has the same bodies in C. No backend is known here.

Every body ends in `s.decay * p - <the step>`, where `decay` is 1 when nothing decays. Callers rely on it:
with `decay` 0 a body gives exactly minus the step. So the parameter enters the step only where the formula
names it, as an L2 weight decay does.
"""

from __future__ import annotations

from fastgd.rules.adagrad import ADADELTA, ADAGRAD, RMSPROP
from fastgd.rules.adam import ADAM, ADAMAX, ADAMW, NADAM, RADAM
from fastgd.rules.averaged import ADAMW_SCHEDULE_FREE, ASGD, SGD_SCHEDULE_FREE
from fastgd.rules.factored import ADAFACTOR
from fastgd.rules.lerp import LERP
from fastgd.rules.mixed import ADAN, ADEMAMIX
from fastgd.rules.orthogonal import MUON
from fastgd.rules.sgd import SGD
from fastgd.rules.signs import LION, RPROP, SIGNUM
from fastgd.rules.table import (
    HYPERPARAMETERS,
    Carried,
    Hyperparameter,
    Hyperparameters,
    Orthogonal,
    Rule,
    Slot,
    Trust,
    at_step,
    check_hyperparameter,
    resolved,
    table,
)
from fastgd.rules.trust import LAMB, LARS
from fastgd.rules.variance import ADABELIEF, YOGI

__all__ = [
    "HYPERPARAMETERS",
    "INTERNAL",
    "LERP",
    "RULES",
    "Carried",
    "Hyperparameter",
    "Hyperparameters",
    "Orthogonal",
    "Rule",
    "Slot",
    "Trust",
    "at_step",
    "check_hyperparameter",
    "is_built_in",
    "label_of",
    "labelled",
    "resolved",
    "table",
]

#: name -> rule, in the order of the documentation
RULES = table(
    SGD,
    ASGD,
    SGD_SCHEDULE_FREE,
    ADAGRAD,
    ADADELTA,
    RMSPROP,
    ADAM,
    ADAMW,
    ADAMW_SCHEDULE_FREE,
    ADAMAX,
    NADAM,
    RADAM,
    ADABELIEF,
    YOGI,
    ADAN,
    ADEMAMIX,
    LION,
    SIGNUM,
    RPROP,
    LAMB,
    LARS,
    ADAFACTOR,
    MUON,
)

#: the same for rules that are no optimizer's but run as kernels too
INTERNAL = table(LERP)

_TABLE = RULES | INTERNAL

#: users' own rules by their labels
_OWN: dict[str, Rule] = {}


def is_built_in(rule: Rule) -> bool:
    """Whether its body is one of those here; a user's rule may have the name of another."""
    known = _TABLE.get(rule.name)
    return known is not None and known.body is rule.body


def label_of(rule: Rule) -> str:
    """A text that stands for its body in this process: its name, or of a user's rule one of its own.

    The user's rule is kept as long as the process, as what is compiled from it."""
    if is_built_in(rule):
        return rule.name
    label = f"{rule.name} {id(rule)}"
    _OWN[label] = rule
    return label


def labelled(label: str) -> Rule:
    """The rule that a label stands for."""
    return _TABLE.get(label) or _OWN[label]
